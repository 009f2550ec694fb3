"""From profiles, a budget and what is set by hand to what is left for a policy to decide."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lowrank_exp.checks import is_whole
from lowrank_exp.decomposition import Rank
from lowrank_exp.decomposition.base import WHAT
from lowrank_exp.network.cost import OUTSIDE_TIME
from lowrank_exp.network.names import by_layer
from lowrank_exp.rank.budget import Budget, Candidate, Choice, Problem
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.multiples import at_multiples, check_multiple
from lowrank_exp.rank.offer import COSTS
from lowrank_exp.rank.plan import Plan, PlannedLayer
from lowrank_exp.rank.rules import cheaper_rungs
from lowrank_exp.rank.spectrum import Spectrum, spectrum_of
from lowrank_exp.rank.time_budget import check_times

_UNITS = {"macs": "MACs", "weights": "weights", "bytes": "bytes"}


def problem_of(
    layers: Mapping[str, LayerProfile],
    budget: Budget,
    ranks: Mapping[str, Rank | None] | str | os.PathLike | None = None,
    rules: Mapping[str, Any] | None = None,
    fixed: Mapping[str, Rank | None] | None = None,
    multiple: int | None = None,
    over: str = "all",
) -> tuple[Problem, dict[str, PlannedLayer]]:
    """What is left to a policy, and the layers that are decided without one; the arguments are those of `allocate`."""
    if over not in ("all", "conv"):
        raise ValueError(f"over={over!r} is not known: all (the whole network) or conv (its convolutions)")
    if not layers:
        raise ValueError("there are no convolutions or linear layers to choose ranks for")
    multiple = check_multiple(multiple)
    check_times(layers, budget, over)
    counted = [layer for layer in layers.values() if over == "all" or layer.kind == "conv"]
    dense = {what: sum(getattr(layer, what) for layer in counted) for what in COSTS}
    budget = budget.of(dense)
    _check_savings(layers, budget)
    set_ranks = _read_ranks(ranks, layers) | by_layer(fixed or {}, layers, "fixed")
    bounds = by_layer(rules or {}, layers, "rules")

    candidates: list[Candidate] = []
    planned: dict[str, PlannedLayer] = {}
    for layer in layers.values():
        if layer.name in set_ranks and set_ranks[layer.name] is not None:
            planned[layer.name] = _plan_by_hand(layer, set_ranks[layer.name], "set by hand")
        elif isinstance(bounds.get(layer.name), int | list | tuple):
            planned[layer.name] = _plan_by_hand(layer, bounds[layer.name], "set by a rule")
        elif reason := _why_left_alone(layer, set_ranks, bounds, over):
            planned[layer.name] = planned_layer(layer, None, reason)
        else:
            candidate = _find_candidate(at_multiples(layer, multiple), bounds.get(layer.name), budget)
            if isinstance(candidate, str):
                planned[layer.name] = planned_layer(layer, None, candidate)
            else:
                candidates.append(candidate)
    if empty := [what for what in budget.bounds if dense[what] <= 0]:
        raise ValueError(f"a budget of {empty[0]} with over={over!r} counts nothing: the network has none there")
    alone = {layer.name: planned[layer.name] for layer in counted if layer.name in planned}
    if budget.of_time:
        _check_measured(alone, layers)
    spent = {what: sum(getattr(one, f"{what}_after") for one in alone.values()) for what in (*WHAT, *budget.bounds)}
    return Problem(tuple(candidates), spent, dense, budget, multiple), planned


def _find_candidate(layer: LayerProfile, bound: Any, budget: Budget) -> Candidate | str:
    """What a layer offers, by all decompositions that have a cheaper rank within the bound; or why nothing."""
    if layer.refusal:
        return layer.refusal
    offers, errors = [], []
    for one in layer.alternatives:
        try:
            offers.append((one, cheaper_rungs(one, bound, budget)))
        except ValueError as error:  # it has no such rank; another may
            errors.append(error)
    if not offers:
        raise errors[0]
    candidates = [Candidate(one, rungs) for one, rungs in offers if not isinstance(rungs, str)]
    if not candidates:
        return _why_dense(offers, budget)
    return replace(candidates[0], others=tuple(candidates[1:]))


def _why_dense(offers: Sequence[tuple[LayerProfile, Any]], budget: Budget) -> str:
    """Why no rank is cheaper than dense: by the first decomposition, or under a budget of time by the fastest one."""
    if not budget.of_time or len(offers) == 1:
        return offers[0][1]
    fastest, reason = min(offers, key=lambda offer: offer[0].rank_latency.min())
    return f"{reason} by {fastest.decomposition}"


def _check_measured(alone: Mapping[str, PlannedLayer], layers: Mapping[str, LayerProfile]) -> None:
    """Nothing, if the time of every layer whose rank is set by hand was measured at that rank."""
    for name, one in alone.items():
        if one.latency_after is None:
            offers = ", ".join(f"{list(offer.ranks)} of {offer.decomposition}" for offer in layers[name].offers)
            raise ValueError(
                f"{name}: how long rank {one.rank} takes, {one.reason}, was not measured, so no budget of time can "
                f"count it. Those that were measured: {offers}"
            )


def _check_savings(layers: Mapping[str, LayerProfile], budget: Budget) -> None:
    for name, offer in ((layer.name, offer) for layer in layers.values() for offer in layer.offers):
        if useless := [what for what in budget.bounds if not offer.may_save(what)]:
            raise ValueError(
                f"{name}: {offer.decomposition} does not save {' and '.join(useless)} at any rank, so it takes "
                f"no such budget, got {budget.bounds}: set {', '.join(useless)} to null and give "
                f"{', '.join(offer.saves)}"
            )


def _read_ranks(ranks: Any, layers: Mapping[str, LayerProfile]) -> dict[str, Rank | Choice | None]:
    if ranks is None:
        return {}
    if isinstance(ranks, Mapping) and not isinstance(ranks, Plan):
        return by_layer(ranks, layers, "ranks")
    plan = ranks if isinstance(ranks, Plan) else Plan.read(ranks)
    # Times that belong to no layer stand in plans, and not in profiles without times.
    entries = {name: entry for name, entry in plan.layers.items() if name != OUTSIDE_TIME or name in layers}
    return by_layer({name: _rank_of_entry(name, entry, layers) for name, entry in entries.items()}, layers, "the plan")


def _rank_of_entry(name: str, entry: PlannedLayer, layers: Mapping[str, LayerProfile]) -> Rank | Choice | None:
    """A plan's rank, of the decomposition that the plan names, where the layer has that."""
    if entry.rank is None or name not in layers or not layers[name].decomposition:
        return entry.rank
    offered = layers[name].alternatives
    for one in offered:
        if (entry.decomposition, entry.options) == (one.decomposition, one.options):
            return Choice(one, entry.rank)
    here = " or ".join(_describe(one.decomposition, one.options) for one in offered)
    raise ValueError(
        f"the plan decomposes {name} by {_describe(entry.decomposition, entry.options)}, here it is {here}: set the "
        "same decomposition and options"
    )


