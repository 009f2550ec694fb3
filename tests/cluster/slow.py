"""A schedule that takes its time where the environment says so and changes no number by that, and one that fails."""

import os
import time

from lowrank_exp.training.schedules import cosine


def slowly(progress: float, warmup: float = 0.0, final: float = 0.0) -> float:
    """A cosine, after a pause of `PAUSE` seconds."""
    time.sleep(float(os.environ.get("PAUSE", "0")))
    return cosine(progress, warmup, final)


def broken(progress: float, warmup: float = 0.0, final: float = 0.0) -> float:
    """A cosine that fails at the last steps of a fit, behind the places at which schedules are looked at before it."""
    if progress > 15 / 16:
        raise ValueError("this schedule is broken")
    return cosine(progress, warmup, final)
