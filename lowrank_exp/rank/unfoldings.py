"""Ranks from matrices that bound them: one of an SVD, two of Tucker-2 and CP, of a tensor train one for each rank."""

import math
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from lowrank_exp.checks import one_of
from lowrank_exp.decomposition import Rank, decomposition_named
from lowrank_exp.rank.budget import Candidate
from lowrank_exp.rank.layer_profile import LayerProfile

ROUND = ("up", "nearest", "down")
Unfoldings = tuple[tuple[np.ndarray, int], ...]


def unfoldings_of(layer: LayerProfile, policy: str) -> Unfoldings | None:
    """Singular values `(G, L)` and longer side of every matrix; None without numbers (on the meta device).

    Raises:
        ValueError: no matrix bounds the decomposition's rank; the message names the policy that asked, and the reason.
    """
    if not layer.unfoldings:
        kind = decomposition_named(layer.decomposition, **layer.options)
        reason = f" ({kind.why_no_unfoldings})" if kind.why_no_unfoldings else ""
        raise ValueError(
            f"{layer.name}: the {policy} policy needs the singular values of matrices that bound a rank, and "
            f"{layer.decomposition} has none{reason}. Set its rank by hand, leave the layer alone, or choose another "
            "policy"
        )
    return None if layer.offer.made_up else layer.unfoldings


def rank_of(layer: LayerProfile, ranks: Sequence[int]) -> Rank:
    """One rank for the layer from one for each of its unfoldings.

    Each is one of its numbers; where it has a single number, it is the largest of them.
    """
    return tuple(ranks) if isinstance(layer.full_rank, tuple) else max(ranks)


def option_at(candidate: Candidate, wished: Rank | None, multiple: int = 1, round: str = "up") -> Rank | None:
    """The wished rank within what rules allow; dense where it is not cheaper and dense is allowed.

    A wished rank that the ladder leaves out is rounded to one on it: the next higher or lower one, or the nearer of the
    two, of equally near ones the higher. Where a rank has several numbers, it may lie off the ladder, and each is
    rounded to a multiple of `multiple`; a number of which the others could use no more is raised with them. None takes
    the middle one of the layer's ranks.

    Raises:
        ValueError: a way to round that is not known.
    """
    one_of("round", round, ROUND)
    layer, options = candidate.profile, candidate.ranks
    if wished is None:
        return options[(len(options) - 1) // 2]
    if isinstance(wished, int):
        return options[candidate.option_of(_rung_near(layer.ranks, wished, round))]
    ranks = [rank for rank in options if rank is not None]
    dense_allowed = options[-1] is None
    least = (1,) * len(wished) if ranks[0] == layer.ranks[0] else ranks[0]
    most = layer.full_rank if dense_allowed else [max(ones) for ones in zip(*ranks, strict=True)]
    rounded = layer.usable(tuple(_to_multiple(one, multiple, round) for one in wished))
    raised = [_to_multiple(one, multiple, "up") for one in rounded]  # which leaves what is usable so
    wished = layer.usable(tuple(int(np.clip(*of)) for of in zip(raised, least, most, strict=True)))
    what = layer.saves[0]
    if getattr(layer.cost(wished), what) < getattr(layer, what):
        return wished
    return None if dense_allowed else ranks[-1]


def _rung_near(ranks: Sequence[int], wished: int, round: str) -> int:
    """The rung, from 1, of the rank beside `wished`; one beyond the last where there is none above it."""
    above = bisect_left(ranks, wished)
    if above == 0 or round == "up" or wished in ranks[above : above + 1]:
        return above + 1
    if round == "down" or above == len(ranks) or wished - ranks[above - 1] < ranks[above] - wished:
        return above
    return above + 1


def _to_multiple(number: int, multiple: int, round: str) -> int:
    """At least `multiple`."""
    shares = {"up": math.ceil(number / multiple), "down": number // multiple}
    return multiple * max(1, shares.get(round, math.floor(number / multiple + 0.5)))
