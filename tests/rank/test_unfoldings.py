"""Ranks from unfoldings, beside TensorLy's unfoldings and a textbook EVBMF, for every decomposition of a kernel."""

import itertools
import math

import numpy as np
import pytest
import tensorly as tl
import torch
from torch import nn

from lowrank_exp.decomposition import Biclustering, decomposition_named
from lowrank_exp.rank import allocate, profile
from lowrank_exp.rank.policies.stable_rank import stable_rank_of_noise
from support.textbook_evbmf import textbook_reference

I, O = 24, 32  # channels of the convolutions


def planted(seed=0, in_rank=11, out_rank=5, groups=1):
    """A 3 x 3 convolution with planted ranks of its two channel unfoldings, and noise."""
    rng = np.random.default_rng(seed)
    kernels = []
    for _ in range(groups):
        U, V = rng.normal(size=(O // groups, out_rank)), rng.normal(size=(I // groups, in_rank))
        kernel = np.einsum("oq,qrhw,ir->oihw", U, rng.normal(size=(out_rank, in_rank, 3, 3)), V)
        kernels.append(kernel / math.sqrt(in_rank * out_rank) + 0.3 * rng.normal(size=kernel.shape))
    layer = nn.Conv2d(I, O, 3, padding=1, groups=groups)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.concatenate(kernels)))
    return layer


def rank(layer, decomposition, policy="evbmf", **options):
    """The rank that a policy gives to the layer alone."""
    options = {"solver": "reference"} | options if policy == "evbmf" else options
    inputs = torch.zeros(1, layer.in_channels, *(8,) * (layer.weight.dim() - 2))
    return allocate(profile(nn.Sequential(layer), inputs, decomposition), policy, **options).ranks["0"]


def textbook(tensor, mode):
    """The EVBMF rank of an unfolding."""
    return textbook_reference(tl.unfold(tensor, mode))[0]


def test_cp_takes_the_larger_of_both_channel_unfoldings():
    for in_rank, out_rank in ((11, 5), (3, 9), (1, 1)):
        layer = planted(3, in_rank, out_rank)
        kernel = layer.weight.detach().double().numpy()
        expected = max(textbook(kernel, 0), textbook(kernel, 1))
        assert expected == max(in_rank, out_rank)
        for spatial in ("separate", "merged"):
            assert rank(layer, decomposition_named("cp", spatial=spatial)) == expected
        assert rank(layer, "tucker2") == (textbook(kernel, 1), textbook(kernel, 0)) == (in_rank, out_rank)


def test_of_groups_the_largest_decides():
    layer = planted(4, 3, 2, groups=2)
    kernels = np.split(layer.weight.detach().double().numpy(), 2)
    expected = [(textbook(kernel, 1), textbook(kernel, 0)) for kernel in kernels]
    assert rank(layer, "tucker2") == tuple(np.max(expected, axis=0)) == (3, 2)
    assert rank(layer, "cp") == 3


def test_cp_is_rounded_to_multiples():
    ranks = {}
    for planted_rank, multiple in ((11, 8), (12, 8), (13, 8), (5, 16), (3, 8)):
        layer = planted(3, planted_rank, 4)
        ranks[planted_rank, multiple] = [
            rank(layer, "cp", multiple=multiple, round=way) for way in ("up", "nearest", "down")
        ]
    assert ranks == {
        (11, 8): [16, 8, 8],
        (12, 8): [16, 16, 8],  # of equally near ones the higher
        (13, 8): [16, 16, 8],
        (5, 16): [16, 16, 16],  # none is lower
        (3, 8): [8, 8, 8],
    }
    assert [rank(planted(3, one, 4), "cp") for one in (11, 12, 13)] == [11, 12, 13]
    pairs = {way: rank(planted(3, 11, 5), "tucker2", multiple=4, round=way) for way in ("up", "nearest", "down")}
    assert pairs == {"up": (12, 8), "nearest": (12, 4), "down": (8, 4)}
    with pytest.raises(ValueError, match="round='off' is not known: up or nearest or down"):
        rank(planted(), "cp", round="off")


def usable_by_search(wished, sizes):
    """The lowest ranks above these of which neither of two neighbours exceeds the other times the mode between them."""
    return min(
        (
            ranks
            for ranks in itertools.product(*(range(low, low + 15) for low in wished))
            if all(a <= b * n and b <= a * n for (a, b), n in zip(itertools.pairwise(ranks), sizes[1:3], strict=True))
        ),
        key=sum,
    )


