"""What is said of a plan that misses its budget, or changes nothing."""

import functools

from torch import nn

from lowrank_exp.phases.factorize import report_plan
from lowrank_exp.rank import Plan, PlannedLayer, allocate
from support.cells import cells

NETWORK = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Linear(8, 8))
LAYERS = {
    "0": PlannedLayer(
        2, "spatial_svd", "by hand", macs_before=800, macs_after=300, weights_before=100, weights_after=60
    ),
    "1": PlannedLayer(None, None, "left", macs_before=200, macs_after=200, weights_before=100, weights_after=100),
}


@cells(
    ("budget", "over", "told"),
    [
        ({"macs": 0.5}, "all", ""),  # (300 + 200) / 1000
        ({"macs": 0.5051}, "all", "0.5000 of the macs remain, 0.5051 was asked for"),  # 1 % is the tolerance
        ({"macs": 0.4951}, "all", ""),
        ({"macs": 0.4949}, "all", "0.5000 of the macs remain, 0.4949 was asked for"),
        ({"macs": 0.375}, "conv", ""),  # 300 / 800
        ({"macs": 0.5}, "conv", "0.3750 of the macs remain, 0.5 was asked for"),
        ({"weights": 0.8}, "all", ""),  # 160 / 200
        ({"weights": 0.8, "macs": 0.9}, "all", ""),  # one of them is reached
        ({"weights": 0.9, "macs": 0.9}, "all", "0.5000 of the macs remain, 0.9 was asked for, 0.8000 of the weights"),
        ({}, "all", ""),
    ],
)
def test_a_missed_budget_is_told_in_numbers(budget, over, told):
    done = report_plan(Plan(LAYERS, "mine", over), functools.partial(allocate, policy="mine", **budget), NETWORK)
    assert done.missed == bool(told)
    assert len(done.warnings) == bool(told)
    if told:
        assert done.warnings[0].startswith(told)
        assert "the policy mine has missed its budget; name another, or set the budget to null" in done.warnings[0]


def test_a_plan_that_leaves_every_layer_dense_is_told():
    done = report_plan(Plan({"1": LAYERS["1"]}), functools.partial(allocate, policy="evbmf"), NETWORK)
    assert done.warnings == ["no layer is decomposed, the network is what it was: see the reasons by layer"]
    assert not done.missed
