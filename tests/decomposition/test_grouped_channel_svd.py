import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lowrank_exp.decomposition import ChannelSVD, recompose
from lowrank_exp.decomposition.grouped_channel_svd import GroupedChannelSVD
from support.cells import cells
from support.layer_cases import LAYERS, filled, images, kernels, relative

CASES = {
    f"{groups} groups, {name}": (GroupedChannelSVD(groups), layer, shape)
    for name, (layer, shape) in LAYERS.items()
    for groups in (1, 2, 4)
    if GroupedChannelSVD(groups).refusal(layer) is None
}
every_case = cells(("kind", "layer", "shape"), CASES.values(), ids=CASES.keys())


def parts_of(kernel, k):
    """NumPy's matrix of every input group of one group of the layer, `(k, O, I / k K)`."""
    return [part.reshape(len(kernel), -1) for part in np.split(kernel, k, axis=1)]


@every_case
def test_full_rank_gives_the_output_of_the_layer(kind, layer, shape):
    layer, x = filled(layer), images(shape)
    with torch.no_grad():
        assert relative(kind.factorize(layer, kind.full_rank(layer))(x), layer(x)) <= 1e-10


@every_case
def test_every_input_group_is_cut_on_its_own(kind, layer, shape):
    layer, x = filled(layer), images(shape)
    dense = kernels(layer.weight, layer)
    matrices = np.stack([part for kernel in dense for part in parts_of(kernel, kind.groups)])
    U, S, V = np.linalg.svd(matrices, full_matrices=False)
    full = kind.full_rank(layer)
    assert full == S.shape[1]
    np.testing.assert_allclose(kind.singular_values(layer).numpy(), S, rtol=1e-9, atol=1e-12)
    for rank in sorted({1, (full + 1) // 2, full}):
        cut = U[:, :, :rank] * S[:, None, :rank] @ V[:, :rank]
        cut = cut.reshape(layer.groups, kind.groups, dense.shape[1], dense.shape[2] // kind.groups, *dense.shape[3:])
        cut = np.moveaxis(cut, 1, 2).reshape(dense.shape)
        chain = kind.factorize(layer, rank)
        again = recompose(chain)
        np.testing.assert_allclose(kernels(again.weight, again), cut, atol=1e-10)
        energy = 1 - (S[:, rank:] ** 2).sum() / (dense**2).sum()
        np.testing.assert_allclose(kind.energies(layer, [rank]), [energy], rtol=1e-10)
        with torch.no_grad():
            assert relative(chain(x), again(x)) <= 1e-10


@every_case
def test_costs_are_those_of_the_real_layers(kind, layer, shape):
    for rank in {1, kind.full_rank(layer)}:
        chain = kind.skeleton(layer, rank)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            chain(torch.zeros(shape))
        assert kind.rank_macs(layer, (shape,), [rank]).tolist() == [counter.get_total_flops() // 2]
        assert kind.rank_weights(layer, [rank]).tolist() == [sum(part.weight.numel() for part in chain)]


def test_weights_are_those_of_the_paper():
    # j (k f + c kappa^2) for a layer of f filters and c channels; full rank min(c / k kappa^2, f).
    layer = nn.Conv2d(64, 128, 3)
    for k in (1, 2, 4, 64):
        kind = GroupedChannelSVD(k)
        assert kind.rank_weights(layer, [5]).tolist() == [5 * (k * 128 + 64 * 9)]
        assert kind.full_rank(layer) == {1: 128, 2: 128, 4: 128, 64: 9}[k]


def test_one_group_is_the_channel_svd():
    layer = filled(nn.Conv2d(4, 6, 3, groups=2))
    for ours, other in zip(GroupedChannelSVD(1).factorize(layer, 2), ChannelSVD().factorize(layer, 2), strict=True):
        assert str(ours) == str(other)
        assert torch.equal(ours.weight, other.weight)


def test_channels_that_only_meet_within_their_group_are_recovered():
    # Two halves of the in channels, each of rank 2: two groups need rank 2, one group needs rank 4.
    layer = filled(nn.Conv2d(6, 8, 3))
    halves = [np.random.default_rng(n).standard_normal((8, 2)) for n in (0, 1)]
    codes = [np.random.default_rng(n).standard_normal((2, 3 * 9)) for n in (2, 3)]
    kernel = np.concatenate([(u @ v).reshape(8, 3, 3, 3) for u, v in zip(halves, codes, strict=True)], axis=1)
    layer.weight.data = torch.from_numpy(kernel)

    def error(kind, rank):
        return relative(recompose(kind.factorize(layer, rank)).weight.detach(), kernel)

    assert 0 <= error(GroupedChannelSVD(2), 2) < 1e-12
    assert 0.1 < error(GroupedChannelSVD(2), 1) < 0.9
    assert 0.1 < error(ChannelSVD(), 2) < 0.9
    assert 0 <= error(ChannelSVD(), 4) < 1e-12


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(3, 6, 3), "grouped_channel_svd splits the in channels into 2, which does not divide 3"),
        (nn.Conv2d(6, 6, 3, groups=2), "splits the in channels into 2, which does not divide 3 per group of 2"),
        (nn.Linear(4, 4), "grouped_channel_svd takes Conv1d, .*, not Linear"),
    ],
)
def test_layers_that_cannot_be_split_are_refused(layer, reason):
    assert re.fullmatch(f".*{reason}", GroupedChannelSVD(2).refusal(layer))


@pytest.mark.parametrize("groups", [0, -2, 2.0, True, "2", None])
def test_groups_must_be_a_count(groups):
    with pytest.raises(ValueError, match=f"groups must be an integer, 1 or more, got {groups!r}"):
        GroupedChannelSVD(groups)


def test_options():
    assert GroupedChannelSVD().options() == {"groups": 2}
    assert GroupedChannelSVD(**GroupedChannelSVD(4).options()).groups == 4
