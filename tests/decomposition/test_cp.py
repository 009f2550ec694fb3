"""CP of layers of every setting."""

import math

import numpy as np
import pytest
import tensorly
import torch
from torch import nn

from lowrank_exp.decomposition.cp import CP
from lowrank_exp.decomposition.recompose import recompose
from support.cells import cells
from support.layer_cases import LAYERS, filled, images, kernels, relative, with_kernels
from support.tensorly_peers import cp_error

CASES = {
    f"{spatial}, {name}": (CP(spatial, max_iterations=5), layer, shape)
    for spatial in ("separate", "merged")
    for name, (layer, shape) in LAYERS.items()
    if CP(spatial).refusal(layer) is None
}
every_case = cells(("cp", "layer", "shape"), CASES.values(), ids=CASES.keys())


def rebuilt(cp, layer, chain):
    """The dense kernels `(G, O, I, *K)` that the factors stand for, put together by einsum."""
    G, axes = layer.groups, len(layer.kernel_size)
    rows = [factor.weight.detach().double().numpy() for factor in chain]
    R = len(rows[0]) // G
    b_GRI, a_GOR = rows[0].reshape(G, R, -1), rows[-1].reshape(G, -1, R)
    kernel_GOIK = np.einsum("gor,gri,grk->goik", a_GOR, b_GRI, rows[1].reshape(G, R, -1))
    if len(rows) == 4:
        c_GRH, d_GRW = rows[1].reshape(G, R, -1), rows[2].reshape(G, R, -1)
        kernel_GOIK = np.einsum("gor,gri,grh,grw->goihw", a_GOR, b_GRI, c_GRH, d_GRW)
    assert len(rows) == (2 + axes if cp.spatial == "separate" else 3)
    return kernel_GOIK.reshape(*kernel_GOIK.shape[:3], *layer.kernel_size)


