"""Iterative pruning until a measured time: by a made-up runtime whose times are known."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lowrank_exp import models
from lowrank_exp.pruning import remove_
from lowrank_exp.pruning.criteria import L2
from lowrank_exp.pruning.renumber import renumber
from lowrank_exp.pruning.schedules import Iterative, Moment, View
from lowrank_exp.pruning.schedules.goal import Goal, find_block, least
from lowrank_exp.pruning.times import PrunedTimes
from lowrank_exp.rank import TimeStore
from lowrank_exp.rank.times.clock import Clock
from support.counting import Counted, Counting, interleaved

SHAPE = (3, 8, 8)
STEPS, EPOCHS = 8, 2


@pytest.fixture(autouse=True)
def measured(monkeypatch):
    """The names of networks that were timed together, for every time."""
    asked = []

    def time(prepared, *, seconds):
        asked.append(list(prepared))
        return interleaved(prepared, seconds=seconds)

    monkeypatch.setattr("lowrank_exp.pruning.times.time_interleaved", time)
    return asked


def network(*widths):
    torch.manual_seed(0)
    layers, before = [], 3
    for width in widths:
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 4))


def timed(net, times=None):
    view = View.of(net, SHAPE)
    return replace(view, times=PrunedTimes(Clock.of(Counting(), times=times), net, view.example))


def prune(schedule, view):
    """What a schedule asks for is done at every moment, without any training; the fraction of the time after each."""
    left = []
    for epoch in range(EPOCHS):
        moments = [Moment(epoch * STEPS, STEPS, EPOCHS, begins=True)]
        moments += [Moment(epoch * STEPS + step, STEPS, EPOCHS) for step in range(1, STEPS + 1)]
        for moment in moments:
            if (action := schedule.due(moment, view)) is not None:
                view.groups = renumber(view.groups, remove_(view.network, action.keep, groups=view.groups).edits)
                left.append(exact(view))
    return left


def exact(view):
    """The fraction of the dense network's time, as the runtime defines it."""
    return Counted(view.network, view.example).ms / Counted(view.times.dense, view.example.to("meta")).ms


def widths(net):
    return [layer.out_channels for layer in net.modules() if isinstance(layer, nn.Conv2d)]


def test_the_target_is_met_in_measured_time_with_channels_that_fill_blocks():
    for target in (0.35, 0.7):
        view = timed(network(64, 96, 64))
        schedule = Iterative(criterion=L2(), macs=None, latency=target, filters=None, updates=2)
        schedule.check(view, STEPS, EPOCHS)
        left = prune(schedule, view)
        assert view.times.block == 16
        assert all(width % 16 == 0 for width in widths(view.network))
        assert target - 0.12 < left[-1] <= target
        assert left == sorted(left, reverse=True)
        assert len(left) > 2
        assert schedule.missed(view) == ""
        assert view.time_left() == pytest.approx(left[-1])


def test_both_targets_hold():
    for macs, latency, remarks in ((0.3, 0.6, 1), (0.7, 0.4, 0)):
        view = timed(network(64, 64, 64))
        schedule = Iterative(criterion=L2(), macs=macs, latency=latency, filters=None, updates=2)
        prune(schedule, view)
        told = [
            f"{exact(view):.4f} of the time remain, and {latency} may: macs={macs} asked for more to go. Where time "
        ]
        assert schedule.remarks(view) == [f"{one}alone is to hold, set pruning.macs=null" for one in told[:remarks]]
        assert view.macs_left() <= macs
        assert exact(view) <= latency
        assert (view.macs_left() > 0.7 * macs) or (exact(view) > 0.7 * latency)


