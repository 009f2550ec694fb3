"""The tensor train on layers of every setting, beside NumPy and TensorLy.

Legend: G groups, O out channels and I in channels of one group, K kernel axes, r rank between two modes.
"""

import numpy as np
import pytest
import tensorly
import torch
from hypothesis import given, settings
from tensorly.decomposition import tensor_train
from torch import nn

from lowrank_exp.decomposition.recompose import recompose
from lowrank_exp.decomposition.tensor_train import TensorTrain
from support.layer_cases import cases, every_convolution, filled, images, kernels, relative, with_kernels

TRAIN = TensorTrain()
many_cases = settings(max_examples=40, deadline=None, derandomize=True, database=None)


def modes(layer):
    """The kernel of every group with its modes in the train's order, `(G, I, *K, O)`."""
    return np.moveaxis(kernels(layer.weight, layer), 1, -1)


def squared_spectra(layer):
    """Of every unfolding from left to right, summed over the groups."""
    tensors = modes(layer)
    sizes = tensors.shape[1:]
    values = [
        [np.linalg.svd(one.reshape(int(np.prod(sizes[:cut])), -1), compute_uv=False) ** 2 for one in tensors]
        for cut in range(1, len(sizes))
    ]
    return [np.sum(groups, axis=0) for groups in values]


def of_chain(chain):
    """The dense kernels `(G, O, I, *K)`: matrix products of the factors' slices, one kernel entry at a time."""
    factors = [kernels(factor.weight, factor) for factor in chain]
    extent = np.max([factor.shape[3:] for factor in factors], axis=0)
    dense = np.empty((len(factors[0]), factors[-1].shape[1], factors[0].shape[2], *extent))
    for place in np.ndindex(*extent):
        slices = [factor[(..., *np.minimum(place, np.array(factor.shape[3:]) - 1))] for factor in factors]
        product = slices[0]
        for one in slices[1:]:
            product = one @ product
        dense[(..., *place)] = product
    return dense


def is_usable(rank, sizes):
    return all(a <= b * size and b <= a * size for a, b, size in zip(rank[:-1], rank[1:], sizes[1:-1], strict=True))


