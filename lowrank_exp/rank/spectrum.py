"""The singular values that a rank cuts, as few numbers as a drawing of them needs."""

from collections.abc import Sequence

import numpy as np

MOST = 24  # values of one matrix
DIGITS = 4  # of a value

Spectrum = list[list[list[float]]]  # of every matrix that a rank cuts: pairs of a number, from 1, and a value


def spectrum_of(matrices: Sequence[np.ndarray]) -> Spectrum:
    """Some of the singular values of every matrix, relative to its largest one: the first, the last, and in between
    ever fewer.

    Args:
        matrices: falling singular values, `(G, L)` each: means over the groups are taken. Those without any are left
            out.

    >>> spectrum_of([np.array([[4.0, 2.0, 1.0]])])
    [[[1, 1.0], [2, 0.5], [3, 0.25]]]
    """
    means = [values_GL.mean(0) for values_GL in matrices if values_GL.size]
    return [_thinned(mean_L) for mean_L in means if mean_L[0] > 0 and np.isfinite(mean_L).all()]


def _thinned(values_L: np.ndarray) -> list[list[float]]:
    places = np.unique(np.rint(np.geomspace(1, len(values_L), MOST)).astype(int))
    return [[int(k), float(f"{values_L[k - 1] / values_L[0]:.{DIGITS}g}")] for k in places]
