"""Profiles with times: by a made-up runtime whose times are known, and by one that is there."""

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp import profile
from lowrank_exp.rank import Choice, TimeStore, predict_ms, with_times
from lowrank_exp.rank.times.whole import OUTSIDE_TIME, TimedPlan, copy_at, fit_whole
from support.counting import Counted, Counting, timing

X = torch.zeros(1, 16, 8, 8)
SLOWER, REST = 1.25, 0.5  # of layers inside networks, and milliseconds between layers


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(16, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.Flatten())


@pytest.fixture
def whole(monkeypatch):
    """Whole networks take a quarter more than their layers, and half a millisecond."""
    Counted.asked.clear()

    def time(prepared, *, seconds):
        return timing(SLOWER * prepared.ms + REST)

    monkeypatch.setattr("lowrank_exp.rank.times.clock.time_passes", time)


def test_times_are_those_of_the_runtime_scaled_to_whole_networks(whole):
    model = network()
    layers = profile(model, X, "spatial_svd", runtime=Counting(), batch_size=2)
    assert list(layers) == ["0", "2", OUTSIDE_TIME]
    dense_ms = 2 * 64 * 9 * 64 * 64 / 1e6
    assert layers["2"].latency == pytest.approx(SLOWER * dense_ms * 1e6, rel=0.02)
    assert layers[OUTSIDE_TIME].latency == pytest.approx(REST * 1e6, rel=0.2)
    total = sum(layer.latency for layer in layers.values()) / 1e6
    assert total == pytest.approx(SLOWER * (dense_ms + dense_ms / 4) + REST, rel=1e-6)
    choice = Choice(layers["2"], 32)
    assert predict_ms(layers, {"2": choice}) == pytest.approx(
        SLOWER * Counted(copy_at(model, {"2": choice}), X.expand(2, -1, -1, -1)).ms + REST, rel=0.01
    )
    assert layers["2"].timed["batch_size"] == 2
    assert layers["2"].timed["name"] == "counting"


def test_ranks_that_pad_a_block_are_left_out(whole):
    layers = profile(network(), X, "spatial_svd", runtime=Counting())
    assert layers["2"].ranks == (
        16,
        32,
        48,
        64,
        80,
        96,
        112,
        120,
    )  # the last is the highest that may be faster than dense
    assert (np.diff(layers["2"].rank_latency) > 0).all()


def test_a_network_that_was_timed_is_not_timed_again(whole, tmp_path):
    model = network()
    first = profile(model, X, "spatial_svd", runtime=Counting(), times=TimeStore(tmp_path))
    asked = len(Counted.asked)
    assert asked > 30
    again = profile(model, X, "spatial_svd", runtime=Counting(), times=TimeStore(tmp_path))
    assert len(Counted.asked) == asked
    assert [layer.latency for layer in again.values()] == [layer.latency for layer in first.values()]
    profile(model, X, "spatial_svd", runtime=Counting(threads=7), times=TimeStore(tmp_path))
    assert len(Counted.asked) == 2 * asked


def test_times_that_do_not_go_together_are_refused(whole):
    layers = profile(network(), X, "spatial_svd", runtime=Counting())
    choice = Choice(layers["2"], 16)
    dense = sum(layer.latency for layer in layers.values()) / 1e6
    with pytest.raises(ValueError, match="do not go together: dense layers take"):
        fit_whole(layers, dense, [TimedPlan({"2": choice}, dense * 30)])


def test_a_network_on_the_meta_device_has_no_times():
    model = network().to("meta")
    layers = profile(model, X.to("meta"), "spatial_svd")
    with pytest.raises(ValueError, match="on the meta device takes no time"):
        with_times(layers, model, X.to("meta"), Counting())


def test_onnx_runtime_times_all_layers_of_a_network():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    layers = profile(model, torch.zeros(1, 3, 8, 8), ["channel_svd", "cp"], runtime="onnxruntime")
    assert layers["0"].latency > 0
    assert [offer.decomposition for offer in layers["0"].offers] == ["channel_svd", "cp"]
    assert all((np.diff(offer.costs.latency) > 0).all() for offer in layers["0"].offers)
    assert (layers["4"].rank_latency > 0).all()
    assert layers["0"].timed["name"] == "onnxruntime"


def test_whole_networks_that_were_timed_wrongly_are_timed_again(whole, monkeypatch, tmp_path):
    model, times = network(), TimeStore(tmp_path)
    with monkeypatch.context() as busy:
        busy.setattr("lowrank_exp.rank.times.clock.time_passes", lambda one, seconds: timing(50 / one.ms))
        with pytest.raises(ValueError, match="do not go together"):
            profile(model, X, "spatial_svd", runtime=Counting(), times=times)
    layers = profile(model, X, "spatial_svd", runtime=Counting(), times=times)
    assert layers[OUTSIDE_TIME].latency == pytest.approx(REST * 1e6, rel=0.2)
