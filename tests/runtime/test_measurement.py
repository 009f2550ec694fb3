"""Networks measured as they are, and at their best in a runtime."""

import time

import pytest
import torch
from torch import nn

from lowrank_exp import measure
from lowrank_exp.runtime.measurement import AsItIs


class Sleeping(nn.Module):
    """Takes 20 ms, and notes what it was called on, and how."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.images, self.modes, self.threads = [], [], []

    def forward(self, x):
        self.images.append(len(x))
        self.modes.append((self.training, self.norm.training, torch.is_grad_enabled()))
        self.threads.append(torch.get_num_threads())
        time.sleep(0.02)
        return self.norm(x)


def test_a_network_is_timed_as_it_is_over_the_whole_batch_in_evaluation_mode():
    model = Sleeping()
    found = measure(model, torch.zeros(5, 2), seconds=0.1)
    timing = found.timing
    assert 20 <= timing.minimum_ms <= found.latency_ms == timing.median_ms <= 40
    assert timing.passes >= 5
    assert set(model.images[1:]) == {5}  # the first one counts MACs, of one image
    assert set(model.modes) == {(False, False, False)}
    assert model.training
    assert isinstance(model.norm, nn.BatchNorm1d)
    assert {name: found.conditions[name] for name in ("name", "version", "batch_size", "precision")} == {
        "name": "torch",
        "version": torch.__version__,
        "batch_size": 5,
        "precision": "float32",
    }


def test_threads_are_those_asked_for_while_it_is_timed():
    model, before = Sleeping(), torch.get_num_threads()
    assert measure(model, torch.zeros(1, 2), seconds=0.001, threads=before + 1).conditions["threads"] == before + 1
    assert set(model.threads[1:]) == {before + 1}  # the first one counts MACs
    assert measure(model, torch.zeros(1, 2), seconds=0.001).conditions["threads"] == before
    assert torch.get_num_threads() == before == model.threads[-1]


def test_a_runtime_times_a_copy_and_says_who_it_is():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    for name in ("eager", "onnxruntime"):
        found = measure(model, torch.randn(2, 3, 8, 8), seconds=0.01, runtime=name, threads=1)
        assert found.latency_ms == found.timing.median_ms > 0
        assert [found.conditions[key] for key in ("name", "threads", "batch_size")] == [name, 1, 2]
        assert (found.macs, found.parameters) == (4 * 3 * 9 * 36, 4 * 27 + 4 + 8)
    assert [type(layer) for layer in model] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert model.training


def test_outputs_as_it_is_are_those_of_the_network():
    model, x = nn.Sequential(nn.Linear(3, 2), nn.Dropout()), torch.randn(4, 3)
    torch.testing.assert_close(AsItIs(model, x)(x), model[0](x), rtol=0, atol=0)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_a_measurement_takes_a_finite_time(seconds):
    with pytest.raises(ValueError, match="is not a positive number"):
        measure(nn.Linear(2, 2), torch.zeros(1, 2), seconds=seconds)


def test_what_cannot_be_timed_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        measure(nn.Linear(2, 2), torch.zeros(0, 2), seconds=0.001)
    with pytest.raises(ValueError, match=r"meta device takes no time: .* measure\(..., seconds=0\)"):
        measure(nn.Sequential(nn.Linear(2, 2)).to("meta"), torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"unknown runtime 'onnx'; known: .*eager, onnxruntime"):
        measure(nn.Linear(2, 2), torch.zeros(1, 2), runtime="onnx", seconds=0)
