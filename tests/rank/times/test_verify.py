"""Plans against a clock that is told what networks take."""

from functools import partial

import pytest
import torch
from torch import nn

from lowrank_exp import allocate, profile
from lowrank_exp.rank.times import verify
from lowrank_exp.rank.times.clock import Clock
from support.counting import Counting, timing

X = torch.zeros(1, 16, 8, 8)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(16, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.Flatten())


@pytest.fixture
def slower(monkeypatch):
    """Whole networks as the sum of their layers; small ones take so many times as long. Gives the plans measured."""
    seen = []

    def set_factor(factor):
        def time(prepared, *, seconds):
            ms = {name: one.ms * (factor if name == "small" else 1.0) for name, one in prepared.items()}
            seen.append(ms)
            return {name: timing(one) for name, one in ms.items()}

        monkeypatch.setattr(verify, "time_interleaved", time)
        monkeypatch.setattr("lowrank_exp.rank.times.clock.time_passes", lambda one, seconds: timing(one.ms))
        return seen

    return set_factor


def _plan(latency):
    model, clock = network(), Clock(runtime=Counting())
    layers = profile(model, X, "spatial_svd", runtime=clock)
    return verify.plan_by_clock(layers, partial(allocate, latency=latency), model, X, clock), layers, clock


def test_a_prediction_that_holds_is_measured_once(slower):
    seen = slower(1.0)
    plan, layers, _ = _plan(0.6)
    assert len(seen) == 1
    assert plan.measured_ms / plan.measured_dense_ms == pytest.approx(0.6, abs=0.02)
    assert plan.predicted_ms == pytest.approx(plan.measured_ms, rel=0.02)
    assert plan.measured_dense_ms == pytest.approx(sum(layer.latency for layer in layers.values()) / 1e6)


def test_a_prediction_that_does_not_hold_is_corrected(slower):
    seen = slower(1.3)
    plan, *_ = _plan(0.9)
    assert 2 <= len(seen) <= 4
    share = [one["small"] / one["dense"] for one in seen]
    assert plan.measured_ms / plan.measured_dense_ms == pytest.approx(plan.remaining("latency"), rel=0.03)
    assert plan.remaining("latency") <= 0.909  # the budget, within one hundredth
    assert share[0] > 0.909  # what the first plan took: more than it may


def test_the_plan_tells_what_a_higher_rank_would_have_taken(slower):
    slower(1.0)
    plan, layers, clock = _plan(0.6)
    told = verify.explain_steps(plan, layers, X, clock)
    name, rank = next((name, rank) for name, rank in told.ranks.items() if rank is not None and rank % 16 == 0)
    assert told.layers[name].reason.startswith(f"chosen by knapsack; {rank + 1} leaves the block: it takes")
    assert told.ranks == plan.ranks
