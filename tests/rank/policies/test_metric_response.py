"""Policies by errors of responses: brute force on small networks, and by energies that say the same."""

import itertools

import numpy as np
import pytest

from lowrank_exp.rank import allocate, needs
from lowrank_exp.rank.losses import kept, losses
from support.profiles import by_hand, changed, layer, network

POLICIES = ("energy", "enc_map", "greedy", "knapsack", "uniform")


def random_network(seed, rungs=6, layers=3, even=False):
    """Layers with falling response errors, which have nothing to do with their singular values.

    The last has cheap ranks that lose next to nothing: it takes what is left of a budget, so that it is met.
    """
    rng = np.random.default_rng(seed)
    made = []
    for name in "abcdef"[:layers]:
        cost = 11 if even else int(rng.integers(8, 15))
        drops = rng.gamma(1.0, size=rungs)
        drops = np.sort(drops)[::-1] if even else drops
        errors = np.append(drops[::-1].cumsum()[::-1][1:] / drops.sum() * rng.uniform(0.3, 1), 0.0)
        one = layer(name, cost * rungs + 1, 100, cost, 10, np.sort(rng.gamma(1.0, size=rungs))[::-1])
        made.append(changed(one, responses=errors, errors=rng.permutation(errors)))
    rest = layer("rest", 81, 100, 1, 10, np.ones(80))
    return network(*made, changed(rest, responses=np.linspace(1e-9, 0, 80), errors=np.linspace(1e-9, 0, 80)))


def every_choice(layers):
    """Costs, and the error of every layer, of all combinations of ranks and dense."""
    options = [
        [(int(c), e) for c, e in zip(one.rank_macs, one.response, strict=True) if c < one.macs] + [(one.macs, 0.0)]
        for one in layers.values()
    ]
    for chosen in itertools.product(*options):
        yield sum(cost for cost, _ in chosen), [error for _, error in chosen]


def errors_at(layers, plan):
    return [0.0 if plan[n] is None else one.response[one.ranks.index(plan[n])] for n, one in layers.items()]


def spent(layers, plan):
    return sum(one.cost(plan[n]).macs for n, one in layers.items())


def test_one_error_for_all_layers_is_the_smallest_that_the_budget_allows():
    for seed, budget in itertools.product(range(4), (0.3, 0.5, 0.8)):
        layers = random_network(seed)
        limit = budget * sum(one.macs for one in layers.values())
        plan = allocate(layers, "uniform", macs=budget, metric="response")
        assert 0.99 * limit <= spent(layers, plan) <= limit
        least = min(max(errors) for cost, errors in every_choice(layers) if cost <= limit)
        assert max(errors_at(layers, plan)) == pytest.approx(least, abs=1e-8)
        assert plan.ranks == allocate(layers, "energy", macs=budget, metric="response").ranks


def test_the_greedy_sum_is_the_least_where_drops_cost_the_same_and_near_it_elsewhere():
    for seed in range(4):
        layers = random_network(seed, even=True)
        limit = 0.5 * sum(one.macs for one in layers.values())
        plan = allocate(layers, "greedy", macs=0.5, metric="response")
        wanted = min(sum(errors) for cost, errors in every_choice(layers) if cost <= limit)
        assert spent(layers, plan) <= limit
        assert sum(errors_at(layers, plan)) == pytest.approx(wanted, abs=1e-12)
    gaps = []
    for seed in range(10, 16):
        layers = random_network(seed, rungs=8)
        plan = allocate(layers, "greedy", macs=0.5, metric="response")
        best = allocate(layers, "knapsack", macs=0.5, metric="response")
        wanted = min(sum(e) for cost, e in every_choice(layers) if cost <= spent(layers, plan))
        gaps.append(sum(errors_at(layers, plan)) - wanted)
        largest = max(-np.diff(one.response, prepend=1.0).min() for one in layers.values())
        assert -1e-12 <= gaps[-1] <= largest
        assert sum(errors_at(layers, best)) <= sum(errors_at(layers, plan)) + largest
    assert max(gaps) > 0  # it is not the knapsack


def test_they_choose_as_by_energies_that_are_one_minus_the_error():
    layers = random_network(3, rungs=30, layers=6)
    said = {
        name: by_hand(name, "conv", one.macs, one.weights, "cp", one.rank_macs, one.rank_weights, kept=1 - one.response)
        for name, one in layers.items()
    }
    different = 0
    for policy, options in (
        ("energy", {"rule": "share"}),
        ("energy", {"rule": "product"}),
        ("enc_map", {}),
        ("enc_map", {"first": "max"}),
    ):
        for budget in (0.3, 0.5, 0.7):
            by_response = allocate(layers, policy, macs=budget, metric="response", **options)
            assert by_response.ranks == allocate(said, policy, macs=budget, **options).ranks
            different += by_response.ranks != allocate(layers, policy, macs=budget, **options).ranks
    assert different >= 8
    greedy = {by: allocate(layers, "greedy", macs=0.5, metric=by).ranks for by in ("error", "response")}
    assert greedy["response"] == allocate(said, "greedy", macs=0.5, metric="error").ranks
    assert greedy["response"] != greedy["error"]
    assert allocate(layers, "uniform", macs=0.5, metric="error").ranks not in greedy.values()


def test_a_higher_rank_keeps_at_least_as_much_though_its_fit_ended_worse():
    one = changed(layer("a", 100, 100, 10, 10, np.ones(4)), responses=np.array([0.5, 0.2, 0.3, -0.0]))
    assert kept(one, "response").tolist() == [0.5, 0.8, 0.8, 1.0]
    assert losses(one, "response").tolist() == [0.5, 0.2, 0.3, 0.0]
    assert kept(one, "error") == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert allocate({"a": one}, "energy", share=0.75, metric="response").ranks == {"a": 2}


def test_what_they_need_and_what_they_refuse():
    for policy in POLICIES:
        assert needs(policy, {"metric": "response"}) == {"responses"}
        bare = {"a": layer("a", 100, 100, 10, 10, np.ones(4))}
        with pytest.raises(ValueError, match="a: its profile has no response errors; take another metric"):
            allocate(bare, policy, macs=0.5, metric="response")
    for policy in ("greedy", "knapsack", "uniform"):
        assert needs(policy, {"metric": "error"}) == {"errors"}
    assert needs("uniform", {}) == needs("energy", {}) == frozenset()
    layers = random_network(0)
    for policy, options, message in (
        ("uniform", {"metric": "loss"}, r"metric='loss' is not known: null \(one ratio\), error or response"),
        ("energy", {"metric": "error"}, r"metric='error' is not known: null \(singular values\) or response"),
        ("energy", {"metric": "response", "power": 1}, "power=1 adds up singular values, and metric='response' has"),
        ("alds", {"metric": "response"}, "policies with a choice are enc_inf, enc_map, enc_model, energy, greedy, kn"),
        ("greedy", {"metric": "energy"}, "error.*response"),
    ):
        with pytest.raises(ValueError, match=message):
            allocate(layers, policy, macs=0.5, **options)
    with pytest.raises(ValueError, match="the greedy policy needs a budget"):
        allocate(layers, "greedy")
