"""Profiles and a budget in, a plan out: the one door to every rank policy."""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lowrank_exp.decomposition import Rank
from lowrank_exp.rank.budget import Budget, BudgetError, Candidate, Choice, Problem
from lowrank_exp.rank.declares import Policy, chooses_decompositions, name_of, plain_function, why_dense
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.needs import needs
from lowrank_exp.rank.plan import COMPRESSED, DENSE, Plan, PlannedLayer
from lowrank_exp.rank.policies.fixed import fixed as ranks_by_hand
from lowrank_exp.rank.policy_names import policy_named, policy_names
from lowrank_exp.rank.problem import plain_rank, planned_layer, problem_of
from lowrank_exp.rank.shuffle import shuffled
from lowrank_exp.rank.time_budget import conditions_of

Score = Callable[[dict[str, Rank | None]], float]


def allocate(
    layers: Mapping[str, LayerProfile],
    policy: str | Policy = "knapsack",
    *,
    macs: float | None = None,
    weights: float | None = None,
    bytes: float | None = None,
    latency: float | None = None,
    latency_ms: float | None = None,
    ranks: Mapping[str, Rank | None] | str | os.PathLike | None = None,
    rules: Mapping[str, Any] | None = None,
    fixed: Mapping[str, Rank | None] | None = None,
    multiple: int | None = None,
    over: str = "all",
    shuffle: Mapping[str, int] | None = None,
    score: Score | None = None,
    resolve: bool | int = False,
    **options: Any,
) -> Plan:
    """Choose a rank for every layer.

    Args:
        layers: profiles by name, in network order.
        policy: `alds`, `c_step`, `enc_inf`, `enc_map`, `enc_model`, `energy`, `evbmf`, `fixed`, `greedy`,
            `greedy_eval`, `knapsack`, `operator_norm`, `stable_rank`, `uniform`, or a function of a `Problem` that
            returns ranks by name, itself or as its import path (`my_package.my_policy`); what it looks at beside costs
            and weights it declares, see `lowrank_exp.rank.declares`.
        macs: fraction of the MACs of the profiled network that may remain, in (0, 1]. Of a network that was compressed
            before, that is a fraction of what it costs now; `Plan.of` says so.
        weights: fraction of the dense weights that may remain, in (0, 1].
        bytes: fraction of the bytes of the dense weights in a file that may remain, in (0, 1]. All that are given hold.
        latency: fraction of the dense network's time that may remain, in (0, 1], as the profiles have it: measured on
            one runtime, with that part of it which belongs to no layer. With `over="conv"` of the convolutions' time.
        latency_ms: the same in milliseconds of one forward pass of the whole network; in the place of `latency`.
        ranks: ranks set by hand, by name or `re:` pattern (None: leave alone), or the path of a plan file. They are
            obeyed, with a warning where dense would be cheaper; the policy decides on the other layers.
        fixed: more ranks set by hand, beside those of a plan file in `ranks`; they win.
        rules: by name or `re:` pattern: None leaves it alone, a rank (an int, or a list where the decomposition has
            several) sets it, `{min: 8, max: 32}` bounds it: every number of a rank that has several.
        multiple: the policy chooses among ranks that are multiples of this (8, 16, 32); None: among all.
        over: `all` - the budget counts the whole network; `conv` - its convolutions, and linear layers are left alone.
        shuffle: `{"seed": 0}` shuffles what the policy chose between layers, within the budget: a control, see
            `lowrank_exp.rank.shuffle`; None: it stays.
        score: of ranks by layer name (None: dense), higher is better; what `enc_inf` asks. It must know all layers,
            those left alone too. Policies that do not declare it are not given it.
        resolve: false here; whoever fits layers in sequence (`lowrank_exp.phases.Factorize`) takes anything else for
            itself, and allocates the rest of the budget again on the way.
        options: the policy's own (`share` of energy, `metric` of enc_map ...).

    Raises:
        ValueError: names that do not exist, ranks out of range, a budget that is not in (0, 1] or cannot be met within
            1 %, contradicting arguments. The message says what was got, what is allowed and what to do.
    """
    if resolve is not False:
        raise ValueError(
            f"rank.resolve={resolve!r} chooses ranks again while layers are fitted in sequence, which is not so here; "
            "it can be done where a phase factorizes (method=decompose, oneshot ...): set rank.resolve=false"
        )
    chosen, name, options = _find_policy(policy, options)
    budget = Budget(macs, weights, bytes, latency, latency_ms)
    problem, planned = problem_of(layers, budget, ranks, rules, fixed, multiple, over)
    if plain_function(chosen) is ranks_by_hand and ranks is None and fixed is None:
        raise ValueError(
            "the fixed policy needs `ranks`: a mapping such as {conv1: 4, 're:fc.*': 8}, or the path of a plan file. "
            f"The layers are: {', '.join(layers)}"
        )
    if not chooses_decompositions(chosen):
        _check_single(problem.candidates, name)
    if "score" in needs(chosen, options):
        options["score"] = _score_with_the_rest(score, planned, name)
    try:
        wished = chosen(problem, **options)
    except BudgetError as error:
        refused = [f"{layer.name}: {layer.refusal}" for layer in layers.values() if layer.refusal]
        raise error.with_reasons(refused) from None
    choices, then = _check_returned(wished, problem, name), ""
    if shuffle is not None:
        choices, then = shuffled(problem, choices, **shuffle), ", then shuffled"
    for layer_name, choice in choices.items():
        if choice is None:
            planned[layer_name] = planned_layer(layers[layer_name], None, f"{why_dense(chosen)}{then}")
        else:
            planned[layer_name] = planned_layer(choice.profile, choice.rank, f"chosen by {name}{then}")
    tried = all(layer.tried for layer in layers.values())
    of = COMPRESSED if any(layer.compressed for layer in layers.values()) else DENSE
    return Plan({layer: planned[layer] for layer in layers}, name, over, tried, of, conditions_of(layers))


