"""Ranks shuffled between layers: the same ranks within a shape, the budget met, another plan."""

from collections import Counter, defaultdict

import pytest
import torch

from lowrank_exp import allocate, profile
from lowrank_exp.checks import WithoutEffectError
from lowrank_exp.models import cifar_resnet, lenet5


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return profile(cifar_resnet(depth=14), torch.zeros(1, 3, 32, 32), decomposition="spatial_svd")


@pytest.fixture(scope="module")
def lenet():
    torch.manual_seed(0)
    return profile(lenet5(), torch.zeros(1, 1, 32, 32), decomposition="spatial_svd")


def by_shape(layers, plan):
    """The ranks of a plan by what layers cost dense."""
    ranks = defaultdict(Counter)
    for name, rank in plan.ranks.items():
        ranks[layers[name].macs, layers[name].weights][rank] += 1
    return ranks


def test_layers_of_one_shape_exchange_their_ranks(resnet):
    plan = allocate(resnet, "energy", share=0.8)
    assert any(len(ranks) > 1 for ranks in by_shape(resnet, plan).values())
    others = [allocate(resnet, "energy", share=0.8, shuffle={"seed": seed}) for seed in range(6)]
    for other in others:
        assert by_shape(resnet, other) == by_shape(resnet, plan)
        assert other.ranks != plan.ranks
        assert other.remaining("macs") == plan.remaining("macs")
        assert all(layer.reason.endswith(", then shuffled") for layer in other.layers.values() if layer.rank)
    assert others[0] == allocate(resnet, "energy", share=0.8, shuffle={"seed": 0})


def test_without_such_layers_the_shares_of_a_kind_are_exchanged_under_the_budget(lenet):
    best = allocate(lenet, "knapsack", macs=0.5)
    other = allocate(lenet, "knapsack", macs=0.5, shuffle={"seed": 0})
    assert 0.495 <= other.remaining("macs") <= 0.505
    assert (other.ranks["conv1"], other.ranks["conv2"]) != (best.ranks["conv1"], best.ranks["conv2"])
    assert allocate(lenet, "knapsack", macs=0.5, shuffle=None) == best
    without = allocate(lenet, "energy", share=0.6)
    assert allocate(lenet, "energy", share=0.6, shuffle={"seed": 1}).remaining("macs") == pytest.approx(
        without.remaining("macs"), rel=0.011
    )


def test_the_decomposition_goes_with_the_rank():
    torch.manual_seed(1)
    layers = profile(
        cifar_resnet(depth=14), torch.zeros(1, 3, 32, 32), decomposition={"conv": ["spatial_svd", "channel_svd"]}
    )
    kinds = {}
    for shuffle in (None, {"seed": 0}):
        plan = allocate(layers, "knapsack", macs=0.4, shuffle=shuffle)
        kinds[bool(shuffle)] = Counter((layers[n].macs, one.decomposition, one.rank) for n, one in plan.layers.items())
    assert kinds[True] == kinds[False]


def test_nothing_to_shuffle_is_said(lenet):
    with pytest.raises(WithoutEffectError, match="shuffling changes none of the ranks of conv1, conv2, fc1, fc2, fc3"):
        allocate({name: lenet[name] for name in lenet}, "uniform", macs=1.0, shuffle={"seed": 0})
    with pytest.raises(ValueError, match=r"shuffle\.seed"):
        allocate(lenet, "uniform", macs=0.5, shuffle={"seed": -1})
