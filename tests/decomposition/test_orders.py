"""Which of the two layers of a channel SVD and of a spatial SVD comes first."""

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp.decomposition import ChannelSVD, LinearSVD, SpatialSVD, recompose
from support.cells import cells
from support.layer_cases import LAYERS, filled, images, kernels, relative

KINDS = [
    ChannelSVD(),
    ChannelSVD(order="pointwise_first"),
    SpatialSVD(),
    SpatialSVD(order="horizontal_first"),
]
CASES = {
    f"{kind.name}, {kind.order}, {name}": (kind, layer, shape)
    for name, (layer, shape) in LAYERS.items()
    for kind in KINDS
    if kind.refusal(layer) is None
}
every_case = cells(("kind", "layer", "shape"), CASES.values(), ids=CASES.keys())
ROWS = {
    "kernel_first": "oihwd->ihwdo",
    "pointwise_first": "oihwd->ihwdo",
    "vertical_first": "oihwd->ihwdo",
    "horizontal_first": "oihwd->iwhdo",
}


def unfolded(kind, kernel):
    """NumPy's matrix of one group."""
    O, I, H, W, D = (*kernel.shape, 1, 1)[:5]
    matrix = np.einsum(ROWS[kind.order], kernel.reshape(O, I, H, W, D))
    rows = {
        "kernel_first": I * H * W * D,
        "pointwise_first": I,
        "vertical_first": I * H,
        "horizontal_first": I * W,
    }
    return matrix.reshape(rows[kind.order], -1)


@every_case
def test_full_rank_gives_the_output_of_the_layer(kind, layer, shape):
    layer, x = filled(layer), images(shape)
    chain = kind.factorize(layer, kind.full_rank(layer))
    with torch.no_grad():
        assert relative(chain(x), layer(x)) <= 1e-10


@every_case
def test_error_is_the_tail_of_the_singular_values_of_the_order(kind, layer, shape):
    layer, x = filled(layer), images(shape)
    dense = kernels(layer.weight, layer)
    values_GR = np.stack([np.linalg.svd(unfolded(kind, kernel), compute_uv=False) for kernel in dense])
    full = kind.full_rank(layer)
    assert full == values_GR.shape[1]
    norm = (dense**2).sum()
    for rank in sorted({1, (full + 1) // 2, full}):
        chain = kind.factorize(layer, rank)
        first, second = (kernels(part.weight, part) for part in chain)
        # Each axis has its kernel in one of the two and 1 in the other, which broadcasts.
        cut = np.einsum("gri...,gor...->goi...", first, second)
        assert ((cut - dense) ** 2).sum() == pytest.approx((values_GR[:, rank:] ** 2).sum(), rel=1e-9, abs=1e-18 * norm)
        kept = (values_GR[:, :rank] ** 2).sum() / norm
        np.testing.assert_allclose(kind.energies(layer, [rank]), [kept], rtol=1e-10)
        again = recompose(chain)
        np.testing.assert_allclose(kernels(again.weight, again), cut, atol=1e-12)
        with torch.no_grad():
            assert relative(chain(x), again(x)) <= 1e-10


def test_shapes_and_settings_of_the_orders():
    layer = nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(1, 2), groups=2)

    def of(kind):
        return [(tuple(part.weight.shape), part.stride, part.padding) for part in kind.skeleton(layer, 3)]

    assert of(KINDS[0]) == [((6, 2, 3, 5), (2, 1), (1, 2)), ((6, 3, 1, 1), (1, 1), (0, 0))]
    assert of(KINDS[1]) == [((6, 2, 1, 1), (1, 1), (0, 0)), ((6, 3, 3, 5), (2, 1), (1, 2))]
    assert of(KINDS[2]) == [((6, 2, 3, 1), (2, 1), (1, 0)), ((6, 3, 1, 5), (1, 1), (0, 2))]
    assert of(KINDS[3]) == [((6, 2, 1, 5), (1, 1), (0, 2)), ((6, 3, 3, 1), (2, 1), (1, 0))]
    assert [kind.full_rank(layer) for kind in KINDS] == [3, 2, 6, 9]


def test_transposed_layers_stay_transposed_where_the_kernel_is():
    layer = nn.ConvTranspose2d(4, 6, 3, stride=2)
    first, second = ChannelSVD(order="pointwise_first").factorize(layer, 2)
    assert type(first) is nn.Conv2d
    assert type(second) is nn.ConvTranspose2d
    assert (first.bias is None, second.bias.tolist()) == (True, layer.bias.tolist())


def test_the_orders_of_a_pointwise_layer_agree():
    layer = filled(nn.Conv2d(8, 6, 1))
    errors = [relative(recompose(kind.factorize(layer, 3)).weight.detach(), layer.weight.detach()) for kind in KINDS]
    np.testing.assert_allclose(errors, errors[0], rtol=1e-10)
    assert 0.1 < errors[0] < 0.9


def test_only_another_order_than_the_first_is_an_option():
    assert [kind.options() for kind in KINDS] == [
        {},
        {"order": "pointwise_first"},
        {},
        {"order": "horizontal_first"},
    ]
    assert ChannelSVD(order="kernel_first").options() == SpatialSVD(order="vertical_first").options() == {}
    assert LinearSVD().options() == {}


@pytest.mark.parametrize(
    ("kind", "order", "allowed"),
    [
        (ChannelSVD, "vertical_first", "kernel_first, pointwise_first"),
        (SpatialSVD, "pointwise_first", "vertical_first, horizontal_first"),
        (SpatialSVD, None, "vertical_first, horizontal_first"),
    ],
)
def test_other_orders_are_refused(kind, order, allowed):
    with pytest.raises(ValueError, match=f"{kind.name}: order must be one of {allowed}, got {order!r}"):
        kind(order=order)
