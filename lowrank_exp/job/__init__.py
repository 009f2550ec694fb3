"""One job, from its configuration to its folder of results."""
