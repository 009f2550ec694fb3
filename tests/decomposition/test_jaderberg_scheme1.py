"""Jaderberg's scheme 1 on layers of every setting."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp.decomposition.jaderberg_scheme1 import JaderbergScheme1
from lowrank_exp.decomposition.recompose import recompose
from support.cells import cells
from support.layer_cases import LAYERS, filled, images, kernels, relative, weight_of, with_kernels
from support.tensorly_peers import cp_error

QUICK = JaderbergScheme1(max_iterations=5, restarts=0)
CASES = {name: case for name, case in LAYERS.items() if QUICK.refusal(case[0]) is None}
every_case = cells(("layer", "shape"), CASES.values(), ids=CASES.keys())


def rebuilt(layer, chain, rank):
    """The dense kernels `(G, O, I, *K)` that the factors stand for, put together by einsum."""
    G, C = layer.groups, layer.in_channels
    rows = [factor.weight.detach().double().numpy() for factor in chain]
    filters_CMK = rows[0].reshape(C, rank, -1)
    if len(rows) == 3:
        filters_CMK = np.einsum("cmh,cmw->cmhw", filters_CMK, rows[1].reshape(C, rank, -1)).reshape(C, rank, -1)
    a_GOIM = rows[-1].reshape(G, layer.out_channels // G, C // G, rank)
    kernel = np.einsum("goim,gimk->goik", a_GOIM, filters_CMK.reshape(G, C // G, rank, -1))
    return kernel.reshape(*kernel.shape[:3], *layer.kernel_size)


def error_of(layer, rank, scheme=None):
    scheme = JaderbergScheme1() if scheme is None else scheme
    return relative(rebuilt(layer, scheme.factorize(layer, rank), rank), kernels(layer.weight, layer))


@every_case
def test_chain_does_what_its_filters_do(layer, shape):
    layer, x = filled(layer), images(shape)
    assert QUICK.full_rank(layer) == math.prod(layer.kernel_size)
    rank = max(1, QUICK.full_rank(layer) // 3)
    chain = QUICK.factorize(layer, rank)
    kernel = rebuilt(layer, chain, rank)
    dense = recompose(chain)
    with torch.no_grad():
        wanted = with_kernels(layer, kernel)(x)
        assert relative(chain(x), wanted) <= 1e-10
        assert relative(dense(x), wanted) <= 1e-10
    assert relative(kernel, kernels(layer.weight, layer)) < 1.0


@pytest.mark.parametrize("rank", [1, 2, 4, 6])
def test_error_of_every_channel_is_at_most_that_of_tensorly(rank):
    layer = filled(nn.Conv2d(4, 12, 3))
    kernel_OIHW = layer.weight.detach().numpy()
    a_COM, v_CHM, h_CWM = (factor.numpy() for factor in JaderbergScheme1().factors(layer, rank))
    for channel in range(4):
        tensor = kernel_OIHW[:, channel]
        ours = relative(np.einsum("om,hm,wm->ohw", a_COM[channel], v_CHM[channel], h_CWM[channel]), tensor)
        assert 0.05 < ours <= 1.001 * cp_error(tensor, rank)


def test_planted_separable_filters_are_found():
    rng = np.random.default_rng(0)
    a_GOIM, v_GIHM, h_GIWM = (rng.standard_normal(shape) for shape in ((2, 9, 3, 3), (2, 3, 3, 3), (2, 3, 5, 3)))
    layer = filled(nn.Conv2d(6, 18, (3, 5), groups=2, bias=False))
    layer.weight.data = weight_of(np.einsum("goim,gihm,giwm->goihw", a_GOIM, v_GIHM, h_GIWM), layer)
    assert 0 <= error_of(layer, 3) < 1e-6
    assert error_of(layer, 2) > 0.05


def test_kernels_of_one_axis_have_the_truncated_svd_of_every_channel():
    layer = filled(nn.Conv1d(4, 6, 5))
    values_CR = np.linalg.svd(np.einsum("goik->giok", kernels(layer.weight, layer))[0], compute_uv=False)
    wanted = np.sqrt((values_CR[:, 2:] ** 2).sum() / (values_CR**2).sum())
    assert error_of(layer, 2) == pytest.approx(wanted, rel=1e-6)


def test_error_falls_with_the_rank_and_energies_follow():
    layer = filled(nn.Conv2d(3, 8, 3))
    scheme = JaderbergScheme1(tolerance=1e-4, restarts=2)
    errors = [error_of(layer, rank, scheme) for rank in range(1, 10)]
    assert (np.diff(errors) < 0).all()
    energies = scheme.energies(layer, scheme.ladder(layer))
    assert energies.shape == (9,)
    assert (np.diff(energies) >= 0).all()
    assert energies[-1] == 1.0
    np.testing.assert_allclose(energies, 1 - np.square(errors), atol=0.1)


def test_a_dead_channel_beside_others():
    layer = filled(nn.Conv2d(3, 8, 3))
    layer.weight.data[:, 1] = 0
    for rank in (2, 9):
        chain = JaderbergScheme1().factorize(layer, rank)
        assert all(parameter.isfinite().all() for parameter in chain.parameters())
        assert np.abs(rebuilt(layer, chain, rank)[:, :, 1]).max() == 0


def test_norm_of_a_filter_is_spread_over_the_layers():
    for rank in (2, 9):
        norms = [f.norm(dim=1).numpy() for f in JaderbergScheme1().factors(filled(nn.Conv2d(3, 8, 3)), rank)]
        np.testing.assert_allclose(norms[1], norms[0], rtol=1e-9)
        np.testing.assert_allclose(norms[2], norms[0], rtol=1e-9)


def test_options_and_refusals():
    scheme = JaderbergScheme1(tolerance=1e-4, seed=2)
    assert JaderbergScheme1(**scheme.options()).options() == scheme.options()
    assert scheme.options()["tolerance"] == 1e-4
    with pytest.raises(ValueError, match=r"max_iterations 1 or more; got 1e-09, 1e-06, 4, None and 0"):
        JaderbergScheme1(max_iterations=0)
    reason = "jaderberg_scheme1 takes Conv2d, Conv1d, ConvTranspose2d, ConvTranspose1d, not Conv3d"
    assert scheme.refusal(nn.Conv3d(2, 2, 3)) == reason
    with pytest.raises(ValueError, match="rank 10 is above the full rank 9"):
        scheme.factorize(nn.Conv2d(4, 6, 3), 10)
