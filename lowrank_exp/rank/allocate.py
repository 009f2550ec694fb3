"""Profiles and a budget in, a plan out: the one door to every rank policy."""

import inspect
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lowrank_exp.decomposition import Rank
from lowrank_exp.decomposition.base import WHAT
from lowrank_exp.names import by_layer
from lowrank_exp.rank.alds import alds
from lowrank_exp.rank.budget import Budget, Candidate, Choice, Problem
from lowrank_exp.rank.enc_inf import enc_inf
from lowrank_exp.rank.enc_map import enc_map
from lowrank_exp.rank.enc_model import enc_model
from lowrank_exp.rank.energy import energy
from lowrank_exp.rank.evbmf import evbmf
from lowrank_exp.rank.fixed import fixed as given_ranks
from lowrank_exp.rank.greedy_eval import greedy_eval
from lowrank_exp.rank.knapsack import knapsack
from lowrank_exp.rank.multiples import at_multiples, check_multiple
from lowrank_exp.rank.operator_norm import operator_norm
from lowrank_exp.rank.plan import Plan, PlannedLayer
from lowrank_exp.rank.profile import LayerProfile
from lowrank_exp.rank.rules import cheaper_rungs
from lowrank_exp.rank.stable_rank import stable_rank
from lowrank_exp.rank.uniform import uniform

_UNITS = {"macs": "MACs", "weights": "weights", "bytes": "bytes"}
_POLICIES = {
    policy.__name__: policy
    for policy in (
        alds,
        enc_inf,
        enc_map,
        enc_model,
        energy,
        evbmf,
        given_ranks,
        greedy_eval,
        knapsack,
        operator_norm,
        stable_rank,
        uniform,
    )
}
_CHOOSING = (alds, knapsack)  # among several decompositions of a layer
Score = Callable[[dict[str, Rank | None]], float]
Policy = Callable[..., dict[str, Rank | Choice | None]]


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
    multiple: int | None = None,
    over: str = "all",
    score: Score | None = None,
    **options: Any,
) -> Plan:
    """Choose a rank for every layer.

    Args:
        layers: profiles by name, in network order.
        policy: `alds`, `enc_inf`, `enc_map`, `enc_model`, `energy`, `evbmf`, `fixed`, `greedy_eval`, `knapsack`,
            `operator_norm`, `stable_rank`, `uniform`, or a function of a `Problem` that returns ranks by name.
        macs: fraction of the dense MACs that may remain, in (0, 1].
        weights: fraction of the dense weights that may remain, in (0, 1].
        bytes: fraction of the bytes of the dense weights in a file that may remain, in (0, 1]. All that are given hold.
        ranks: ranks set by hand, by name or `re:` pattern (None: leave alone), or the path of a plan file. They are
            obeyed, with a warning where dense would be cheaper; the policy decides on the other layers.
        fixed: more ranks set by hand, beside those of a plan file in `ranks`; they win.
        rules: by name or `re:` pattern: None leaves it alone, a rank (an int, or a list where the decomposition has
            several) sets it, `{min: 8, max: 32}` bounds it: every number of a rank that has several.
        multiple: the policy chooses among ranks that are multiples of this (8, 16, 32); None: among all.
        over: `all` - the budget counts the whole network; `conv` - its convolutions, and linear layers are left alone.
        score: of ranks by layer name (None: dense), higher is better; what `enc_inf` asks. It must know all layers,
            those left alone too. Other policies do not look at it.
        options: the policy's own (`share` of energy, `metric` of enc_map ...).

    Raises:
        ValueError: names that do not exist, ranks out of range, a budget that is not in (0, 1] or cannot be met within
            1 %, contradicting arguments. The message says what was got, what is allowed and what to do.
    """
    chosen, name, options = _policy(policy, options)
    budget = Budget(macs, weights, bytes)
    problem, planned = problem_of(layers, budget, ranks, rules, fixed, multiple, over)
    if chosen is given_ranks and ranks is None and fixed is None:
        raise ValueError(
            "the fixed policy needs `ranks`: a mapping such as {conv1: 4, 're:fc.*': 8}, or the path of a plan file. "
            f"The layers are: {', '.join(layers)}"
        )
    if chosen not in _CHOOSING and isinstance(policy, str):
        _check_single(problem.candidates, name)
    if "score" in inspect.signature(chosen).parameters:
        options["score"] = _scored(score, planned, name)
    for layer_name, choice in _checked(chosen(problem, **options), problem, name).items():
        if choice is None:
            planned[layer_name] = _planned(layers[layer_name], None, _why_dense(name))
        else:
            planned[layer_name] = _planned(choice.profile, choice.rank, f"chosen by {name}")
    return Plan({layer: planned[layer] for layer in layers}, name, over)


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
    _check_savings(layers, budget)
    set_ranks = _ranks(ranks, layers) | by_layer(fixed or {}, layers, "fixed")
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
            found = _candidate(at_multiples(layer, multiple), bounds.get(layer.name), budget)
            if isinstance(found, str):
                planned[layer.name] = _planned(layer, None, found)
            else:
                candidates.append(found)
    return _problem(layers, candidates, planned, budget, over, multiple), planned


def _candidate(layer: LayerProfile, bound: Any, budget: Budget) -> Candidate | str:
    """What a layer offers, by all decompositions that have a cheaper rank within the bound; or why nothing."""
    if layer.refusal:
        return layer.refusal
    offers, errors = [], []
    for one in (layer, *layer.others):
        try:
            offers.append((one, cheaper_rungs(one, bound, budget)))
        except ValueError as error:  # it has no such rank; another may
            errors.append(error)
    if not offers:
        raise errors[0]
    found = [Candidate(one, rungs) for one, rungs in offers if not isinstance(rungs, str)]
    return replace(found[0], others=tuple(found[1:])) if found else offers[0][1]


