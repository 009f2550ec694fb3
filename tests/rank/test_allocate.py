"""What holds for every policy: layers left alone, rules, ranks by hand, warnings."""

import warnings

import numpy as np
import pytest

from lowrank_exp.rank import Plan, PlannedLayer, allocate
from support.cells import cells
from support.profiles import by_hand, layer, network


def four():
    """Two convolutions, one that cannot be decomposed, and a linear layer."""
    return network(
        layer("conv1", 5000, 500, 50, 5, np.linspace(3, 1, 120)),
        by_hand("depth", "conv", 1000, 100, refusal="its weight is parametrized"),
        layer("conv2", 8000, 400, 100, 5, np.linspace(5, 1, 90)),
        layer("fc", 6000, 6000, 60, 60, np.linspace(2, 1, 110), kind="linear"),
    )


def reasons(plan):
    return {name: planned.reason for name, planned in plan.layers.items()}


def test_a_plan_tells_rank_cost_and_reason_of_every_layer_in_network_order():
    plan = allocate(four(), "uniform", macs=0.5)
    assert list(plan) == ["conv1", "depth", "conv2", "fc"]
    assert plan.policy == "uniform"
    assert plan.over == "all"
    assert reasons(plan) == {
        "conv1": "chosen by uniform",
        "depth": "its weight is parametrized",
        "conv2": "chosen by uniform",
        "fc": "chosen by uniform",
    }
    planned = plan.layers["conv2"]
    assert planned == PlannedLayer(
        plan["conv2"],
        "spatial_svd",
        "chosen by uniform",
        8000,
        100 * plan["conv2"],
        400,
        5 * plan["conv2"],
        1600,
        20 * plan["conv2"],
    )
    assert plan.layers["depth"] == PlannedLayer(
        None, None, "its weight is parametrized", 1000, 1000, 100, 100, 400, 400
    )
    left = 50 * plan["conv1"] + 1000 + 100 * plan["conv2"] + 60 * plan["fc"]
    assert plan.remaining("macs") == left / 20_000
    assert 0.495 <= plan.remaining("macs") <= 0.505


def test_a_budget_over_the_convolutions_leaves_linear_layers_alone_and_uncounted():
    plan = allocate(four(), "uniform", macs=0.5, over="conv")
    assert plan.over == "conv"
    assert plan.layers["fc"].reason == "the budget is over the convolutions"
    left = 50 * plan["conv1"] + 1000 + 100 * plan["conv2"]
    assert 0.495 <= left / 14_000 <= 0.505


def test_both_budgets_hold():
    plan = allocate(four(), "uniform", macs=0.5, weights=0.3)
    assert plan.remaining("weights") == pytest.approx(0.3, rel=0.01)
    assert plan.remaining("macs") < 0.5
    plan = allocate(four(), "uniform", macs=0.4, weights=0.9)
    assert plan.remaining("macs") == pytest.approx(0.4, rel=0.01)
    assert plan.remaining("weights") < 0.9


def test_rules_leave_alone_set_and_bound():
    rules = {"conv1": None, "conv2": {"min": 10, "max": 12}, "fc": 20}
    plan = allocate(four(), "energy", share=0.5, rules=rules)
    assert plan.ranks == {"conv1": None, "depth": None, "conv2": 12, "fc": 20}
    assert reasons(plan) == {
        "conv1": "left alone by a rule",
        "depth": "its weight is parametrized",
        "conv2": "chosen by energy",
        "fc": "set by a rule",
    }
    assert allocate(four(), "energy", share=0.001, rules=rules)["conv2"] == 10


def test_rules_by_pattern_and_name():
    rules = {"re:conv.*": {"max": 7}, "conv2": {"max": 5}, "re:.*": None}
    plan = allocate(four(), "energy", share=0.9, rules=rules)
    assert plan.ranks == {"conv1": 7, "depth": None, "conv2": 5, "fc": None}


@pytest.mark.parametrize("nothing", [{"max": None}, {"min": None}, {"min": None, "max": None}, {}])
def test_a_bound_of_null_is_no_bound(nothing):
    assert (
        allocate(four(), "uniform", macs=0.5, rules={"re:.*": nothing}).ranks
        == allocate(four(), "uniform", macs=0.5).ranks
    )


def test_dense_is_an_option_unless_a_rule_sets_a_highest_rank():
    assert allocate(four(), "uniform", macs=1).ranks == dict.fromkeys(four())
    plan = allocate(four(), "energy", share=1, rules={"conv1": {"max": 120}, "conv2": {"min": 3}})
    assert plan.ranks == {"conv1": 99, "depth": None, "conv2": None, "fc": None}
    assert plan.layers["conv2"].reason == "the rank that energy wished is not cheaper than dense"


