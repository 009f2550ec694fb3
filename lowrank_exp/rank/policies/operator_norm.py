"""Operator norm: every layer makes the same relative error in its largest singular value.

Legend: s singular values of a layer, falling, eps the relative error in the operator norm, r rank.
"""

import numpy as np

from lowrank_exp.checks import fraction
from lowrank_exp.decomposition import Rank
from lowrank_exp.rank.budget import Problem, meet
from lowrank_exp.rank.layer_profile import LayerProfile


def operator_norm(problem: Problem, *, eps: float | None = None) -> dict[str, Rank | None]:
    r"""The smallest ranks whose error in the operator norm is at most `eps`, or the smallest eps that a budget allows.

    .. math:: r_l = \#\{ i : s_{l,i} / s_{l,1} > \epsilon \}, \qquad
        \frac{\lVert W_l - \hat W_l \rVert_2}{\lVert W_l \rVert_2} = \frac{s_{l,r+1}}{s_{l,1}} \le \epsilon

    at least 1. A layer with groups is one matrix of blocks: its operator norm is the largest over the groups, and so is
    its error. Without numbers (on the meta device) the error counts as falling evenly from rank to rank.

    Args:
        problem: candidates and budget.
        eps: in [0, 1); None where a budget decides.

    Raises:
        ValueError: both or neither of eps and a budget are given, eps is out of range, a decomposition has no singular
            values, or no reachable cost meets the budget.

    Source: Liebenwein, Maalouf, Feldman, Rus 2021, "Compressing neural networks: towards determining the optimal
    layer-wise decomposition" (ALDS): its global step with one subspace per layer.

    Differs from the paper:
        1. A rank that is not cheaper than dense leaves the layer dense, and single ranks fill up the budget.
    """
    if (eps is None) == (not problem.budget):
        got = "neither" if eps is None else f"eps={eps} and a budget ({problem.budget.bounds})"
        raise ValueError(
            f"the operator_norm policy takes eps or a budget (macs, weights), got {got}: set the other to null"
        )
    errors = {c.profile.name: _error_below(c.profile) for c in problem.candidates}

    def rung_at(layer: LayerProfile, eps: float) -> int:
        return max(1, int(np.count_nonzero(errors[layer.name] > eps)))

    if eps is None:
        options = meet(problem, lambda layer, t: rung_at(layer, 1 - t), lambda layer: 1 - errors[layer.name], None)
    else:
        wrong = f"eps={eps!r} is not in [0, 1): 0.1 leaves a tenth of the largest singular value as error"
        fraction("eps", eps, wrong, zero=True, one=False)
        options = [c.option_of(rung_at(c.profile, eps)) for c in problem.candidates]
    return {c.profile.name: c.ranks[o] for c, o in zip(problem.candidates, options, strict=True)}


def _error_below(layer: LayerProfile) -> np.ndarray:
    """The relative error one rung below each rung, `(rungs,)`: 1 at the first, then falling."""
    if not layer.singular_values.size:
        raise ValueError(
            f"{layer.name}: the operator_norm policy needs a layer's singular values, and {layer.decomposition} has "
            "none. Take energy, uniform, enc_map or knapsack, set its rank by hand, or leave the layer alone"
        )
    s_R = layer.singular_values.max(0).astype(np.float64)
    if layer.offer.made_up:
        s_R = np.linspace(1, 0, len(s_R), endpoint=False)
    below_R = np.array([0, *layer.ranks[:-1]])
    return s_R[below_R] / s_R[0] if s_R[0] > 0 else np.zeros(layer.rungs)