def _check_single(candidates: Sequence[Candidate], policy: str) -> None:
    for candidate in candidates:
        if candidate.others:
            names = [one.profile.decomposition for one in (candidate, *candidate.others)]
            raise ValueError(
                f"{candidate.profile.name} may be decomposed by {', '.join(names)}, and {policy} does not choose among "
                "decompositions: give one, or take a policy that does (knapsack, alds)"
            )


def _scored(score: Score | None, planned: Mapping[str, PlannedLayer], policy: str) -> Score:
    """The score of a policy's ranks together with those that it does not decide on."""
    if not callable(score):
        raise ValueError(
            f"{policy} looks at the network's score: pass score, a function of ranks by layer, got {score!r}"
        )
    alone = {name: layer.rank for name, layer in planned.items()}
    return lambda ranks: score(alone | ranks)


def _problem(
    layers: Mapping[str, LayerProfile],
    candidates: Sequence[Candidate],
    planned: Mapping[str, PlannedLayer],
    budget: Budget,
    over: str,
    multiple: int,
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
        multiple,
    )


def _checked(ranks: Mapping[str, Rank | Choice | None], problem: Problem, policy: str) -> dict[str, Choice | None]:
    """What a policy returned: one option for every candidate, or numbers of its own where a rank has several."""
    candidates = {candidate.profile.name: candidate for candidate in problem.candidates}
    if ranks.keys() != candidates.keys():
        wrong = sorted(ranks.keys() ^ candidates.keys())
        raise ValueError(f"the {policy} policy must return a rank for every candidate and no other layer, see {wrong}")
    return {name: _choice(candidates[name], rank, policy) for name, rank in ranks.items()}


def _choice(candidate: Candidate, rank: Rank | Choice | None, policy: str) -> Choice | None:
    given = rank if isinstance(rank, Choice) else Choice(candidate.profile, rank)
    offers = next((one for one in (candidate, *candidate.others) if one.profile is given.profile), None)
    name = candidate.profile.name
    if offers is None:
        raise ValueError(f"the {policy} policy returned a decomposition for {name} that it was not offered")
    if not isinstance(given.rank, tuple) and given.rank not in offers.ranks:
        raise ValueError(f"the {policy} policy returned {given.rank!r} for {name}, which is none of {offers.ranks}")
    return None if given.rank is None else replace(given, rank=_plain(given.rank))


def _plain(rank: Any) -> Any:
    """A rank as int or tuple; what is neither is left as it is, for whoever checks it."""
    if isinstance(rank, Sequence) and not isinstance(rank, str):
        return tuple(_plain(one) for one in rank)
    return int(rank) if isinstance(rank, np.integer) else rank


def _check_savings(layers: Mapping[str, LayerProfile], budget: Budget) -> None:
    for layer in (one for first in layers.values() for one in (first, *first.others)):
        if useless := [what for what in budget.bounds if what not in layer.saves]:
            raise ValueError(
                f"{layer.name}: {layer.decomposition} does not save {' and '.join(useless)} at any rank, so it takes "
                f"no such budget, got {budget.bounds}: set {', '.join(useless)} to null and give "
                f"{', '.join(layer.saves)}"
            )


def policy_named(name: str) -> Policy:
    """The policy called `name`.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    if name not in _POLICIES:
        raise ValueError(f"unknown rank policy {name!r}; known: {', '.join(sorted(_POLICIES))}")
    return _POLICIES[name]


def _policy(policy: str | Policy, options: dict[str, Any]) -> tuple[Policy, str, dict[str, Any]]:
    policy = policy_named(policy) if isinstance(policy, str) else policy
    name = getattr(policy, "__name__", type(policy).__name__)
    allowed = [option for option in list(inspect.signature(policy).parameters)[1:] if option != "score"]
    if unknown := set(options) - set(allowed):
        raise ValueError(f"the {name} policy has no option {sorted(unknown)}; it takes {allowed or 'none'}")
    return policy, name, options


def _ranks(ranks: Any, layers: Mapping[str, LayerProfile]) -> dict[str, Rank | Choice | None]:
    if ranks is None:
        return {}
    if isinstance(ranks, Mapping) and not isinstance(ranks, Plan):
        return by_layer(ranks, layers, "ranks")
    plan = ranks if isinstance(ranks, Plan) else Plan.read(ranks)
    return by_layer({name: _entry(name, entry, layers) for name, entry in plan.layers.items()}, layers, "the plan")


def _entry(name: str, entry: PlannedLayer, layers: Mapping[str, LayerProfile]) -> Rank | Choice | None:
    """A plan's rank, of the decomposition that the plan names, where the layer has that."""
    if entry.rank is None or name not in layers or not layers[name].decomposition:
        return entry.rank
    offered = (layers[name], *layers[name].others)
    for one in offered:
        if (entry.decomposition, entry.options) == (one.decomposition, one.options):
            return Choice(one, entry.rank)
    here = " or ".join(_told(one.decomposition, one.options) for one in offered)
    raise ValueError(
        f"the plan decomposes {name} by {_told(entry.decomposition, entry.options)}, here it is {here}: set the same "
        "decomposition and options"
    )


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
    if isinstance(rank, Choice):
        layer, rank = rank.profile, rank.rank
    elif layer.others:
        names = ", ".join(one.decomposition for one in (layer, *layer.others))
        raise ValueError(
            f"{layer.name} has rank {rank} {reason}, but may be decomposed by {names}: name one of them in "
            "decomposition.layers, or give the rank by a plan file, which names it"
        )
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
        warnings.warn(f"{layer.name}: rank {rank} costs more than the dense layer: {'; '.join(above)}", stacklevel=4)
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
