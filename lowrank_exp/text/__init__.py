"""Text that is shown: names, values and terminals as they come, and never more than was meant."""
