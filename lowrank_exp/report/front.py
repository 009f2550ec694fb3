"""Which networks are on the front: none other is at least as accurate and as cheap, and better in one of the two."""

import math
from collections.abc import Sequence


def on_front(costs: Sequence[float], accuracies: Sequence[float]) -> list[bool]:
    """Whether each network is on the front of accuracy against cost; of networks that are equal in both, all are.

    One whose cost or accuracy is NaN, which was not measured, is not.

    >>> on_front([0.3, 0.5, 0.5, 0.8], [0.90, 0.93, 0.91, 0.93])
    [True, True, False, False]
    """
    answers = [False] * len(costs)
    known = [k for k, pair in enumerate(zip(costs, accuracies, strict=True)) if not any(map(math.isnan, pair))]
    best, cheapest = -math.inf, math.inf
    for k in sorted(known, key=lambda k: (costs[k], -accuracies[k])):
        if accuracies[k] > best:
            best, cheapest = accuracies[k], costs[k]
        answers[k] = (accuracies[k], costs[k]) == (best, cheapest)
    return answers
