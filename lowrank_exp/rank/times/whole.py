"""The time of a whole network from those of its layers, by a few whole networks that are timed.

A layer takes another time inside a network than by itself: its input lies in another cache, an addition is fused to
it, the runtime changes layouts elsewhere. Over a network these differences are nearly in proportion:

    T = rest + alpha_dense * sum of dense layers + alpha_factors * sum of factors

with `rest` such that the dense network's time is exact. Both alphas are fitted to networks at plans.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from lowrank_exp.decomposition import decomposition_named
from lowrank_exp.network.copying import copy_network
from lowrank_exp.network.cost import OUTSIDE_TIME
from lowrank_exp.network.wrappers import set_layer_
from lowrank_exp.rank.budget import Choice
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.offer import Cost

TRUST = 0.02  # relative error of a whole network's time that counts as much as an alpha that is off by 0.2
ALPHA = (0.25, 4.0)  # an alpha outside these is no correction any more

Choices = Mapping[str, Choice | None]


@dataclass(frozen=True)
class TimedPlan:
    """What a whole network took with these choices of its layers; those that are not named are dense."""

    choices: Choices
    ms: float


def copy_at(model: nn.Module, choices: Choices) -> nn.Module:
    """A copy of `model` with the layers replaced by factors whose weights are not set to anything in particular."""
    copy = copy_network(model).eval()
    for name, choice in choices.items():
        if choice is None:
            continue
        layer = copy.get_submodule(name)
        kind = decomposition_named(choice.profile.decomposition, **choice.profile.options)
        set_layer_(copy, name, kind.skeleton(layer, choice.rank, device=layer.weight.device).to(layer.weight).eval())
    return copy


def choose_at(layers: Mapping[str, LayerProfile], level: float) -> dict[str, Choice]:
    """Of every layer the option that keeps most in at most `level` of its dense time; dense where none is as fast."""
    choices = {}
    for name, layer in layers.items():
        within = [
            (float(one.error[rung]), Choice(one, one.ranks[rung]))
            for one in layer.alternatives
            for rung in range(one.rungs)
            if one.rank_latency[rung] <= level * layer.latency
        ]
        if within:
            choices[name] = min(within, key=lambda option: option[0])[1]
    return choices


def fit_whole(
    layers: Mapping[str, LayerProfile], dense_ms: float, plans: Sequence[TimedPlan]
) -> dict[str, LayerProfile]:
    """The profiles with times scaled so that their sums are those of whole networks, and with the time of the rest.

    Args:
        layers: profiles with times, scaled before or not.
        dense_ms: of the dense network, which the sum of all dense layers and the rest will be.
        plans: what it took at others; without any the layers keep their times.

    Differences to the dense network are fitted, in relative errors, with both alphas drawn to 1 where the plans do not
    tell.
    """
    plain = {name: layer for name, layer in layers.items() if name != OUTSIDE_TIME}
    rows, wanted = [np.eye(2) * TRUST / 0.2], [np.full(2, TRUST / 0.2)]
    for plan in plans:
        dense, factors = _sums(plain, plan.choices)
        rows.append(np.array([[dense, factors]]) / plan.ms)
        wanted.append(np.array([(plan.ms - dense_ms) / plan.ms]))
    alphas = np.linalg.lstsq(np.concatenate(rows), np.concatenate(wanted), rcond=None)[0] if plans else np.ones(2)
    if not (ALPHA[0] < alphas.min() and alphas.max() < ALPHA[1]):
        raise ValueError(
            f"times of layers and of whole networks do not go together: dense layers take {alphas[0]:.3g} and factors "
            f"{alphas[1]:.3g} times as long inside the network as by themselves; measure again on a quieter machine, "
            "or take another runtime"
        )
    scaled = {name: _scaled(layer, *alphas) for name, layer in plain.items()}
    rest = round(dense_ms * 1e6) - sum(layer.latency for layer in scaled.values())
    any_layer = next(iter(scaled.values()))
    outside = LayerProfile(
        OUTSIDE_TIME,
        "time",
        Cost(0, 0, latency=rest),
        refusal="it is spent between the layers",
        tried=any_layer.tried,
        timed=any_layer.timed,
    )
    return scaled | {OUTSIDE_TIME: outside}


def predict_ms(layers: Mapping[str, LayerProfile], choices: Choices) -> float:
    """What a whole network will take with these choices, by profiles with times."""
    total = sum(layer.latency for layer in layers.values())
    return (total + sum(_latency(choice) - layers[n].latency for n, choice in choices.items() if choice)) / 1e6


def _sums(layers: Mapping[str, LayerProfile], choices: Choices) -> tuple[float, float]:
    """Milliseconds that dense layers take less than in the dense network, below 0, and that factors take instead."""
    chosen = {name: choice for name, choice in choices.items() if choice is not None}
    dense = -sum(layers[name].latency for name in chosen) / 1e6
    return dense, sum(_latency(choice) for choice in chosen.values()) / 1e6


def _latency(choice: Choice) -> int:
    return choice.profile.cost(choice.rank).latency


def _scaled(layer: LayerProfile, dense: float, factors: float) -> LayerProfile:
    offers = tuple(
        replace(offer, costs=replace(offer.costs, latency=np.rint(offer.costs.latency * factors).astype(np.int64)))
        for offer in layer.offers
    )
    return replace(layer, dense=replace(layer.dense, latency=round(layer.dense.latency * dense)), offers=offers)


def describe_choices(choices: Choices) -> list[list]:
    """Plain values that tell choices apart."""
    return [
        [name, choice.profile.decomposition, choice.profile.options, choice.rank]
        for name, choice in choices.items()
        if choice is not None
    ]
