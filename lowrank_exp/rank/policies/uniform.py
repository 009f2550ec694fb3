"""Uniform: one ratio for all layers."""

import numpy as np

from lowrank_exp.rank.budget import Problem, meet
from lowrank_exp.rank.layer_profile import LayerProfile


def uniform(problem: Problem) -> dict[str, int | None]:
    """Ranks `r = max(1, round(rho r_max))`, with one ratio rho for all layers.

    `r_max` is the rank at which a layer's factors have as many weights as the layer; where ranks are pairs (Tucker-2),
    r counts the rungs of the decomposition's ladder; of a ladder with gaps (ranks of which the time was measured), r is
    its nearest rank. The budget itself is tried as rho first; then the largest rho that keeps within the budget is
    found and single ranks fill up.

    Source: the uniform baseline of Kim, Khan, Kyung 2019 (ENC); `round` goes to even at halves, as NumPy's.

    Raises:
        ValueError: no budget is given, or none of the reachable costs meets it.
    """
    if not problem.budget:
        raise ValueError("the uniform policy needs a budget: set macs or weights to a fraction in (0, 1]")
    first = min(problem.budget.bounds.values())
    options = meet(problem, _rung_at, _level, first)
    return {c.profile.name: c.ranks[o] for c, o in zip(problem.candidates, options, strict=True)}


def _rung_at(layer: LayerProfile, rho: float) -> int:
    rank_R = _ranks_from_0(layer)
    return max(1, round(float(np.interp(rho * rank_R[layer.r_max], rank_R, np.arange(layer.rungs + 1)))))


def _level(layer: LayerProfile) -> np.ndarray:
    rank_R = _ranks_from_0(layer)
    return (rank_R[1:] + rank_R[:-1]) / 2 / rank_R[layer.r_max]


def _ranks_from_0(layer: LayerProfile) -> np.ndarray:
    """0 and the ranks on the ladder, `(rungs + 1,)`; of pairs their rungs."""
    pairs = isinstance(layer.full_rank, tuple)
    return np.append(0.0, np.arange(1, layer.rungs + 1) if pairs else layer.ranks)
