"""A plan with its ranks shuffled between layers: the control that tells whether it matters which layer has which rank.

Layers that cost and offer the same exchange their ranks, so that the network costs what it did. Where that changes
nothing, because no two such layers have different ranks, layers of one kind (convolutions, linear layers) exchange the
share of their ladder that they keep, and all shares are scaled together until the budget is met; without a budget,
until the network has the MACs that it had.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lowrank_exp.checks import WithoutEffectError, whole
from lowrank_exp.rank.budget import Budget, BudgetError, Candidate, Choice, Problem, meet
from lowrank_exp.rank.layer_profile import LayerProfile

DRAWS = 50  # permutations that are tried

Chosen = dict[str, Choice | None]


def shuffled(problem: Problem, chosen: Mapping[str, Choice | None], seed: int) -> Chosen:
    """The choices of a policy, shuffled between layers.

    Args:
        problem: what the policy was given.
        chosen: by layer what it chose; None: dense.
        seed: draws the permutation.

    Raises:
        WithoutEffectError: every permutation gives the same plan, or none meets the budget.

    Source: Frankle, Dziugaite, Roy, Carbin 2021, "Pruning neural networks at initialization: why are we missing the
    mark?", which shuffles what was pruned; here whole ranks are.
    """
    whole("shuffle.seed", seed, 0)
    draw = np.random.default_rng(seed)
    exchange = _exchange if _differ(chosen, _groups(problem.candidates, _offered)) else _exchange_shares
    for _ in range(DRAWS):
        try:
            other = exchange(problem, chosen, draw)
        except BudgetError:
            continue
        if any(_rank(other[name]) != _rank(choice) for name, choice in chosen.items()):
            return other
    raise WithoutEffectError(
        f"shuffling changes none of the ranks of {', '.join(chosen) or 'any layer'}: no two layers of a kind keep a "
        "different share, or no other order meets the budget. Leave rank.shuffle out"
    )


def _exchange(problem: Problem, chosen: Mapping[str, Choice | None], draw: np.random.Generator) -> Chosen:
    """Whole choices, between layers that offer the same."""
    other = dict(chosen)
    for group in _groups(problem.candidates, _offered):
        for candidate, place in zip(group, draw.permutation(len(group)), strict=True):
            given = chosen[group[place].profile.name]
            other[candidate.profile.name] = None if given is None else _of_layer(candidate, given)
    return other


def _exchange_shares(problem: Problem, chosen: Mapping[str, Choice | None], draw: np.random.Generator) -> Chosen:
    """Shares of the ladder, between layers of one kind, scaled until the budget is met."""
    candidates = tuple(_by_chosen(candidate, chosen) for candidate in problem.candidates)
    share = {candidate.profile.name: _share(candidate, chosen) for candidate in candidates}
    for group in _groups(candidates, lambda candidate: candidate.profile.kind):
        given = [share[candidate.profile.name] for candidate in group]
        for candidate, place in zip(group, draw.permutation(len(group)), strict=True):
            share[candidate.profile.name] = given[place]
    budget = problem.budget if problem.budget else Budget(macs=_macs(problem, candidates, chosen))
    least = min(share.values())

    def wish(layer: LayerProfile, t: float) -> int:
        return max(1, round(t * share[layer.name] / least * layer.rungs))

    def level(layer: LayerProfile) -> np.ndarray:
        return np.arange(1, layer.rungs + 1) / layer.rungs * least / share[layer.name]

    options = meet(replace(problem, candidates=candidates, budget=budget), wish, level, None)
    return {
        c.profile.name: None if (rank := c.ranks[option]) is None else Choice(c.profile, rank)
        for c, option in zip(candidates, options, strict=True)
    }


def _groups(candidates: Sequence[Candidate], alike: Callable[[Candidate], Hashable]) -> list[list[Candidate]]:
    groups: dict[Hashable, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(alike(candidate), []).append(candidate)
    return list(groups.values())


def _offered(candidate: Candidate) -> Hashable:
    """What a layer costs and may be decomposed to: layers of one shape agree in it."""
    every = (candidate, *candidate.others)
    return candidate.profile.dense, tuple((_kind(one.profile), tuple(one.ranks), _costs(one)) for one in every)


def _costs(candidate: Candidate) -> Hashable:
    return tuple(tuple(candidate.cost(o, what) for o in range(len(candidate.rungs))) for what in ("macs", "weights"))


def _kind(profile: LayerProfile) -> Hashable:
    return profile.decomposition, repr(sorted(profile.options.items()))


def _differ(chosen: Mapping[str, Choice | None], groups: Sequence[Sequence[Candidate]]) -> bool:
    """Whether a group has layers of different ranks."""
    return any(len({_rank(chosen[candidate.profile.name]) for candidate in group}) > 1 for group in groups)


def _rank(choice: Choice | None) -> Any:
    return None if choice is None else (choice.profile.decomposition, choice.rank)


def _of_layer(candidate: Candidate, given: Choice) -> Choice:
    """Another layer's choice, as this one's."""
    same = next(one for one in (candidate, *candidate.others) if _kind(one.profile) == _kind(given.profile))
    return replace(given, profile=same.profile)


def _by_chosen(candidate: Candidate, chosen: Mapping[str, Choice | None]) -> Candidate:
    """A layer by the decomposition that was chosen for it alone."""
    choice = chosen[candidate.profile.name]
    every = (candidate, *candidate.others)
    return replace(next((one for one in every if choice and one.profile is choice.profile), candidate), others=())


def _option(candidate: Candidate, chosen: Mapping[str, Choice | None]) -> int:
    choice = chosen[candidate.profile.name]
    ranks = candidate.ranks
    if choice is None or choice.rank in ranks:
        return ranks.index(None if choice is None else choice.rank)
    return candidate.option_of(
        candidate.profile.place_below(choice.rank) + 1
    )  # a rank of several numbers off its ladder


def _share(candidate: Candidate, chosen: Mapping[str, Choice | None]) -> float:
    """The share of its ladder that a layer keeps, in (0, 1]; all of it where it stays dense."""
    rung = candidate.rungs[_option(candidate, chosen)]
    return 1.0 if rung is None else rung / candidate.profile.rungs


def _macs(problem: Problem, candidates: Sequence[Candidate], chosen: Mapping[str, Choice | None]) -> float:
    options = [_option(candidate, chosen) for candidate in candidates]
    return replace(problem, candidates=tuple(candidates)).cost(options, "macs") / problem.dense["macs"]
