"""ALDS: hand cases, all combinations of small networks, and its bound on real factors."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp import factorize_, measure
from lowrank_exp.decomposition import ChannelSVD, GroupedChannelSVD, LinearSVD, SpatialSVD
from lowrank_exp.rank import BudgetError, allocate, profile
from support.profiles import by_hand
from support.profiles import joined as of_all


def split(name, dense, k, per_rank, rows):
    """A layer with k input groups by hand: what each rank costs, and the singular values of every group."""
    costs = per_rank * np.arange(1, len(rows[0]) + 1)
    options = {"groups": k}
    return by_hand(
        name,
        "conv",
        dense,
        dense,
        "grouped_channel_svd",
        costs,
        costs,
        np.array(rows, float),
        options=options,
        input_groups=k,
    )


def joined(*splits):
    return {splits[0].name: of_all(*splits)}


def two_layers():
    """Errors of a: k = 1: 3/4, 2/4, 1/4, 0 at 10 a rank; k = 2: sqrt(2)/4 and 0 at 15. Of b: 1/2, 1/4, 0 at 10."""
    a = joined(split("a", 100, 1, 10, [[4, 3, 2, 1]]), split("a", 100, 2, 15, [[2, 1], [1.5, 0.2]]))
    return a | joined(split("b", 100, 1, 10, [[2, 1, 0.5]]))


def chosen(plan):
    return {name: (layer.options.get("groups", 1), layer.rank) for name, layer in plan.layers.items() if layer.rank}


@pytest.mark.parametrize("solver", ["alternating", "exact"])
def test_by_hand(solver):
    """With 25 units k = 1 has eps 3/4 (20 units; 30 for 1/2), k = 2 has 1/2 (15 + 10 units)."""
    plan = allocate(two_layers(), "alds", macs=25 / 200, solver=solver)
    assert chosen(plan) == {"a": (2, 1), "b": (1, 1)}
    assert plan.layers["a"].reason == "chosen by alds"
    assert chosen(allocate(two_layers(), "alds", macs=35 / 200, solver=solver)) == {"a": (2, 1), "b": (1, 2)}
    # eps = 0: 30 units of a by k = 2, and all three ranks of b.
    assert chosen(allocate(two_layers(), "alds", macs=60 / 200, solver=solver)) == {"a": (2, 2), "b": (1, 3)}


def test_where_the_best_does_not_meet_the_budget_the_next_best_does():
    """With 30 units both k have eps 1/2. By k = 2 that costs 25 units, and no rank costs 5; by k = 1 it costs 30."""
    assert chosen(allocate(two_layers(), "alds", macs=30 / 200)) == {"a": (1, 2), "b": (1, 1)}
    with pytest.raises(BudgetError, match=r"cannot be met within 1 %: the nearest below is macs=0.1250"):
        allocate(two_layers(), "alds", macs=30 / 200, restarts=2)


def test_of_two_with_the_same_eps_the_cheaper_one_is_filled_up():
    """b costs too much below eps 1/2. There a takes 15 units by k = 2 and 30 by k = 1; 15 are left for its rank 2."""
    layers = joined(split("a", 100, 1, 15, [[4, 3, 1.9, 1]]), split("a", 100, 2, 15, [[1.2, 1, 0.5, 0]] * 2))
    layers |= joined(split("b", 100, 1, 40, [[2, 1, 0.5]]))
    for options in ({}, {"solver": "exact"}):
        assert chosen(allocate(layers, "alds", macs=70 / 200, **options)) == {"a": (2, 2), "b": (1, 1)}


def test_the_bound_of_the_code_leaves_the_root_out():
    """At the same cost k = 4 has 0.3 without the root and 0.6 with it, k = 1 has 0.5."""
    layers = joined(split("a", 100, 1, 10, [[10, 5, 1]]), split("a", 100, 4, 10, [[5, 3, 1]] * 4))
    assert chosen(allocate(layers, "alds", macs=0.1)) == {"a": (1, 1)}
    assert chosen(allocate(layers, "alds", macs=0.1, bound="code")) == {"a": (4, 1)}


def test_a_rank_that_is_not_cheaper_leaves_the_layer_dense():
    """At eps = 0 the first layer needs rank 3, dearer than dense: dense at 29 units and ranks for the rest."""
    layers = joined(split("a", 29, 1, 10, [[3, 2, 1]])) | joined(split("b", 171, 1, 10, [[3, 0.1, 0.1, 0.1]]))
    plan = allocate(layers, "alds", macs=39 / 200)
    assert plan.ranks == {"a": None, "b": 1}
    assert plan.layers["a"].reason == "the rank that alds wished is not cheaper than dense"


def test_the_largest_group_decides():
    """Group 1 has error 0.1 at rank 1, group 2 has 0.8: rank 2 of a comes before rank 2 of b."""
    layers = joined(split("a", 100, 1, 10, [[10, 9.9, 9.8, 9.7]]), split("a", 100, 2, 10, [[9, 1, 0], [9, 8, 0]]))
    layers |= joined(split("b", 100, 1, 10, [[10, 7, 0]]))
    assert chosen(allocate(layers, "alds", macs=0.15, bound="code")) == {"a": (2, 2), "b": (1, 1)}
    layers["a"] = of_all(layers["a"].alternatives[0], split("a", 100, 2, 10, [[9, 1, 0], [9, 1, 0]]))
    assert chosen(allocate(layers, "alds", macs=0.15, bound="code")) == {"a": (2, 1), "b": (1, 2)}


def test_the_local_step_leaves_a_bad_start():
    """The one start has k = 2, where eps is sqrt(2) 0.7 at 25 units; at those 15 of a, k = 1 has error 0.05."""
    layers = joined(split("a", 100, 1, 10, [[10, 1, 0.5]]), split("a", 100, 2, 15, [[8, 7, 6]] * 2))
    layers |= joined(split("b", 100, 1, 10, [[10, 5, 1]]))
    plan = allocate(layers, "alds", macs=30 / 200, restarts=1, iterations=1)
    assert chosen(plan) == {"a": (1, 1), "b": (1, 2)}


# All combinations

KS = (1, 2, 4)


def small_network(seed):
    """Three layers with k = 1, 2, 4, whose ranks cost so little that any budget is met."""
    generator = np.random.default_rng(seed)
    layers = {}
    for name in "abc":
        per_rank, dense, length = (
            generator.integers(3, 5),
            int(generator.integers(1200, 1500)),
            generator.uniform(30, 150),
        )
        splits = []
        for k in KS:
            falling = np.exp(-np.arange(1, 501) / length / generator.uniform(0.3, 1))
            rows = np.sort(falling * generator.uniform(0.3, 1, (k, 500)) / k, axis=1)[:, ::-1]
            splits.append(split(name, dense, k, per_rank + k // 2, rows))
        layers |= joined(*splits)
    return layers


def by_k(layer):
    return {one.options.get("groups", 1): one for one in layer.alternatives}


def errors(layer, k, bound):
    """The error at the ranks 0, 1 ... full."""
    values = by_k(layer)[k].singular_values
    root = math.sqrt(k) if bound == "paper" else 1.0
    return np.append(root * values.max(axis=0) / by_k(layer)[1].singular_values.max(), 0.0)


def smallest_eps(layers, budget, bound, multiple=1):
    """Over all k of all layers and all eps; j is the lowest rank (of multiples) with an error of at most eps."""
    every = [errors(layer, k, bound)[::multiple] for layer in layers for k in by_k(layer)]
    levels = np.unique(np.concatenate(every))
    costs = []
    for layer in layers:
        of_layer = []
        for k, one in by_k(layer).items():
            ranks = np.arange(multiple, one.rungs + 1, multiple)
            within = errors(layer, k, bound)[ranks] <= levels[:, None]
            cost = np.where(within.any(axis=1), one.rank_weights[ranks[within.argmax(axis=1)] - 1], layer.weights)
            of_layer.append(np.minimum(cost, layer.weights))
        costs.append(of_layer)
    limit = math.floor(budget * sum(layer.weights for layer in layers))
    sums = [sum(combination) for combination in itertools.product(*costs)]
    return min(float(levels[np.argmax(total <= limit)]) for total in sums if (total <= limit).any())


def largest_error(layers, plan, bound):
    return max(errors(layers[name], k, bound)[j] for name, (k, j) in chosen(plan).items())


@pytest.mark.parametrize("bound", ["paper", "code"])
@pytest.mark.parametrize("seed", range(3))
def test_eps_is_the_smallest_of_all_combinations(seed, bound):
    layers = small_network(seed)
    for budget in (0.15, 0.3, 0.6):
        eps = smallest_eps(layers.values(), budget, bound)
        exact = allocate(layers, "alds", weights=budget, bound=bound, solver="exact")
        every_start = allocate(layers, "alds", weights=budget, bound=bound, restarts=100, iterations=1)
        default = allocate(layers, "alds", weights=budget, bound=bound)
        for plan in (exact, every_start, default):
            assert 0.99 * budget <= plan.remaining("macs") <= budget
        assert largest_error(layers, exact, bound) == pytest.approx(eps, rel=1e-12)
        assert largest_error(layers, every_start, bound) == pytest.approx(eps, rel=1e-12)
        assert (1 - 1e-12) * eps <= largest_error(layers, default, bound) <= 1.05 * eps


def test_the_order_of_layers_and_of_decompositions_does_not_matter():
    layers = small_network(1)
    plan = allocate(layers, "alds", macs=0.5, restarts=6)
    backwards = {name: layers[name] for name in reversed(layers)}
    assert allocate(backwards, "alds", macs=0.5, restarts=6).ranks == plan.ranks
    for name, layer in layers.items():
        backwards[name] = of_all(*reversed(layer.alternatives))
    assert chosen(allocate(backwards, "alds", macs=0.5, restarts=6)) == chosen(plan)


def test_the_same_seed_gives_the_same_plan_and_nothing_else_is_drawn():
    layers = small_network(2)
    np.random.seed(0)
    before = np.random.get_state()[1].tolist()
    plans = [allocate(layers, "alds", macs=0.3, seed=seed) for seed in (3, 3)]
    assert plans[0] == plans[1]
    assert np.random.get_state()[1].tolist() == before


@pytest.mark.parametrize("multiple", [2, 3])
def test_ranks_that_are_multiples(multiple):
    layers = small_network(3)
    for budget in (0.3, 0.6):
        plan = allocate(layers, "alds", weights=budget, multiple=multiple, solver="exact")
        assert all(j % multiple == 0 for _, j in chosen(plan).values())
        eps = smallest_eps(layers.values(), budget, "paper", multiple)
        assert largest_error(layers, plan, "paper") == pytest.approx(eps, rel=1e-12)


# Real layers


def matrices(weight, groups):
    """The weight of every group of a layer as out channels x everything else, `(G, O, I K)`."""
    return weight.detach().double().numpy().reshape(groups, weight.shape[0] // groups, -1)


def approximated(chain, layer, k):
    """The same of the factors: each input group's j maps go into all out channels of the layer's group."""
    first, second = (part.weight.detach().double().numpy() for part in chain)
    G, O = layer.groups, layer.out_channels // layer.groups
    first = first.reshape(G, k, -1, layer.in_channels // G // k * 9)
    second = second.reshape(G, O, k, -1)
    return np.einsum("gokr,gkri->goki", second, first).reshape(G, O, -1)


def operator_norm(matrices_GMN):
    return max(np.linalg.norm(one, 2) for one in matrices_GMN)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_the_error_of_factors_keeps_within_the_bound(groups, k):
    torch.manual_seed(k)
    layer = nn.Conv2d(6 * groups, 10 * groups, 3, groups=groups)
    model = nn.Sequential(layer)
    kinds = {"conv": [GroupedChannelSVD(one) for one in sorted({1, k})]}
    layers = profile(model, torch.zeros(1, 6 * groups, 5, 5), kinds)
    of_k = {one.options["groups"]: one.singular_values for one in layers["0"].alternatives}
    W = matrices(layer.weight, groups)
    assert of_k[1].max() == pytest.approx(operator_norm(W), rel=1e-5)
    for j in range(1, of_k[k].shape[1]):
        What = approximated(GroupedChannelSVD(k).factorize(layer, j), layer, k)
        error, code = operator_norm(W - What) / operator_norm(W), of_k[k][:, j].max() / of_k[1].max()
        assert code * (1 - 1e-5) <= error <= math.sqrt(k) * code * (1 + 1e-5)
        if k == 1:
            assert error == pytest.approx(code, rel=1e-4)


def network():
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 48, 3, stride=2), nn.Conv2d(48, 40, 3, groups=2)]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(40 * 25, 30))


IMAGE = torch.zeros(1, 3, 16, 16)
SPLITS = {"conv": [GroupedChannelSVD(k) for k in (1, 2, 3, 4, 8)]}


@pytest.mark.parametrize("bound", ["paper", "code"])
def test_a_network_costs_what_its_plan_says(bound):
    """CR-P and CR-F: j (k f + c kappa^2) weights, at every place of the output one MAC each."""
    model = network()
    dense = measure(model, IMAGE, seconds=0)
    layers = profile(model, IMAGE, SPLITS)
    plan = allocate(layers, "alds", weights=0.4, bound=bound, over="conv")
    factorize_(model, plan)
    after = measure(model, IMAGE, seconds=0)
    weights = macs = 0
    shapes = {"0": (3, 24, 1, 256), "1": (24, 48, 1, 49), "2": (24, 20, 2, 25)}
    for name, (c, f, groups, places) in shapes.items():
        k, j = chosen(plan).get(name, (None, None))
        cost = groups * (c * f * 9 if j is None else j * (k * f + c * 9))
        weights, macs = weights + cost, macs + cost * places
    assert (after.weights, after.macs) == (weights + 30_000, macs + 30_000)
    assert weights / (dense.weights - 30_000) == pytest.approx(0.4, rel=0.01)
    assert {k for k, _ in chosen(plan).values()} <= {1, 2, 3, 4, 8}
    if bound == "code":
        assert max(k for k, _ in chosen(plan).values()) == 8


@pytest.mark.parametrize("budget", [0.25, 0.4])
def test_the_smallest_eps_holds_in_all_layers_of_a_network(budget):
    model, dense = network(), network()
    layers = profile(model, IMAGE, SPLITS)
    plan = allocate(layers, "alds", weights=budget, over="conv")
    factorize_(model, plan)
    allowed, made = [], []
    for name, (k, j) in chosen(plan).items():
        layer = dense[int(name)]
        W = matrices(layer.weight, layer.groups)
        parts = W.reshape(layer.groups, W.shape[1], k, -1).swapaxes(1, 2).reshape(-1, W.shape[1], W.shape[2] // k)
        values = np.append(np.linalg.svd(parts, compute_uv=False).max(axis=0), 0)
        allowed.append(math.sqrt(k) * values[j] / operator_norm(W))
        made.append(operator_norm(W - approximated(model[int(name)], layer, k)) / operator_norm(W))
    assert all(0 < error <= most * (1 + 1e-5) for error, most in zip(made, allowed, strict=True))
    convolutions = [layer for layer in layers.values() if layer.kind == "conv"]
    assert max(allowed) == pytest.approx(smallest_eps(convolutions, budget, "paper"), rel=1e-5)


def test_with_one_group_it_is_the_operator_norm_policy():
    layers = profile(network(), IMAGE, {"conv": ChannelSVD()})
    for budget in (0.3, 0.6):
        ranks = allocate(layers, "alds", macs=budget).ranks
        assert ranks == allocate(layers, "operator_norm", macs=budget).ranks
        same = profile(network(), IMAGE, {"conv": GroupedChannelSVD(1)})
        assert allocate(same, "alds", macs=budget, solver="exact").ranks == ranks


def test_without_numbers_budgets_are_met_too():
    with torch.device("meta"):
        model = network()
    plan = allocate(profile(model, IMAGE.to("meta"), SPLITS), "alds", macs=0.37)
    assert 0.3663 <= plan.remaining("macs") <= 0.3737


def test_a_layer_of_zeros_loses_nothing():
    """Rank 1 of it is enough at any eps: all of the budget goes to the others."""
    model = network()
    nn.init.zeros_(model[1].weight)
    plan = allocate(profile(model, IMAGE, SPLITS), "alds", weights=0.4, over="conv")
    assert plan["1"] == 1
    assert 0.396 <= sum(plan.layers[name].weights_after for name in "012") / (648 + 10_368 + 8_640) <= 0.404


@pytest.mark.parametrize("solver", ["alternating", "exact"])
def test_nothing_to_choose(solver):
    alone = {"re:.*": None}
    assert set(allocate(two_layers(), "alds", macs=1.0, rules=alone, solver=solver).ranks.values()) == {None}
    with pytest.raises(BudgetError, match=r"macs=0.5 cannot be reached: .* \(no layer may be decomposed"):
        allocate(two_layers(), "alds", macs=0.5, rules=alone, solver=solver)


def test_two_budgets_both_hold():
    layers = profile(network(), IMAGE, SPLITS)
    for solver in ("alternating", "exact"):
        plan = allocate(layers, "alds", macs=0.5, weights=0.3, solver=solver)
        loads = plan.remaining("macs") / 0.5, plan.remaining("weights") / 0.3
        assert 0.99 <= max(loads) <= 1.01


def test_a_rule_that_some_k_cannot_keep_leaves_the_others():
    """Rank 30 of 48 out channels and 24 x 9 inputs: k = 8 has at most 27."""
    plan = allocate(profile(network(), IMAGE, SPLITS), "alds", weights=0.7, rules={"1": {"min": 30}}, bound="code")
    assert plan["1"] is None or (plan["1"] >= 30 and plan.layers["1"].options["groups"] < 8)
    with pytest.raises(ValueError, match="the rule for 1 asks for at least 60, above its full rank 48"):
        allocate(profile(network(), IMAGE, SPLITS), "alds", weights=0.7, rules={"1": {"min": 60}})


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ([GroupedChannelSVD(2)], r"1: alds divides by .* there is no k = 1, only \[2\]: list grouped_channel_svd with"),
        ([SpatialSVD()], "0: alds compares channel SVDs of k input groups, got spatial_svd : list grouped_channel_svd"),
        ([GroupedChannelSVD(1), SpatialSVD()], "alds compares channel SVDs of k input groups, got spatial_svd"),
        ([ChannelSVD("pointwise_first")], "got channel_svd {'order': 'pointwise_first'}: list grouped"),
    ],
)
def test_other_decompositions_are_refused(kinds, message):
    with pytest.raises(ValueError, match=message):
        allocate(profile(network(), IMAGE, {"conv": kinds, "linear": LinearSVD()}), "alds", macs=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"macs": None}, "the alds policy needs a budget: set macs or weights to a fraction"),
        ({"bound": "root"}, "bound='root' is not known: paper or code"),
        ({"solver": "greedy"}, "solver='greedy' is not known: alternating or exact"),
        ({"restarts": 0}, "restarts=0 is not an integer of at least 1"),
        ({"iterations": True}, "iterations=True is not an integer of at least 1"),
        ({"seed": -1}, "seed=-1 is not an integer of at least 0"),
        ({"macs": 0.01}, r"the budget macs=0.01 cannot be reached: the smallest possible is macs=0.1\d* \(every layer"),
        ({"steps": 4}, r"the alds policy has no option \['steps'\]; it takes \['bound', 'restarts', "),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        allocate(two_layers(), "alds", **({"macs": 0.5} | options))