def _check_single(candidates: Sequence[Candidate], policy: str) -> None:
    for candidate in candidates:
        if candidate.others:
            names = [one.profile.decomposition for one in (candidate, *candidate.others)]
            raise ValueError(
                f"{candidate.profile.name} may be decomposed by {', '.join(names)}, and {policy} does not choose among "
                f"decompositions: give one, or take a policy that does ({', '.join(policy_names(choosing=True))}; one "
                "of your own says so by `chooses = True`)"
            )


def _score_with_the_rest(score: Score | None, planned: Mapping[str, PlannedLayer], policy: str) -> Score:
    """The score of a policy's ranks together with those that it does not decide on."""
    if not callable(score):
        raise ValueError(
            f"{policy} looks at the network's score: pass score, a function of ranks by layer, got {score!r}"
        )
    alone = {name: layer.rank for name, layer in planned.items()}
    return lambda ranks: score(alone | ranks)


def _check_returned(
    ranks: Mapping[str, Rank | Choice | None], problem: Problem, policy: str
) -> dict[str, Choice | None]:
    """What a policy returned: one option for every candidate, or numbers of its own where a rank has several."""
    candidates = {candidate.profile.name: candidate for candidate in problem.candidates}
    if not isinstance(ranks, Mapping):
        raise ValueError(
            f"the {policy} policy must return a mapping of {', '.join(candidates)} to ranks, got {type(ranks).__name__}"
        )
    if ranks.keys() != candidates.keys():
        wrong = sorted(ranks.keys() ^ candidates.keys())
        raise ValueError(f"the {policy} policy must return a rank for every candidate and no other layer, see {wrong}")
    return {name: _check_choice(candidates[name], rank, policy) for name, rank in ranks.items()}


def _check_choice(candidate: Candidate, rank: Rank | Choice | None, policy: str) -> Choice | None:
    choice = rank if isinstance(rank, Choice) else Choice(candidate.profile, rank)
    offers = next((one for one in (candidate, *candidate.others) if one.profile is choice.profile), None)
    name = candidate.profile.name
    if offers is None:
        raise ValueError(f"the {policy} policy returned a decomposition for {name} that it was not offered")
    if not isinstance(choice.rank, tuple) and choice.rank not in offers.ranks:
        raise ValueError(f"the {policy} policy returned {choice.rank!r} for {name}, which is not one of {offers.ranks}")
    return None if choice.rank is None else replace(choice, rank=plain_rank(choice.rank))


def _find_policy(policy: str | Policy, options: dict[str, Any]) -> tuple[Policy, str, dict[str, Any]]:
    policy = policy_named(policy) if isinstance(policy, str) else policy
    if not callable(policy):
        raise ValueError(
            f"a rank policy is a name, an import path or a function of a Problem, got {type(policy).__name__}: in a "
            "configuration a function of your own is {_target_: my_package.my_policy, _partial_: true}"
        )
    name = name_of(policy)
    parameters = inspect.signature(policy).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return policy, name, options
    allowed = [option for option in list(parameters)[1:] if option != "score"]
    if unknown := set(options) - set(allowed):
        hint = ""
        if "metric" in unknown:
            others = [one for one in policy_names() if "metric" in inspect.signature(policy_named(one)).parameters]
            hint = f". It has its own measure of what a rank loses; policies with a choice are {', '.join(others)}"
        raise ValueError(f"the {name} policy has no option {sorted(unknown)}; it takes {allowed or 'none'}{hint}")
    return policy, name, options
