"""Accuracy of the network with one layer at a time cut to some of its ranks."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from lowrank_exp.checks import one_of, whole
from lowrank_exp.rank.budget import Choice
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.offer import Offer

OTHERS = ("dense", "highest")


def with_accuracy(
    layers: Mapping[str, LayerProfile],
    score: Callable[[Mapping[str, Choice]], float],
    *,
    samples: int = 8,
    others: str = "dense",
) -> dict[str, LayerProfile]:
    """The profiles with measured accuracies, for the policies and metrics that look at them.

    Every layer alone is cut to `samples` ranks, evenly spaced up to r_max, the rank at which it is as large as dense.

    Args:
        layers: as `profile` gives them.
        score: of choices by layer name, higher is better, 0 or more; layers that are not named are dense. Such as
            `NetworkScore`.
        samples: ranks per layer, at least 2; fewer where a layer has fewer.
        others: what the other layers are meanwhile: `dense`, or at their `highest` rank that is not larger than dense.

    Raises:
        ValueError: an option is out of range, or a score is negative or not a number.

    Source: Kim, Khan, Kyung 2019, "Efficient neural network compression" (ENC): the others are at r_max, and ranks are
    chosen around that of EVBMF. Layers alone against a dense network: the layer-by-layer evaluation of AIMET.
    """
    whole("samples", samples, 2, f"samples={samples!r} is not a number of ranks to measure: at least 2")
    one_of("others", others, OTHERS)
    highest = {layer.name: Choice(layer, layer.ranks[layer.r_max - 1]) for layer in layers.values() if layer.rungs}
    around = highest if others == "highest" else {}
    return {name: _measure(layer, score, samples, around) for name, layer in layers.items()}


def sampled_rungs(layer: LayerProfile, samples: int) -> list[int]:
    """Rungs up to r_max, evenly spaced, each once.

    >>> from lowrank_exp.rank import Cost, Costs
    >>> offer = Offer("channel_svd", range(1, 11), Costs(*[np.arange(1, 11) * 10] * 2))
    >>> layer = LayerProfile("a", "conv", Cost(80, 80), (offer,))
    >>> layer.r_max, sampled_rungs(layer, 4)
    (8, [2, 4, 6, 8])
    """
    return np.unique(np.maximum(1, np.round(layer.r_max * np.arange(1, samples + 1) / samples).astype(int))).tolist()


def _measure(
    layer: LayerProfile, score: Callable[..., float], samples: int, around: Mapping[str, Choice]
) -> LayerProfile:
    if not layer.rungs:
        return layer
    return replace(layer, offers=tuple(_measure_offer(one, score, samples, around) for one in layer.alternatives))


def _measure_offer(
    layer: LayerProfile, score: Callable[..., float], samples: int, around: Mapping[str, Choice]
) -> Offer:
    """The layer's only offer, with the score at some of its ranks."""
    ranks = tuple(layer.ranks[rung - 1] for rung in sampled_rungs(layer, samples))
    accuracy = [float(score({**around, layer.name: Choice(layer, rank)})) for rank in ranks]
    if wrong := [one for one in zip(ranks, accuracy, strict=True) if not one[1] >= 0]:
        raise ValueError(f"{layer.name}: the score at rank {wrong[0][0]} must be 0 or more, got {wrong[0][1]}")
    return replace(layer.offer, sampled_ranks=ranks, sampled_accuracy=np.array(accuracy))
