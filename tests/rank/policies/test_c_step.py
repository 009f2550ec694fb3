"""The C step against brute force over all ranks, and under a budget over all combinations."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp.rank import allocate, profile
from lowrank_exp.rank.policies.c_step import c_step, squared_error
from support.cells import cells
from support.profiles import layer, network

SPECTRA = {"a": [5.0, 3.0, 1.0, 0.5], "b": [2.0, 1.9, 1.8], "c": [9.0, 0.1, 0.0]}
COSTS = {"a": (700, 200), "b": (500, 150), "c": (300, 110)}  # dense, per rank


def by_hand():
    return network(*(layer(n, d, d, r, r, SPECTRA[n]) for n, (d, r) in COSTS.items()))


def options(name):
    """Rank, cost and squared error of every option of a layer that is cheaper than dense, and dense."""
    dense, per_rank = COSTS[name]
    ranks = [r for r in range(1, len(SPECTRA[name]) + 1) if r * per_rank < dense]
    return [(r, r * per_rank, sum(s**2 for s in SPECTRA[name][r:])) for r in ranks] + [(None, dense, 0.0)]


@cells("mu", [0.01, 0.5, 2.0, 40.0])
@cells("price", [1e-4, 1e-3, 0.01, 0.1, 3.0])
def test_every_layer_has_the_least_of_cost_and_error(price, mu):
    expected = {name: min(options(name), key=lambda one: price * one[1] + mu / 2 * one[2])[0] for name in SPECTRA}
    assert allocate(by_hand(), "c_step", price=price, mu=mu).ranks == expected


def test_brute_force_on_matrices():
    """Ranks by the definition: every truncation is made, its error measured, its entries counted."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 9, bias=False), nn.Linear(9, 20, bias=False), nn.Linear(20, 6, bias=False))
    layers = profile(net, torch.zeros(1, 12))
    for price, mu in itertools.product((1e-4, 1e-3, 3e-3, 0.01), (0.3, 2.0, 9.0)):
        expected = {}
        for name, one in net.named_children():
            W = one.weight.detach().double().numpy()
            U, s, V = np.linalg.svd(W, full_matrices=False)
            totals = {None: price * W.size}
            for r in range(1, len(s) + 1):
                if r * sum(W.shape) < W.size:
                    low = U[:, :r] * s[:r] @ V[:r]
                    totals[r] = price * r * sum(W.shape) + mu / 2 * np.sum((W - low) ** 2)
            expected[name] = min(totals, key=totals.get)
        assert allocate(layers, "c_step", price=price, mu=mu, cost="weights").ranks == expected


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("macs", [0.44, 0.58, 1120 / 1500])
def test_under_a_budget_the_total_error_is_the_least(macs, normalised):
    whole = sum(dense for dense, _ in COSTS.values())
    size = {name: sum(s**2 for s in values) if normalised else 1.0 for name, values in SPECTRA.items()}
    plan = allocate(by_hand(), "c_step", macs=macs, normalised=normalised)
    error = {name: {one[0]: one[2] / size[name] for one in options(name)} for name in SPECTRA}
    cost = {name: {one[0]: one[1] for one in options(name)} for name in SPECTRA}
    found = sum(error[name][rank] for name, rank in plan.ranks.items())
    spent = sum(cost[name][rank] for name, rank in plan.ranks.items())
    assert 0.99 <= spent / (macs * whole) <= 1.01
    ranks = itertools.product(*(error[name] for name in SPECTRA))
    all_sets = [dict(zip(SPECTRA, one, strict=True)) for one in ranks]
    costs = [sum(cost[n][r] for n, r in one.items()) for one in all_sets]
    within = [one for one, c in zip(all_sets, costs, strict=True) if 0.99 <= c / (macs * whole) <= 1.01]
    assert found == pytest.approx(min(sum(error[n][r] for n, r in one.items()) for one in within), abs=1e-12)


def test_mu_changes_nothing_under_a_budget():
    plans = [allocate(by_hand(), "c_step", macs=0.58, mu=mu).ranks for mu in (1e-3, 2.0, 1e3)]
    assert plans[0] == plans[1] == plans[2]


def test_squared_error_is_what_truncation_loses():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2))
    one = profile(net, torch.zeros(1, 4, 5, 5), "channel_svd")["0"]
    W = net[0].weight.detach().numpy().reshape(2, 4, -1)
    tails = sum(np.cumsum(np.linalg.svd(group, compute_uv=False)[::-1] ** 2)[::-1] for group in W)
    np.testing.assert_allclose(squared_error(one), [*tails[1:], 0.0], rtol=1e-5)
    np.testing.assert_allclose(squared_error(one, normalised=True), [*tails[1:] / np.sum(W**2), 0.0], rtol=1e-5)


def test_rules_and_multiples_hold():
    assert allocate(by_hand(), "c_step", price=1e-6, rules={"a": {"max": 2}}).ranks == {"a": 2, "b": 3, "c": 2}
    assert allocate(by_hand(), "c_step", price=3.0, rules={"a": {"min": 3}}).ranks == {"a": 3, "b": 1, "c": 1}
    assert allocate(by_hand(), "c_step", price=0.01, multiple=2).ranks["a"] in (2, None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "the c_step policy takes price or a budget .*, got neither: set the other to null"),
        ({"price": 1.0, "macs": 0.5}, r"got price=1.0 and a budget \(\{'macs': 0.5\}\)"),
        ({"price": 0.0}, "price=0.0 is not a positive number"),
        ({"price": 1.0, "mu": -1}, "mu=-1 is not a positive number"),
        ({"price": 1.0, "cost": "bytes"}, "cost='bytes' is not known: macs or weights"),
    ],
)
def test_refusals(given, message):
    with pytest.raises(ValueError, match=message):
        allocate(by_hand(), c_step, **given)


def test_a_decomposition_without_singular_values_is_refused():
    layers = profile(nn.Sequential(nn.Conv2d(8, 8, 3)), torch.zeros(1, 8, 5, 5), "tucker2")
    with pytest.raises(ValueError, match="0: the c_step policy needs singular values, and tucker2 has none"):
        allocate(layers, "c_step", price=1e-3)
