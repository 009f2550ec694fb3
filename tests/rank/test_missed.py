"""What is said of a plan that misses its budget, or changes nothing."""

import functools

from torch import nn

from lowrank_exp.phases.factorize import report_plan
from lowrank_exp.rank import Plan, PlannedLayer, allocate
from support.cells import cells

NETWORK = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Linear(8, 8))
LAYERS = {
    "0": PlannedLayer(
        2,
        "spatial_svd",
        "by hand",
        macs_before=800,
        macs_after=300,
        weights_before=100,
        weights_after=60,
        latency_before=800,
        latency_after=350,
    ),
    "1": PlannedLayer(
        None,
        None,
        "left",
        macs_before=200,
        macs_after=200,
        weights_before=100,
        weights_after=100,
        latency_before=100,
        latency_after=100,
    ),
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
        ({"latency": 0.5}, "all", ""),  # 450 / 900
        ({"latency": 0.6}, "all", ""),  # it need not be reached
        ({"latency": 0.49}, "all", "0.5000 of the latency remain, 0.49 was asked for"),
        ({"latency_ms": 0.00045}, "all", ""),
        ({"latency_ms": 0.0004}, "all", "0.5000 of the latency remain, 0.444444 was asked for"),
        ({"latency": 0.45, "macs": 0.9}, "all", "0.5000 of the macs remain, 0.9 was asked for, 0.5000 of the latency"),
        ({"latency": 0.4}, "conv", "0.4375 of the latency remain, 0.4 was asked for"),  # 350 / 800
    ],
)
def test_a_missed_budget_is_told_in_numbers(budget, over, told):
    done = report_plan(Plan(LAYERS, "mine", over), functools.partial(allocate, policy="mine", **budget), NETWORK)
    assert done.missed == bool(told)
    left = (
        "0.5000 of the latency remain, 0.6 was asked for: times fall in steps, and the policy mine has no better plan"
    )
    if budget.get("latency") == 0.6:
        (warning,) = done.warnings
        assert warning.startswith(left)
        return
    assert len(done.warnings) == bool(told)
    if told:
        assert done.warnings[0].startswith(told)
        assert "the policy mine has missed its budget; name another, or set the budget to null" in done.warnings[0]


def test_a_plan_that_leaves_every_layer_dense_is_told():
    done = report_plan(Plan({"1": LAYERS["1"]}), functools.partial(allocate, policy="evbmf"), NETWORK)
    assert done.warnings == ["no layer is decomposed, the network is what it was: see the reasons by layer"]
    assert not done.missed


def test_a_time_that_is_measured_above_its_budget_is_told_with_what_was_predicted():
    plan = Plan(LAYERS, "mine", measured_ms=0.0005, measured_dense_ms=0.0009)
    for budget, told in (
        ({"latency": 0.5}, True),  # 5 / 9 is above 0.525
        ({"latency": 0.53}, False),
        ({"latency_ms": 0.00047}, True),
        ({"latency_ms": 0.00048}, False),
        ({"macs": 0.5}, False),
    ):
        done = report_plan(plan, functools.partial(allocate, policy="mine", **budget), NETWORK)
        found = [warning for warning in done.warnings if "as measured" in warning]
        assert len(found) == told, budget
        ((name, bound),) = budget.items()
        if told:
            assert found[0].startswith(
                "the network takes 0.0005 of 0.0009 ms as measured, 0.00045 of 0.0009 as the sum over its layers, "
                f"where {name}={bound} was asked for"
            )
    assert done.values == {
        "predicted_ms": 0.00045,
        "dense_ms": 0.0009,
        "measured_ms": 0.0005,
        "measured_dense_ms": 0.0009,
    }
