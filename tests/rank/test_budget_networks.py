"""Budgets on the networks people have, from their shapes alone (the meta device)."""

import functools

import pytest
import torch
import torchvision

from lowrank_exp.rank import allocate, profile

BUDGETS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


@functools.cache
def layers(name):
    with torch.device("meta"):
        network = getattr(torchvision.models, name)()
    return profile(network, torch.zeros(1, 3, 224, 224), "spatial_svd")


@pytest.mark.parametrize("policy", ["uniform", "energy"])
@pytest.mark.parametrize("name", ["resnet18", "vgg16", "alexnet"])
def test_every_budget_is_met_within_one_percent(name, policy):
    left = []
    for budget in BUDGETS:
        plan = allocate(layers(name), policy, macs=budget)
        left.append(plan.remaining("macs"))
        assert 0.99 * budget <= plan.remaining("macs") <= 1.01 * budget
    assert left == sorted(left)


@pytest.mark.parametrize("policy", ["uniform", "energy"])
@pytest.mark.parametrize("name", ["resnet18", "vgg16", "alexnet"])
def test_budgets_of_weights_and_of_both(name, policy):
    plan = allocate(layers(name), policy, weights=0.3)
    assert 0.297 <= plan.remaining("weights") <= 0.303
    for macs, weights in ((0.5, 0.2), (0.2, 0.5)):
        plan = allocate(layers(name), policy, macs=macs, weights=weights)
        tightest = max(plan.remaining("macs") / macs, plan.remaining("weights") / weights)
        assert 0.99 <= tightest <= 1.01


@pytest.mark.parametrize("name", ["resnet18", "vgg16", "alexnet"])
def test_over_the_convolutions(name):
    found = layers(name)
    plan = allocate(found, "uniform", macs=0.4, over="conv")
    convolutions = [n for n in found if found[n].kind == "conv"]
    after = sum(plan.layers[n].macs_after for n in convolutions)
    assert after / sum(found[n].macs for n in convolutions) == pytest.approx(0.4, rel=0.01)
    assert {plan[n] for n in found if found[n].kind == "linear"} == {None}
    assert plan.over == "conv"


def test_costs_of_vgg16_are_the_published_ones():
    """15.35 G MACs and 14.71 M weights in the convolutions, 123.6 M in the linear layers."""
    found = layers("vgg16").values()
    assert sum(p.macs for p in found if p.kind == "conv") == 15_346_630_656
    assert sum(p.weights for p in found if p.kind == "conv") == 14_710_464
    assert sum(p.macs for p in found if p.kind == "linear") == 25088 * 4096 + 4096 * 4096 + 4096 * 1000
