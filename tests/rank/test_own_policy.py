"""Rank policies of one's own: what they look at, what they are called, and how they are given."""

import functools

import numpy as np
import pytest

from lowrank_exp.rank import allocate, needs
from lowrank_exp.rank.allocate import policy_named
from support.profiles import layer, network


def two():
    return network(
        layer("conv1", 5000, 500, 50, 5, np.linspace(3, 1, 120)),
        layer("fc", 6000, 6000, 60, 60, np.linspace(2, 1, 110), kind="linear"),
    )


def looking(problem, *, share: float = 1.0, score=None):
    """Full ranks, after a look at the score of the cheapest."""
    score({candidate.profile.name: candidate.ranks[0] for candidate in problem.candidates})
    return {candidate.profile.name: candidate.ranks[-1] for candidate in problem.candidates}


def accurate(problem):
    return {candidate.profile.name: candidate.profile.sampled_ranks[0] for candidate in problem.candidates}


accurate.looks_at = ("accuracy",)


def test_a_policy_of_ones_own_says_what_it_looks_at():
    bound = functools.partial(looking, share=0.5)
    assert needs(looking, {}) == needs(bound, {}) == {"score"}
    assert needs(accurate, {}) == needs(functools.partial(accurate), {}) == {"accuracy"}
    assert needs("greedy_eval", {}) == {"accuracy"}
    assert needs(functools.partial(policy_named("knapsack"), metric="sensitivity"), {}) == {"sensitivity"}

    def dreaming(problem):
        return {}

    dreaming.looks_at = ("stars",)
    with pytest.raises(
        ValueError, match="the dreaming policy says that it looks at stars; looks_at may name accuracy, "
    ):
        needs(dreaming, {})


def test_a_policy_bound_by_partial_has_its_functions_name_and_options():
    asked = []
    plan = allocate(two(), functools.partial(looking, share=0.5), score=lambda ranks: asked.append(ranks) or 1.0)
    assert plan.policy == "looking"
    assert len(asked) == 1
    with pytest.raises(ValueError, match=r"the looking policy has no option \['power'\]; it takes \['share'\]"):
        allocate(two(), functools.partial(looking), power=2, score=lambda ranks: 1.0)


def test_a_policy_by_its_import_path():
    by_path = allocate(two(), "lowrank_exp.rank.policies.uniform.uniform", macs=0.5)
    assert by_path.layers == allocate(two(), "uniform", macs=0.5).layers


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            "no_module_of_ours.policy",
            "'no_module_of_ours.policy' cannot be imported .*must be installed or lie in the w",
        ),
        ("lowrank_exp.rank.nothing", "'lowrank_exp.rank.nothing' cannot be imported"),
        ("lowrank_exp.rank.needs.MEASURED", "is a tuple; a policy is a function of a Problem"),
        ({"_target_": "mine"}, "an import path or a function of a Problem, got dict: in a configuration"),
        (lambda problem: None, "must return a mapping of .* to ranks, got NoneType"),
        ("unifrom", "unknown rank policy 'unifrom'; known: alds, .* named by its import path"),
    ],
)
def test_what_is_not_a_policy_is_refused(policy, message):
    with pytest.raises(ValueError, match=message):
        allocate(two(), policy, macs=0.5)
