"""Masks: what is zero, what stays zero, and which entries of an optimizer's state belong to it."""

import pytest
import torch
from torch import nn

from lowrank_exp import models
from lowrank_exp.pruning import ChannelGroup, Masks, channel_groups, keepable, mask_

IMAGE = torch.zeros(1, 3, 8, 8)


def chain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3))


def test_weight_bias_scale_shift_and_mean_are_zero_and_nothing_else():
    net = chain()
    net[1].running_mean.fill_(0.5)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    masks = mask_(net, channel_groups(net, IMAGE), {"0": [1, 3]})
    assert masks.filters == {"0": (1, 3)}
    for name, tensor in net.state_dict().items():
        if name in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean"):
            assert not tensor[[1, 3]].any()
            assert torch.equal(tensor[[0, 2]], before[name][[0, 2]])
            assert before[name][[1, 3]].all() or name == "1.bias"
        else:
            assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("training", [True, False])
def test_a_silent_channel_puts_out_zero_in_both_modes(training):
    net = chain().train(training)
    net[1].bias.data.fill_(0.7)
    net[1].running_mean.fill_(-2)
    mask_(net, channel_groups(net, IMAGE), {"0": [2]})
    out = net[:3](torch.randn(4, 3, 8, 8))
    assert not out[:, 2].any()
    assert out[:, [0, 1, 3]].amax((0, 2, 3)).min() > 0


def test_masks_are_applied_again_after_a_step_and_name_the_entries_of_its_state():
    net = chain()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    groups = channel_groups(net, IMAGE)
    net(torch.randn(2, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    masks = mask_(net, groups, {"0": [0]})
    net(torch.randn(2, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    assert net[0].weight[0].abs().max() > 0
    masks.apply_(net)
    assert not net[0].weight[0].any()
    for name, parameter in net.named_parameters():
        momentum = optimizer.state[parameter]["momentum_buffer"]
        if name in masks.entries:
            momentum.masked_fill_(masks.entries[name], 0)
            assert not momentum[0].any()
            assert momentum[1:].any()
    assert masks.entries.keys() == {*("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var")}


def test_without_norms_the_shift_still_comes_out():
    net = chain().eval()
    net[1].bias.data.fill_(0.7)
    masks = mask_(net, channel_groups(net, IMAGE), {"0": [2]}, norms=False)
    assert masks.entries.keys() == {"0.weight", "0.bias"}
    torch.testing.assert_close(net[:3](torch.randn(1, 3, 8, 8))[:, 2], torch.full((1, 6, 6), 0.7))


def test_one_layer_of_a_residual_stream_alone_or_all_of_them():
    net = models.cifar_resnet(8, shortcut="b", input_size=8).eval()
    groups = channel_groups(net, IMAGE)
    stream = next(group for group in groups if "layer1.0.conv2" in group.producers)
    assert set(stream.producers) == {"conv1", "layer1.0.conv2"}
    alone = Masks(net, groups, {"layer1.0.conv2": [5]})
    alone.apply_(net)
    assert alone.silent(stream) == []
    assert alone.removable()[stream] == tuple(range(16))
    assert not net.layer1[0].bn2.weight[5]
    assert net.bn1.weight[5] == 1
    both = Masks(net, groups, {"layer1.0.conv2": [5, 6], "conv1": [4, 5]})
    assert both.silent(stream) == [5]
    assert both.removable()[stream] == tuple(c for c in range(16) if c != 5)
    whole = mask_(net, groups, {stream: [1]})
    assert whole.filters == {"conv1": (1,), "layer1.0.conv2": (1,)}


def test_a_norm_behind_an_addition_is_silent_when_all_its_producers_are():
    class Added(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x):
            return self.last(self.norm(self.a(x) + self.b(x)))

    net = Added()
    groups = channel_groups(net, IMAGE)
    assert "norm.weight" not in Masks(net, groups, {"a": [0, 1]}).entries
    entries = Masks(net, groups, {"a": [0, 1], "b": [1, 2]}).entries
    assert entries["norm.weight"].tolist() == [False, True, False, False]


def test_filters_of_a_grouped_transposed_convolution():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 6, 2, groups=2), nn.Conv2d(6, 2, 1))
    net[1].bias.data.fill_(0.3)
    Masks(net, channel_groups(net, IMAGE), {"1": [1, 4]}).apply_(net)
    out = net[:2](torch.randn(2, 3, 8, 8)).abs().amax((0, 2, 3))
    assert [value > 0 for value in out.tolist()] == [True, False, True, True, False, True]


def test_what_can_be_removed_leaves_one_channel_and_equal_groups():
    one = ChannelGroup("a", 3, {"a": ((0,), (1,), (2,))})
    assert keepable(one, [0, 1, 2]) == (0,)
    assert keepable(one, []) == (0, 1, 2)
    two = ChannelGroup("a", 6, {"a": tuple((c,) for c in range(6))}, blocks=(((0, 1, 2), (3, 4, 5)),))
    assert keepable(two, [0, 1, 5]) == (0, 2, 3, 4)
    assert keepable(two, range(6)) == (0, 3)
    halves_and_thirds = ChannelGroup("a", 6, two.producers, blocks=(((0, 1, 2), (3, 4, 5)), ((0, 1), (2, 3), (4, 5))))
    assert keepable(halves_and_thirds, [0, 1, 5]) == tuple(range(6))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net, groups: mask_(net, groups, {"0": [4]}), "4 channels, numbered from 0: there is no channel 4"),
        (lambda net, groups: mask_(net, groups, {"3": [0]}), "'3', which does not exist"),
        (lambda net, groups: Masks(net, groups, {"0": [9]}), "0 has 4 filters"),
        (lambda net, groups: Masks(net, groups, {"3": [0]}), "'3', which does not exist"),
    ],
)
def test_mistakes(call, message):
    net = chain()
    with pytest.raises(ValueError, match=message):
        call(net, channel_groups(net, IMAGE))
