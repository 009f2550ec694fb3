"""The knapsack policy and its solver: against brute force, an integer programme and ENC's published ranks."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank_exp.rank import allocate
from lowrank_exp.rank.enc.curves import network_quality
from lowrank_exp.rank.enc.files import profiles_from_enc
from lowrank_exp.rank.knapsack.multiple_choice import Solution, solve
from lowrank_exp.rank.policies.knapsack import knapsack
from support.cells import cells
from support.profiles import changed, enc_vgg16, layer, network

ENC = Path(__file__).parents[2] / "support" / "enc_vgg16"
INF_RANKS = [10, 17, 27, 40, 87, 76, 88, 141, 169, 194, 281, 439, 410]
INF_MACS = 3_867_265_024


def brute_force(costs, values, limits):
    """The highest (how many are not -inf, sum of the others) of all combinations that fit, and the least cost of it."""
    best, cheapest = None, None
    for options in itertools.product(*(range(len(v)) for v in values)):
        cost = sum(np.asarray(c)[o] for c, o in zip(costs, options, strict=True))
        if np.all(cost <= limits):
            chosen = [v[o] for v, o in zip(values, options, strict=True)]
            key = (-sum(v == -np.inf for v in chosen), math.fsum(v for v in chosen if v > -np.inf))
            if best is None or key > best or (key == best and cost[0] < cheapest):
                best, cheapest = key, int(cost[0])
    return best, cheapest


@st.composite
def problems(draw, value):
    budgets = draw(st.integers(1, 3))
    most = draw(st.sampled_from([3, 12, 10**6]))
    sizes = draw(st.lists(st.integers(1, 5), min_size=2, max_size=4))
    one = st.lists(st.integers(0, most), min_size=budgets, max_size=budgets)
    costs = [np.array(draw(st.lists(one, min_size=n, max_size=n))) for n in sizes]
    values = [np.array(draw(st.lists(value, min_size=n, max_size=n)), dtype=np.float64) for n in sizes]
    limits = draw(st.lists(st.integers(0, most * len(sizes)), min_size=budgets, max_size=budgets))
    return costs, values, limits


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(problems(st.floats(-3, 3)) | problems(st.integers(-4, 4)) | problems(st.floats(-3, 0) | st.just(-np.inf)))
def test_the_optimum_of_few_options_is_that_of_all_combinations(problem):
    costs, values, limits = problem
    best, cheapest = brute_force(costs, values, limits)
    found = solve(costs, values, limits)
    if best is None:
        assert found is None
        return
    assert found.exact
    assert found.bound == found.value
    chosen = [v[o] for v, o in zip(values, found.options, strict=True)]
    cost = sum(c[o] for c, o in zip(costs, found.options, strict=True))
    assert np.all(cost <= limits)
    assert -sum(v == -np.inf for v in chosen) == best[0]
    if best[0] == 0:
        assert found.value == math.fsum(chosen)
        assert found.value == pytest.approx(best[1], abs=1e-12)
        if len(limits) == 1 and all(v == np.rint(v) for v in chosen):
            assert cost[0] == cheapest
    else:
        assert found.value == -np.inf


def integer_programme(costs, values, limits):
    """By HiGHS."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    layer_of = np.repeat(np.arange(len(costs)), [len(v) for v in values])
    one_each = (layer_of == np.arange(len(costs))[:, None]).astype(float)
    scaled = (np.concatenate(costs) / np.asarray(limits)).T
    found = milp(
        -np.concatenate(values),
        constraints=[LinearConstraint(scaled, -np.inf, 1), LinearConstraint(one_each, 1, 1)],
        integrality=np.ones(len(layer_of)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0},
    )
    assert found.status == 0
    return -found.fun


