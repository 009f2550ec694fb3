"""What a result says of every layer of the dense network."""

import copy

import torch
from torch import nn

from lowrank_exp import factorize_
from lowrank_exp.decomposition import named
from lowrank_exp.job.layer_results import layer_results
from lowrank_exp.network.cost import OUTSIDE
from lowrank_exp.pruning import channel_groups, remove_
from support.cells import cells

X = torch.zeros(1, 8, 6, 6)
# A decomposition, a rank, how many channels of a group go from each factor that may lose some, and the rank left.
PRUNED = [
    ("channel_svd", 4, {"0.0": 1}, 3),
    ("spatial_svd", 5, {"0.0": 2}, 3),
    ("grouped_channel_svd", 4, {"0.0": 1}, 3),
    ("tucker1", 4, {"0.0": 2}, 2),
    ("tucker2", (3, 5), {"0.0": 1, "0.1": 3}, [2, 2]),
    ("cp", 6, {"0.0": 2}, 4),
    ("tensor_train", (3, 6, 5), {"0.0": 1, "0.1": 2, "0.2": 1}, [2, 4, 4]),
    ("monochromatic", 4, {"0.0": 1}, 3),
    ("biclustering", 4, {}, 4),
    ("jaderberg_scheme1", 3, {}, 3),
    ("slice_wise_svd", 2, {}, 2),
    ("product_quantization", 16, {}, 16),
]


def network(groups=1):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 16, 3, groups=groups), nn.ReLU(), nn.Conv2d(16, 12, 1), nn.Conv2d(12, 4, 1))


def rank_of(dense, net):
    return layer_results(dense, net, X)[0].rank


@cells("groups", [1, 2])
@cells(("name", "rank", "gone", "left"), PRUNED, ids=[name for name, *_ in PRUNED])
def test_rank_is_what_pruning_has_left_between_the_factors(name, rank, gone, left, groups):
    dense = network(groups)
    net = factorize_(copy.deepcopy(dense), {"0": rank}, name)
    assert rank_of(dense, net) == (list(rank) if isinstance(rank, tuple) else rank)
    found = {group.name: group for group in channel_groups(net, X)}
    keep = {found["2"]: range(11)}
    for factor, count in gone.items():
        group = found[factor]
        of_groups = group.channels // groups * torch.arange(groups)
        keep[group] = [c for c in range(group.channels) if not any(0 <= c - first < count for first in of_groups)]
        if name == "grouped_channel_svd":  # two more groups of in channels within each
            keep[group] = [c for c in range(group.channels) if c % rank]
    remove_(net, keep, X)
    rows = layer_results(dense, net, X)
    assert rows[0].rank == left
    assert rows[1].rank is None
    assert rows[1].reason.startswith("pruning left 11 of 12 filters")


def test_rank_left_of_a_factor_that_was_decomposed_too_and_of_a_linear_layer():
    dense = network()
    net = factorize_(copy.deepcopy(dense), {"0": 4}, "channel_svd")
    factorize_(net, {"0.0": 3}, "spatial_svd")
    remove_(net, {"0.0.0": (0, 2)}, X)
    assert rank_of(dense, net) == [4, 2]
    net = factorize_(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)), {"0": 4})
    assert named("linear_svd").rank_left(net[0], 4) == 4
    remove_(net, {"0.0": (0, 1, 3)}, torch.zeros(1, 8))
    assert named("linear_svd").rank_left(net[0], 4) == 3


def test_rows_add_up_to_the_network_with_what_lies_outside_layers():
    class Free(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.kernel = nn.Conv2d(8, 8, 3), nn.Parameter(torch.randn(4, 8, 3, 3))

        def forward(self, x):
            return nn.functional.conv2d(self.first(x), self.kernel)

    dense = Free()
    rows = layer_results(dense, factorize_(copy.deepcopy(dense), {"first": 2}, "channel_svd"), X)
    assert [row.name for row in rows] == ["first", OUTSIDE["conv"]]
    assert [row.macs_before for row in rows] == [64 * 9 * 16, 32 * 9 * 4]
    assert [row.macs_after for row in rows] == [16 * 2 * (72 + 8), 32 * 9 * 4]
    assert (rows[1].weights_before, rows[1].weights_after, rows[1].rank) == (288, 288, None)


def test_layers_that_pruning_goes_around_say_why():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.head, self.last = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 4, 1)

        def forward(self, x):
            with torch.no_grad():
                x = self.trunk(x)
            return self.last(self.head(x))

    dense = Frozen()
    assert [row.reason for row in layer_results(dense, dense, X)] == ["no phase decomposes it"] * 3
    net = copy.deepcopy(dense)
    remove_(net, {"head": (0, 1, 2)}, X)
    trunk, head, last = layer_results(dense, net, X)
    assert trunk.reason.startswith("pruning goes around it: no gradient of the output reaches it (torch.no_grad, ")
    assert (head.reason, last.reason) == ("pruning left 3 of 6 filters", "pruning left 3 inputs")