def some_ranks(layer):
    ladder = TRAIN.ladder(layer)
    return list(dict.fromkeys([ladder[0], ladder[len(ladder) // 3], ladder[2 * len(ladder) // 3], ladder[-1]]))


@many_cases
@given(cases())
def test_factors_do_what_their_kernel_does_and_lose_between_the_tails(case):
    _, layer, shape = case
    layer, x = filled(layer), images(shape)
    dense, spectra = kernels(layer.weight, layer), squared_spectra(layer)
    total = (dense**2).sum()
    assert TRAIN.full_rank(layer) == tuple(len(spectrum) for spectrum in spectra)
    ranks = some_ranks(layer)
    for rank, energy in zip(ranks, TRAIN.energies(layer, ranks), strict=True):
        chain = TRAIN.factorize(layer, rank)
        cut = of_chain(chain)
        with torch.no_grad():
            assert relative(chain(x), with_kernels(layer, cut)(x)) <= 1e-10
        lost = ((dense - cut) ** 2).sum() / total
        tails = [spectrum[one:].sum() / total for spectrum, one in zip(spectra, rank, strict=True)]
        assert max(tails) - 1e-10 <= lost <= sum(tails) + 1e-10
        assert max(tails) - 1e-10 <= 1 - energy <= sum(tails) + 1e-10


@every_convolution
def test_error_is_that_of_tensorly(layer, shape):
    layer = filled(layer)
    for rank in some_ranks(layer):
        ours = ((of_chain(TRAIN.factorize(layer, rank)) - kernels(layer.weight, layer)) ** 2).sum()
        with tensorly.backend_context("numpy"):
            peers = [tensorly.tt_to_tensor(tensor_train(one, rank=[1, *rank, 1])) for one in modes(layer)]
        peer = ((np.stack(peers) - modes(layer)) ** 2).sum()
        assert ours == pytest.approx(peer, rel=1e-6, abs=1e-18 * (modes(layer) ** 2).sum() + 1e-18)


@every_convolution
def test_planted_train_is_recovered_and_a_thinner_one_is_not(layer, shape):
    layer, x = filled(layer), images(shape)
    ladder = TRAIN.ladder(layer)
    rank = ladder[len(ladder) // 2]
    layer = with_kernels(layer, of_chain(TRAIN.factorize(layer, rank)))
    with torch.no_grad():
        wanted = layer(x)
        assert relative(TRAIN.factorize(layer, rank)(x), wanted) <= 1e-9
        if max(rank) > 1:
            assert 1e-3 < relative(TRAIN.factorize(layer, (1,) * len(rank))(x), wanted) < 2


@every_convolution
def test_chain_is_recomposed_to_its_kernel(layer, shape):
    layer = filled(layer)
    chain = TRAIN.factorize(layer, some_ranks(layer)[1 % len(some_ranks(layer))])
    dense = recompose(chain)
    assert relative(kernels(dense.weight, dense), of_chain(chain)) <= 1e-12


@every_convolution
def test_ladder_holds_usable_ranks_with_one_threshold_for_all(layer, shape):
    layer = filled(layer)
    sizes, spectra = modes(layer).shape[1:], squared_spectra(layer)
    for of in (layer, layer.to("meta")):
        ladder = TRAIN.ladder(of)
        assert ladder[0] == (1,) * len(spectra)
        assert ladder[-1] == TRAIN.full_rank(layer)
        assert all(is_usable(rank, sizes) for rank in ladder)
        steps = np.diff(ladder, axis=0)
        assert (steps >= 0).all()
        assert (steps.sum(axis=1) >= 1).all()


def test_rungs_are_the_smallest_usable_ranks_that_keep_what_lies_above_a_threshold():
    layer = filled(nn.Conv2d(4, 5, (2, 3)))
    spectra, sizes = squared_spectra(layer), modes(layer).shape[1:]
    every = [tuple(one + 1 for one in rank) for rank in np.ndindex(*TRAIN.full_rank(layer))]
    usable = np.array([rank for rank in every if is_usable(rank, sizes)])
    wanted = set()
    for threshold in [np.inf, *np.concatenate(spectra)]:
        counts = [max(1, int((spectrum >= threshold).sum())) for spectrum in spectra]
        enough = usable[(usable >= counts).all(axis=1)]
        smallest = enough.min(axis=0)  # of every rank by itself, and yet usable together
        assert smallest.tolist() in enough.tolist()
        wanted.add(tuple(smallest.tolist()))
    assert TRAIN.ladder(layer) == sorted(wanted)
    assert len(wanted) > 10


@every_convolution
def test_energies_are_the_mean_of_two_bounds_and_rise(layer, shape):
    layer = filled(layer)
    ladder, spectra = TRAIN.ladder(layer), squared_spectra(layer)
    energies = TRAIN.energies(layer, ladder)
    for rank, energy in zip(ladder, energies, strict=True):
        kept = [spectrum[:one].sum() / spectrum.sum() for spectrum, one in zip(spectra, rank, strict=True)]
        assert energy == pytest.approx(np.sqrt(np.prod(kept) * min(kept)), rel=1e-10)
    assert (np.diff(energies) >= 0).all()
    assert energies[-1] == 1
    assert energies[0] > 0


def test_energies_of_a_gaussian_kernel_are_near_the_truth():
    layer = filled(nn.Conv2d(24, 32, 3))
    ladder = TRAIN.ladder(layer)
    ranks = ladder[:: len(ladder) // 8]
    dense = kernels(layer.weight, layer)
    true = [1 - relative(of_chain(TRAIN.factorize(layer, rank)), dense) ** 2 for rank in ranks]
    np.testing.assert_allclose(TRAIN.energies(layer, ranks), true, atol=0.05)


def test_each_axis_has_its_settings_on_its_own_factor():
    layer = nn.Conv2d(4, 6, (3, 5), stride=(2, 3), padding=(1, 2), dilation=(1, 2))
    chain = TRAIN.factorize(layer, (2, 4, 3))
    assert [factor.kernel_size for factor in chain] == [(1, 1), (3, 1), (1, 5), (1, 1)]
    assert [factor.stride for factor in chain] == [(1, 1), (2, 1), (1, 3), (1, 1)]
    assert [factor.padding for factor in chain] == [(0, 0), (1, 0), (0, 2), (0, 0)]
    assert [factor.dilation for factor in chain] == [(1, 1), (1, 1), (1, 2), (1, 1)]
    assert [factor.groups for factor in chain] == [1] * 4
    assert TRAIN.factor_weights(layer, [(2, 4, 3)]).tolist() == [[4 * 2, 2 * 3 * 4, 4 * 5 * 3, 3 * 6]]


def test_zeros_and_repeats():
    zeros = nn.Conv2d(4, 6, 3)
    zeros.weight.data.zero_()
    chain = TRAIN.factorize(zeros, (2, 4, 3))
    assert (of_chain(chain) == 0).all()
    assert (TRAIN.energies(zeros, TRAIN.ladder(zeros)) == 1).all()
    layer = filled(nn.Conv2d(4, 6, 3), dtype=torch.float32)
    once, again = TRAIN.factorize(layer, (2, 4, 3)), TRAIN.factorize(layer, (2, 4, 3))
    for one, other in zip(once.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("rank", "message"),
    [
        (3, r"rank must be 3 integers for tensor_train, at most \[4, 12, 6\], got 3"),
        ((2, 2), r"rank must be 3 integers for tensor_train, at most \[4, 12, 6\], got \(2, 2\)"),
        ((2, 13, 6), r"rank \[2, 13, 6\] is above the full rank \[4, 12, 6\]"),
        ((2, 2, 0), r"rank \[2, 2, 0\] is below 1"),
        ((1, 4, 3), r"rank \[1, 4, 3\] cannot be used whole by tensor_train.*\[3, 5\].*above is \[2, 4, 3\]"),
        ((2, 6, 1), r"rank \[2, 6, 1\] cannot be used whole by tensor_train.*above is \[2, 6, 2\]"),
    ],
)
def test_ranks_that_cannot_be_used_are_refused(rank, message):
    layer = nn.Conv2d(4, 6, (3, 5))
    assert TRAIN.full_rank(layer) == (4, 12, 6)
    with pytest.raises(ValueError, match=message):
        TRAIN.factorize(layer, rank)


def test_every_rank_that_is_not_refused_is_used_whole():
    # Each factor of a train of Gaussian cores has full rank to its left and to its right.
    layer = filled(nn.Conv2d(2, 3, (2, 2)))
    sizes, full = (2, 2, 2, 3), TRAIN.full_rank(layer)
    for rank in np.ndindex(*full):
        rank = tuple(one + 1 for one in rank)
        if not is_usable(rank, sizes):
            with pytest.raises(ValueError, match="cannot be used whole"):
                TRAIN.check_rank(layer, rank)
            continue
        cores = [core.detach().numpy() for core in TRAIN.factorize(layer, rank).parameters()][:4]
        between = [(core.shape[0], core.shape[1], core.size // len(core)) for core in cores]
        assert [outs for outs, _, _ in between] == [*rank, 3]
        for core in cores:
            matrix = core.reshape(len(core), -1)
            assert np.linalg.matrix_rank(matrix) == min(matrix.shape)


def test_linear_layers_are_refused_by_name():
    kinds = "Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d"
    assert TRAIN.refusal(nn.Linear(4, 5)) == f"tensor_train takes {kinds}, not Linear"
    assert TRAIN.refusal(nn.Conv3d(4, 5, 2)) is None
    assert TRAIN.name == "tensor_train"
    assert TRAIN.options() == {}