def _describe(decomposition: str, options: Mapping[str, Any]) -> str:
    return f"{decomposition} with {dict(options)}" if options else decomposition


def _why_left_alone(layer: LayerProfile, ranks: Mapping[str, Any], bounds: Mapping[str, Any], over: str) -> str | None:
    if layer.refusal:
        return layer.refusal
    if layer.name in ranks:
        return "left alone by hand"
    if layer.name in bounds and bounds[layer.name] is None:
        return "left alone by a rule"
    if over == "conv" and layer.kind == "linear":
        return "the budget is over the convolutions"
    return None


def _plan_by_hand(layer: LayerProfile, rank: Any, reason: str) -> PlannedLayer:
    if layer.refusal:
        raise ValueError(f"{layer.name} has rank {rank} {reason}, but it cannot be decomposed: {layer.refusal}")
    if isinstance(rank, Choice):
        layer, rank = rank.profile, rank.rank
    elif len(layer.offers) > 1:
        names = ", ".join(offer.decomposition for offer in layer.offers)
        raise ValueError(
            f"{layer.name} has rank {rank} {reason}, but may be decomposed by {names}: name one of them in "
            "decomposition.layers, or give the rank by a plan file, which names it"
        )
    rank, full = plain_rank(rank), layer.highest_rank
    if isinstance(full, int) and not is_whole(rank, 1, full):
        above = isinstance(rank, int) and rank > full
        raise ValueError(
            f"{layer.name}: rank {rank!r} {reason} {'is above the full rank' if above else 'is not a rank'}; "
            f"{layer.decomposition} takes an integer from 1 to {full} here"
        )
    planned = planned_layer(layer, rank, reason)
    counted = [what for what in layer.saves if what != "bytes"] or ["bytes"]  # bytes rise with the weights
    costs = [(what, getattr(planned, f"{what}_after"), getattr(layer, what)) for what in counted]
    if above := [f"{after:,} {_UNITS[what]}, dense {dense:,}" for what, after, dense in costs if after > dense]:
        warnings.warn(f"{layer.name}: rank {rank} costs more than the dense layer: {'; '.join(above)}", stacklevel=4)
    return planned


def planned_layer(layer: LayerProfile, rank: Rank | None, reason: str) -> PlannedLayer:
    """A layer of a plan at a rank, dense at None, with its costs before and after."""
    before, after = layer.cost(None), layer.cost(rank)
    costs = {f"{what}_before": getattr(before, what) for what in WHAT}
    costs |= {f"{what}_after": getattr(after, what) for what in WHAT}
    if layer.timed is not None:
        measured = rank is None or rank in layer.ranks
        costs |= {"latency_before": before.latency, "latency_after": after.latency if measured else None}
    kind, options = (None, {}) if rank is None else (layer.decomposition, layer.options)
    cut = {} if rank is None else {"full_rank": plain_rank(layer.highest_rank), "spectrum": _spectrum_cut(layer)}
    return PlannedLayer(rank, kind, reason, **costs, options=options, **cut)


def _spectrum_cut(layer: LayerProfile) -> Spectrum | None:
    """The singular values that a rank of the layer cuts; None: there are none, or the layer has no numbers."""
    offer = layer.offer
    matrices = [values for values, _ in offer.unfoldings] or [offer.singular_values]
    return None if offer.made_up else spectrum_of(matrices) or None


def plain_rank(rank: Any) -> Any:
    """A rank as int or tuple; what is neither is left as it is, for whoever checks it."""
    if isinstance(rank, Sequence) and not isinstance(rank, str):
        return tuple(plain_rank(one) for one in rank)
    return int(rank) if isinstance(rank, np.integer) else rank
