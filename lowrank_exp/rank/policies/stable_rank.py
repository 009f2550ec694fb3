"""Stable rank: a layer keeps as many ranks as its spectrum is wide, beside that of a matrix of noise.

Legend: s singular values of a matrix, sr its stable rank, L its shorter side, which is its full rank, M its longer
side, W_0 the matrix before training.
"""

import math
from collections.abc import Sequence

import numpy as np

from lowrank_exp.checks import boolean, positive
from lowrank_exp.decomposition import Rank
from lowrank_exp.rank.budget import Problem, meet
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.unfoldings import option_at, rank_of, unfoldings_of


def stable_rank(
    problem: Problem, *, scaled: bool = True, times: float | None = 1.0, round: str = "up"
) -> dict[str, Rank | None]:
    r"""The stable rank of every unfolding that bounds the rank of a layer's decomposition, in units of that of W_0.

    .. math:: r = \Bigl\lceil t \, \frac{L}{\text{sr}(W_0)} \, \text{sr}(W) \Bigr\rceil, \qquad
        \text{sr}(W) = \frac{\sum_i s_i^2}{s_1^2}

    at most L. W_0 counts as Gaussian, see `stable_rank_of_noise`; so a layer that has learned nothing stays at its full
    rank. Tucker-2 has a rank for each of its two unfoldings; of CP, which has one, the larger counts. Of a layer with
    groups, the group with the largest stable rank decides. A matrix of zeros has rank 1. A layer without numbers (on
    the meta device) takes the middle one of its ranks; under a budget it counts as noise.

    Args:
        problem: candidates and budget; the profiles need `unfoldings`.
        scaled: False takes the stable rank as it is, without L / sr(W_0).
        times: t, above 0; None where a budget decides: the largest t that it allows. Where a rank has several numbers,
            the ranks are then those of the decomposition's ladder.
        round: where ranks must be multiples of something, the next one `up` or `down`, or the `nearest`; under a
            budget the policy chooses among multiples, and nothing is rounded.

    Raises:
        ValueError: both or neither of times and a budget are given, times is not a positive number, a decomposition has
            no unfoldings, no reachable cost meets the budget, or `round` where it has no effect.

    Source: Wang et al. 2023, "Cuttlefish: low-rank model training without all the tuning", and the authors' code for
    rounding and the limit L.

    Differs from the paper:
        1. The expected stable rank of a Gaussian matrix takes the place of the stable rank of the W_0 at hand.
        2. The authors' code rounds both stable ranks down before they are divided; only the result is rounded here.
        3. The knob t, and ranks under a budget.
        4. When to leave full-rank training is decided elsewhere, see `lowrank_exp.rank.settled`.
    """
    boolean("scaled", scaled)
    if (times is None) == (not problem.budget):
        got = "neither" if times is None else f"times={times} and a budget ({problem.budget.bounds})"
        raise ValueError(
            f"the stable_rank policy takes times or a budget (macs, weights), got {got}: set the other to null"
        )
    if times is None and round != "up":
        raise ValueError(
            f"round={round!r} has no effect under a budget, where the stable_rank policy chooses among multiples: set "
            "it to up"
        )
    widths = {c.profile.name: _widths(c.profile, scaled) for c in problem.candidates}
    if times is None:
        return _meet_budget(problem, widths)
    wrong = f"times={times!r} is not a positive number: 1 takes the stable rank as it is, 0.5 half of it"
    positive("times", times, wrong)
    ranks = {}
    for candidate in problem.candidates:
        layer = candidate.profile
        ranks[layer.name] = option_at(candidate, _rank(layer, widths[layer.name], times), problem.multiple, round)
    return ranks


def stable_rank_of_noise(L: int, M: int) -> float:
    r"""Stable rank of an L x M matrix of independent Gaussian entries, in the limit of large sides.

    .. math:: \text{sr}(W_0) = \frac{L M}{(\sqrt{L} + \sqrt{M})^2}

    With entries of variance 1, the squares of all singular values add up to L M, and the largest lies at the edge of
    the Marchenko-Pastur law, sqrt(L) + sqrt(M). Small matrices have a little more on average: 2 % at 64 x 576, 7 % at
    16 x 144.

    >>> stable_rank_of_noise(64, 64), stable_rank_of_noise(64, 576)
    (16.0, 36.0)
    """
    return L * M / (math.sqrt(L) + math.sqrt(M)) ** 2


def stable_ranks(unfoldings: Sequence[tuple[np.ndarray, int]], scaled: bool = True) -> list[float]:
    """Stable rank of every matrix that bounds a rank, not rounded; of groups the largest, of zeros 0.

    Args:
        unfoldings: singular values `(G, L)` and the longer side M of every matrix, as of `Decomposition.unfoldings`.
        scaled: in units of that of W_0, times L.

    >>> stable_ranks([(np.array([[2.0, 2.0, 1.0]]), 3)], scaled=False)
    [2.25]
    """
    ranks = []
    for values_GL, M in unfoldings:
        L = values_GL.shape[1]
        squared_GL = values_GL.astype(np.float64) ** 2
        first_G = squared_GL[:, 0]
        sr = np.divide(squared_GL.sum(1), first_G, out=np.zeros(len(first_G)), where=first_G > 0).max()
        ranks.append(float(sr) * (L / stable_rank_of_noise(L, M) if scaled else 1.0))
    return ranks


def _widths(layer: LayerProfile, scaled: bool) -> list[float] | None:
    """The wished rank of every unfolding at t = 1, not rounded; None without numbers."""
    unfoldings = unfoldings_of(layer, "stable_rank")
    if unfoldings is None:
        return None
    return stable_ranks(unfoldings, scaled)


def _rank(layer: LayerProfile, widths: list[float] | None, times: float) -> Rank | None:
    if widths is None:
        return None
    full = [values_GL.shape[1] for values_GL, _ in layer.unfoldings]
    # A stable rank of exactly 3 may be a little more by rounding.
    ranks = [min(L, max(1, math.ceil(times * w * (1 - 1e-12)))) for w, L in zip(widths, full, strict=True)]
    return rank_of(layer, ranks)


def _meet_budget(problem: Problem, widths: dict[str, list[float] | None]) -> dict[str, Rank | None]:
    """The ladders' ranks of the largest t; t = 1 is taken if it meets the budget."""
    levels = {c.profile.name: _level(c.profile, widths[c.profile.name]) for c in problem.candidates}

    def rung_at(layer: LayerProfile, times: float) -> int:
        return int(np.count_nonzero(levels[layer.name] < times * (1 - 1e-12)))

    options = meet(problem, rung_at, lambda layer: levels[layer.name], 1.0)
    return {c.profile.name: c.ranks[o] for c, o in zip(problem.candidates, options, strict=True)}


def _level(layer: LayerProfile, widths: list[float] | None) -> np.ndarray:
    """The t above which every rung is wished, as one number of the rung below it no longer suffices, `(rungs,)`."""
    ranks_RN = np.array(layer.ranks).reshape(layer.rungs, -1)
    width_N = ranks_RN[-1] if widths is None else np.maximum(widths, 1e-300)
    below_RN = np.vstack([np.zeros_like(ranks_RN[:1]), ranks_RN[:-1]])
    return np.where(below_RN < ranks_RN[-1], below_RN / width_N, np.inf).min(1)
