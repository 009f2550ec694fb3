"""Rank policies of one's own: what they look at, what they are called, and how they are given."""

import functools
from pathlib import Path

import numpy as np
import pytest

from lowrank_exp.rank import allocate, declares, needs, policies
from lowrank_exp.rank.policy_names import policy_named, policy_names
from support.profiles import layer, network


def two():
    return network(
        layer("conv1", 5000, 500, 50, 5, np.linspace(3, 1, 120)),
        layer("fc", 6000, 6000, 60, 60, np.linspace(2, 1, 110), kind="linear"),
    )


@declares(looks_at="score")
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

    @declares(looks_at=lambda options: ["accuracy"] if options["by"] == "images" else ())
    def choosy(problem, *, by="images"):
        return {}

    assert needs(choosy, {}) == needs(functools.partial(choosy, by="images"), {}) == {"accuracy"}
    assert needs(choosy, {"by": "weights"}) == needs(functools.partial(choosy, by="weights"), {}) == set()


def test_nothing_is_guessed_from_the_names_of_parameters():
    def by_metric(problem, *, metric="measured", curve="sensitivity"):
        return {}

    assert needs(by_metric, {}) == set()


def test_a_wrong_declaration_is_refused_with_what_to_declare():
    def dreaming(problem):
        return {}

    def silent(problem, score):
        return {}

    dreaming.looks_at = ("stars",)
    with pytest.raises(ValueError, match="the dreaming policy says that it looks at stars; looks_at may name score, "):
        needs(dreaming, {})
    dreaming.looks_at = "score"
    with pytest.raises(ValueError, match="dreaming policy says that it looks at score; it must take it as an argument"):
        needs(dreaming, {})
    message = (
        r"the silent policy takes score, .* add the line silent.looks_at = \('score',\) below it, or decorate it by"
    )
    with pytest.raises(ValueError, match=message):
        allocate(two(), silent, macs=0.5, score=lambda ranks: 1.0)
    silent.looks_at = ("score",)
    assert needs(silent, {}) == {"score"}


def test_why_a_layer_stays_dense_is_the_policys_word():
    @declares(why_dense="{policy} likes it so")
    def idle(problem):
        return dict.fromkeys(candidate.profile.name for candidate in problem.candidates)

    assert {one.reason for one in allocate(two(), idle).layers.values()} == {"idle likes it so"}
    del idle.why_dense
    assert {one.reason for one in allocate(two(), idle).layers.values()} == {
        "the rank that idle wished is not cheaper than dense"
    }


def test_every_file_of_policies_is_the_policy_of_its_name():
    files = sorted(path.stem for path in Path(policies.__path__[0]).glob("[a-z]*.py"))
    assert policy_names() == files
    assert [policy_named(name).__name__ for name in files] == files
    assert {"uniform", "knapsack", "enc_inf"} < set(files)


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
        ("lowrank_exp.rank.declares.LOOKS_AT", "is a tuple; a policy is a function of a Problem"),
        ({"_target_": "mine"}, "an import path or a function of a Problem, got dict: in a configuration"),
        (lambda problem: None, "must return a mapping of .* to ranks, got NoneType"),
        ("unifrom", "unknown rank policy 'unifrom'; known: alds, .* named by its import path"),
    ],
)
def test_what_is_not_a_policy_is_refused(policy, message):
    with pytest.raises(ValueError, match=message):
        allocate(two(), policy, macs=0.5)
