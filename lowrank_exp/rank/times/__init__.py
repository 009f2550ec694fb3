"""What ranks take in time: which are timed, where times are kept, and the time of a whole network from its layers'."""