def planted(layer, rank, seed=0):
    """The layer with a kernel of `rank` components per group."""
    rng, G = np.random.default_rng(seed), layer.groups
    sizes = [layer.out_channels // G, layer.in_channels // G, *layer.kernel_size]
    a, b, c, d = (rng.standard_normal((G, n, rank)) for n in sizes)
    return with_kernels(layer, np.einsum("gor,gir,ghr,gwr->goihw", a, b, c, d))


@every_case
def test_chain_does_what_its_components_do(cp, layer, shape):
    layer, x = filled(layer), images(shape)
    assert cp.full_rank(layer) == math.prod(layer.kernel_size) * min(kernels(layer.weight, layer).shape[1:3])
    rank = max(1, cp.full_rank(layer) // 3)
    chain, fit = cp.factorize(layer, rank), cp.fit(layer, rank)
    kernel = rebuilt(cp, layer, chain)
    assert relative(kernel, kernels(layer.weight, layer)) == pytest.approx(fit.relative_error, rel=1e-6, abs=1e-9)
    dense = recompose(chain)
    with torch.no_grad():
        wanted = with_kernels(layer, kernel)(x)
        assert relative(chain(x), wanted) <= 1e-10
        assert relative(dense(x), wanted) <= 1e-10


@pytest.mark.parametrize("spatial", ["separate", "merged"])
@pytest.mark.parametrize("groups", [1, 2])
def test_planted_components_are_found(spatial, groups):
    layer = planted(filled(nn.Conv2d(16, 20, (3, 5), groups=groups)), 4)
    chain = CP(spatial).factorize(layer, 4)
    assert 0 <= relative(rebuilt(CP(spatial), layer, chain), kernels(layer.weight, layer)) < 1e-6
    assert relative(rebuilt(CP(spatial), layer, CP(spatial).factorize(layer, 3)), kernels(layer.weight, layer)) > 0.05


def test_merged_is_the_cp_of_three_modes_of_tensorly_and_never_worse_than_separate():
    layer = filled(nn.Conv2d(10, 12, 3, padding=1))
    tensor = kernels(layer.weight, layer)[0].reshape(12, 10, 9)
    cp = CP("merged", tolerance=1e-7, max_iterations=1000)
    for rank in (4, 16):
        chain = cp.factorize(layer, rank)
        first, depthwise, last = (factor.weight.detach().double().numpy() for factor in chain)
        factors = [last.reshape(12, rank), first.reshape(rank, 10).T, depthwise.reshape(rank, 9).T]
        with tensorly.backend_context("numpy"):
            told = tensorly.cp_to_tensor((np.ones(rank), factors))
        assert relative(recompose(chain).weight.detach().double().numpy().reshape(told.shape), told) <= 1e-6
        error = relative(told, tensor)
        assert 0.1 < error <= 1.001 * cp_error(tensor, rank)
        assert error <= CP("separate").fit(layer, rank).relative_error
        assert sum(f.weight.numel() for f in chain) == rank * (12 + 10 + 9)
        assert chain[1].groups == rank


def test_signs_are_kept_where_a_package_takes_norms_for_channel_factors():
    # An exactly rank-4 kernel without bias and with padding of its own per axis: norms of the channels as their
    # factors lose the signs and leave a relative error of 0.94 at rank 16.
    layer = planted(filled(nn.Conv2d(16, 32, 3, padding=(2, 0), stride=(1, 2), bias=False)), 4)
    chain, x = CP().factorize(layer, 4), images((1, 16, 9, 8))
    assert 0 <= relative(rebuilt(CP(), layer, chain), kernels(layer.weight, layer)) < 1e-6
    assert [factor.bias for factor in chain] == [None] * 4
    assert [factor.padding for factor in chain] == [(0, 0), (2, 0), (0, 0), (0, 0)]
    assert [factor.stride for factor in chain] == [(1, 1), (1, 1), (1, 2), (1, 1)]
    with torch.no_grad():
        assert relative(chain(x), layer(x)) < 1e-6


def test_norm_of_a_component_is_spread_over_the_layers():
    layer = filled(nn.Conv2d(8, 10, 3))
    chain = CP().factorize(layer, 6)
    norms = [factor.weight.detach().flatten(1).norm(dim=1) for factor in chain[:3]]
    norms.append(chain[3].weight.detach().flatten(1).norm(dim=0))
    for norm in norms[1:]:
        np.testing.assert_allclose(norm.numpy(), norms[0].numpy(), rtol=1e-9)


def test_energies_rise_to_one_and_are_close_to_those_of_long_fits():
    layer = filled(nn.Conv2d(16, 16, 3))
    layer.weight.data = layer.weight * torch.exp(-torch.arange(16.0) / 4)[:, None, None, None]
    cp = CP(tolerance=1e-5)
    energies = cp.energies(layer, cp.ladder(layer))
    assert energies.shape == (144,)
    assert (np.diff(energies) >= 0).all()
    assert (energies[0] > 0, energies[-1]) == (True, 1.0)
    for rank in (2, 8, 30):
        assert energies[rank - 1] == pytest.approx(1 - cp.fit(layer, rank).relative_error ** 2, abs=0.1)
    np.testing.assert_array_equal(cp.energies(layer, [8, 2]), energies[[7, 1]])
    layer.weight.data.zero_()
    assert cp.energies(layer, [1, 100]).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", ["1x1", "3x3 to one channel", "depthwise", "1-D", "transposed, groups, dilation"])
def test_energies_exist_for_every_kind_of_layer(name):
    layer = filled(LAYERS[name][0])
    cp = CP(max_iterations=5)
    energies = cp.energies(layer, cp.ladder(layer))
    assert (np.diff(energies) >= 0).all()
    assert 0 < energies[0] <= energies[-1] == 1.0
    low = 1 - CP().fit(layer, 1).relative_error ** 2 if cp.full_rank(layer) > 1 else 1.0
    assert energies[0] == pytest.approx(low, abs=0.1)


def test_stable_components_have_smaller_norms_at_the_same_error():
    layer = filled(nn.Conv2d(12, 12, 3))
    options = {"init": "random", "max_iterations": 60}
    plain, stable = CP(**options).fit(layer, 24), CP(**options, stable=True).fit(layer, 24)
    assert 0.99 * plain.relative_error < stable.relative_error <= 1.00101 * plain.relative_error
    sizes = [math.prod((f.norm(dim=1) for f in fit.factors), start=1.0).sum() for fit in (plain, stable)]
    assert sizes[1] < 0.9 * sizes[0]
    chain = CP(**options, stable=True).factorize(layer, 24)
    assert relative(rebuilt(CP(), layer, chain), kernels(layer.weight, layer)) == pytest.approx(stable.relative_error)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_decomposed_in_float32_and_kept(dtype):
    layer = filled(nn.Conv2d(6, 5, 3), dtype=dtype)
    chain = CP().factorize(layer, 45)
    assert {p.dtype for p in chain.parameters()} == {dtype}
    error = relative(rebuilt(CP(), layer, chain), kernels(layer.weight, layer))
    assert torch.finfo(dtype).eps / 100 < error < 4 * torch.finfo(dtype).eps


def test_same_layer_same_bits():
    layer = filled(nn.Conv2d(8, 8, 3), dtype=torch.float32)
    one, two = (CP(init="random", seed=5).factorize(layer, 7) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


def test_options_build_the_same_again():
    cp = CP(spatial="merged", init="hosvd", stable=True, seed=4, max_seconds=9.0)
    assert CP(**cp.options()).options() == cp.options()
    assert cp.options()["max_seconds"] == 9.0
    assert CP().options()["spatial"] == "separate"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial": "both"}, "spatial must be separate or merged, got 'both'"),
        ({"init": "svd"}, "init must be one of auto, slices, pencil, hosvd, random, got 'svd'"),
        ({"max_iterations": 0}, "max_iterations 1 or more; got 1e-09, 1e-05, 0, None and 0"),
        ({"ridge": -1.0}, "ridge, tolerance and restarts must be 0 or more"),
        ({"max_seconds": 0}, "max_seconds above 0"),
    ],
)
def test_mistaken_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        CP(**options)


def test_refusals_and_ranks():
    assert CP().refusal(nn.Conv3d(2, 2, 3)) == "cp takes Conv3d with spatial=merged only"
    assert CP("merged").refusal(nn.Conv3d(2, 2, 3)) is None
    assert CP().refusal(nn.Linear(2, 2)) == "cp takes Conv2d, Conv1d, ConvTranspose2d, ConvTranspose1d, not Linear"
    with pytest.raises(ValueError, match="rank 37 is above the full rank 36"):
        CP().factorize(nn.Conv2d(4, 6, 3), 37)
    with pytest.raises(ValueError, match="rank 0 is below 1"):
        CP().fit(nn.Conv2d(4, 6, 3), 0)
