"""Measured times in profiles: whether a budget can be taken of them."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from lowrank_exp.rank.budget import Budget
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.offer import Offer


def conditions_of(layers: Mapping[str, LayerProfile]) -> dict[str, Any] | None:
    """Under which conditions the times of these profiles were measured; None where there are no times.

    Raises:
        ValueError: the conditions differ, or only some of the layers have times.
    """
    first = next(iter(layers.values()))
    for layer in layers.values():
        if layer.timed != first.timed:
            raise ValueError(
                f"the times of {first.name} and {layer.name} do not belong together: {_differences(first, layer)}. "
                "Profile the whole network under one set of conditions"
            )
    return None if first.timed is None else json.loads(json.dumps(dict(first.timed)))  # versions are no plain text


def check_times(layers: Mapping[str, LayerProfile], budget: Budget, over: str) -> None:
    """Nothing, if the profiles have what a budget of time needs, or if the budget is not one.

    Raises:
        ValueError: a layer, or a rank, without a time; times that do not rise with the ranks; a budget in milliseconds,
            which is one of the whole network, over the convolutions.
    """
    if conditions_of(layers) is None:
        if budget.of_time:
            raise ValueError(
                f"a budget of time (got {budget.of_time}) needs profiles with measured times: those of "
                "profile(model, example_input, runtime='onnxruntime'), or in a job those of the phase Factorize"
            )
        return
    if not budget.of_time:
        return
    if over == "conv" and budget.latency_ms is not None:
        raise ValueError(
            f"latency_ms={budget.latency_ms} is a time of the whole network: set over to all, or give latency, the "
            "fraction of the time of the convolutions"
        )
    for name, offer in ((layer.name, offer) for layer in layers.values() for offer in layer.offers):
        times = offer.costs.latency
        if len(times) != len(offer.ranks) or (np.diff(times) <= 0).any():
            raise ValueError(
                f"{name}: a budget of time needs a time of every rank of {offer.decomposition}, higher ones longer, "
                f"got {times.tolist()} nanoseconds for {list(offer.ranks)}: leave out ranks whose time is not lower"
            )


def with_made_up_times(layers: Mapping[str, LayerProfile], half_ms: float | None = None) -> dict[str, LayerProfile]:
    """Profiles with times in proportion to MACs, for a walk through what is measured later: only shapes count then.

    Args:
        layers: without times.
        half_ms: a budget in milliseconds, half of what the dense network is to take; None: a nanosecond for every MAC.
    """
    per_mac = 1.0 if half_ms is None else 2e6 * half_ms / max(1, sum(layer.macs for layer in layers.values()))

    def timed(offer: Offer) -> Offer:
        place_R, latency_R = np.arange(len(offer.ranks)), np.rint(per_mac * offer.costs.macs).astype(np.int64)
        rising_R = np.maximum.accumulate(latency_R - place_R) + place_R  # where MACs stay the same, too
        return replace(offer, costs=replace(offer.costs, latency=rising_R))

    def timed_layer(layer: LayerProfile) -> LayerProfile:
        dense = replace(layer.dense, latency=math.ceil(per_mac * layer.macs))
        return replace(layer, dense=dense, offers=tuple(map(timed, layer.offers)), timed={"runtime": "made up"})

    return {name: timed_layer(layer) for name, layer in layers.items()}


def _differences(one: LayerProfile, other: LayerProfile) -> str:
    """In which conditions two layers differ."""
    a, b = one.timed, other.timed
    if a is None or b is None:
        return f"{one.name if a is None else other.name} has none"
    differing = [key for key in {**a, **b} if a.get(key) != b.get(key)]
    return ", ".join(f"{key} {a.get(key)} and {b.get(key)}" for key in differing)
