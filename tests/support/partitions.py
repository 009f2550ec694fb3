"""All partitions of points into clusters of equal size."""

import itertools

import numpy as np


def equal_partitions(N, K):
    """Every way to put N points into K clusters of N / K points, as labels in order of first appearance."""

    def grow(labels):
        if None not in labels:
            yield list(labels)
            return
        first = labels.index(None)
        cluster = len({label for label in labels if label is not None})
        free = [n for n in range(first + 1, N) if labels[n] is None]
        for others in itertools.combinations(free, N // K - 1):
            chosen = {first, *others}
            yield from grow([cluster if n in chosen else label for n, label in enumerate(labels)])

    return [np.array(labels) for labels in grow([None] * N)]
