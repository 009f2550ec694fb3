"""Layers of ours that surgery understands."""
