"""Times of fits and forward passes: the arithmetic by a clock of our own, and real ones by the processor's."""

import functools
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lowrank_exp.training import Recipe, evaluate, module
from lowrank_exp.training.probes import pace
from lowrank_exp.training.probes.pace import fit_seconds, forward_seconds
from support.fits import fit_by_options_

SGD = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)


class Clock:
    """Stands still but for what a network adds to it."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Slow(nn.Module):
    """A linear layer that takes 0.25 seconds per image in training mode, 0.125 in evaluation, by the clock."""

    def __init__(self, clock):
        super().__init__()
        self.linear, self.clock, self.seen = nn.Linear(4, 10), clock, []

    def __deepcopy__(self, memo):
        return self

    def forward(self, images):
        self.clock.now += len(images) * (0.25 if self.training else 0.125)
        self.seen.append(len(images))
        return self.linear(images)


def batches(count, size=2):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count * size, 4, generator=generator)
    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images, torch.arange(count * size) % 10), batch_size=size
    )


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(pace, "clock", clock)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=clock))
    return clock


def seconds_of(network, train, val, limit=2.0, **options):
    recipe = Recipe(optimizer=SGD, **options)
    return fit_seconds(network, train, val, recipe, seed=0, device="cpu", limit=limit)


# A step takes 0.5 s, a validation batch 0.25 s. Half of the limit goes to each of the two miniature epochs.
STEP, VAL = 0.5, 0.25


def test_an_epoch_that_can_be_measured_whole_is_counted_as_often_as_there_are_epochs(clock):
    network = Slow(clock)
    assert seconds_of(network, batches(4), batches(2), epochs=7, limit=5.0) == 7 * (4 * STEP + 2 * VAL)
    assert network.seen == [2] + 2 * (4 * [2] + 2 * [2])


def test_a_miniature_epoch_is_scaled_to_all_steps(clock):
    network = Slow(clock)
    assert seconds_of(network, batches(40), batches(20), epochs=3, limit=4.0) == 3 * (40 * STEP + 20 * VAL)
    assert network.seen == [2] + 2 * (4 * [2] + 2 * [2])
    assert seconds_of(Slow(clock), batches(40), None, epochs=3, limit=4.0) == 3 * 40 * STEP


def test_of_a_slow_network_a_single_step_is_measured(clock):
    network = Slow(clock)
    forward = STEP / 3
    assert seconds_of(network, batches(6), batches(3), epochs=2, limit=0.5) == pytest.approx(
        2 * (6 * STEP + 3 * forward), rel=1e-12
    )
    assert network.seen == [2]


def test_no_epochs_take_no_time(clock):
    assert seconds_of(Slow(clock), batches(2), None, epochs=0) == 0.0


@pytest.mark.parametrize(("limit", "passes"), [(0.2, [2]), (1.0, [2] + 4 * [2]), (100.0, [2] + 5 * [2])])
def test_a_forward_pass_is_measured_over_as_many_batches_as_the_limit_allows(clock, limit, passes):
    network = Slow(clock)
    assert forward_seconds(network, batches(5), "cpu", limit=limit) == 0.125
    assert network.seen == passes


def test_the_network_is_left_as_it_is():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    generator = torch.get_rng_state()
    assert 0 < seconds_of(network, batches(3, 4), batches(2), epochs=2) < 60
    assert 0 < forward_seconds(network, batches(3, 4), "cpu") < 60
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert network.training


def test_estimates_come_near_what_the_processor_spends(monkeypatch):
    """Processor time instead of the wall clock: other programs on the machine do not count."""
    monkeypatch.setattr(pace, "clock", time.process_time)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 10))
    train, val = batches(40, 32), batches(12, 32)
    estimate = seconds_of(network, train, val, epochs=5, limit=0.3)
    forward = forward_seconds(network, val, "cpu", limit=0.1) * 12 * 32
    began = time.process_time()
    fit_by_options_(
        network,
        train,
        val,
        epochs=5,
        optimizer=SGD,
        schedule=None,
        seed=0,
        checkpoint=None,
        device="cpu",
        progress=False,
    )
    fitted = time.process_time()
    evaluate(network, val, "cpu")
    assert 1 / 3 <= estimate / (fitted - began) <= 3
    assert 1 / 5 <= forward / (time.process_time() - fitted) <= 5
