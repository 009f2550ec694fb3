"""Factors with biases between them, as a fit to responses leaves where a layer was decomposed twice, in one layer."""

import copy
import re

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp.decomposition import (
    CP,
    Biclustering,
    ChannelSVD,
    Monochromatic,
    SliceWiseSVD,
    SpatialSVD,
    TensorTrain,
    Tucker2,
    recompose,
)
from lowrank_exp.network.cost import out_channels
from lowrank_exp.network.shapes import meta_copy
from support.cells import cells
from support.layer_cases import LAYERS, filled, images, relative

KINDS = {
    "channel_svd": ChannelSVD(),
    "channel_svd, pointwise first": ChannelSVD(order="pointwise_first"),
    "spatial_svd": SpatialSVD(),
    "spatial_svd, horizontal first": SpatialSVD(order="horizontal_first"),
    "slice_wise_svd": SliceWiseSVD(),
    "tucker2": Tucker2(),
    "tensor_train": TensorTrain(),
    "cp": CP(max_iterations=3),
    "monochromatic": Monochromatic(restarts=1),
    "biclustering": Biclustering(inner="svd", restarts=1),
}
CASES = {
    f"{kind}, {name}": (KINDS[kind], layer, shape)
    for kind in KINDS
    for name, (layer, shape) in LAYERS.items()
    if KINDS[kind].refusal(layer) is None
}
NO_PLACE = "a bias before the last factor has no place in one dense layer: "


def with_biases(chain, seed=5):
    """A copy in which every factor but the last has Gaussian biases of its own."""
    rng, chain = np.random.default_rng(seed), copy.deepcopy(chain)
    for factor in [part for part in chain if hasattr(part, "weight")][:-1]:
        factor.bias = nn.Parameter(torch.from_numpy(rng.standard_normal(out_channels(factor))))
    return chain


def is_even(maps_NCK):
    """Whether every map has one number everywhere: nearly so, or not at all."""
    spread = (maps_NCK - maps_NCK.flatten(2)[:, :, :1].reshape(*maps_NCK.shape[:2], *[1] * (maps_NCK.ndim - 2))).abs()
    assert spread.max() < 1e-10 or spread.max() > 1e-3
    return bool(spread.max() < 1e-10)


@cells("case", CASES)
def test_biases_become_one_where_zeros_come_out_even_and_are_refused_elsewhere(case):
    """What a chain gives for zeros is all that one dense layer can have for a bias."""
    kind, layer, shape = CASES[case]
    ladder = kind.ladder(filled(layer))
    plain = kind.factorize(filled(layer), ladder[len(ladder) // 2])
    chain, x = with_biases(plain), images(shape)
    with torch.no_grad():
        response, wanted = chain(torch.zeros_like(x)), chain(x)
    if not is_even(response):
        for of in (chain, meta_copy(chain)):
            with pytest.raises(ValueError, match=NO_PLACE):
                recompose(of)
        return
    dense = recompose(chain)
    with torch.no_grad():
        assert relative(dense(x), wanted) <= 1e-10
        np.testing.assert_allclose(dense.bias, response.flatten(2)[0, :, 0], rtol=1e-9, atol=1e-9)
    assert torch.equal(dense.weight, recompose(plain).weight)
    assert str(recompose(meta_copy(chain))) == str(dense)


def test_which_layers_have_a_place_for_the_bias_between_two_factors():
    """By spatial SVD: those whose second factor pads no zeros and is not transposed."""
    refused = set()
    for name, (layer, _) in LAYERS.items():
        if f"spatial_svd, {name}" in CASES:
            try:
                recompose(with_biases(SpatialSVD().factorize(filled(layer), 1)))
            except ValueError:
                refused.add(name)
    assert refused == {
        "2x4, even",
        "padding per axis",
        "padding same",
        "groups",
        "transposed",
        "transposed, output padding per axis",
        "transposed, groups, dilation",
    }


def test_linear_factors_by_numpy():
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape) for shape in ((4, 7), (3, 4), (5, 3))]
    biases = [rng.standard_normal(n) for n in (4, 3)]
    chain = nn.Sequential(*(nn.Linear(*weight.shape[::-1]).double() for weight in weights))
    chain[2].bias = None
    for factor, weight in zip(chain, weights, strict=True):
        factor.weight.data = torch.from_numpy(weight)
    for factor, bias in zip(chain, biases, strict=False):
        factor.bias.data = torch.from_numpy(bias)
    nested = nn.Sequential(nn.Sequential(chain[0], chain[1]), chain[2])
    for one in (chain, nested):
        dense = recompose(one)
        np.testing.assert_allclose(dense.weight.detach(), weights[2] @ weights[1] @ weights[0], rtol=1e-12)
        np.testing.assert_allclose(
            dense.bias.detach(), weights[2] @ (weights[1] @ biases[0] + biases[1]), rtol=1e-12, atol=1e-14
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_added_up_in_float32(dtype):
    layer = filled(nn.Conv2d(6, 8, 3), dtype=torch.float32)
    chain = with_biases(ChannelSVD().factorize(layer, 5)).to(dtype)
    wanted = recompose(copy.deepcopy(chain).double()).bias
    got = recompose(chain).bias
    assert got.dtype == dtype
    assert relative(got.detach().double(), wanted.detach()) < torch.finfo(dtype).eps


@pytest.mark.parametrize(
    ("behind", "reason"),
    [
        (
            nn.Conv2d(4, 5, 3, padding=(0, 1)),
            "it is less at the border, by the zero padding of Conv2d(4, 5, kernel_size=(3, 3), stride=(1, 1), "
            "padding=(0, 1)) behind it",
        ),
        (
            nn.Conv2d(4, 5, (1, 2), padding="same"),
            "it is less at the border, by the zero padding of Conv2d(4, 5, kernel_size=(1, 2), stride=(1, 1), "
            "padding=same) behind it",
        ),
        (
            nn.ConvTranspose2d(4, 5, 1, stride=2),
            "not every place gets it through the same entries of the kernel of ConvTranspose2d(4, 5, "
            "kernel_size=(1, 1), stride=(2, 2)) behind it",
        ),
    ],
)
def test_the_reason_names_the_factor(behind, reason):
    chain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, bias=False), behind)
    with pytest.raises(ValueError, match=f"^{re.escape(NO_PLACE + reason)}$"):
        recompose(chain)
    chain[0].bias = None
    assert recompose(chain).bias.shape == (5,)


@pytest.mark.parametrize(
    "behind",
    [
        nn.Conv2d(4, 5, 1, padding="same", bias=False),
        nn.Conv2d(4, 5, 3, padding=1, padding_mode="reflect", stride=2),
        nn.Conv2d(4, 6, (2, 3), padding="same", padding_mode="circular", groups=2),
        nn.Conv2d(4, 5, 3, padding="valid", dilation=2),
        nn.ConvTranspose2d(4, 6, 1, groups=2),
    ],
)
def test_settings_that_keep_a_bias_even(behind):
    chain = filled(nn.Sequential(nn.Conv2d(3, 4, 1), behind))
    x = images((2, 3, 7, 6))
    with torch.no_grad():
        assert relative(recompose(chain)(x), chain(x)) <= 1e-12
