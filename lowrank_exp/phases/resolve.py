"""Ranks chosen again while layers are fitted in sequence: what is left of the budget, by the errors as they are now."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import groupby

from torch import nn

from lowrank_exp.rank import Choice, LayerProfile, Plan

Profiles = Mapping[str, LayerProfile]


def stages_of(layers: Profiles, every: bool | int) -> list[list[str]]:
    """Names of consecutive layers: those with outputs of one size (`every` True), or so many that can be decomposed.

    The size of an output is the number of its places, MACs over weights.

    >>> from lowrank_exp.rank import Cost
    >>> sizes = {"stem": 900, "a": 900, "b": 200, "fc": 10}
    >>> layers = {name: LayerProfile(name, "conv", Cost(macs, 10)) for name, macs in sizes.items()}
    >>> stages_of(layers, True)
    [['stem', 'a'], ['b'], ['fc']]
    """
    if every is True:
        key = {name: layer.macs // max(1, layer.weights) for name, layer in layers.items()}
    else:
        key, seen = {}, 0
        for name, layer in layers.items():
            key[name] = seen // every
            seen += bool(layer.offers)
    return [list(names) for _, names in groupby(layers, key.__getitem__)]


def resolve(
    plan: Plan,
    layers: Profiles,
    stages: list[list[str]],
    compress: Callable[[Plan], nn.Module],
    measure: Callable[[Profiles, nn.Module], Profiles],
    choose: Callable[[Profiles, Mapping[str, Choice | None]], Plan],
) -> Plan:
    """A plan whose later stages were chosen by what the network is once the earlier ones have their factors.

    Args:
        plan: chosen before any layer was fitted; its first stage is taken as it is.
        layers: profiles that it was chosen by.
        stages: names of layers, stage after stage.
        compress: the network with the layers of a plan fitted and replaced, the others dense.
        measure: profiles of dense layers with their errors in a network.
        choose: a plan of all layers, of which some are taken already.

    Returns:
        The ranks that are taken in the end, with the reason that each was chosen for.
    """
    taken: dict[str, Choice | None] = {}
    for stage in stages[:-1]:
        taken |= {name: _choice(layers[name], plan) for name in stage if name in plan.layers and layers[name].offers}
        rest = {name: layers[name] for name in layers if name not in taken and layers[name].offers}
        if not rest or not any(taken.values()):  # nothing left to choose, or nothing changed
            continue
        small = compress(replace(plan, layers={name: plan.layers[name] for name in taken}))
        layers = {**layers, **measure(rest, small)}
        again = choose(layers, taken)
        told = {name: plan.layers[name] if name in taken else one for name, one in again.layers.items()}
        plan = replace(again, layers=told)
    return plan


def _choice(layer: LayerProfile, plan: Plan) -> Choice | None:
    planned = plan.layers[layer.name]
    if planned.rank is None:
        return None
    one = next(
        one
        for one in layer.alternatives
        if (one.decomposition, one.options) == (planned.decomposition, planned.options)
    )
    return Choice(one, planned.rank)