def test_a_tensor_train_has_its_own_unfoldings_and_ranks_that_can_be_used():
    layer = planted(5, 4, 3)
    kernel = layer.weight.detach().double().numpy().transpose(1, 2, 3, 0)
    matrices = [kernel.reshape(math.prod(kernel.shape[:cut]), -1) for cut in (1, 2, 3)]
    assert rank(layer, "tensor_train") == tuple(textbook_reference(matrix)[0] for matrix in matrices) == (4, 8, 3)
    assert rank(layer, "tensor_train", multiple=4) == (4, 8, 4)

    with torch.no_grad():  # one in channel beside noise: the ranks behind it are wished higher than it leaves use for
        layer.weight[:, 1:] = 1e-4 * layer.weight[:, 1:]
        layer.weight[:, 0] = torch.randn(O, 3, 3, generator=torch.Generator().manual_seed(0))
    kernel = layer.weight.detach().double().numpy().transpose(1, 2, 3, 0)
    matrices = [kernel.reshape(math.prod(kernel.shape[:cut]), -1) for cut in (1, 2, 3)]
    values = [np.linalg.svd(matrix, compute_uv=False) for matrix in matrices]
    raised = 0
    for times in (0.5, 1, 2):
        wished = [
            min(L, math.ceil(times * (s**2).sum() / s[0] ** 2 * L / stable_rank_of_noise(L, kernel.size // L)))
            for s, L in ((s, min(matrix.shape)) for s, matrix in zip(values, matrices, strict=True))
        ]
        usable = usable_by_search(wished, kernel.shape)
        raised += usable != tuple(wished)
        assert rank(layer, "tensor_train", "stable_rank", times=times) == usable
        multiples = rank(layer, "tensor_train", "stable_rank", times=times, multiple=4)
        assert multiples == tuple(-(-one // 4) * 4 for one in usable)
        decomposition_named("tensor_train").check_rank(layer, multiples)
    assert raised
    assert len(rank(nn.Conv1d(12, 16, 3), "tensor_train", "stable_rank", times=0.5)) == 2


def test_multiples_of_a_tensor_train_can_be_used_where_channels_are_no_multiple():
    """Of 12 in channels 8 are the highest multiple, and the rank behind them may then be 24 at most, not 32."""
    torch.manual_seed(0)
    layers = profile(nn.Sequential(nn.Conv2d(12, 48, 3)), torch.zeros(1, 12, 8, 8), "tensor_train")
    plan = allocate(layers, "stable_rank", times=0.9, multiple=8, rules={"0": {"max": 40}})
    assert decomposition_named("tensor_train").check_rank(layers["0"].shape.layer(), plan["0"]) == (8, 24, 24)


def test_clusters_have_the_ranks_of_what_they_cluster():
    layer = planted(6, 7, 4)
    kernel = layer.weight.detach().double().numpy()
    assert rank(layer, "monochromatic") == 8  # the lowest divisor of 32 from 7 on
    assert textbook(kernel, 1) == 7
    assert rank(layer, "jaderberg_scheme1") == max(
        textbook_reference(kernel[:, channel].reshape(O, 9))[0] for channel in range(I)
    )
    for inner in ("outer", "svd"):
        chosen = Biclustering(in_clusters=2, out_clusters=2, inner=inner)
        chain = chosen.factorize(layer, 1 if inner == "outer" else (1, 1))
        inputs, outputs = chain[0].order.numpy(), chain[5].order.argsort().numpy()
        blocks = [kernel[np.ix_(o, i)] for o in np.split(outputs, 2) for i in np.split(inputs, 2)]
        in_rank, out_rank = (max(textbook(block, mode) for block in blocks) for mode in (1, 0))
        assert rank(layer, chosen) == (max(in_rank, out_rank) if inner == "outer" else (in_rank, out_rank))


def test_where_no_matrix_bounds_the_rank_the_reason_is_told():
    wrong = (
        r"0: the evbmf policy needs .* product_quantization has none \(its rank counts centroids, which the rank of no "
        r"matrix bounds\)\. Set its rank by hand"
    )
    with pytest.raises(ValueError, match=wrong):
        rank(planted(), "product_quantization")


def test_stable_ranks_of_cp_are_the_larger_of_both_unfoldings():
    layer = planted(7)
    kernel, wished = layer.weight.detach().double().numpy(), []
    for mode in (0, 1):
        values = np.linalg.svd(tl.unfold(kernel, mode), compute_uv=False)
        L, M = len(values), kernel.size // len(values)
        wished.append(math.ceil((values**2).sum() / values[0] ** 2 * L / stable_rank_of_noise(L, M)))
    assert rank(layer, "cp", "stable_rank") == max(wished)
    assert rank(layer, "cp", "stable_rank", multiple=4, round="down") == max(wished) // 4 * 4
    met = profile(nn.Sequential(layer), torch.zeros(1, I, 8, 8), "cp")
    plan = allocate(met, "stable_rank", times=None, macs=0.296)
    assert plan.remaining("macs") == pytest.approx(0.296, rel=0.01)
    with pytest.raises(ValueError, match="round='down' has no effect under a budget"):
        allocate(met, "stable_rank", times=None, macs=0.3, round="down")
