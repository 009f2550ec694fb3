"""Budgets: what is one, when it is met, and what is nearest where it cannot be."""

import dataclasses
import itertools
import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lowrank_exp.rank import Budget, Candidate, Problem, allocate
from support.cells import cells
from support.profiles import enc_vgg16, layer, network


@cells("value", [0, 0.0, -0.1, 1.0001, 2, True, False, "0.5", float("nan"), float("inf")])
@cells("name", ["macs", "weights"])
def test_what_is_no_fraction_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"the budget {name}={value!r} is not a fraction in \(0, 1\]: 0.5 keeps half"):
        Budget(**{name: value})


def test_bounds_are_those_that_are_set():
    assert Budget().bounds == {}
    assert not Budget()
    assert Budget(weights=1).bounds == {"weights": 1}
    assert list(Budget(weights=0.2, macs=0.5).bounds.items()) == [("macs", 0.5), ("weights", 0.2)]
    assert Budget(macs=1e-9)


def problem(**bounds):
    """One layer of 100 MACs and 200 weights with ranks of 10 MACs and 30 weights, beside 100 and 100 left alone."""
    profile = layer("a", 100, 200, 10, 30, np.ones(6))
    candidate = Candidate(profile, (1, 2, 3, 4, 5, None))
    alone, dense = {"macs": 100, "weights": 100}, {"macs": 200, "weights": 300}
    return Problem((candidate,), alone, dense, Budget(**bounds))


def test_cost_of_options():
    assert [problem(macs=1).cost([o], "macs") for o in range(6)] == [110, 120, 130, 140, 150, 200]
    assert [problem(macs=1).cost([o], "weights") for o in range(6)] == [130, 160, 190, 220, 250, 300]


@cells(
    ("bounds", "option", "load", "fits", "met"),
    [
        ({"macs": 0.65}, 2, 1.0, True, True),
        ({"macs": 0.65}, 1, 120 / 130, True, False),
        ({"macs": 0.65}, 3, 140 / 130, False, False),
        ({"macs": 0.6435644}, 2, 130 / 128.71288, False, True),  # 1 % too much
        ({"macs": 0.643}, 2, 130 / 128.6, False, False),
        ({"macs": 0.6565656}, 2, 130 / 131.31312, True, True),  # 1 % too little
        ({"macs": 0.657}, 2, 130 / 131.4, True, False),
        # Both: none exceeded, one reached.
        ({"macs": 0.65, "weights": 0.9}, 2, 1.0, True, True),
        ({"macs": 0.65, "weights": 0.6}, 2, 190 / 180, False, False),
        ({"macs": 0.9, "weights": 0.9}, 2, 130 / 180, True, False),
    ],
)
def test_a_budget_is_met_within_one_percent(bounds, option, load, fits, met):
    assert problem(**bounds).load([option]) == pytest.approx(load, rel=1e-12)
    assert problem(**bounds).fits([option]) is fits
    assert problem(**bounds).met([option]) is met


@pytest.mark.parametrize(("rank", "option"), [(-1, 0), (1, 0), (3, 1), (4, 2), (5, 3), (6, 4), (100, 4)])
def test_option_of_a_wished_rank(rank, option):
    """Ranks 2 to 5, then dense: below counts as the lowest, above as dense."""
    candidate = Candidate(layer("a", 60, 60, 10, 10, np.ones(9)), (2, 3, 4, 5, None))
    assert candidate.option_of(rank) == (0 if rank < 2 else option)


def test_option_of_a_wished_rank_where_dense_is_not_allowed():
    candidate = Candidate(layer("a", 60, 60, 10, 10, np.ones(9)), (2, 3))
    assert [candidate.option_of(rank) for rank in (1, 2, 3, 4, 9)] == [0, 0, 1, 1, 1]


def combinations(layers, bounds):
    """Loads of all ranks that two tiny layers may have: those cheaper than dense, and dense."""
    options = []
    for p in layers.values():
        dense = {"macs": p.macs, "weights": p.weights}
        ranked = [{"macs": p.rank_macs[r], "weights": p.rank_weights[r]} for r in range(p.full_rank)]
        options.append([o for o in ranked if all(o[w] < dense[w] for w in bounds)] + [dense])
    whole = {w: sum(o[-1][w] for o in options) for w in ("macs", "weights")}
    totals = [{w: sum(o[w] for o in chosen) for w in whole} for chosen in itertools.product(*options)]
    return [max(total[w] / (bounds[w] * whole[w]) for w in bounds) for total in totals]


costs = st.integers(1, 60)
tiny_layers = st.builds(
    lambda name, dense, rank, values: layer(name, 10 * dense[0], 10 * dense[1], *rank, values),
    st.just("a"),
    st.tuples(costs, costs),
    st.tuples(costs, costs),
    st.lists(st.floats(0, 10), min_size=1, max_size=8).map(lambda v: sorted(v, reverse=True)),
)
some_bounds = st.sampled_from([("macs",), ("weights",), ("macs", "weights")]).flatmap(
    lambda names: st.fixed_dictionaries({name: st.floats(0.01, 1) for name in names})
)


