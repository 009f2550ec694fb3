"""Rank policies, one file each."""
