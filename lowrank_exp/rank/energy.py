"""Energy: every layer keeps the same share of its squared singular values."""

import numpy as np

from lowrank_exp.rank.budget import Problem, meet
from lowrank_exp.rank.profile import LayerProfile


def energy(problem: Problem, *, share: float | None = None) -> dict[str, int | None]:
    r"""The smallest ranks that keep `share` of the energy, or the largest share that a budget allows.

    .. math:: r_l = \min \{ r : \sum_{i \le r} s_{l,i}^2 \ge \text{share} \cdot \sum_i s_{l,i}^2 \}

    Args:
        problem: candidates and budget.
        share: in (0, 1]; None where a budget decides.

    Raises:
        ValueError: both or neither of share and a budget are given, or the share is out of range.
    """
    if (share is None) == (not problem.budget):
        got = "neither" if share is None else f"share={share} and a budget ({problem.budget.bounds})"
        raise ValueError(
            f"the energy policy takes a share or a budget (macs, weights), got {got}: set the other to null"
        )
    if share is None:
        options = meet(problem, _rung_at, _level, None)
    elif isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError(f"share={share!r} is not in (0, 1]: 0.9 keeps 90 % of the squared singular values")
    else:
        options = [c.option_of(_rung_at(c.profile, share)) for c in problem.candidates]
    return {c.profile.name: c.ranks[o] for c, o in zip(problem.candidates, options, strict=True)}


def _rung_at(layer: LayerProfile, share: float) -> int:
    # A share of exactly one means every direction that the arithmetic can tell from zero.
    return min(int(np.searchsorted(layer.energy, share * (1 - 1e-12))) + 1, layer.rungs)


def _level(layer: LayerProfile) -> np.ndarray:
    return np.concatenate([[0.0], layer.energy[:-1]])
