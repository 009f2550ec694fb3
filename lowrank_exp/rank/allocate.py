"""Profiles and a budget in, a plan out: the one door to every rank policy."""

import inspect
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lowrank_exp.decomposition import Rank
from lowrank_exp.decomposition.base import WHAT
from lowrank_exp.names import by_layer
from lowrank_exp.rank.budget import Budget, Candidate, Problem
from lowrank_exp.rank.enc_inf import enc_inf
from lowrank_exp.rank.enc_map import enc_map
from lowrank_exp.rank.enc_model import enc_model
from lowrank_exp.rank.energy import energy
from lowrank_exp.rank.evbmf import evbmf
from lowrank_exp.rank.fixed import fixed as given_ranks
from lowrank_exp.rank.knapsack import knapsack
from lowrank_exp.rank.plan import Plan, PlannedLayer
from lowrank_exp.rank.profile import LayerProfile
from lowrank_exp.rank.rules import cheaper_rungs
from lowrank_exp.rank.uniform import uniform

_UNITS = {"macs": "MACs", "weights": "weights", "bytes": "bytes"}
_POLICIES = {
    policy.__name__: policy for policy in (given_ranks, uniform, energy, evbmf, enc_map, enc_model, enc_inf, knapsack)
}
Policy = Callable[..., dict[str, Rank | None]]


def allocate(
    layers: Mapping[str, LayerProfile],
    policy: str | Policy = "uniform",
    *,
    macs: float | None = None,
    weights: float | None = None,
    bytes: float | None = None,
    ranks: Mapping[str, Rank | None] | str | os.PathLike | None = None,
    rules: Mapping[str, Any] | None = None,
    fixed: Mapping[str, Rank | None] | None = None,
    over: str = "all",
    **options: Any,
) -> Plan:
    """Choose a rank for every layer.

    Args:
        layers: profiles by name, in network order.
        policy: `fixed`, `uniform`, `energy`, `evbmf`, `enc_map`, `enc_model`, `enc_inf`, `knapsack`, or a function of
            a `Problem` that returns ranks by name.
        macs: fraction of the dense MACs that may remain, in (0, 1].
        weights: fraction of the dense weights that may remain, in (0, 1].
        bytes: fraction of the bytes of the dense weights in a file that may remain, in (0, 1]. All that are given hold.
        ranks: ranks set by hand, by name or `re:` pattern (None: leave alone), or the path of a plan file. They are
            obeyed, with a warning where dense would be cheaper; the policy decides on the other layers.
        fixed: more ranks set by hand, beside those of a plan file in `ranks`; they win.
        rules: by name or `re:` pattern: None leaves it alone, a rank (an int, or a list where the decomposition has
            several) sets it, `{min: 8, max: 32}` bounds it: every number of a rank that has several.
        over: `all` - the budget counts the whole network; `conv` - its convolutions, and linear layers are left alone.
        options: the policy's own (`share` of energy, `metric` of enc_map ...).

    Raises:
        ValueError: names that do not exist, ranks out of range, a budget that is not in (0, 1] or cannot be met within
            1 %, contradicting arguments. The message says what was got, what is allowed and what to do.
    """
    if over not in ("all", "conv"):
        raise ValueError(f"over={over!r} is not known: all (the whole network) or conv (its convolutions)")
    if not layers:
        raise ValueError("there are no convolutions or linear layers to choose ranks for")
    chosen, name, options = _policy(policy, options)
    budget = Budget(macs, weights, bytes)
    _check_savings(layers, budget)
    set_ranks = _ranks(ranks, layers) | by_layer(fixed or {}, layers, "fixed")
    if chosen is given_ranks and ranks is None and fixed is None:
        raise ValueError(
            "the fixed policy needs `ranks`: a mapping such as {conv1: 4, 're:fc.*': 8}, or the path of a plan file. "
            f"The layers are: {', '.join(layers)}"
        )
    bounds = by_layer(rules or {}, layers, "rules")

    candidates: list[Candidate] = []
    planned: dict[str, PlannedLayer] = {}
    for layer in layers.values():
        if layer.name in set_ranks and set_ranks[layer.name] is not None:
            planned[layer.name] = _obeyed(layer, set_ranks[layer.name], "set by hand")
        elif isinstance(bounds.get(layer.name), int | list | tuple):
            planned[layer.name] = _obeyed(layer, bounds[layer.name], "set by a rule")
        elif reason := _alone(layer, set_ranks, bounds, over):
            planned[layer.name] = _planned(layer, None, reason)
        else:
            cheaper = cheaper_rungs(layer, bounds.get(layer.name), budget)
            if isinstance(cheaper, str):
                planned[layer.name] = _planned(layer, None, cheaper)
            else:
                candidates.append(Candidate(layer, cheaper))

    problem = _problem(layers, candidates, planned, budget, over)
    for layer_name, rank in _checked(chosen(problem, **options), problem, name).items():
        layer = layers[layer_name]
        reason = _why_dense(name) if rank is None else f"chosen by {name}"
        planned[layer_name] = _planned(layer, rank, reason)
    return Plan({layer: planned[layer] for layer in layers}, name, over)


def _problem(
    layers: Mapping[str, LayerProfile],
    candidates: Sequence[Candidate],
    planned: Mapping[str, PlannedLayer],
    budget: Budget,
    over: str,
) -> Problem:
    counted = [layer for layer in layers.values() if over == "all" or layer.kind == "conv"]
    alone = [planned[layer.name] for layer in counted if layer.name in planned]
    dense = {what: sum(getattr(layer, what) for layer in counted) for what in WHAT}
    if empty := [what for what in budget.bounds if dense[what] == 0]:
        raise ValueError(f"a budget of {empty[0]} with over={over!r} counts nothing: the network has none there")
    return Problem(
        tuple(candidates),
        {what: sum(getattr(layer, f"{what}_after") for layer in alone) for what in dense},
        dense,
        budget,
    )


