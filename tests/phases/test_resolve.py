"""Ranks chosen again while layers are fitted in sequence."""

from functools import partial

import pytest
import torch
from torch import nn

from lowrank_exp.phases import Factorize
from lowrank_exp.phases.resolve import resolve, stages_of
from lowrank_exp.rank import Choice, allocate, profile, with_errors
from lowrank_exp.surgery import factorize_
from support.layer_cases import filled, images
from support.small_networks import conv


def network():
    layers = [conv(3, 12, 3), nn.ReLU(), conv(12, 12, 3), nn.ReLU(), nn.Conv2d(12, 16, 3, 2), nn.ReLU()]
    layers += [conv(16, 16, 3), nn.Flatten(), nn.Linear(144, 10)]
    return nn.Sequential(*(filled(one, seed=at) if hasattr(one, "weight") else one for at, one in enumerate(layers)))


def test_stages():
    layers = profile(network(), images((1, 3, 8, 8)), {"conv": "spatial_svd", "linear": None})
    assert stages_of(layers, True) == [["0", "2"], ["4", "6"], ["8"]]
    assert stages_of(layers, 1) == [["0"], ["2"], ["4"], ["6"], ["8"]]
    assert stages_of(layers, 3) == [["0", "2", "4"], ["6", "8"]]  # nothing is offered for the last one


def test_later_stages_are_chosen_behind_the_factors_of_earlier_ones():
    net, x = network().eval(), images((40, 3, 8, 8)).relu()
    how = {"fit": "whitened"}
    fitted = {"reconstruct": "whitened", "batches": [x], "asymmetric": True}
    measured = with_errors(profile(net, x[:1], {"conv": ["spatial_svd", "tucker2"], "linear": None}), net, [x], **how)
    first = allocate(measured, "knapsack", metric="response", macs=0.4)
    seen = []

    def compress(plan):
        small = factorize_(network().eval(), plan, **fitted)
        seen.append(dict(plan.ranks))
        return small

    plan = resolve(
        first,
        measured,
        stages_of(measured, True),
        compress,
        lambda rest, small: with_errors(rest, small, [x], **how),
        lambda layers, taken: allocate(layers, "knapsack", metric="response", macs=0.4, fixed=taken),
    )
    assert seen == [{name: first[name] for name in "02"}]  # behind the second stage there is nothing left to choose
    assert 0.39 <= plan.remaining("macs") <= 0.404
    assert list(plan) == list(first)
    assert [plan.layers[name] for name in "02"] == [first.layers[name] for name in "02"]
    # By hand: the errors in the network whose first stage has its factors, and the rest of the budget.
    small = compress(type(first)({name: first.layers[name] for name in "02"}, tried=True))
    again = with_errors({name: measured[name] for name in "46"}, small, [x], **how)
    assert any(
        not torch.equal(*(torch.from_numpy(some[name].offers[0].responses) for some in (again, measured)))
        for name in "46"
    )
    (by,) = (one for one in measured["2"].alternatives if one.decomposition == first.layers["2"].decomposition)
    kept = {"0": None, "2": Choice(by, first["2"])}
    assert first["0"] is None
    wanted = allocate(measured | again, "knapsack", metric="response", macs=0.4, fixed=kept)
    assert plan.ranks == wanted.ranks
    assert {plan.layers[name].reason for name in "246"} == {"chosen by knapsack"}


def test_what_resolve_needs():
    sequence = {"fit": "whitened", "images": 10, "batch_size": 5, "asymmetric": True}
    response = {"policy": "knapsack", "metric": "response", "macs": 0.5}

    def phase(options=response, reconstruct=sequence, **more):
        rank = partial(allocate, **options, **more)
        return Factorize(decomposition={"conv": "spatial_svd"}, rank=rank, reconstruct=reconstruct)

    assert phase(resolve=True).resolve is True
    assert phase(resolve=3).resolve == 3
    assert phase(resolve=False, reconstruct={"fit": None}).resolve is False
    assert "resolve" not in phase(resolve=True).rank.keywords
    for wrong in (
        {"reconstruct": sequence | {"asymmetric": False}},
        {"options": response | {"metric": "error"}},
    ):
        with pytest.raises(ValueError, match=r"rank\.resolve=true chooses .* set rank\.metric=response"):
            phase(resolve=True, **wrong)
    with pytest.raises(ValueError, match=r"rank\.resolve takes no budget of time"):
        phase(resolve=True, latency=0.5)
    with pytest.raises(ValueError, match=r"rank\.resolve=0 is not true, false"):
        phase(resolve=0)


def test_ranks_alone_cannot_be_chosen_again():
    layers = profile(network(), images((1, 3, 8, 8)), "spatial_svd")
    assert allocate(layers, "knapsack", macs=0.5, resolve=False).ranks == allocate(layers, "knapsack", macs=0.5).ranks
    with pytest.raises(ValueError, match=r"rank\.resolve=True chooses ranks again .* set rank\.resolve=false"):
        allocate(layers, "knapsack", macs=0.5, resolve=True)