def test_a_number_of_filters_goes_as_it_is_given_until_the_time_is_met():
    view = timed(network(64, 64))
    schedule = Iterative(criterion=L2(), macs=None, latency=0.7, filters=7, updates=1)
    left = prune(schedule, view)
    gone = 128 - sum(widths(view.network))
    assert len(left) == -(-gone // 7)
    assert left[-1] <= 0.7 < left[-2]
    late = Iterative(criterion=L2(), macs=None, latency=0.2, filters=1, updates=8)
    view = timed(network(64, 64))
    prune(late, view)
    assert late.missed(view).startswith(
        f"{exact(view):.4f} of the time remain, the target is 0.2; 126 channels are left"
    )


def test_a_target_that_one_channel_of_every_group_does_not_meet_is_refused_where_it_can_be_measured(measured):
    net = network(16, 16)
    schedule = Iterative(criterion=L2(), macs=None, latency=0.5, filters=None, updates=2)
    schedule.check(View.of(net, SHAPE), STEPS, EPOCHS)
    assert not measured
    with pytest.raises(ValueError, match=r"latency=0.5 cannot be reached: with one channel left .* 1.000 of the time"):
        schedule.check(timed(net), STEPS, EPOCHS)  # blocks of 16, as they are
    with pytest.raises(ValueError, match="a target of time needs a runtime that measures it: give the"):
        schedule.due(Moment(0, STEPS, EPOCHS, begins=True), View.of(net, SHAPE))


def test_blocks_are_halved_until_there_is_a_choice(monkeypatch):
    """Of a runtime without blocks: all are as fast as their MACs say."""
    assert find_block(timed(network(64, 96)), Goal(None, 0.8)) == 16
    narrow = timed(network(32, 32))
    assert narrow.time_left(least(narrow, 16)) == pytest.approx(exact_of(16, 16) / exact_of(32, 32))
    assert find_block(narrow, Goal(0.2)) == 8  # of which 16 would leave more
    monkeypatch.setattr("support.counting.BLOCK", 1)
    assert find_block(timed(network(64, 96)), Goal(None, 0.8)) == 1


def exact_of(*channels):
    return Counted(network(*channels), torch.zeros(1, *SHAPE)).ms


def test_times_between_measured_networks_are_predicted_from_their_macs():
    times = timed(network(16)).times
    assert [times.predict(macs) for macs in (1, 0.5)] == [1, 0.5]
    times.measured |= {0.5: 0.8, 0.25: 0.4}
    assert times.predict(0.75) == pytest.approx(0.9)
    assert times.predict(0.125) == pytest.approx(0.2)
    times.measured |= {0.4: 0.9}  # slower than one with more: the larger one is not trusted to be faster
    assert times.predict(0.5) == pytest.approx(0.9)


def test_few_networks_are_measured_and_none_of_them_twice(measured, tmp_path):
    schedule = Iterative(criterion=L2(), macs=None, latency=0.4, filters=None, updates=1)
    first = timed(network(64, 96, 64), TimeStore(tmp_path))
    prune(schedule, first)
    asked = list(measured)
    assert ["dense", "1", "8", "16"] in asked
    assert 4 < len(asked) < 10
    again = timed(network(64, 96, 64), TimeStore(tmp_path))
    prune(schedule, again)
    assert measured == asked
    assert widths(again.network) == widths(first.network)
    assert again.times.state() == first.times.state()
    other = timed(network(64, 96, 64))
    other.times.take_up(first.times.state())
    assert other.times.state() == first.times.state()


def test_residual_networks_are_timed_with_the_channels_that_go_together():
    net = models.cifar_resnet(depth=8, width=2, num_classes=4)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    view, state = timed(net), torch.get_rng_state()
    schedule = Iterative(criterion=L2(), macs=None, latency=0.5, filters=None, updates=2)
    assert find_block(view, schedule.goal) in (8, 16)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    prune(schedule, view)
    assert 0.35 < exact(view) <= 0.5


def test_without_times_as_many_channels_stand_in_as_if_time_fell_with_the_macs():
    view = View.of(network(64, 64), SHAPE)
    schedule = Iterative(macs=None, latency=0.5)
    assert schedule.stand_in(view) == Iterative(macs=0.5).stand_in(view)
    assert replace(schedule, macs=0.3).stand_in(view) == Iterative(macs=0.3).stand_in(view)