def _checked(ranks: Mapping[str, Rank | None], problem: Problem, policy: str) -> dict[str, Rank | None]:
    """What a policy returned: one option for every candidate, or numbers of its own where a rank has several."""
    allowed = {candidate.profile.name: candidate.ranks for candidate in problem.candidates}
    if ranks.keys() != allowed.keys():
        wrong = sorted(ranks.keys() ^ allowed.keys())
        raise ValueError(f"the {policy} policy must return a rank for every candidate and no other layer, see {wrong}")
    for name, rank in ranks.items():
        if not isinstance(rank, tuple) and rank not in allowed[name]:
            raise ValueError(f"the {policy} policy returned {rank!r} for {name}, which is none of {allowed[name]}")
    return {name: _plain(rank) for name, rank in ranks.items()}


def _plain(rank: Any) -> Any:
    """A rank as int or tuple; what is neither is left as it is, for whoever checks it."""
    if isinstance(rank, Sequence) and not isinstance(rank, str):
        return tuple(_plain(one) for one in rank)
    return int(rank) if isinstance(rank, np.integer) else rank


def _check_savings(layers: Mapping[str, LayerProfile], budget: Budget) -> None:
    for layer in layers.values():
        if useless := [what for what in budget.bounds if what not in layer.saves]:
            raise ValueError(
                f"{layer.name}: {layer.decomposition} does not save {' and '.join(useless)} at any rank, so it takes "
                f"no such budget, got {budget.bounds}: set {', '.join(useless)} to null and give "
                f"{', '.join(layer.saves)}"
            )


def _policy(policy: str | Policy, options: dict[str, Any]) -> tuple[Policy, str, dict[str, Any]]:
    if isinstance(policy, str):
        if policy not in _POLICIES:
            raise ValueError(f"unknown rank policy {policy!r}; known: {', '.join(sorted(_POLICIES))}")
        policy = _POLICIES[policy]
    name = getattr(policy, "__name__", type(policy).__name__)
    allowed = list(inspect.signature(policy).parameters)[1:]
    if unknown := set(options) - set(allowed):
        raise ValueError(f"the {name} policy has no option {sorted(unknown)}; it takes {allowed or 'none'}")
    return policy, name, options


def _ranks(ranks: Any, layers: Mapping[str, LayerProfile]) -> dict[str, int | None]:
    if ranks is None:
        return {}
    if isinstance(ranks, Mapping) and not isinstance(ranks, Plan):
        return by_layer(ranks, layers, "ranks")
    plan = ranks if isinstance(ranks, Plan) else Plan.read(ranks)
    for name, entry in plan.layers.items():
        if entry.rank is None or name not in layers or not layers[name].decomposition:
            continue
        made_with, here = (entry.decomposition, entry.options), (layers[name].decomposition, layers[name].options)
        if made_with != here:
            raise ValueError(
                f"the plan decomposes {name} by {_told(*made_with)}, here it is {_told(*here)}: set the same "
                "decomposition and options"
            )
    return by_layer(plan.ranks, layers, "the plan")


def _told(decomposition: str, options: Mapping[str, Any]) -> str:
    return f"{decomposition} with {dict(options)}" if options else decomposition


def _alone(layer: LayerProfile, ranks: Mapping[str, Any], bounds: Mapping[str, Any], over: str) -> str | None:
    if layer.refusal:
        return layer.refusal
    if layer.name in ranks:
        return "left alone by hand"
    if layer.name in bounds and bounds[layer.name] is None:
        return "left alone by a rule"
    if over == "conv" and layer.kind == "linear":
        return "the budget is over the convolutions"
    return None


def _obeyed(layer: LayerProfile, rank: Any, reason: str) -> PlannedLayer:
    if layer.refusal:
        raise ValueError(f"{layer.name} has rank {rank} {reason}, but it cannot be decomposed: {layer.refusal}")
    rank, full = _plain(rank), layer.full_rank
    if isinstance(full, int) and (isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= full):
        above = isinstance(rank, int) and rank > full
        raise ValueError(
            f"{layer.name}: rank {rank!r} {reason} {'is above the full rank' if above else 'is no rank'}; "
            f"{layer.decomposition} takes an integer from 1 to {full} here"
        )
    planned = _planned(layer, rank, reason)
    told = [what for what in layer.saves if what != "bytes"] or ["bytes"]  # bytes rise with the weights
    costs = [(what, getattr(planned, f"{what}_after"), getattr(layer, what)) for what in told]
    if above := [f"{after:,} {_UNITS[what]}, dense {dense:,}" for what, after, dense in costs if after > dense]:
        warnings.warn(f"{layer.name}: rank {rank} costs more than the dense layer: {'; '.join(above)}", stacklevel=3)
    return planned


def _planned(layer: LayerProfile, rank: Rank | None, reason: str) -> PlannedLayer:
    before, after = layer.cost(None), layer.cost(rank)
    costs = {f"{what}_before": getattr(before, what) for what in WHAT}
    costs |= {f"{what}_after": getattr(after, what) for what in WHAT}
    kind, options = (None, {}) if rank is None else (layer.decomposition, layer.options)
    return PlannedLayer(rank, kind, reason, **costs, options=options)


def _why_dense(policy: str) -> str:
    if policy in ("fixed", "knapsack"):
        return {"fixed": "not named in ranks", "knapsack": "dense is best for the whole, says knapsack"}[policy]
    return f"the rank that {policy} wished is not cheaper than dense"
