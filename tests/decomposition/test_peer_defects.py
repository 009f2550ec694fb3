"""Inputs on which existing packages give wrong answers without an error."""

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp.decomposition import ChannelSVD, LinearSVD, SpatialSVD
from support.cells import cells
from support.layer_cases import filled, images, kernels, rebuilt, relative, weight_of


def test_spatial_svd_at_half_rank_is_optimal_not_an_average_over_input_channels():
    # A 32 x 16 x 3 x 3 Gaussian kernel: averaging the horizontal factors over the input channels loses 96 % even at
    # full rank and has more weights than the dense layer; the truncated SVD loses 45 % at half rank.
    layer = filled(nn.Conv2d(16, 32, 3, bias=False))
    full = SpatialSVD().full_rank(layer)
    assert full == 48
    chain = SpatialSVD().factorize(layer, full // 2)
    error = relative(rebuilt(SpatialSVD(), layer, chain), kernels(layer.weight, layer))
    assert 0.42 < error < 0.48
    assert sum(p.numel() for p in chain.parameters()) == 24 * 3 * (16 + 32) < layer.weight.numel()


def test_spatial_svd_of_separable_filters_is_exact():
    # Every filter is a column times a row, with a sign and a column of its own per input channel.
    rng = np.random.default_rng(0)
    row_OW, column_OIH = rng.standard_normal((8, 3)), rng.standard_normal((8, 4, 3))
    layer = filled(nn.Conv2d(4, 8, 3, bias=False))
    layer.weight.data = weight_of(np.einsum("oih,ow->oihw", column_OIH, row_OW)[None], layer)
    error = relative(rebuilt(SpatialSVD(), layer, SpatialSVD().factorize(layer, 8)), kernels(layer.weight, layer))
    assert 0 <= error < 1e-12


@cells("decomposition", [ChannelSVD(), SpatialSVD()])
@cells(
    "layer",
    [
        nn.Conv2d(4, 8, 3, groups=2),
        nn.Conv2d(4, 8, 3, stride=(1, 2)),
        nn.Conv2d(4, 8, 3, dilation=(2, 1)),
        nn.Conv2d(4, 8, 3, padding=(2, 0)),
        nn.Conv2d(4, 8, 3, groups=4, stride=(2, 1), dilation=2, padding=(1, 3), bias=False),
    ],
    ids=["groups", "stride per axis", "dilation", "padding per axis", "all, without bias"],
)
def test_every_setting_of_a_convolution_is_kept(decomposition, layer):
    layer, x = filled(layer), images((1, 4, 9, 8))
    with torch.no_grad():
        got = decomposition.factorize(layer, decomposition.full_rank(layer))(x)
        assert relative(got, layer(x)) < 1e-12


@pytest.mark.parametrize("decomposition", [ChannelSVD(), SpatialSVD()])
def test_a_low_rank_does_save(decomposition):
    layer = filled(nn.Conv2d(16, 16, 3, padding=1))
    chain = decomposition.factorize(layer, 4)
    weights = sum(factor.weight.numel() for factor in chain)
    assert weights == decomposition.rank_weights(layer)[3]
    assert weights == {"channel_svd": 4 * (16 * 9 + 16), "spatial_svd": 4 * (16 * 3 + 16 * 3)}[decomposition.name]


@pytest.mark.parametrize(
    ("decomposition", "layer"),
    [(ChannelSVD(), nn.Conv2d(4, 8, 3)), (SpatialSVD(), nn.Conv2d(4, 8, 3)), (LinearSVD(), nn.Linear(4, 8))],
)
def test_full_rank_gives_factors_too(decomposition, layer):
    chain = decomposition.factorize(layer, decomposition.full_rank(layer))
    assert len(chain) == 2
    assert sum(factor.weight.numel() for factor in chain) == decomposition.rank_weights(layer)[-1]


def test_biases_of_linear_factors_are_none_and_that_of_the_layer():
    layer = filled(nn.Linear(6, 5))
    first, second = LinearSVD().factorize(layer, 2)
    assert first.bias is None
    assert second.bias.tolist() == layer.bias.tolist()
    with torch.no_grad():  # an input of zeros shows the bias alone
        assert second(first(torch.zeros(1, 6, dtype=torch.float64))).tolist() == [layer.bias.tolist()]
