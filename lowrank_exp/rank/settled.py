"""When the stable ranks of a training have settled: the moment at which Cuttlefish leaves full-rank training.

Legend: E epochs so far, rho the stable rank of a matrix after each epoch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lowrank_exp.checks import positive, whole

LAST = {1: 5.0, 2: 2.5}  # factor on the threshold where so many matrices are left; the authors' code


def settled(curves: Mapping[str, Sequence[float]], window: int = 11, threshold: float = 0.1) -> bool:
    r"""Whether no stable rank moves any more.

    .. math:: \frac{1}{w} \sum_{e = E - w + 1}^{E} \left| \frac{d\rho}{de} \right| \le \varepsilon

    for every matrix, with central differences inside the window and one-sided ones at its ends (`numpy.gradient`). The
    last matrix that still moves may do so by 5 epsilon, the last two by 2.5 epsilon. Fewer epochs than the window are
    too few to tell, and matrices that there are none of have not settled.

    Args:
        curves: rho after every epoch, by matrix, all of one length.
        window: w, epochs looked at, at least 2.
        threshold: epsilon, ranks per epoch, above 0.

    Raises:
        ValueError: a window or threshold out of range.

    Source: Wang et al. 2023, "Cuttlefish: low-rank model training without all the tuning"; window, threshold and the
    factors for the last matrices are those of the authors' code.

    Differs from the paper:
        1. Curves are not smoothed before they are differentiated.
        2. Every matrix is judged anew after every epoch; in the authors' code one that has settled stays so.

    >>> settled({"conv": [8.0, 5.0, 5.0, 5.05]}, window=3), settled({"conv": [8.0, 5.0, 5.0, 5.05]}, window=4)
    (True, False)
    """
    check_rule(window, threshold)
    if not curves or any(len(curve) < window for curve in curves.values()):
        return False
    slopes = [
        float(np.abs(np.gradient(np.array(curve[-window:], dtype=np.float64))).mean()) for curve in curves.values()
    ]
    moving = [slope for slope in slopes if not slope <= threshold]
    return not moving or max(moving) <= LAST.get(len(moving), 1.0) * threshold


def check_rule(window: Any, threshold: Any) -> None:
    """Raise ValueError for a window or threshold out of range."""
    whole("window", window, 2, f"window={window!r} must be an integer of at least 2: a slope needs two epochs")
    wrong = f"threshold={threshold!r} must be a number above 0, in ranks per epoch"
    positive("threshold", threshold, wrong)