def shares(text):
    return {what: float(share) for what, share in re.findall(r"(macs|weights)=(\d\.\d{4})", text)}


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(tiny_layers, tiny_layers, some_bounds, st.sampled_from(["uniform", "energy"]))
def test_a_reachable_budget_is_met_and_for_another_the_nearest_are_named(first, second, bounds, policy):
    layers = network(first, dataclasses.replace(second, name="b"))
    loads = combinations(layers, bounds)
    edges = [abs(abs(load - 1) - edge) for load in loads for edge in (0, 0.01) if load != 1]
    assume(min(edges, default=1) > 1e-9)  # not within rounding of a limit

    if any(abs(load - 1) <= 0.01 for load in loads):
        plan = allocate(layers, policy, **bounds)
        assert 0.99 <= max(plan.remaining(what) / bounds[what] for what in bounds) <= 1.01
        return
    with pytest.raises(ValueError, match=r"^the budget .* cannot be (met within 1 %|reached): the ") as caught:
        allocate(layers, policy, **bounds)
    _, _, got = str(caught.value).partition(": the ")
    named_below, _, named_above = got.partition("the nearest above")

    def assert_named(text, load):
        digits = 1e-4 / min(bounds.values())
        assert max(share / bounds[what] for what, share in shares(text).items()) == pytest.approx(load, abs=digits)

    below, above = [load for load in loads if load <= 1], [load for load in loads if load > 1]
    if not below:
        assert got.startswith("smallest possible is")
        assert_named(got, min(above))
        return
    assert got.startswith("nearest below is")
    assert_named(named_below, max(below))
    if above:
        assert_named(named_above, min(above))
    else:
        assert "nothing lies above" in got


def test_unreachable_by_hand():
    """Costs 10 a + 6 b: of 190 MACs, 94 and 96 are the nearest to 95, and 1.05 % away from it."""
    layers = network(layer("a", 100, 100, 10, 10, np.ones(12)), layer("b", 90, 90, 6, 6, np.ones(20)))
    with pytest.raises(
        ValueError, match=r"macs=0\.5 cannot be met within 1 %: the nearest below is macs=0\.4947, "
    ) as caught:
        allocate(layers, "uniform", macs=0.5)
    assert str(caught.value).endswith("the nearest above macs=0.5053. Ask for one of these")
    with pytest.raises(ValueError, match=r"macs=0.05 cannot be reached: the smallest possible is macs=0.0842 \(every"):
        allocate(layers, "uniform", macs=0.05)


def test_nothing_lies_above_where_dense_is_not_allowed():
    layers = network(layer("a", 100, 100, 10, 10, np.ones(12)))
    with pytest.raises(ValueError, match=r"the nearest below is macs=0\.5000, nothing lies above"):
        allocate(layers, "uniform", macs=0.9, rules={"a": {"max": 5}})


@pytest.mark.parametrize("count", [16, 110])
def test_many_layers_with_coarse_ranks(count):
    """Equal layers of eight ranks: half of them at one rank more than the others."""
    layers = network(*(layer(f"l{i}", 80, 80, 10, 10, np.ones(8)) for i in range(count)))
    plan = allocate(layers, "uniform", macs=0.5625)
    assert sorted(plan.ranks.values()) == [4] * (count // 2) + [5] * (count // 2)
    with pytest.raises(ValueError, match=r"smallest possible is macs=0\.1250"):
        allocate(layers, "uniform", macs=0.1)


def test_the_nearest_of_many_layers_with_coarse_ranks():
    """Sixteen layers of 80 MACs: 180 and 190 of 1280 are the nearest to 185.6."""
    layers = network(*(layer(f"l{i}", 80, 80, 10, 10, np.ones(8)) for i in range(16)))
    with pytest.raises(
        ValueError, match=r"nearest found below is macs=0\.1406, the nearest found above macs=0\.1484\."
    ):
        allocate(layers, "energy", macs=0.145)


def test_the_nearest_of_many_layers_where_one_has_coarse_ranks():
    """Eighty small layers at dense, beside one whose ranks cost 1000 each: 6 of them, or 5 and dense for the rest."""
    small = [layer(f"l{i}", 4, 4, 1, 1, np.ones(4)) for i in range(80)]
    layers = network(layer("big", 9000, 9000, 1000, 1000, np.ones(9)), *small)
    below, above = (5 * 1000 + 320) / 9320, (6 * 1000 + 80) / 9320
    with pytest.raises(
        ValueError, match=f"nearest found below is macs={below:.4f}, the nearest found above macs="
    ) as caught:
        allocate(layers, "uniform", macs=0.6)
    (named,) = re.findall(r"above macs=([\d.]+)\.", str(caught.value))
    assert above - 1e-4 <= float(named) <= (6 * 1000 + 320) / 9320 + 1e-4


def test_a_larger_budget_never_leaves_less():
    layers = enc_vgg16()
    left = [allocate(layers, "energy", macs=budget).remaining("macs") for budget in np.linspace(0.1, 1, 19).tolist()]
    assert (np.diff(left) >= 0).all()
    assert left[0] == pytest.approx(0.1, rel=0.01)
    assert left[-1] == pytest.approx(1.0, rel=0.01)


def test_one_network_without_what_the_budget_counts():
    layers = network(layer("fc", 100, 100, 10, 10, np.ones(8), kind="linear"))
    with pytest.raises(ValueError, match="a budget of macs with over='conv' counts nothing"):
        allocate(layers, "uniform", macs=0.5, over="conv")
