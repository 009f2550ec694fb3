import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lowrank_exp.decomposition import recompose
from lowrank_exp.decomposition.slice_wise_svd import SliceWiseSVD
from lowrank_exp.layers.reorder import Reorder
from support.cells import cells
from support.layer_cases import LAYERS, filled, images, kernels, relative

CASES = {
    f"{form}, {name}": (SliceWiseSVD(form=form), layer, shape)
    for name, (layer, shape) in LAYERS.items()
    for form in ("chain", "dense")
    if SliceWiseSVD(form=form).refusal(layer) is None
}
every_case = cells(("kind", "layer", "shape"), CASES.values(), ids=CASES.keys())


def layers_of(chain):
    return [part for part in chain if hasattr(part, "weight")]


def slices(layer):
    """NumPy's SVD of every slice, kernel rows by kernel columns."""
    dense = kernels(layer.weight, layer)
    return dense, np.linalg.svd(dense.reshape(*dense.shape[:4], -1), full_matrices=False)


@every_case
def test_every_slice_is_cut_on_its_own(kind, layer, shape):
    layer, x = filled(layer), images(shape)
    dense, (U, S, V) = slices(layer)
    full = kind.full_rank(layer)
    assert full == S.shape[-1]
    for rank in range(1, full + 1):
        cut = (U[..., :rank] * S[..., None, :rank] @ V[..., :rank, :]).reshape(dense.shape)
        chain = kind.factorize(layer, rank)
        again = recompose(chain)
        np.testing.assert_allclose(kernels(again.weight, again), cut, atol=1e-10)
        error = np.linalg.norm(kernels(again.weight, again) - dense)
        assert error == pytest.approx(np.sqrt((S[..., rank:] ** 2).sum()), rel=1e-9, abs=1e-9)
        energy = (S[..., :rank] ** 2).sum() / (S**2).sum()
        np.testing.assert_allclose(kind.energies(layer, [rank]), [energy], rtol=1e-10)
        with torch.no_grad():
            assert relative(chain(x), again(x)) <= 1e-10
            if rank == full:
                assert relative(chain(x), layer(x)) <= 1e-10


@every_case
def test_costs_are_those_of_the_real_layers(kind, layer, shape):
    ranks = kind.ladder(layer)
    assert ranks == list(range(1, kind.full_rank(layer) + 1))
    macs, weights = kind.rank_macs(layer, (shape,)), kind.rank_weights(layer)
    for rank in ranks:
        chain = kind.skeleton(layer, rank)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            chain(torch.zeros(shape))
        assert macs[rank - 1] == counter.get_total_flops() // 2
        assert weights[rank - 1] == sum(part.weight.numel() for part in layers_of(chain))


@every_case
def test_skeleton_has_the_shapes_of_the_factors(kind, layer, shape):
    rank = kind.full_rank(layer)
    skeleton, factors = kind.skeleton(layer, rank, device="meta"), kind.factorize(layer, rank)
    assert str(skeleton) == str(factors)
    assert {n: t.shape for n, t in skeleton.state_dict().items()} == {
        n: t.shape for n, t in factors.state_dict().items()
    }
    assert all(p.is_meta for p in skeleton.parameters())
    for (name, order), (_, wanted) in zip(skeleton.named_buffers(), factors.named_buffers(), strict=True):
        assert (name, order.tolist()) == ("1.order", wanted.tolist())
    assert [part.bias is None for part in layers_of(factors)][:-1] == [True] * (len(layers_of(factors)) - 1)


def test_a_depthwise_chain_saves_and_needs_no_reordering():
    layer = filled(nn.Conv2d(8, 16, (5, 7), groups=8, stride=(2, 1), padding=(2, 3)))
    chain = SliceWiseSVD().factorize(layer, 1)
    assert [type(part) for part in chain] == [nn.Conv2d, nn.Conv2d]
    assert [(tuple(p.weight.shape), p.groups, p.stride, p.padding) for p in chain] == [
        ((16, 1, 5, 1), 8, (2, 1), (2, 0)),
        ((16, 1, 1, 7), 16, (1, 1), (0, 3)),
    ]
    assert SliceWiseSVD().rank_weights(layer).tolist() == [rank * 16 * 12 for rank in range(1, 6)]
    assert layer.weight.numel() == 16 * 35


