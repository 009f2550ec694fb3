"""Layers in SVD form beside the dense layers whose place they take."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from lowrank_exp.decomposition import ChannelSVD, GroupedChannelSVD, LinearSVD, SpatialSVD
from lowrank_exp.svd_form import SVDConv2d, SVDConvTranspose2d, SVDForm, SVDLinear
from lowrank_exp.svd_form.routes import factors_are_cheaper
from support.cells import cells
from support.layer_cases import CASES, cases, filled, images, relative

OTHER = {"channel_svd": ChannelSVD(order="pointwise_first"), "spatial_svd": SpatialSVD(order="horizontal_first")}
BOTH = CASES | {
    f"{name}, other order": (OTHER[decomposition.name], layer, shape)
    for name, (decomposition, layer, shape) in CASES.items()
    if decomposition.name in OTHER
}
every_case = cells(("decomposition", "layer", "shape"), BOTH.values(), ids=BOTH.keys())
ROUTES = ("weight", "factors", "cost")
many_cases = settings(max_examples=15, deadline=None, derandomize=True, database=None)


def form_of(layer, decomposition, route="cost", rank=None):
    form = SVDForm.from_dense(layer, decomposition, rank)
    form.route = route
    return form


@every_case
def test_full_rank_gives_the_output_of_the_layer(decomposition, layer, shape):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        one, x = filled(layer, dtype=dtype), images(shape, dtype=dtype)
        form = form_of(one, decomposition)
        with torch.no_grad():
            wanted = one(x)
            outputs = [form.dense()(x)]
            for form.route in ROUTES:
                outputs += [form.train()(x), form.eval()(x)]
            for got in outputs:
                assert got.shape == wanted.shape
                assert got.dtype == dtype
                assert relative(got.double(), wanted.double()) <= tolerance
            assert relative(form.weight.double(), one.weight.double()) <= tolerance


@many_cases
@given(cases())
def test_full_rank_gives_the_output_of_any_convolution(case):
    decomposition, layer, shape = case
    layer, x = filled(layer), images(shape)
    with torch.no_grad():
        for kind in (decomposition, OTHER[decomposition.name]):
            for route in ("weight", "factors"):
                assert relative(form_of(layer, kind, route)(x), layer(x)) <= 1e-12


@every_case
def test_parameters_are_the_svd_of_the_matrices(decomposition, layer, shape):
    layer = filled(layer)
    form = form_of(layer, decomposition)
    matrices_GMN = decomposition.matrices(layer).detach().numpy()
    G, M, N = matrices_GMN.shape
    R = min(M, N)
    assert (form.groups, form.rank) == (G, R)
    assert (tuple(form.U.shape), tuple(form.s.shape), tuple(form.V.shape)) == ((G, M, R), (G, R), (G, R, N))
    U_GMR, s_GR, V_GRN = (factor.detach().numpy() for factor in form.svd)
    np.testing.assert_allclose(U_GMR * s_GR[:, None] @ V_GRN, matrices_GMN, atol=1e-12)
    np.testing.assert_allclose(s_GR, np.linalg.svd(matrices_GMN, compute_uv=False), atol=1e-12)
    for factors in (form.U.mT @ form.U, form.V @ form.V.mT):
        np.testing.assert_allclose(factors.detach().numpy(), np.broadcast_to(np.eye(R), (G, R, R)), atol=1e-10)


@every_case
def test_gradient_is_that_of_the_dense_weight(decomposition, layer, shape):
    for route in ("weight", "factors"):
        check_gradient(decomposition, filled(layer), shape, route)


def check_gradient(decomposition, layer, shape, route):
    x = images(shape).requires_grad_()
    form, y = form_of(layer, decomposition, route), images(shape).requires_grad_()
    target = torch.cos(torch.arange(layer(x).numel(), dtype=torch.float64)).reshape(layer(x).shape)
    (layer(x) * target).sum().backward()
    (form(y) * target).sum().backward()
    np.testing.assert_allclose(y.grad.numpy(), x.grad.numpy(), atol=1e-10)

    # Of W = U diag(s) V, by hand: dU = dW V^T diag(s), ds = diag(U^T dW V^T), dV = diag(s) U^T dW.
    dense = copy.deepcopy(layer)
    dense.weight.data = layer.weight.grad
    dW = decomposition.matrices(dense).detach()
    grads = form.layout.to_svd(form.U.grad, form.V.grad)
    U, s, V = (factor.detach() for factor in form.svd)
    wanted = (dW @ V.mT * s[:, None, :], torch.einsum("gmr,gmn,grn->gr", U, dW, V), s[:, :, None] * (U.mT @ dW))
    for got, one in zip((grads[0], form.s.grad, grads[1]), wanted, strict=True):
        assert relative(got, one) <= 1e-10
    if layer.bias is not None:
        assert relative(form.bias.grad, layer.bias.grad) <= 1e-10


@cells("decomposition", [ChannelSVD(), SpatialSVD(), *OTHER.values()], ids=lambda d: str(vars(d)))
@cells("channels_last", [False, True])
@cells("route", ROUTES)
def test_gradient_of_the_weight_in_float32(decomposition, route, channels_last):
    layer = filled(nn.Conv2d(6, 8, 3, padding=1), dtype=torch.float32)
    x = images((4, 6, 9, 9), dtype=torch.float32)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    layer(x).square().mean().backward()
    form = form_of(layer, decomposition, route)
    form(x).square().mean().backward()
    U, s, V = (factor.detach().double() for factor in form.svd)
    dU, dV = form.layout.to_svd(form.U.grad, form.V.grad)
    dense = copy.deepcopy(layer)
    dense.weight.data = layer.weight.grad
    dW = decomposition.matrices(dense).detach().double()
    assert relative(dU.double(), dW @ V.mT * s[:, None, :]) <= 1e-5
    assert relative(dV.double(), s[:, :, None] * (U.mT @ dW)) <= 1e-5


@every_case
def test_one_small_step_lowers_the_loss(decomposition, layer, shape):
    form, x = form_of(filled(layer), decomposition), images(shape)

    def loss():
        return (form(x) - 1).square().mean()

    before = loss()
    before.backward()
    slope = sum(p.grad.square().sum() for p in form.parameters())
    with torch.no_grad():
        for p in form.parameters():  # plain SGD
            p -= 1e-7 * p.grad
        # To first order the loss falls by the step times the squared norm of the gradient.
        assert float(before - loss()) == pytest.approx(1e-7 * float(slope), rel=0.02)


def test_truncated_start_is_the_best_approximation():
    layer = filled(nn.Conv2d(6, 8, 3))
    for decomposition in (ChannelSVD(), SpatialSVD(), *OTHER.values()):
        values = np.linalg.svd(decomposition.matrices(layer)[0].detach().numpy(), compute_uv=False)
        form = form_of(layer, decomposition, rank=3)
        error = (form.weight - layer.weight).detach().square().sum()
        assert float(error) == pytest.approx((values[3:] ** 2).sum(), rel=1e-10)


def test_layer_of_deficient_rank_starts_from_orthonormal_vectors():
    layer = filled(nn.Conv2d(16, 32, 3), dtype=torch.float32)
    layer.weight.data[5:] = 0
    form = form_of(layer, ChannelSVD())
    eye = torch.eye(32)
    assert float((form.U[0].mT @ form.U[0] - eye).abs().max()) <= 1e-5
    assert float((form.V[0] @ form.V[0].mT - eye).abs().max()) <= 1e-5
    assert relative(form.weight.detach(), layer.weight.detach()) <= 1e-6
    assert int((form.s.detach().abs() > 1e-4).sum()) == 5


def test_from_scratch_has_the_start_of_the_dense_layer():
    torch.manual_seed(3)
    conv, linear = nn.Conv2d(4, 6, (3, 2), stride=2, groups=2), nn.Linear(7, 5)
    transposed = nn.ConvTranspose2d(4, 6, 3)
    torch.manual_seed(11)
    state = torch.get_rng_state()
    for kind, wanted, sizes, options in (
        (SVDConv2d, conv, (4, 6, (3, 2)), {"stride": 2, "groups": 2, "decomposition": SpatialSVD()}),
        (SVDLinear, linear, (7, 5), {}),
        (SVDConvTranspose2d, transposed, (4, 6, 3), {"decomposition": ChannelSVD()}),
    ):
        torch.manual_seed(3)
        wanted.reset_parameters()
        torch.set_rng_state(state)
        form = kind.from_scratch(*sizes, seed=3, **options)
        assert torch.equal(torch.get_rng_state(), state)
        torch.testing.assert_close(form.weight, wanted.weight, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(form.bias, wanted.bias, rtol=0, atol=0)
    low = SVDLinear.from_scratch(7, 5, rank=2, seed=3)
    values = torch.linalg.svdvals(linear.weight.detach())
    torch.testing.assert_close(low.s[0].detach(), values[:2], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="needs a decomposition"):
        SVDConv2d.from_scratch(4, 6, 3)


def test_memory_format_follows_the_input():
    conv = filled(nn.Conv2d(4, 6, 3, padding=1), dtype=torch.float32)
    x = images((2, 4, 9, 8), dtype=torch.float32)
    for decomposition in (ChannelSVD(), SpatialSVD(), *OTHER.values()):
        for route in ("weight", "factors"):
            form = form_of(conv, decomposition, route)
            plain, last = form(x), form(x.contiguous(memory_format=torch.channels_last))
            assert plain.is_contiguous()
            assert last.is_contiguous(memory_format=torch.channels_last)
            assert relative(last.detach(), plain.detach()) <= 1e-6


def test_optimizer_steps_in_the_layout_of_the_parameters():
    form = form_of(filled(nn.Conv2d(8, 16, 3)), ChannelSVD())
    form(images((2, 8, 9, 9))).sum().backward()
    for parameter in form.parameters():
        assert parameter.grad.stride() == parameter.stride()
    again = copy.deepcopy(form)
    assert again.U.stride() == form.U.stride()
    for name, tensor in form.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_route_is_the_cheaper_one():
    dense = nn.Conv2d(64, 64, 3, padding=1)
    # 9 x 64 entries in and 64 out; 192 and 192. The product is multiplied out once, at half the cost per MAC.
    for kind, M, N, slowness in ((ChannelSVD(), 576, 64, 1.1), (SpatialSVD(), 192, 192, 1.3)):
        for shape, places in (((128, 64, 32, 32), 128 * 32 * 32), ((1, 64, 4, 4), 16)):
            for rank in range(4, kind.full_rank(dense) + 1, 12):
                cheaper = slowness * places * rank * (M + N) < places * 576 * 64 + 0.5 * M * rank * N
                assert factors_are_cheaper(dense, tuple(kind.skeleton(dense, rank)), shape) == cheaper, (
                    kind.name,
                    rank,
                )
    linear = LinearSVD().skeleton(nn.Linear(64, 32), 16)
    assert factors_are_cheaper(nn.Linear(64, 32), tuple(linear), (8, 64)) == (
        16 * 96 < 64 * 32 + 0.5 * 64 * 16 * 32 / 8
    )
    form = form_of(nn.Conv2d(64, 64, 3), ChannelSVD())
    assert form(torch.zeros(1, 64, 4, 4)).shape == (1, 64, 2, 2)
    assert form._cheaper == {(1, 64, 4, 4): True}


@cells(("decomposition", "layer", "shape"), CASES.values(), ids=CASES.keys())
def test_counted_macs_are_those_of_torch(decomposition, layer, shape):
    from torch.utils.flop_counter import FlopCounterMode

    from lowrank_exp.svd_form.routes import _macs, _shape_after

    for part in (layer, *decomposition.skeleton(layer, 1)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            after = part(torch.zeros(shape))
        assert _macs(part, shape) == counter.get_total_flops() // 2
        assert _shape_after(part, shape) == tuple(after.shape)
        shape = tuple(after.shape) if part is not layer else shape


def test_frozen_layers_stay_frozen():
    layer = nn.Conv2d(4, 6, 3).eval()
    layer.weight.requires_grad_(False)
    form = form_of(layer, SpatialSVD())
    assert [p.requires_grad for p in (form.U, form.s, form.V, form.bias)] == [False, False, False, True]
    assert not form.training
    dense = form.dense()
    assert (dense.weight.requires_grad, dense.bias.requires_grad, dense.training) == (False, True, False)


def test_what_has_no_form_is_refused():
    conv, linear = nn.Conv2d(4, 6, 3), nn.Linear(4, 6)
    for call, message in (
        (lambda: SVDForm.from_dense(nn.BatchNorm2d(4), ChannelSVD()), "no SVD form of BatchNorm2d"),
        (lambda: SVDLinear.from_dense(conv, ChannelSVD()), "takes the place of Linear, not of Conv2d"),
        (lambda: SVDForm.from_dense(linear, ChannelSVD()), "channel_svd takes Conv1d"),
        (lambda: SVDForm.from_dense(conv, LinearSVD()), "linear_svd takes Linear"),
        (lambda: SVDForm.from_dense(conv, GroupedChannelSVD(2)), "grouped_channel_svd has no SVD form"),
        (lambda: SVDForm.from_dense(conv, ChannelSVD(), 7), "rank 7 is above the full rank 6"),
        (lambda: form_of(conv, ChannelSVD(), "fast")(torch.zeros(1, 4, 5, 5)), "route must be one of cost"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    conv.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        SVDForm.from_dense(conv, ChannelSVD())
