"""What holds for every decomposition by truncated SVD, on layers of every setting."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lowrank_exp.decomposition import LinearSVD, SpatialSVD
from support.cells import cells
from support.layer_cases import CASES, cases, filled, images, kernels, rebuilt, relative, singular_values, with_kernels

every_case = cells(("decomposition", "layer", "shape"), CASES.values(), ids=CASES.keys())
many_cases = settings(max_examples=80, deadline=None, derandomize=True, database=None)


def assert_exact_at_full_rank(decomposition, layer, shape, dtype, tolerance):
    layer, x = filled(layer, dtype=dtype), images(shape, dtype=dtype)
    chain = decomposition.factorize(layer, decomposition.full_rank(layer))
    with torch.no_grad():
        got, wanted = chain(x), layer(x)
    assert got.shape == wanted.shape
    assert got.dtype == dtype
    assert relative(got.double(), wanted.double()) <= tolerance


@every_case
@cells(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_full_rank_gives_the_output_of_the_layer(decomposition, layer, shape, dtype, tolerance):
    assert_exact_at_full_rank(decomposition, layer, shape, dtype, tolerance)


@many_cases
@given(cases())
def test_full_rank_gives_the_output_of_any_convolution(case):
    assert_exact_at_full_rank(*case, torch.float64, 1e-10)


@many_cases
@given(cases())
def test_error_is_the_tail_of_the_singular_values(case):
    decomposition, layer, shape = case
    layer, x = filled(layer), images(shape)
    values_GR = singular_values(decomposition, layer)
    dense = kernels(layer.weight, layer)
    full = decomposition.full_rank(layer)
    assert full == values_GR.shape[1]
    np.testing.assert_allclose(decomposition.singular_values(layer).numpy(), values_GR, rtol=1e-10, atol=1e-12)

    errors = []
    for rank in range(1, full + 1):
        chain = decomposition.factorize(layer, rank)
        cut = rebuilt(decomposition, layer, chain)
        errors.append(((cut - dense) ** 2).sum())
        # The kernel that the factors stand for, in the dense layer, does what the factors do.
        with torch.no_grad():
            assert relative(chain(x), with_kernels(layer, cut)(x)) <= 1e-10
    tails = [(values_GR[:, rank:] ** 2).sum() for rank in range(1, full + 1)]
    np.testing.assert_allclose(errors, tails, rtol=1e-8, atol=1e-10 * (dense**2).sum())
    assert (np.diff(errors) <= 1e-10 * (dense**2).sum()).all()


@every_case
def test_low_rank_kernel_is_recovered_at_its_rank(decomposition, layer, shape):
    layer, x = filled(layer), images(shape)
    full = decomposition.full_rank(layer)
    rank = max(1, full // 2)
    layer = with_kernels(layer, rebuilt(decomposition, layer, decomposition.factorize(layer, rank)))
    with torch.no_grad():
        wanted = layer(x)
        assert relative(decomposition.factorize(layer, rank)(x), wanted) <= 1e-9
        if rank > 1:
            assert relative(decomposition.factorize(layer, rank - 1)(x), wanted) > 1e-3


@every_case
def test_costs_are_those_of_the_real_layers(decomposition, layer, shape):
    full = decomposition.full_rank(layer)
    macs, weights = decomposition.rank_macs(layer, (shape, shape)), decomposition.rank_weights(layer)
    assert macs.shape == weights.shape == (full,)
    for rank in {1, (full + 1) // 2, full}:
        chain = decomposition.factorize(layer, rank)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            chain(torch.zeros(shape))
        assert macs[rank - 1] == 2 * (counter.get_total_flops() // 2)  # the layer is called twice
        assert weights[rank - 1] == sum(factor.weight.numel() for factor in chain)


@every_case
def test_factors_are_plain_layers_like_the_dense_one(decomposition, layer, shape):
    layer = filled(layer, dtype=torch.float32).eval()
    layer.weight.requires_grad_(False)
    before, training = copy.deepcopy(layer.state_dict()), layer.training
    chain = decomposition.factorize(layer, 1)

    plain = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
    assert type(chain) is nn.Sequential
    assert [type(factor) in plain for factor in chain] == [True, True]
    assert [module.training for module in chain.modules()] == [False] * 3
    assert {p.dtype for p in chain.parameters()} == {torch.float32}
    assert [factor.weight.requires_grad for factor in chain] == [False, False]
    assert chain[0].bias is None
    if layer.bias is None:
        assert chain[1].bias is None
    else:
        torch.testing.assert_close(chain[1].bias, layer.bias, rtol=0, atol=0)
        assert chain[1].bias.requires_grad
        assert chain[1].bias.data_ptr() != layer.bias.data_ptr()

    assert layer.training == training
    for name, tensor in layer.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


@every_case
def test_skeleton_has_the_shapes_of_the_factors_and_no_numbers(decomposition, layer, shape):
    rank = decomposition.full_rank(layer)
    skeleton = decomposition.skeleton(layer, rank, device="meta")
    factors = decomposition.factorize(layer, rank)
    assert str(skeleton) == str(factors)
    assert {n: t.shape for n, t in skeleton.state_dict().items()} == {
        n: t.shape for n, t in factors.state_dict().items()
    }
    assert all(t.is_meta for t in skeleton.state_dict().values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_decomposed_in_float32_and_kept(dtype):
    layer = filled(nn.Linear(16, 12, bias=False), dtype=dtype)
    chain = LinearSVD().factorize(layer, 12)
    assert {p.dtype for p in chain.parameters()} == {dtype}
    product = chain[1].weight.double() @ chain[0].weight.double()
    resolution = torch.finfo(dtype).eps
    assert resolution / 100 < relative(product.detach(), layer.weight.detach().double()) < 2 * resolution


def test_meta_device_is_kept():
    layer = nn.Conv2d(4, 6, 3, device="meta")
    assert {p.device.type for p in SpatialSVD().skeleton(layer, 5).parameters()} == {"meta"}
    assert SpatialSVD().full_rank(layer) == 12
    assert SpatialSVD().rank_weights(layer).tolist() == [(4 * 3 + 6 * 3) * rank for rank in range(1, 13)]


@pytest.mark.parametrize(
    ("rank", "message"),
    [
        (0, "rank 0 is below 1"),
        (-3, "rank -3 is below 1"),
        (True, "must be an integer from 1 to 6 for channel_svd, got True"),
        (2.0, "must be an integer from 1 to 6 for channel_svd, got 2.0"),
        ("4", "must be an integer from 1 to 6 for channel_svd, got '4'"),
        (None, "must be an integer from 1 to 6 for channel_svd, got None"),
        (7, "rank 7 is above the full rank 6; channel_svd takes ranks 1 to 6"),
    ],
)
def test_ranks_that_do_not_exist_are_refused(rank, message):
    decomposition = CASES["channel_svd, 3x3"][0]
    with pytest.raises(ValueError, match=message):
        decomposition.factorize(nn.Conv2d(4, 6, 3), rank)


def test_numpy_integers_are_ranks():
    layer = nn.Linear(5, 4)
    chain = CASES["linear_svd, linear"][0].factorize(layer, np.int64(3))
    assert chain[0].out_features == 3