def test_a_highest_rank_above_the_full_rank_is_no_bound_but_keeps_dense_out():
    assert (
        allocate(four(), "energy", share=0.3, rules={"conv1": {"max": 10**6}})["conv1"]
        == (allocate(four(), "energy", share=0.3)["conv1"])
    )


def test_layers_without_a_cheaper_rank_stay_dense_and_say_so():
    layers = network(
        layer("big", 10_000, 10_000, 10, 10, np.ones(900)),
        layer("tiny", 90, 80, 100, 120, np.ones(3)),
        layer("few", 100, 10_000, 100, 10, np.ones(3)),
    )
    plan = allocate(layers, "uniform", macs=0.5)
    assert plan.ranks == {"big": pytest.approx(490, abs=20), "tiny": None, "few": None}
    assert plan.layers["tiny"].reason == "no rank is cheaper than dense: rank 1 has 100 of 90 macs"
    assert plan.layers["few"].reason == "no rank is cheaper than dense: rank 1 has 100 of 100 macs"
    # Under a budget of weights, it is the weights that must be fewer.
    assert allocate(layers, "uniform", weights=0.5)["few"] == 3
    both = allocate(layers, "uniform", weights=0.99, macs=0.5).layers["few"].reason
    assert both == "no rank is cheaper than dense: rank 1 has 100 of 100 macs, 10 of 10,000 weights"


def test_ranks_by_hand_are_obeyed_and_the_policy_decides_on_the_rest():
    plan = allocate(four(), "uniform", macs=0.7, ranks={"conv2": 60, "fc": None})
    assert plan.ranks == {"conv1": 20, "depth": None, "conv2": 60, "fc": None}
    assert plan.layers["conv2"].reason == "set by hand"
    assert plan.layers["fc"].reason == "left alone by hand"
    with pytest.raises(ValueError, match=r"cannot be reached: the smallest possible is macs=0\.6030 "):
        allocate(four(), "uniform", macs=0.5, ranks={"conv2": 60, "conv1": None, "fc": 1})
    by_hand = {"conv1": 10, "conv2": 60, "fc": 1}
    assert allocate(four(), "uniform", macs=0.378, ranks=by_hand).ranks == {**by_hand, "depth": None}


def test_a_rank_by_hand_wins_over_a_rule():
    plan = allocate(four(), "energy", share=0.5, ranks={"conv1": 4}, rules={"re:.*": {"min": 9, "max": 11}})
    assert plan.ranks == {"conv1": 4, "depth": None, "conv2": 11, "fc": 11}


def test_fixed_takes_the_given_ranks_and_leaves_the_rest():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = allocate(four(), "fixed", ranks={"re:conv.*": 10})
    assert plan.ranks == {"conv1": 10, "depth": None, "conv2": 10, "fc": None}
    assert plan.layers["fc"].reason == "not named in ranks"
    assert plan.policy == "fixed"


def test_a_rank_that_costs_more_than_dense_is_obeyed_with_a_warning():
    more = "costs more than the dense layer"
    with pytest.warns(UserWarning, match=f"^conv2: rank 85 {more}: 8,500 MACs, dense 8,000; 425 weights, dense 400$"):
        plan = allocate(four(), "fixed", ranks={"conv2": 85})
    assert plan["conv2"] == 85
    layers = network(layer("a", 1000, 100, 10, 5, np.ones(50)))
    with pytest.warns(UserWarning, match=f"^a: rank 30 {more}: 150 weights, dense 100$") as caught:
        assert allocate(layers, "fixed", rules={"a": 30}, ranks={})["a"] == 30
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert allocate(layers, "fixed", ranks={"a": 20})["a"] == 20  # as many weights as dense


def test_permuted_layers_have_the_same_ranks():
    layers = four()
    for policy in ("uniform", "energy"):
        plan = allocate(layers, policy, macs=0.37)
        for order in (["fc", "conv2", "depth", "conv1"], ["depth", "conv1", "fc", "conv2"]):
            permuted = allocate({name: layers[name] for name in order}, policy, macs=0.37)
            assert list(permuted) == order
            assert dict(permuted) == dict(plan)


