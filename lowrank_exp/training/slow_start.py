"""A learning rate that is lower at first: a schedule around another one, see `lowrank_exp.training.schedules`."""

import math
from collections.abc import Callable

from lowrank_exp.training.schedules import constant


def slow_start(
    progress: float, until: float, factor: float = 0.1, schedule: Callable[[float], float] = constant
) -> float:
    """`factor` for the first `until` of the fit, then what another schedule gives.

    A first epoch of 200 at a tenth of the rate, as the authors of soft filter pruning train, has until=0.005.

    Args:
        progress: step / total steps, in [0, 1).
        until: fraction of the fit, in (0, 1).
        factor: on the base learning rate, above 0.
        schedule: of the rest; progress 0 is the beginning of the whole fit for it, too.

    Raises:
        ValueError: an argument out of range.

    >>> [slow_start(p, 0.005, schedule=lambda p: 1 - p) for p in (0, 0.0049, 0.005, 0.5)]
    [0.1, 0.1, 0.995, 0.5]
    """
    if not 0 < until < 1:
        raise ValueError(f"until is {until}; allowed is a fraction of the fit in (0, 1), such as 0.005")
    if not 0 < factor < math.inf:
        raise ValueError(f"factor is {factor}; allowed is a number above 0")
    rest = schedule(progress)
    return factor if progress < until else rest
