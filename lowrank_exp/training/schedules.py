"""Learning-rate schedules: plain functions from progress to the factor on the base learning rate.

p = progress = step / total steps of the fit, in [0, 1).  Each function takes it first, so that a partial of
any of them is a schedule for `fit_`, and a `_partial_: true` node of a configuration is one too.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise


def constant(progress: float) -> float:
    """1, whatever the progress.

    >>> constant(0.7)
    1.0
    """
    _check_progress(progress)
    return 1.0


def cosine(progress: float, warmup: float = 0.0, final: float = 0.0) -> float:
    """Half a cosine from 1 down to `final`, after a linear warm-up from 0 over the first `warmup` of the fit.

        f + (1 - f) (1 + cos(pi (p - w) / (1 - w))) / 2    for p >= w;    p / w before

    (Loshchilov and Hutter 2017, SGDR, equation 5, one period.)

    Raises:
        ValueError: progress outside [0, 1], warmup outside [0, 1), final outside [0, 1].

    >>> [round(cosine(p), 4) for p in (0, 0.25, 0.5, 0.75)]
    [1.0, 0.8536, 0.5, 0.1464]
    >>> cosine(0.05, warmup=0.1)
    0.5
    """
    _check_progress(progress)
    _check_warmup(warmup)
    _check_fraction("final", final)
    if progress < warmup:
        return progress / warmup
    angle = math.pi * (progress - warmup) / (1 - warmup)
    return final + (1 - final) * (1 + math.cos(angle)) / 2


def steps(progress: float, at: Sequence[float] = (0.5, 0.75), factor: float = 0.1, warmup: float = 0.0) -> float:
    """factor ** (how many of `at` are behind), after a linear warm-up from 0 over the first `warmup`.

    A milestone counts from its own step on: with 160 steps and `at=(0.5,)`, step 80 is the first at the lower
    rate.

    Raises:
        ValueError: progress outside [0, 1], milestones not rising strictly inside (0, 1), factor not above 0,
            warmup outside [0, 1) or reaching past the first milestone.

    >>> [steps(p) for p in (0, 0.49, 0.5)]
    [1.0, 1.0, 0.1]
    """
    _check_progress(progress)
    _check_warmup(warmup)
    marks = [float(mark) for mark in at]
    inside = all(0 < mark < 1 for mark in marks)
    if not inside or any(late <= early for early, late in pairwise(marks)):
        raise ValueError(f"at is {marks}; allowed are fractions of the fit in (0, 1), each larger than the one before")
    if not (factor > 0 and math.isfinite(factor)):
        raise ValueError(f"factor is {factor}; allowed is a finite number above 0, such as 0.1")
    if marks and warmup > marks[0]:
        raise ValueError(f"warmup is {warmup}, past the first milestone {marks[0]}: make it shorter")
    if progress < warmup:
        return progress / warmup
    return factor ** sum(progress >= mark for mark in marks)


def one_cycle(progress: float, peak: float = 0.3, start: float = 0.0, final: float = 0.0) -> float:
    """Linear from `start` up to 1 at `peak`, then linear down to `final` at the end (Smith 2018, 1cycle).

    Raises:
        ValueError: progress outside [0, 1], peak outside (0, 1), start or final outside [0, 1].

    >>> [one_cycle(p, peak=0.5) for p in (0, 0.25, 0.5, 0.75)]
    [0.0, 0.5, 1.0, 0.5]
    """
    _check_progress(progress)
    _check_fraction("start", start)
    _check_fraction("final", final)
    if not 0 < peak < 1:
        raise ValueError(f"peak is {peak}; allowed is a fraction of the fit in (0, 1)")
    if progress < peak:
        return start + (1 - start) * progress / peak
    return 1 - (1 - final) * (progress - peak) / (1 - peak)


def scaled(progress: float, factor: float = 0.5, schedule: Callable[[float], float] | None = None) -> float:
    """`factor` times another schedule (None: constant): the same course at another base learning rate.

    Raises:
        ValueError: progress outside [0, 1], factor not above 0 or not finite.

    >>> scaled(0.75, factor=0.5, schedule=lambda p: 1 - p), scaled(0.75)
    (0.125, 0.5)
    """
    _check_progress(progress)
    if not 0 < factor < math.inf:
        raise ValueError(f"factor is {factor}; allowed is a number above 0")
    return factor * (1.0 if schedule is None else schedule(progress))


def _check_progress(progress: float) -> None:
    if not 0 <= progress <= 1:
        raise ValueError(f"progress is {progress}; it is step / total steps, in [0, 1)")


def _check_warmup(warmup: float) -> None:
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup is {warmup}; allowed is a fraction of the fit in [0, 1), 0 for none")


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; allowed is a factor on the base learning rate in [0, 1]")
