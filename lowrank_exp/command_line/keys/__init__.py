"""What every key of the configuration may be: one place that the command line checks, the help prints and tests feed.

A new key is one entry: of a `_target_` in the file of its room here, of the root in `root.py`.
"""
