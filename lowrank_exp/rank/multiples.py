"""Ranks that are multiples of 8, 16, 32: what a layer offers when only those are allowed."""

from dataclasses import replace

import numpy as np

from lowrank_exp.checks import whole
from lowrank_exp.decomposition import Rank
from lowrank_exp.rank.enc.curves import measured_curve
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.offer import Offer


def check_multiple(multiple: int | None) -> int:
    """The number that ranks must be multiples of; 1 for None.

    Raises:
        ValueError: it is not a positive integer.
    """
    if multiple is None:
        return 1
    wrong = f"multiple={multiple!r} is not a positive integer: 8, 16, or null for any rank"
    whole("multiple", multiple, message=wrong)
    return multiple


def at_multiples(layer: LayerProfile, multiple: int) -> LayerProfile:
    """The layer with ladders of multiples alone.

    A number of a rank whose highest is below `multiple` (three input channels) is left at its highest, where the rank
    has other numbers; the ranks of a ladder of pairs are raised to multiples. What was measured or computed at some
    ranks is interpolated, but times are not: of a ladder with times those ranks stay that are such multiples. A layer
    without any such rank gets a refusal.

    >>> from lowrank_exp.rank import Cost, Costs, Offer
    >>> offer = Offer("channel_svd", range(1, 21), Costs(*[np.arange(1, 21)] * 2), np.ones((1, 20)))
    >>> cut = at_multiples(LayerProfile("a", "conv", Cost(9, 9), (offer,)), 8)
    >>> cut.ranks, cut.rank_macs.tolist()
    ((8, 16), [8, 16])
    """
    if multiple == 1 or not layer.rungs:
        return layer
    offers = [(one, raise_to_multiples(one, multiple)) for one in layer.alternatives]
    cut = tuple(restrict(one, ranks) for one, ranks in offers if ranks)
    where = "up to its full rank" if layer.timed is None else "among its ranks with a measured time, the highest"
    return replace(layer, offers=cut, refusal=None if cut else f"no multiple of {multiple} {where} {layer.full_rank}")


def restrict(layer: LayerProfile, ranks: tuple[Rank, ...]) -> Offer:
    """The layer's only offer, at these ranks; those of a ladder of pairs may lie off it."""
    offer, pairs = layer.offer, isinstance(layer.full_rank, tuple)
    places = [layer.place_below(rank) if pairs else offer.ranks.index(rank) for rank in ranks]
    if pairs:
        costs, kept = layer.costs_at(ranks), layer.energy_at(ranks)
    else:
        costs, kept = offer.costs.some(places), offer.kept[places] if len(offer.kept) else offer.kept
    return replace(
        offer,
        ranks=ranks,
        costs=costs,
        kept=kept,
        sensitivity=offer.sensitivity[places] if len(offer.sensitivity) else offer.sensitivity,
        errors=_at_places(offer, offer.errors, places, kept),
        responses=_at_places(offer, offer.responses, places, kept),
        **_resample(layer, ranks, places),
    )


def raise_to_multiples(layer: LayerProfile, multiple: int) -> tuple[Rank, ...]:
    """Ranks of a layer's only offer that are multiples: of a ladder of pairs its rungs, raised."""
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
    measured = layer.ranks if len(layer.rank_latency) else raised
    return tuple(rank for rank in dict.fromkeys(raised) if rank in measured and layer.usable(rank) == rank)


def _at_places(offer: Offer, errors: np.ndarray, places: list[int], kept: np.ndarray) -> np.ndarray:
    """Errors that were reached, at ranks on the ladder or above the rungs at `places`.

    Above a rung they are less by as much as is what the weight's energy leaves over there.
    """
    if not len(errors) or not isinstance(offer.ranks[-1], tuple):
        return errors[places] if len(errors) else errors
    left = 1.0 - offer.energy[places]
    return errors[places] * np.divide(1.0 - kept, left, out=np.ones(len(places)), where=left > 0)


def _resample(layer: LayerProfile, ranks: tuple[Rank, ...], places: list[int]) -> dict:
    """Accuracies at the ranks, from the curve through those that were measured; beyond r_max it is level."""
    if not len(layer.sampled_ranks):
        return {}
    y_R = measured_curve(layer)
    return {"sampled_ranks": ranks, "sampled_accuracy": y_R[np.minimum(places, len(y_R) - 1)]}
