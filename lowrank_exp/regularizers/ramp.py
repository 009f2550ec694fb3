"""A weight that sets in: a schedule of penalties, as those of the learning rate are functions of progress."""


def ramp(progress: float, begin: float = 0.0, end: float = 0.1) -> float:
    """0 up to `begin`, linear to 1 at `end`, and 1 from there on; a step where both are the same.

        (p - b) / (e - b)    for b <= p < e

    Any function from progress to a factor is a schedule, those of the learning rate too: `steps` lowers a weight at
    milestones, `cosine` lets it fade.

    Args:
        progress: step / total steps of the fit, in [0, 1).
        begin: b, in [0, 1].
        end: e, from `begin` to 1.

    Raises:
        ValueError: progress outside [0, 1], begin and end not in order inside [0, 1].

    >>> [ramp(p, begin=0.25, end=0.75) for p in (0, 0.25, 0.5, 0.75)]
    [0.0, 0.0, 0.5, 1.0]
    >>> [ramp(p, begin=0.5, end=0.5) for p in (0.49, 0.5)]
    [0.0, 1.0]
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress is {progress}; it is step / total steps, in [0, 1)")
    if not 0 <= begin <= end <= 1:
        raise ValueError(f"begin is {begin} and end is {end}; allowed are fractions of the fit, begin up to end")
    if progress >= end:
        return 1.0
    return (progress - begin) / (end - begin) if progress > begin else 0.0