def convolutions(count, seed):
    """Costs (MACs, weights) and errors of 3 x 3 convolutions by rank; the last option is dense."""
    generator = np.random.default_rng(seed)
    costs, values = [], []
    for index in range(count):
        stage = 3 * index // count
        channels, size = 16 << stage, 32 >> stage
        ranks = np.arange(1, 3 * channels // 2)
        spectrum = np.exp(-np.arange(3 * channels) / channels * generator.uniform(0.3, 2)) ** 2
        error = 1 - np.cumsum(spectrum) / spectrum.sum()
        weights = np.append(ranks * 6 * channels, 9 * channels**2)
        costs.append(np.stack([weights * size**2, weights], axis=1))
        values.append(np.append(-error[: len(ranks)], 0.0))
    return costs, values


@cells("seed", [0, 1, 2])
@cells("limits", [(0.5,), (0.3,), (0.5, 0.5), (0.45, 0.3)])
def test_the_optimum_of_nine_layers_is_that_of_an_integer_programme(limits, seed):
    costs, values = convolutions(9, seed)
    costs = [c[:, : len(limits)] for c in costs]
    allowed = [int(part * whole) for part, whole in zip(limits, sum(c[-1] for c in costs), strict=True)]
    found = solve(costs, values, allowed)
    assert found.exact
    assert found.value == pytest.approx(integer_programme(costs, values, allowed), abs=1e-6)


def dynamic_programme(costs, values, limit):
    """The highest value for one budget, by a table over all costs in units of their greatest common divisor."""
    unit = np.gcd.reduce(np.concatenate(costs))
    table = np.zeros(limit // unit + 1)
    for of_layer, quality in zip(costs, values, strict=True):
        best = np.full(len(table), -np.inf)
        for cost, value in zip(of_layer // unit, quality, strict=True):
            if cost < len(table):
                np.maximum(best[cost:], table[: len(table) - cost] + value, out=best[cost:])
        table = best
    return table[-1]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("bumpy", [False, True])
def test_the_optimum_of_fifty_layers_is_that_of_a_dynamic_programme(share, bumpy):
    costs, values = convolutions(54, 3)
    if bumpy:
        generator = np.random.default_rng(4)
        values = [np.sort(generator.uniform(-1, 0, len(v))) for v in values]
    costs = [c[:, 0] for c in costs]
    limit = int(share * sum(c[-1] for c in costs))
    found = solve([c[:, None] for c in costs], values, [limit])
    assert found.exact
    assert found.value == pytest.approx(dynamic_programme(costs, values, limit), abs=1e-10)


def test_a_dense_layer_far_better_than_its_ranks():
    """Ranks lose in proportion, dense nothing: one layer of two is dense, although ranks are cheaper everywhere."""
    ranks, errors = np.arange(1, 10), 1 - np.arange(1, 10) / 20
    costs = [np.append(ranks, 10)[:, None]] * 2
    values = [np.append(-errors, 0.0)] * 2
    assert solve(costs, values, [12]).value == pytest.approx(-(1 - 2 / 20))
    assert sorted(solve(costs, values, [12]).options) == [1, 9]


def test_budgets_in_other_units_are_one_budget():
    costs, values = convolutions(9, 5)
    weights = [c[:, 1:] for c in costs]
    both = [np.concatenate([w, 4 * w + 17], axis=1) for w in weights]
    limit = int(0.4 * sum(w[-1, 0] for w in weights))
    alone = solve(weights, values, [limit])
    assert solve(both, values, [limit, 10**9]) == alone
    assert solve(both, values, [10**9, 4 * limit + 17 * 9]) == alone
    less = solve(both, values, [limit, 4 * (limit // 2) + 17 * 9])
    assert less.value == solve(weights, values, [limit // 2]).value < alone.value


def test_many_costs_without_a_common_divisor_end_in_time_with_a_bound():
    """Subset sums of large random numbers: the choice may not be proved, but both sides of it are known."""
    generator = np.random.default_rng(6)
    costs = [generator.integers(1, 10**9, (20, 2)) for _ in range(40)]
    values = [c.sum(1) / 1e9 for c in costs]
    limits = [sum(int(c[:, b].max()) for c in costs) // 2 for b in range(2)]
    found = solve(costs, values, limits, limit_seconds=0.2)
    assert not found.exact
    relaxed = sum(limits) / 1e9
    assert 0.999 * relaxed < found.value < found.bound <= relaxed * (1 + 1e-9)
    assert np.all(sum(c[o] for c, o in zip(costs, found.options, strict=True)) <= limits)


@pytest.mark.parametrize(
    ("costs", "values", "limits", "message"),
    [
        ([], [], [1], "costs and values are needed for the same layers, got 0 and 0"),
        ([[[1]]], [[0.0], [0.0]], [1], "got 1 and 2"),
        ([[[1]]], [[0.0]], [], "a limit is needed for at least one budget, got none"),
        ([[[1], [2]]], [[0.0]], [1], r"costs \(2, 1\) do not go with values \(1,\)"),
        ([[[1, 1]]], [[0.0]], [1], r"limits \(1,\)"),
        ([[[1.5]]], [[0.0]], [1], "costs must be integers in 2"),
        ([[[1]]], [[float("nan")]], [1], "values must be finite or -inf, got"),
        ([[[1]]], [[float("inf")]], [1], "values must be finite or -inf, got"),
    ],
)
def test_wrong_problems_are_refused(costs, values, limits, message):
    with pytest.raises(ValueError, match=message):
        solve([np.array(c) for c in costs], [np.array(v) for v in values], np.array(limits))


def test_nothing_fits():
    assert solve([[[3], [5]]], [[0.0, 1.0]], [2]) is None
    assert solve([[[3], [5]]], [[0.0, 1.0]], [4]) == Solution((0,), 0.0, 0.0, True)


# The policy


def plan_of(layers, budget, **options):
    return allocate(layers, knapsack, macs=budget / sum(p.macs for p in layers.values()), over="conv", **options)


def test_enc_has_a_better_plan_at_its_published_cost():
    """At the cost of ENC-Inf's published ranks for VGG-16, whose A_p is 0.0036787, the highest A_p is 0.0042312."""
    layers = profiles_from_enc(ENC)
    published = network_quality(layers, dict(zip(layers, INF_RANKS, strict=True)))
    assert published.A_p == pytest.approx(0.0036787, abs=5e-8)
    plan = plan_of(layers, INF_MACS, metric="energy", rules={"conv1_1": 10})
    assert plan.ranks["conv1_1"] == 10
    assert network_quality(layers, plan.ranks).A_p == pytest.approx(0.0042312, abs=5e-8)
    cost = sum(layers[name].cost(rank).macs for name, rank in plan.ranks.items())
    assert 0.9999 * INF_MACS < cost <= INF_MACS
    values = [np.log(np.maximum(_y_p(p), 1e-300)) for p in layers.values()]
    values[0] = values[0][9:10]
    costs = [p.rank_macs for p in layers.values()]
    costs[0] = costs[0][9:10]
    assert math.exp(dynamic_programme(costs, values, INF_MACS)) == pytest.approx(
        network_quality(layers, plan.ranks).A_p, rel=1e-9
    )


def _y_p(profile):
    sums = np.cumsum(profile.singular_values[0])
    return (sums - sums[0]) / (sums[-1] - sums[0])


def test_the_highest_measured_quality_is_at_least_that_of_any_published_plan():
    layers = profiles_from_enc(ENC)
    plan = plan_of(layers, INF_MACS, metric="measured", rules={"conv1_1": 10})
    published = network_quality(layers, dict(zip(layers, INF_RANKS, strict=True))).A_m
    assert published == pytest.approx(0.95712, abs=1e-5)
    assert network_quality(layers, plan.ranks).A_m == pytest.approx(0.96384, abs=1e-5)


def test_the_least_error_by_hand():
    """Singular values 3, 2, 1 and 2, 1, 1: ranks 2 and 1 lose 1/14 + 2/6, ranks 1 and 2 lose 5/14 + 1/6.

    Of five units ranks 3 and 2 lose 0 + 1/6, ranks 2 and 3 lose 1/14 + 0.
    """
    layers = network(layer("a", 40, 40, 10, 10, [3, 2, 1]), layer("b", 40, 40, 10, 10, [2, 1, 1]))
    assert allocate(layers, knapsack, macs=30 / 80).ranks == {"a": 2, "b": 1}
    assert allocate(layers, knapsack, macs=50 / 80).ranks == {"a": 2, "b": 3}


layers_of_four = st.lists(
    st.tuples(st.integers(2, 9), st.lists(st.floats(0.01, 3), min_size=3, max_size=9)), min_size=4, max_size=4
)


def tiny_network(drawn):
    """Layers whose dense cost lies half a rank above that of their last."""
    return network(
        *(
            layer(f"l{index}", cost * len(values) + 1, cost * len(values) + 1, cost, cost, sorted(values, reverse=True))
            for index, (cost, values) in enumerate(drawn)
        )
    )


def total_error(layers, ranks):
    return sum(0.0 if rank is None else layers[name].error[rank - 1] for name, rank in ranks.items())


def outcome(layers, budget):
    """The ranks, or the message that says why there are none."""
    try:
        return allocate(layers, knapsack, macs=budget).ranks
    except ValueError as error:
        return str(error)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(layers_of_four, st.permutations(range(4)))
def test_the_order_of_layers_does_not_matter(drawn, order):
    layers = tiny_network(drawn)
    names = list(layers)
    reordered = {names[index]: layers[names[index]] for index in order}
    for budget in (0.5, 0.8):
        assert outcome(reordered, budget) == outcome(layers, budget)


def test_equal_layers_keep_their_ranks_in_another_order():
    same = [layer(f"l{index}", 100, 100, 10, 10, np.ones(9)) for index in range(6)]
    ranks = allocate(network(*same), knapsack, macs=0.55).ranks
    assert allocate(network(*same[::-1]), knapsack, macs=0.55).ranks == ranks
    assert len(set(ranks.values())) > 1


def test_a_larger_budget_is_never_worse():
    layers = enc_vgg16()
    layers = {
        name: changed(p, singular_values=np.exp(-np.arange(p.rungs) / (20 + 9 * index))[None])
        for index, (name, p) in enumerate(layers.items())
    }
    budgets = np.linspace(0.05, 0.6, 23)
    errors = [total_error(layers, allocate(layers, knapsack, macs=b).ranks) for b in budgets.tolist()]
    assert np.all(np.diff(errors) < 0)
    again = [total_error(layers, allocate(layers, knapsack, macs=b).ranks) for b in budgets[::7].tolist()]
    assert again == errors[::7]


@pytest.mark.filterwarnings("ignore:knapsack. the plan found in")  # a busy machine may leave it unproved
def test_it_is_never_worse_than_uniform_and_energy():
    layers = profiles_from_enc(ENC)
    for bounds in ({"macs": 0.25}, {"macs": 0.5}, {"macs": 0.4, "weights": 0.4}):
        best = allocate(layers, knapsack, **bounds)
        assert max(best.remaining(what) / bound for what, bound in bounds.items()) == pytest.approx(1, abs=1e-3)
        for other in ("uniform", "energy"):
            plan = allocate(layers, other, **bounds)
            if all(plan.remaining(what) <= bound for what, bound in bounds.items()):
                assert total_error(layers, best.ranks) < total_error(layers, plan.ranks)


def test_two_budgets_both_hold():
    layers = profiles_from_enc(ENC)
    both = allocate(layers, knapsack, macs=0.3, weights=0.2, metric="energy", rules={"conv1_1": 10})
    assert both.remaining("macs") <= 0.3
    assert both.remaining("weights") == pytest.approx(0.2, rel=1e-3)
    assert both.remaining("weights") <= 0.2
    one = allocate(layers, knapsack, macs=0.3, metric="energy", rules={"conv1_1": 10})
    assert network_quality(layers, both.ranks).A_p < network_quality(layers, one.ranks).A_p


def test_a_quality_of_minus_infinity_is_avoided_where_it_can_be():
    """Rank 1 has A_p = 0: with 6 of 16 units all three layers can have rank 2; with 5 one of them cannot."""
    layers = network(*(layer(name, 40, 40, 10, 10, [3, 2, 1]) for name in "abc"))
    assert allocate(layers, knapsack, macs=0.5, metric="energy").ranks == {"a": 2, "b": 2, "c": 2}
    lower = allocate(layers, knapsack, macs=50 / 120, metric="energy").ranks
    assert sorted(lower.values()) == [1, 2, 2]


def test_a_quality_of_ones_own():
    """The first layer is worth ten times as much."""
    layers = network(layer("a", 100, 100, 10, 10, np.ones(9)), layer("b", 100, 100, 10, 10, np.ones(9)))
    weight = {"a": 10.0, "b": 1.0}
    plan = allocate(layers, knapsack, macs=0.5, metric=lambda p: -weight[p.name] * p.error)
    assert plan.ranks == {"a": 9, "b": 1}
    plan = allocate(layers, knapsack, macs=0.55, metric=lambda p: -weight[p.name] * (p.error + 1))
    assert plan.ranks == {"a": None, "b": 1}


def test_where_dearer_plans_are_no_better_the_budget_is_filled_up():
    """The weight has rank 2: rank 3 and 4 lose nothing either, and are chosen to meet the budget."""
    layers = network(layer("a", 100, 100, 10, 10, [2, 1, 0, 0, 0]), layer("b", 100, 100, 10, 10, [2, 1, 0, 0, 0]))
    plan = allocate(layers, knapsack, macs=0.35)
    assert sum(plan.ranks.values()) == 7
    assert min(plan.ranks.values()) >= 2


def test_a_cost_just_above_the_budget_meets_it():
    """Ranks of 99 and 201 of 1000 MACs, and 200 allowed: 201 is within 1 %, 198 is met too, but worse."""
    layers = network(layer("a", 1000, 1000, 101, 101, [3, 2, 1]))
    assert allocate(layers, knapsack, macs=0.2001).ranks == {"a": 2}
    assert allocate(layers, knapsack, macs=0.2019).ranks == {"a": 2}
    with pytest.raises(ValueError, match=r"cannot be met within 1 %: the nearest below is macs=0.1010, the nearest"):
        allocate(layers, knapsack, macs=0.19)
    with pytest.raises(ValueError, match=r"macs=0.05 cannot be reached: the smallest possible is macs=0.1010"):
        allocate(layers, knapsack, macs=0.05)


def test_wrong_options_are_refused():
    layers = network(layer("a", 100, 100, 10, 10, np.ones(9)))
    with pytest.raises(ValueError, match="the knapsack policy needs a budget: set macs or weights"):
        allocate(layers, knapsack)
    with pytest.raises(ValueError, match="metric='errors' is not known: error, energy, measured, response"):
        allocate(layers, knapsack, macs=0.5, metric="errors")
    with pytest.raises(ValueError, match="a has no measured accuracy"):
        allocate(layers, knapsack, macs=0.5, metric="measured")
    with pytest.raises(ValueError, match="a: its profile has no sensitivity"):
        allocate(layers, knapsack, macs=0.5, metric="sensitivity")
    with pytest.raises(ValueError, match="a: the metric must give a number, or -inf, for each of 9 rungs"):
        allocate(layers, knapsack, macs=0.5, metric=lambda p: np.zeros(3))
    for seconds in (0, -1, True, "1"):
        with pytest.raises(ValueError, match=f"limit_seconds={seconds!r} is not a positive number of seconds"):
            allocate(layers, knapsack, macs=0.5, limit_seconds=seconds)


def test_an_unproved_plan_is_told():
    generator = np.random.default_rng(7)
    layers = network(
        *(
            layer(f"l{i}", 10**7, 10**7, int(m), int(w), np.ones(40))
            for i, (m, w) in enumerate(generator.integers(10**5, 2 * 10**5, (40, 2)))
        )
    )
    with pytest.warns(UserWarning, match=r"knapsack: the plan found in 0\.01 s has quality -\d.*another may have"):
        plan = allocate(layers, knapsack, macs=0.37, weights=0.37, limit_seconds=0.01)
    assert 0.99 <= max(plan.remaining("macs"), plan.remaining("weights")) / 0.37 <= 1.01


def test_by_name_and_with_a_rank_set_by_hand():
    layers = network(layer("a", 40, 40, 10, 10, [3.0, 2.0, 1.0]), layer("b", 40, 40, 10, 10, [3.0, 2.0, 1.0]))
    plan = allocate(layers, "knapsack", macs=0.5, fixed={"a": 1})
    assert plan.ranks == {"a": 1, "b": 3}
    assert plan.layers["a"].reason == "set by hand"
    assert allocate(layers, "knapsack", macs=0.75).layers["b"].reason in (
        "chosen by knapsack",
        "dense is best for the whole, says knapsack",
    )
