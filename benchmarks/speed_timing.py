"""Two networks timed in turn, on a machine whose clock and load change from second to second."""

from dataclasses import dataclass
from statistics import median

import numpy as np

from lowrank_exp.runtime import Prepared, time_interleaved

ROUNDS = 9


@dataclass(frozen=True)
class Pair:
    """Milliseconds of both sides, and their ratio.

    `ratio` is the median over rounds of the ratio of medians in a round, `ratio_of_minima` that of the fastest passes:
    what slows a round down slows down both. `spread`: the middle half of the rounds' ratios over their median.
    """

    dense_ms: float
    small_ms: float
    dense_minimum_ms: float
    small_minimum_ms: float
    ratio: float
    ratio_of_minima: float
    spread: float
    passes: int
    busy_beside: float | None


def time_pair(dense: Prepared, small: Prepared, seconds: float) -> Pair:
    """Both sides in turn, for about `seconds` each, in short rounds."""
    rounds = [time_interleaved({"dense": dense, "small": small}, seconds=seconds / ROUNDS) for _ in range(ROUNDS)]
    sides = {side: [one[side] for one in rounds] for side in ("dense", "small")}
    pairs = list(zip(*sides.values(), strict=True))
    ratios = [one.median_ms / other.median_ms for one, other in pairs]
    low, high = np.percentile(ratios, [25, 75]).tolist()
    busy = [one.busy_beside for one in sides["small"] if one.busy_beside is not None]
    return Pair(
        *(median(one.median_ms for one in of) for of in sides.values()),
        *(min(one.minimum_ms for one in of) for of in sides.values()),
        median(ratios),
        median(one.minimum_ms / other.minimum_ms for one, other in pairs),
        (high - low) / median(ratios),
        sum(one.passes for one in sides["small"]),
        median(busy) if busy else None,
    )
