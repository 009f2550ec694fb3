"""Searches: jobs that are chosen by what earlier ones have reached (`sweeper=optuna`)."""
