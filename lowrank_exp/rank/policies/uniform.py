"""Uniform: one ratio for all layers, or one error."""

import numpy as np

from lowrank_exp.checks import one_of
from lowrank_exp.decomposition import Rank
from lowrank_exp.rank.budget import Problem, meet
from lowrank_exp.rank.declares import declares
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.losses import LOSSES, kept, measured_for


@declares(looks_at=measured_for)
def uniform(problem: Problem, *, metric: str | None = None) -> dict[str, Rank | None]:
    r"""Ranks `r = max(1, round(rho r_max))`, with one ratio rho for all layers.

    `r_max` is the rank at which a layer's factors have as many weights as the layer; where ranks are pairs (Tucker-2),
    r counts the rungs of the decomposition's ladder; of a ladder with gaps (ranks of which the time was measured), r is
    its nearest rank. The budget itself is tried as rho first; then the largest rho that keeps within the budget is
    found and single ranks fill up.

    With a metric it is one error for all layers, the smallest eps that the budget allows; single ranks fill up, those
    of the largest error first:

    .. math:: r_l = \min \{ r : e_l(r) \le \epsilon \}

    Args:
        problem: candidates and budget.
        metric: None, one ratio; `error`, one relative squared error of the weights; `response`, of the responses
            (`with_errors` with images).

    Source: the uniform baseline of Kim, Khan, Kyung 2019 (ENC); `round` goes to even at halves, as NumPy's.

    Raises:
        ValueError: no budget is given, or none of the reachable costs meets it; an unknown metric, or a layer without
            the errors that it needs.
    """
    if not problem.budget:
        raise ValueError("the uniform policy needs a budget: set macs or weights to a fraction in (0, 1]")
    if metric is None:
        options = meet(problem, _rung_at, _level, min(problem.budget.bounds.values()))
    else:
        one_of("metric", metric, LOSSES, f"metric={metric!r} is not known: null (one ratio), {' or '.join(LOSSES)}")
        options = _meet_by_error(problem, metric)
    return {c.profile.name: c.ranks[o] for c, o in zip(problem.candidates, options, strict=True)}


def _meet_by_error(problem: Problem, metric: str) -> list[int]:
    kept_R = {c.profile.name: kept(c.profile, metric) for c in problem.candidates}

    def rung_at(layer: LayerProfile, t: float) -> int:
        return int(np.searchsorted(kept_R[layer.name], t)) + 1

    def level(layer: LayerProfile) -> np.ndarray:
        return np.append(0.0, kept_R[layer.name][:-1])

    return meet(problem, rung_at, level, None)


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
