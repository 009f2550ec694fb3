"""A rank for every matrix that a decomposition cuts: one for an SVD, two for Tucker-2."""

import math
from bisect import bisect_left

import numpy as np

from lowrank_exp.decomposition import Rank
from lowrank_exp.rank.budget import Candidate
from lowrank_exp.rank.layer_profile import LayerProfile

Unfoldings = tuple[tuple[np.ndarray, int], ...]


def unfoldings_of(layer: LayerProfile, policy: str) -> Unfoldings | None:
    """Singular values `(G, L)` and longer side of every matrix; None without numbers (on the meta device).

    Raises:
        ValueError: the decomposition cuts no matrices; the message names the policy that asked.
    """
    if not layer.unfoldings:
        raise ValueError(
            f"{layer.name}: the {policy} policy needs the singular values of the matrices that a decomposition cuts, "
            f"and {layer.decomposition} has none. Set its rank by hand, leave the layer alone, or choose another policy"
        )
    return None if layer.offer.made_up else layer.unfoldings


def option_at(candidate: Candidate, wished: Rank | None, multiple: int = 1) -> Rank | None:
    """The wished rank within what rules allow; dense where it is not cheaper and dense is allowed.

    A wished rank that the ladder leaves out is raised to the next one on it. Where a rank has several numbers, it may
    lie off the ladder, and each is raised to the next multiple of `multiple`. None takes the middle one of the layer's
    ranks.
    """
    layer, options = candidate.profile, candidate.ranks
    if wished is None:
        return options[(len(options) - 1) // 2]
    if isinstance(wished, int):
        return options[candidate.option_of(bisect_left(layer.ranks, wished) + 1)]
    ranks = [rank for rank in options if rank is not None]
    dense_allowed = options[-1] is None
    least = (1,) * len(wished) if ranks[0] == layer.ranks[0] else ranks[0]
    most = layer.full_rank if dense_allowed else [max(ones) for ones in zip(*ranks, strict=True)]
    raised = [multiple * math.ceil(one / multiple) for one in wished]
    wished = tuple(int(np.clip(*of)) for of in zip(raised, least, most, strict=True))
    what = layer.saves[0]
    if getattr(layer.cost(wished), what) < getattr(layer, what):
        return wished
    return None if dense_allowed else ranks[-1]
