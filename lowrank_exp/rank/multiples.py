"""Ranks that are multiples of 8, 16, 32: what a layer offers when only those are allowed."""

from dataclasses import replace

import numpy as np

from lowrank_exp.checks import whole
from lowrank_exp.decomposition import Rank
from lowrank_exp.decomposition.base import WHAT
from lowrank_exp.rank.enc.curves import measured_curve
from lowrank_exp.rank.profile import LayerProfile


def check_multiple(multiple: int | None) -> int:
    """The number that ranks must be multiples of; 1 for None.

    Raises:
        ValueError: it is no positive integer.
    """
    if multiple is None:
        return 1
    wrong = f"multiple={multiple!r} is not a positive integer: 8, 16, or null for any rank"
    whole("multiple", multiple, message=wrong)
    return multiple


def at_multiples(layer: LayerProfile, multiple: int) -> LayerProfile:
    """The layer with a ladder of multiples alone.

    A number of a rank whose highest is below `multiple` (three input channels) is left at its highest, where the rank
    has other numbers; the ranks of a ladder of pairs are raised to multiples. What was measured or computed at some
    ranks is interpolated. A layer without any such rank gets a refusal.

    >>> layer = LayerProfile("a", "conv", 9, 9, "channel_svd", *[np.arange(1, 21)] * 2, np.ones((1, 20)))
    >>> at_multiples(layer, 8).ranks, at_multiples(layer, 8).rank_macs.tolist()
    ((8, 16), [8, 16])
    """
    others = tuple(at_multiples(other, multiple) for other in layer.others)
    if multiple == 1 or not layer.rungs:
        return layer
    ranks = _ranks(layer, multiple)
    layer = replace(layer, others=tuple(other for other in others if other.refusal is None))
    if not ranks:
        if layer.others:
            return replace(layer.others[0], others=layer.others[1:])
        refusal = f"no multiple of {multiple} up to its full rank {layer.full_rank}"
        return LayerProfile(layer.name, layer.kind, layer.macs, layer.weights, refusal=refusal)
    if not isinstance(layer.full_rank, tuple):
        return _subset(layer, ranks)
    costs = [layer.cost(rank) for rank in ranks]
    macs, weights, size = (np.array([getattr(cost, what) for cost in costs], dtype=np.int64) for what in WHAT)
    nearest = [_rung_above(layer, rank) for rank in ranks]
    return replace(
        layer,
        rank_macs=macs,
        rank_weights=weights,
        weight_bytes_at=size,
        ladder=ranks,
        kept=layer.energy_at(ranks) if layer.energy_at else layer.energy[nearest],
        sensitivity=layer.sensitivity[nearest] if len(layer.sensitivity) else layer.sensitivity,
        **_resampled(layer, ranks, nearest),
    )


def _ranks(layer: LayerProfile, multiple: int) -> tuple[Rank, ...]:
    full = layer.full_rank
    if not isinstance(full, tuple):
        return tuple(rank for rank in layer.ranks if rank % multiple == 0)
    highest = [most // multiple * multiple or most for most in full]
    if not any(most >= multiple for most in full):
        return ()
    raised = [
        tuple(min(-(-one // multiple) * multiple, most) for one, most in zip(rank, highest, strict=True))
        for rank in layer.ranks
    ]
    return tuple(dict.fromkeys(raised))


def _subset(layer: LayerProfile, ranks: tuple[Rank, ...]) -> LayerProfile:
    place = [layer.ranks.index(rank) for rank in ranks]
    indexed = ("rank_macs", "rank_weights", "kept", "weight_bytes_at", "sensitivity")
    arrays = {name: getattr(layer, name) for name in indexed}
    kept = {name: array if array is None or not len(array) else array[place] for name, array in arrays.items()}
    return replace(layer, ladder=ranks, **kept, **_resampled(layer, ranks, place))


def _resampled(layer: LayerProfile, ranks: tuple[Rank, ...], place: list[int]) -> dict:
    """Accuracies at the ranks, from the curve through those that were measured; beyond r_max it is level."""
    if not len(layer.sampled_ranks):
        return {}
    y_R = measured_curve(layer)
    return {"sampled_ranks": ranks, "sampled_accuracy": y_R[np.minimum(place, len(y_R) - 1)]}


def _rung_above(layer: LayerProfile, rank: tuple[int, ...]) -> int:
    """The place of the highest rank on the ladder that is nowhere above `rank`."""
    below = [at for at, one in enumerate(layer.ranks) if all(a <= b for a, b in zip(one, rank, strict=True))]
    return below[-1] if below else 0
