"""Layers that move channels say so themselves: ours, and a user's own that has the same three members."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import pad

from lowrank_exp import factorize_, load, save
from lowrank_exp.decomposition import Biclustering, Monochromatic
from lowrank_exp.edits import KeepChannels
from lowrank_exp.layers.moves_channels import NOTHING, MovesChannels, moves_channels
from lowrank_exp.layers.pad_shortcut import PadShortcut
from lowrank_exp.layers.reorder import Reorder
from lowrank_exp.pruning import channel_groups, couple, keepable, mask_, remove_
from support.small_networks import conv


class Flip(nn.Module):
    """A user's own layer of several operations: half as high, channels from the last to the first, a 0 behind."""

    def __init__(self, channels):
        super().__init__()
        self.in_channels, self.zeros = channels, 1

    def forward(self, x):
        return pad((x[:, :, ::2] * 2).flip(1), (0, 0, 0, 0, 0, self.zeros))

    def sources(self):
        return [*reversed(range(self.in_channels)), *[NOTHING] * self.zeros]

    def keep_channels_(self, out, inputs):
        self.in_channels, self.zeros = len(inputs), len(out) - len(inputs)


class Silent(Flip):
    """Does the same, and says nothing of it."""

    sources = keep_channels_ = None


def flipped(kind=Flip):
    torch.manual_seed(0)
    return nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), kind(6), conv(7, 8), nn.ReLU(), conv(8, 2)).eval()


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_ours_say_where_each_channel_comes_from():
    for layer, channels in ((PadShortcut(2, 5, 1), 2), (Reorder([2, 0, 1]), 3), (Flip(3), 3)):
        assert isinstance(layer, MovesChannels)
        assert moves_channels(type(layer))
        assert layer.in_channels == channels
        x = torch.randn(1, channels, 4, 4)
        zero = torch.zeros(1, 1, 4, 4)
        moved = torch.cat([zero if source == NOTHING else x[:, [source]] for source in layer.sources()], 1)
        assert torch.equal(layer(x), moved if not isinstance(layer, Flip) else 2 * moved[:, :, ::2])
    assert PadShortcut(2, 5, 1).sources() == [NOTHING, 0, 1, NOTHING, NOTHING]
    assert Reorder([2, 0, 1]).sources() == [2, 0, 1]
    assert not moves_channels(nn.Conv2d)


def test_ours_are_cut_to_some_channels():
    shortcut = PadShortcut(2, 6, 1)
    shortcut.keep_channels_((1, 3, 4, 5), (1,))
    assert shortcut.sources() == [NOTHING, 0, NOTHING, NOTHING]
    order = Reorder([2, 0, 3, 1])
    order.keep_channels_((0, 1, 3), (0, 1, 2))
    assert order.sources() == [2, 0, 1]


def test_an_order_that_is_not_loaded_yet_is_cut_in_size():
    order = Reorder([0, 1, 2, 3])
    order.keep_channels_((0, 3), (1, 2))
    assert order.sources() == [0, 1]


def test_a_users_own_layer_is_pruned_through(tmp_path):
    network = flipped()
    groups = {group.name: group for group in channel_groups(network, IMAGES)}
    assert list(groups) == ["0", "4"]
    assert groups["0"].norms["3"] == tuple((5 - c,) for c in range(6))
    assert groups["0"].consumers == {"3": tuple((c,) for c in range(6)), "4": tuple((5 - c,) for c in range(6))}
    masked = copy.deepcopy(network)
    mask_(masked, groups.values(), {"0": [1, 2]})
    removal = remove_(network, {"0": [0, 3, 4, 5]}, groups=groups.values())
    assert KeepChannels("3", out=(0, 1, 2, 5, 6), inputs=(0, 3, 4, 5)) in removal.edits
    assert (network[3].in_channels, network[3].zeros, network[4].in_channels) == (4, 1, 5)
    torch.testing.assert_close(network(IMAGES), masked(IMAGES), rtol=1e-5, atol=1e-6)
    save(network, tmp_path / "small.pt")
    assert torch.equal(load(tmp_path / "small.pt", model=flipped())(IMAGES), network(IMAGES))


def test_a_graph_through_a_users_layer_that_lost_channels_is_refused(tmp_path):
    network = flipped()
    remove_(network, {"0": [0, 3, 4, 5]}, IMAGES)
    with pytest.raises(ValueError, match=r"torch\.fx went through a Flip after channels had been removed"):
        save(torch.fx.symbolic_trace(network), tmp_path / "small.pt")


def test_a_layer_that_says_nothing_keeps_its_channels():
    coupling = couple(flipped(Silent), IMAGES)
    assert [group.name for group in coupling.groups] == ["4"]
    assert "that may mix or move channels" in coupling.reasons["0"]


def test_a_layer_that_says_what_is_not_so_keeps_its_channels():
    class Shifted(Flip):
        def sources(self):
            return [NOTHING, *range(self.in_channels)]

    coupling = couple(flipped(Shifted), IMAGES)
    assert [group.name for group in coupling.groups] == ["4"]
    assert "differs from the masked one" in coupling.reasons["0"]


@pytest.mark.parametrize(
    ("kind", "ranks", "orders"),
    [(Biclustering(2, 2), {"2": 2}, ("2.0", "2.3", "2.5")), (Monochromatic(), {"0": 2}, ("0.2",))],
    ids=["biclustering", "monochromatic"],
)
def test_clustered_layers_lose_channels_and_come_back_from_a_file(kind, ranks, orders, tmp_path):
    def dense():
        torch.manual_seed(0)
        return nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 8), nn.ReLU(), conv(8, 5)).eval()

    network = factorize_(dense(), ranks, kind)
    groups = channel_groups(network, IMAGES)
    keep = {group: keepable(group, range(0, group.channels, 3)) for group in groups}
    masked = copy.deepcopy(network)
    mask_(masked, groups, {group: set(range(group.channels)).difference(kept) for group, kept in keep.items()})
    edits = remove_(network, keep).edits
    assert set(orders) & {edit.layer for edit in edits}
    torch.testing.assert_close(network(IMAGES), masked(IMAGES), rtol=1e-5, atol=1e-6)
    save(network, tmp_path / "small.pt")
    assert torch.equal(load(tmp_path / "small.pt", model=dense())(IMAGES), network(IMAGES))
