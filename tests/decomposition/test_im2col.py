"""A convolution as unfold, matrix product and fold, and as a Toeplitz matrix, against torch's and NumPy's own."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from lowrank_exp.decomposition import ChannelSVD
from lowrank_exp.decomposition.im2col import Im2Col, toeplitz
from lowrank_exp.decomposition.recompose import recompose
from support.cells import cells
from support.layer_cases import LAYERS, filled, images, kernels, relative, with_kernels

TAKEN = {name: case for name, case in LAYERS.items() if type(case[0]) in (nn.Conv1d, nn.Conv2d)}
every_layer = cells(("layer", "shape"), TAKEN.values(), ids=TAKEN.keys())
many = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@st.composite
def convolutions(draw):
    """A convolution of one axis or two with any settings that belong together, and the shape of its input."""
    axes, groups = draw(st.integers(1, 2)), draw(st.integers(1, 3))

    def per_axis(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(axes))

    stride, padding = per_axis(1, 3), draw(st.sampled_from([per_axis(0, 3), "same", "valid"]))
    layer = (nn.Conv1d, nn.Conv2d)[axes - 1](
        groups * draw(st.integers(1, 3)),
        groups * draw(st.integers(1, 3)),
        per_axis(1, 4),
        stride=(1,) * axes if padding == "same" else stride,
        padding=padding,
        padding_mode=draw(st.sampled_from(["zeros", "circular", "reflect", "replicate"])),
        dilation=per_axis(1, 2),
        groups=groups,
        bias=draw(st.booleans()),
    )
    shape = (2, layer.in_channels, *per_axis(4, 8))
    try:
        layer(torch.zeros(shape))
    except RuntimeError:  # a kernel, or a padding that mirrors or goes round, wider than the image
        assume(False)
    return filled(layer), shape


@many
@given(convolutions())
def test_unfold_product_fold_is_the_convolution(case):
    layer, shape = case
    x = images(shape)
    with torch.no_grad():
        got, wanted = Im2Col(layer)(x), layer(x)
    assert got.shape == wanted.shape
    assert relative(got, wanted) <= 1e-13


@many
@given(convolutions())
def test_the_toeplitz_layer_is_the_convolution(case):
    layer, shape = case
    x = images(shape)
    linear = toeplitz(layer, shape[2:])
    with torch.no_grad():
        got, wanted = linear(x.flatten(1)), layer(x).flatten(1)
    assert got.shape == wanted.shape
    assert relative(got, wanted) <= 1e-13
    assert (linear.bias is None) == (layer.bias is None)


@every_layer
def test_full_rank_is_no_rank_and_each_rank_is_that_of_channel_svd(layer, shape):
    layer, x = filled(layer), images(shape)
    full = ChannelSVD().full_rank(layer)
    matrices = kernels(layer.weight, layer)
    values_GR = np.stack([np.linalg.svd(matrix.reshape(len(matrix), -1), compute_uv=False) for matrix in matrices])
    with torch.no_grad():
        wanted = layer(x)
        assert relative(Im2Col(layer, full)(x), wanted) <= 1e-12
        for rank in {1, (full + 1) // 2, full}:
            cut, chain = Im2Col(layer, rank), ChannelSVD().factorize(layer, rank)
            assert relative(cut(x), chain(x)) <= 1e-11
            assert relative(cut(x), recompose(chain)(x)) <= 1e-11
            left_GOR, right_GRM = cut.factors
            assert left_GOR.shape[2] == right_GRM.shape[1] == rank
            rebuilt = (left_GOR @ right_GRM).numpy().reshape(matrices.shape)
            assert relative(cut(x), with_kernels(layer, rebuilt)(x)) <= 1e-12
            tail = (values_GR[:, rank:] ** 2).sum()
            np.testing.assert_allclose(((rebuilt - matrices) ** 2).sum(), tail, rtol=1e-9, atol=1e-20)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_type_weights_and_bias_are_copies_of_those_of_the_layer(dtype):
    layer = filled(nn.Conv2d(2, 3, 3), dtype=dtype)
    whole, linear = Im2Col(layer), toeplitz(layer, (4, 5))
    assert {p.dtype for p in (*whole.parameters(), *linear.parameters())} == {dtype}
    torch.testing.assert_close(whole.factors[0][0], layer.weight.flatten(1), rtol=0, atol=0)
    torch.testing.assert_close(linear.bias.view(3, 6), layer.bias[:, None].expand(3, 6), rtol=0, atol=0)
    own = {p.data_ptr() for p in layer.parameters()}
    assert own.isdisjoint(p.data_ptr() for p in (*whole.parameters(), *linear.parameters()))


def test_one_image_without_a_batch():
    layer = filled(nn.Conv2d(2, 3, (3, 2), padding=1))
    x = images((2, 5, 6))
    with torch.no_grad():
        assert relative(Im2Col(layer)(x), layer(x)) <= 1e-13


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    layer = filled(nn.Conv2d(2, 3, 3))
    torch.set_rng_state(before)
    Im2Col(layer, 2)
    toeplitz(layer, (5, 5))
    assert torch.equal(torch.get_rng_state(), before)


def test_on_one_axis_it_is_the_toeplitz_matrix_of_scipy():
    layer = filled(nn.Conv1d(1, 1, 3, padding=2))
    taps = layer.weight.detach().numpy().ravel()
    # Row l is laid on pixels l - 2 ... l: taps[2] on the diagonal, taps[1], taps[0] below it.
    column = np.concatenate([taps[::-1], np.zeros(6)])
    np.testing.assert_array_equal(
        toeplitz(layer, (7,)).weight.detach().numpy(), scipy.linalg.toeplitz(column, np.r_[taps[2], np.zeros(6)])
    )


def test_on_two_axes_its_blocks_are_toeplitz_and_lie_as_a_toeplitz_matrix():
    layer = filled(nn.Conv2d(2, 3, (3, 2), padding=1))
    T = toeplitz(layer, (5, 4)).weight.detach().numpy().reshape(3, 5, 5, 2, 5, 4)  # o, rows and columns out, i, in
    kernel = layer.weight.detach().numpy()
    for o, i, y, x in np.ndindex(3, 2, 5, 5):
        block = T[o, y, :, i, x]
        h = x - y + 1  # the kernel's row that meets input row x on output row y
        taps = kernel[o, i, h] if 0 <= h < 3 else np.zeros(2)
        wanted = scipy.linalg.toeplitz(np.r_[taps[1], taps[0], np.zeros(3)], np.r_[taps[1], np.zeros(3)])
        np.testing.assert_array_equal(block, wanted)


def test_each_kernel_entry_stands_once_per_place_and_all_else_is_zero():
    layer = filled(nn.Conv2d(4, 6, (3, 2), stride=(2, 1), dilation=(1, 2), groups=2))
    weight = toeplitz(layer, (7, 6)).weight.detach()
    places = 3 * 4
    assert weight.shape == (6 * places, 4 * 7 * 6)
    assert int(weight.count_nonzero()) == layer.weight.numel() * places
    torch.testing.assert_close(
        weight.sum(1).view(6, places), layer.weight.detach().sum((1, 2, 3))[:, None].expand(6, 12)
    )
    other_group = weight.view(2, 3 * places, 2, 2 * 7 * 6)
    assert other_group[0, :, 1].count_nonzero() == other_group[1, :, 0].count_nonzero() == 0


def test_singular_values_of_circular_padding_are_those_of_every_frequency():
    # Sedghi, Gupta, Long 2019: a circular convolution is one O x I matrix per frequency.
    layer = filled(nn.Conv2d(3, 2, 3, padding=1, padding_mode="circular", bias=False))
    found = np.linalg.svd(toeplitz(layer, (6, 5)).weight.detach().numpy(), compute_uv=False)
    spectrum = np.fft.fft2(layer.weight.detach().numpy(), s=(6, 5)).transpose(2, 3, 0, 1)
    wanted = np.sort(np.linalg.svd(spectrum, compute_uv=False).ravel())[::-1]
    np.testing.assert_allclose(found, wanted, rtol=1e-10)


def test_a_low_rank_kernel_bounds_the_rank_of_the_toeplitz_matrix():
    # One filter for all out channels, scaled: each place gives one row, not four.
    layer = filled(nn.Conv2d(3, 4, 3, padding=1))
    one = recompose(ChannelSVD().factorize(layer, 1))
    assert np.linalg.matrix_rank(toeplitz(layer, (5, 5)).weight.detach().numpy()) == 75
    assert np.linalg.matrix_rank(toeplitz(one, (5, 5)).weight.detach().numpy(), tol=1e-8) == 25


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Im2Col(nn.Conv3d(1, 1, 1)), "im2col takes Conv2d, Conv1d, not Conv3d"),
        (lambda: Im2Col(nn.ConvTranspose2d(1, 1, 1)), "im2col takes Conv2d, Conv1d, not ConvTranspose2d"),
        (lambda: Im2Col(nn.Conv2d(4, 6, 3), 7), "rank 7 is above the full rank 6"),
        (lambda: Im2Col(nn.Conv2d(4, 6, 3), 0), "rank 0 is below 1"),
        (lambda: toeplitz(nn.Linear(4, 6), (3,)), "toeplitz takes Conv2d, Conv1d, not Linear"),
        (lambda: toeplitz(nn.Conv2d(4, 6, 3), (5,)), r"must be 2 integers for a Conv2d, got \(5,\)"),
        (lambda: toeplitz(nn.Conv2d(4, 6, 3), (5, 2)), r"an input of \(5, 2\) is too small .* would be \(3, 0\)"),
        (
            lambda: toeplitz(nn.Conv2d(3, 64, 7, stride=2, padding=3), (224, 224)),
            r"from \(3, 224, 224\) to \(64, 112, 112\) has 802816 x 150528 entries, 450 GiB, above memory_limit=1 GiB: "
            "take a smaller input_size or raise memory_limit",
        ),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_memory_limit_is_met_to_the_byte():
    layer = nn.Conv2d(1, 1, 2)
    needed = (4 * 4) * (5 * 5) * 4
    assert toeplitz(layer, (5, 5), memory_limit=needed).weight.numel() * 4 == needed
    with pytest.raises(ValueError, match="16 x 25 entries"):
        toeplitz(layer, (5, 5), memory_limit=needed - 1)
