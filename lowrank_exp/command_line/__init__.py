"""What was said on the command line: checked, explained and answered before anything is computed."""