def test_a_chain_between_channels_orders_its_maps():
    layer = filled(nn.Conv2d(2, 3, 3))
    first, order, second = SliceWiseSVD(form="chain").factorize(layer, 2)
    assert type(order) is Reorder
    # Made as (in, out, rank), wanted as (out, in, rank).
    assert order.order.tolist() == [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]
    assert (tuple(first.weight.shape), first.groups) == ((12, 1, 3, 1), 2)
    assert (tuple(second.weight.shape), second.groups) == ((3, 4, 1, 3), 3)


def test_filters_that_are_separable_are_exact_at_rank_one():
    rng = np.random.default_rng(0)
    layer = filled(nn.Conv2d(3, 4, 5))
    kernel = np.einsum("oih,oiw->oihw", rng.standard_normal((4, 3, 5)), rng.standard_normal((4, 3, 5)))
    layer.weight.data = torch.from_numpy(kernel)
    for form in ("chain", "dense"):
        again = recompose(SliceWiseSVD(form=form).factorize(layer, 1))
        assert 0 <= relative(again.weight.detach(), kernel) < 1e-12
    np.testing.assert_allclose(SliceWiseSVD().energies(layer, [1, 5]), [1, 1], rtol=1e-12)


def test_auto_takes_the_chain_where_its_maps_are_few_or_the_layer_is_depthwise():
    small, large, depthwise = nn.Conv2d(4, 6, 3), nn.Conv2d(64, 64, 3), nn.Conv2d(2048, 2048, 3, groups=2048)

    def parts(layer, **options):
        return len(SliceWiseSVD(**options).skeleton(layer, 1, device="meta"))

    assert (parts(small), parts(large), parts(depthwise)) == (3, 1, 2)
    assert parts(small, maps_limit=72) == 3  # 4 x 6 x min(3, 3)
    assert parts(small, maps_limit=71) == 1
    assert parts(small, form="dense") == parts(depthwise, form="dense") == 1
    assert parts(depthwise, form="chain") == 2


@pytest.mark.parametrize(
    ("kind", "layer", "reason"),
    [
        (
            SliceWiseSVD(form="chain"),
            nn.Conv2d(64, 64, (3, 5)),
            "slice_wise_svd as a chain would have 12288 maps, above maps_limit 4096; "
            "raise maps_limit or take form auto or dense",
        ),
        (
            SliceWiseSVD(),
            nn.Conv3d(2, 2, 3),
            "slice_wise_svd takes Conv2d, Conv1d, ConvTranspose2d, ConvTranspose1d, not Conv3d",
        ),
        (
            SliceWiseSVD(form="chain"),
            nn.Linear(2, 2),
            "slice_wise_svd takes Conv2d, Conv1d, ConvTranspose2d, ConvTranspose1d, not Linear",
        ),
        (SliceWiseSVD(form="chain", maps_limit=12288), nn.Conv2d(64, 64, (3, 5)), None),
        (SliceWiseSVD(), nn.Conv2d(64, 64, (3, 5)), None),
    ],
)
def test_refusals(kind, layer, reason):
    assert kind.refusal(layer) == reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "thin"}, "form must be one of auto, dense, chain, got 'thin'"),
        ({"maps_limit": 0}, "maps_limit must be an integer, 1 or more, got 0"),
        ({"maps_limit": True}, "maps_limit must be an integer, 1 or more, got True"),
        ({"maps_limit": 2.5}, "maps_limit must be an integer, 1 or more, got 2.5"),
    ],
)
def test_options_that_do_not_exist_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SliceWiseSVD(**options)


def test_options():
    assert SliceWiseSVD().options() == {"form": "auto", "maps_limit": 4096}
    kind = SliceWiseSVD(**SliceWiseSVD(form="chain", maps_limit=9).options())
    assert (kind.form, kind.maps_limit) == ("chain", 9)
