"""What the largest singular values of a weight keep of it."""

import numpy as np


def energy_of(singular_values_GR: np.ndarray) -> np.ndarray:
    """Share of the squared singular values of all groups that ranks 1 ... R keep, `(R,)`, the last one 1.

    >>> energy_of(np.array([[3.0, 4.0**0.5, 0.0]])).round(3).tolist()
    [0.692, 1.0, 1.0]
    """
    squared = (singular_values_GR.astype(np.float64) ** 2).sum(axis=0)
    total = squared.sum()
    if total == 0:  # a layer of zeros loses nothing at any rank
        return np.ones(len(squared))
    kept = np.minimum(np.cumsum(squared) / total, 1.0)
    kept[-1] = 1.0
    return kept