def test_a_function_may_be_the_policy():
    def thirds(problem, *, divisor=3):
        return {c.profile.name: c.profile.full_rank // divisor for c in problem.candidates}

    plan = allocate(four(), thirds)
    assert plan.ranks == {"conv1": 40, "depth": None, "conv2": 30, "fc": 36}
    assert plan.policy == "thirds"
    assert plan.layers["fc"].reason == "chosen by thirds"
    assert allocate(four(), thirds, divisor=10)["conv1"] == 12


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({"conv1": 1, "conv2": 1}, r"the own policy must return a rank for every candidate .* see \['fc'\]"),
        ({"conv1": 1, "conv2": 1, "fc": 1, "depth": 1}, r"no other layer, see \['depth'\]"),
        ({"conv1": 0, "conv2": 1, "fc": 1}, "the own policy returned 0 for conv1, which is not one of"),
        ({"conv1": 1, "conv2": 99, "fc": 1}, "returned 99 for conv2"),
        ({"conv1": 1, "conv2": 1.5, "fc": 1}, "returned 1.5 for conv2"),
    ],
)
def test_what_a_function_returns_is_checked(returned, message):
    def own(problem):
        return returned

    with pytest.raises(ValueError, match=message):
        allocate(four(), own)


def test_numpy_ranks_of_a_function_become_integers(tmp_path):
    plan = allocate(four(), lambda problem: {c.profile.name: np.int64(2) for c in problem.candidates})
    plan.write(tmp_path / "plan.yaml")
    assert Plan.read(tmp_path / "plan.yaml").ranks == {"conv1": 2, "depth": None, "conv2": 2, "fc": 2}


@cells(
    ("arguments", "message"),
    [
        ({"policy": "vbmf"}, "unknown rank policy 'vbmf'; known: alds, c_step, .*, uniform"),
        ({"policy": "uniform", "macs": 0.5, "over": "convs"}, r"over='convs' is not known: all .* or conv"),
        (
            {"policy": "uniform", "macs": 0.5, "ratio": 2},
            r"the uniform policy has no option \['ratio'\]; it takes \['metric'\]",
        ),
        ({"policy": "uniform", "macs": 1.5}, r"macs=1.5 is not a fraction"),
        ({"policy": "fixed"}, r"the fixed policy needs `ranks`: .* The layers are: conv1, depth, conv2, fc"),
        ({"policy": "fixed", "ranks": {"conv1": 2}, "macs": 0.5}, r"takes no budget, got {'macs': 0.5}"),
        (
            {"policy": "fixed", "ranks": {"conv3": 2}},
            "ranks names the layer 'conv3', .*Did you mean 'conv2' or 'conv1'",
        ),
        (
            {"policy": "fixed", "ranks": {"depth": 2}},
            "depth has rank 2 set by hand, but .*: its weight is parametrized",
        ),
        ({"policy": "fixed", "ranks": {"conv1": 0}}, "conv1: rank 0 set by hand is not a rank; .* from 1 to 120 here"),
        ({"policy": "fixed", "ranks": {"conv1": 121}}, "conv1: rank 121 set by hand is above the full rank; .* to 120"),
        ({"policy": "fixed", "ranks": {"conv1": True}}, "conv1: rank True set by hand is not a rank"),
        ({"policy": "fixed", "ranks": {"conv1": 2.0}}, "conv1: rank 2.0 set by hand is not a rank"),
        ({"policy": "fixed", "ranks": {"conv1": "2"}}, "conv1: rank '2' set by hand is not a rank"),
        ({"rules": {"re:bn.*": None}}, "rules: 're:bn.*' matches no layer"),
        ({"rules": {"conv1": 0}}, "conv1: rank 0 set by a rule is not a rank"),
        ({"rules": {"conv1": True}}, "conv1: rank True set by a rule is not a rank"),
        ({"rules": {"conv1": 0.5}}, r"the rule for conv1 is null .*, got 0.5"),
        ({"rules": {"conv1": {"most": 3}}}, r"the rule for conv1 is null .*, got {'most': 3}"),
        ({"rules": {"conv1": {"min": 0}}}, r"needs integers with 1 <= min <= max, got {'min': 0}"),
        ({"rules": {"conv1": {"max": 0}}}, r"needs integers with 1 <= min <= max, got {'max': 0}"),
        ({"rules": {"conv1": {"min": 5, "max": 4}}}, r"needs integers with 1 <= min <= max"),
        ({"rules": {"conv1": {"min": "a"}}}, r"needs integers with 1 <= min <= max"),
        ({"rules": {"conv1": {"max": 2.5}}}, r"needs integers with 1 <= min <= max"),
        ({"rules": {"conv1": {"min": 121}}}, r"the rule for conv1 asks for at least 121, above its full rank 120"),
    ],
)
def test_mistakes_are_named(arguments, message):
    arguments = {"policy": "energy", "share": 0.5, **arguments} if "rules" in arguments else arguments
    with pytest.raises(ValueError, match=message):
        allocate(four(), **arguments)


def test_a_network_without_layers():
    with pytest.raises(ValueError, match="no convolutions or linear layers"):
        allocate({}, "uniform", macs=0.5)
