"""Overrides for jobs that only have to run: an epoch per phase, no logger, no clock."""

SMOKE = ("scale=smoke", "logger=none", "progress=false", "latency.seconds=0")
