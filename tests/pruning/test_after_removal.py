"""Groups numbered anew, channels found silent, and the entries of a weight that read given inputs."""

import pytest
import torch
from torch import nn

from lowrank_exp import models
from lowrank_exp.pruning import channel_groups, keepable, mask_, remove_
from lowrank_exp.pruning.renumber import renumber
from lowrank_exp.pruning.silent import silent_channels
from lowrank_exp.pruning.where_read import where_read

NETWORKS = {
    "resnet20": (lambda: models.cifar_resnet(depth=20), (3, 16, 16)),
    "densenet": (lambda: models.densenet(depth=10, growth=4), (3, 16, 16)),
    "lenet5": (lambda: models.lenet5(), (1, 32, 32)),
}


def third(group, turn=0):
    """A third of its channels, others at every turn."""
    return keepable(group, range(turn, group.channels, 3))


@pytest.mark.parametrize("name", NETWORKS)
def test_groups_after_two_removals_are_those_that_would_be_found(name):
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    net = build()
    groups = channel_groups(net, torch.zeros(1, *shape))
    first = remove_(net, {group: third(group) for group in groups}).edits
    second = remove_(net, {group: third(group, 1) for group in renumber(groups, first)}).edits
    found = {group.name: group for group in channel_groups(net, torch.zeros(1, *shape))}
    once = renumber(groups, [*first, *second])
    assert once == renumber(renumber(groups, first), second)
    assert {group.name for group in once} == set(found)
    for group in once:
        other = found[group.name]
        assert group.channels == other.channels
        # Channels behind a concatenation may be found in another order: what belongs together must be the same.
        for side in ("producers", "norms", "consumers"):
            ours, theirs = getattr(group, side), getattr(other, side)
            assert ours.keys() == theirs.keys()
            assert all(sorted(ours[layer]) == sorted(theirs[layer]) for layer in ours)
        assert group.own_norms == other.own_norms


def test_silent_channels_are_those_that_a_mask_has_silenced():
    torch.manual_seed(0)
    net = models.cifar_resnet(depth=20)
    groups = channel_groups(net, torch.zeros(1, 3, 16, 16))
    off = {groups[0].name: (1, 5), groups[1].name: (0,), groups[-1].name: (2, 3, 9)}
    assert silent_channels(net, groups) == {}
    masks = mask_(net, groups, off)
    assert silent_channels(net, groups) == off
    # The shift of a batch norm would still come out.
    norm = next(name for name in masks.entries if name.endswith(".bias"))
    net.get_parameter(norm).data.fill_(0.1)
    assert silent_channels(net, groups) != off


def test_a_bias_alone_is_heard():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    net[0].weight.data[:2] = 0
    net[0].bias.data[0] = 0
    net[0].bias.data[1] = 0.5
    assert silent_channels(net, channel_groups(net, torch.zeros(1, 3, 8, 8))) == {"0": (0,)}


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 4, 3),
        nn.Conv2d(6, 4, 3, groups=2),
        nn.Conv2d(6, 12, 3, groups=6),
        nn.ConvTranspose2d(6, 4, 3, groups=2),
        nn.Conv1d(6, 4, 1),
        nn.Linear(6, 4),
    ],
    ids=str,
)
def test_weights_that_read_an_input_are_those_that_its_image_moves(layer):
    x = torch.zeros(1, 6, *[5] * (layer.weight.dim() - 2))
    x[:, [1, 4]] = 1 + torch.rand(x[:, [1, 4]].shape)
    layer(x).square().sum().backward()
    assert torch.equal(layer.weight.grad != 0, where_read(layer, [4, 1]))
