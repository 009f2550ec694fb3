"""Monochromatic filters: by hand, next to NumPy, and on layers of every setting."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lowrank_exp.decomposition.monochromatic import Monochromatic
from lowrank_exp.decomposition.recompose import recompose
from lowrank_exp.layers.reorder import Reorder
from support.cells import cells
from support.layer_cases import LAYERS, filled, images, kernels, relative, weight_of, with_kernels
from support.partitions import equal_partitions

CASES = {name: case for name, case in LAYERS.items() if not isinstance(case[0], nn.Linear)}
every_case = cells(("layer", "shape"), CASES.values(), ids=CASES.keys())


def rebuilt(layer, chain):
    """The dense kernels `(G, O, I, *K)`, put together from the numbers in the chain."""
    first, second, reorder = chain
    G, O = layer.groups, layer.out_channels // layer.groups
    colours = first.weight.detach().double().numpy().reshape(len(first.weight), -1)
    second = second.weight.detach().double().numpy()
    filters = second.reshape(layer.out_channels, *layer.kernel_size)
    each = len(filters) // len(colours)
    placed = np.stack([np.multiply.outer(colours[p // each], filters[p]) for p in range(len(filters))])
    return placed[reorder.order.numpy()].reshape(G, O, *placed.shape[1:])


def planted(layer, C, seed=3):
    """A copy of `layer` whose groups have C colours each, in an order drawn at random."""
    rng = np.random.default_rng(seed)
    G, O, I = layer.groups, layer.out_channels // layer.groups, layer.in_channels // layer.groups
    found = []
    for _ in range(G):
        colours = np.repeat(rng.standard_normal((C, I)), O // C, axis=0)[rng.permutation(O)]
        found.append(np.einsum("oi,o...->oi...", colours, rng.standard_normal((O, *layer.kernel_size))))
    return with_kernels(filled(layer), np.stack(found))


def by_hand():
    # Filters 0 and 2 see channel 0 alone; filters 1 and 3 see the sum of 3/5 and 4/5, once with the other sign.
    layer = nn.Conv2d(2, 4, (1, 2)).double()
    grey = torch.tensor([0.6, 0.8])
    layer.weight.data = torch.stack(
        [
            torch.tensor([[1.0, 2.0], [0.0, 0.0]]),
            torch.outer(grey, torch.tensor([5.0, -5.0])),
            torch.tensor([[-3.0, 1.0], [0.0, 0.0]]),
            torch.outer(-grey, torch.tensor([1.0, 4.0])),
        ]
    )[:, :, None, :].double()
    layer.bias.data = torch.tensor([10.0, 11.0, 12.0, 13.0]).double()
    return layer


@pytest.mark.parametrize("centres", ["best", "mean"])
def test_two_colours_by_hand(centres):
    first, second, reorder = Monochromatic(centres).factorize(by_hand(), 2)
    colours, filters = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[1, 2], [-3, 1], [5, -5], [-1, -4]])
    torch.testing.assert_close(first.weight.detach()[:, :, 0, 0], colours.double(), rtol=0, atol=1e-7)
    torch.testing.assert_close(second.weight.detach()[:, 0, 0], filters.double(), rtol=0, atol=1e-6)
    assert second.bias.tolist() == [10, 12, 11, 13]
    assert reorder.order.tolist() == [0, 2, 1, 3]
    assert (first.groups, second.groups) == (1, 2)


def test_one_colour_by_hand():
    # One colour for [[2, 0], [0, 0]] and [[0, 0], [0, 1]] is the first channel: 4 of 5 squared stays.
    layer = nn.Conv1d(2, 2, 2, bias=False)
    layer.weight.data = torch.tensor([[[2.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]])
    chain = Monochromatic().factorize(layer, 1)
    assert rebuilt(layer, chain).tolist() == [[[[2, 0], [0, 0]], [[0, 0], [0, 0]]]]
    assert Monochromatic().energies(layer, [1, 2]).tolist() == [pytest.approx(0.8), 1]


@every_case
@cells(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_planted_colours_are_found_and_exact(layer, shape, dtype, tolerance):
    decomposition = Monochromatic(restarts=3)
    for C in decomposition.ladder(layer)[:3]:
        dense, x = planted(layer, C).to(dtype), images(shape, dtype=dtype)
        chain = decomposition.factorize(dense, C)
        with torch.no_grad():
            got, wanted = chain(x), dense(x)
        assert (got.shape, got.dtype) == (wanted.shape, dtype)
        assert relative(got.double(), wanted.double()) <= tolerance
        assert 1 - 1e-6 <= decomposition.energies(dense, [C])[0] <= 1


@every_case
def test_chain_is_the_dense_layer_of_its_own_kernel(layer, shape):
    layer, x = filled(layer), images(shape)
    decomposition = Monochromatic(restarts=3)
    for C in decomposition.ladder(layer)[-2:]:
        chain = decomposition.factorize(layer, C)
        kernel = rebuilt(layer, chain)
        dense = recompose(chain)
        with torch.no_grad():
            wanted = with_kernels(layer, kernel)(x)
            assert relative(chain(x), wanted) <= 1e-12
            assert relative(dense(x), wanted) <= 1e-12
        error = relative(kernel, kernels(layer.weight, layer))
        np.testing.assert_allclose(decomposition.energies(layer, [C]), [1 - error**2], rtol=0, atol=1e-12)


@every_case
def test_full_rank_keeps_the_first_singular_value_of_every_filter(layer, shape):
    layer = filled(layer)
    values = [
        np.linalg.svd(filter_IK.reshape(len(filter_IK), -1), compute_uv=False)
        for filter_IK in kernels(layer.weight, layer).reshape(layer.out_channels, -1, *layer.kernel_size)
    ]
    wanted = sum(s[0] ** 2 for s in values) / sum((s**2).sum() for s in values)
    full = Monochromatic().full_rank(layer)
    assert full == layer.out_channels // layer.groups
    np.testing.assert_allclose(Monochromatic().energies(layer, [full]), [wanted], rtol=1e-12)
    one_in, one_entry = layer.in_channels == layer.groups, set(layer.kernel_size) == {1}
    assert (wanted > 1 - 1e-12) == (one_in or one_entry)


def test_filters_are_the_least_squares_ones_for_their_colour():
    layer = filled(nn.Conv2d(3, 8, 5, bias=False))
    chain = Monochromatic().factorize(layer, 4)
    colours = chain[0].weight.detach().numpy().reshape(4, 3)
    filters = chain[1].weight.detach().numpy().reshape(8, 25)
    dense = layer.weight.detach().numpy().reshape(8, 3, 25)
    np.testing.assert_allclose(np.linalg.norm(colours, axis=1), 1, rtol=1e-12)
    for channel, place in enumerate(chain[2].order.tolist()):
        wanted, *_ = np.linalg.lstsq(colours[place // 2][:, None], dense[channel], rcond=None)
        np.testing.assert_allclose(filters[place], wanted[0], rtol=1e-10, atol=1e-12)


def test_colours_are_close_to_the_best_of_all_partitions():
    ratios = []
    for seed in range(10):
        layer = filled(nn.Conv2d(3, 6, 2, bias=False), seed)
        filters = layer.weight.detach().numpy().reshape(6, 3, 4)

        def kept(labels, filters=filters):
            beside = [np.concatenate(filters[labels == k], axis=1) for k in range(3)]
            return sum(np.linalg.svd(matrix, compute_uv=False)[0] ** 2 for matrix in beside)

        best = max(kept(labels) for labels in equal_partitions(6, 3)) / (filters**2).sum()
        ratios.append(Monochromatic().energies(layer, [3])[0] / best)
    assert 0.9 < min(ratios) <= max(ratios) <= 1 + 1e-12
    assert np.mean(ratios) > 0.97


@pytest.mark.parametrize("shape", [(96, 3, 7, 7), (64, 16, 3, 3)])
def test_best_centres_keep_no_less_than_mean_ones_and_energies_rise(shape):
    rng = np.random.default_rng(0)
    layer = nn.Conv2d(shape[1], shape[0], shape[2], bias=False).double()
    layer.weight.data = torch.from_numpy(rng.standard_normal(shape) * rng.gamma(1, size=(shape[0], 1, 1, 1)))
    ladder = Monochromatic().ladder(layer)
    best = Monochromatic("best", restarts=3).energies(layer, ladder)
    mean = Monochromatic("mean", restarts=3).energies(layer, ladder)
    assert (best >= mean - 1e-12).all()
    assert (best[1:-1] > mean[1:-1]).mean() > 0.5
    assert (np.diff(best) >= 0).all()
    assert 0 < best[0] < best[-1] < 1
    backwards = Monochromatic(restarts=3).energies(layer, ladder[::-1])
    np.testing.assert_array_equal(backwards[::-1], best)


def test_signs_of_the_filters_change_no_cluster():
    layer = filled(nn.Conv2d(3, 12, 3, bias=False))
    turned = copy.deepcopy(layer)
    turned.weight.data[::2] *= -1
    one, other = (Monochromatic().factorize(net, 4) for net in (layer, turned))
    assert one[2].order.tolist() == other[2].order.tolist()
    torch.testing.assert_close(one[0].weight, other[0].weight, rtol=0, atol=1e-12)


@every_case
def test_costs_are_those_of_the_real_layers(layer, shape):
    decomposition = Monochromatic()
    ladder = decomposition.ladder(layer)
    macs, weights = decomposition.rank_macs(layer, (shape, shape)), decomposition.rank_weights(layer)
    assert macs.shape == weights.shape == (len(ladder),)
    for at, C in enumerate(ladder):
        chain = decomposition.skeleton(layer, C)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            chain(torch.zeros(shape))
        assert macs[at] == 2 * (counter.get_total_flops() // 2)
        assert weights[at] == sum(f.weight.numel() for f in chain if hasattr(f, "weight"))


@pytest.mark.parametrize("C_", [1, 4, 6, 8, 12])
def test_operations_are_the_formula_of_the_paper(C_):
    # C' C N M + X Y F N M / stride^2; conv1 of the network of Zeiler and Fergus.
    C, F, X, Y, N, M, stride = 3, 96, 7, 7, 32, 24, 2
    layer = nn.Conv2d(C, F, (X, Y), stride=stride, padding=3)
    (macs,) = Monochromatic().rank_macs(layer, ((1, C, N, M),), [C_])
    assert macs == C_ * C * N * M + X * Y * F * N * M // stride**2


def test_reduction_of_weights_is_that_of_the_paper():
    layer = nn.Conv2d(3, 96, 7, stride=2, device="meta")
    (weights,) = Monochromatic().rank_weights(layer, [6])
    assert weights == 6 * 3 + 96 * 49
    assert 2.985 < layer.weight.numel() / weights < 2.995  # printed: 3 x


@every_case
def test_skeleton_has_the_shapes_of_the_factors(layer, shape):
    decomposition = Monochromatic(restarts=1)
    rank = decomposition.ladder(layer)[-1]
    chain = decomposition.factorize(filled(layer), rank)
    plain, bare = decomposition.skeleton(layer, rank), decomposition.skeleton(layer, rank, device="meta")
    assert str(chain) == str(plain) == str(bare)
    shapes = [{n: t.shape for n, t in net.state_dict().items()} for net in (chain, plain, bare)]
    assert shapes[0] == shapes[1] == shapes[2]
    assert all(p.is_meta for p in bare.parameters())
    assert [type(part) for part in chain][2] is Reorder
    plain.double().load_state_dict(chain.state_dict())
    x = images(shape)
    with torch.no_grad():
        assert torch.equal(plain(x), chain(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept(dtype):
    layer = planted(nn.Conv2d(3, 8, 3), 2).to(dtype)
    chain = Monochromatic().factorize(layer, 2)
    assert {p.dtype for p in chain.parameters()} == {dtype}
    error = relative(rebuilt(layer, chain), kernels(layer.weight, layer))
    assert torch.finfo(dtype).eps / 20 < error < 2 * torch.finfo(dtype).eps


def test_mode_gradients_and_the_dense_layer_are_left_as_they_were():
    layer = filled(nn.Conv2d(3, 8, 3)).eval()
    layer.weight.requires_grad_(False)
    before = copy.deepcopy(layer.state_dict())
    chain, again = (Monochromatic().factorize(layer, 4) for _ in range(2))
    assert [m.training for m in chain.modules()] == [False] * 4
    assert [p.requires_grad for p in chain.parameters()] == [False, False, True]
    for net, wanted in ((layer.state_dict(), before), (chain.state_dict(), again.state_dict())):
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in net.items())


def test_zeros_stay_zeros():
    layer = nn.Conv2d(3, 6, 3, bias=False)
    layer.weight.data.zero_()
    chain = Monochromatic().factorize(layer, 3)
    assert relative(rebuilt(layer, chain), np.zeros(())) == 0
    assert Monochromatic().energies(layer, [1, 3]).tolist() == [1, 1]


def test_a_pruned_filter_among_others_does_no_harm():
    layer = planted(nn.Conv2d(3, 6, 3, bias=False), 2)
    layer.weight.data[2] = 0
    chain = Monochromatic().factorize(layer, 2)
    dense = kernels(layer.weight, layer)
    assert relative(rebuilt(layer, chain), dense) < 1e-7
    np.testing.assert_allclose(rebuilt(layer, chain)[0, 2], 0, atol=1e-12)


def test_groups_are_decomposed_each_by_itself():
    layer = filled(nn.Conv2d(6, 8, 3, groups=2, bias=False))
    whole = rebuilt(layer, Monochromatic().factorize(layer, 2))
    for g in range(2):
        half = nn.Conv2d(3, 4, 3, bias=False).double()
        half.weight.data = weight_of(kernels(layer.weight, layer)[g][None], half)
        np.testing.assert_allclose(rebuilt(half, Monochromatic().factorize(half, 2))[0], whole[g], atol=1e-12)


@pytest.mark.parametrize(
    ("rank", "message"),
    [
        (5, "rank 5 does not divide the 12 out channels of a group .* takes the ranks 1, 2, 3, 4, 6, 12 here"),
        (0, "rank 0 is below 1"),
        (24, "rank 24 is above the full rank 12"),
        (2.0, "must be an integer from 1 to 12 for monochromatic, got 2.0"),
        ([2, 3], "must be an integer from 1 to 12"),
    ],
)
def test_ranks_that_do_not_exist_are_refused(rank, message):
    layer = nn.Conv2d(6, 24, 3, groups=2)
    for call in (Monochromatic().factorize, Monochromatic().check_rank):
        with pytest.raises(ValueError, match=message):
            call(layer, rank)


def test_options_and_refusals():
    assert Monochromatic("mean", seed=3, restarts=4).options() == {"centres": "mean", "seed": 3, "restarts": 4}
    assert Monochromatic().refusal(nn.Conv2d(3, 7, 3)) is None
    assert Monochromatic().refusal(nn.Linear(3, 7)).startswith("monochromatic takes Conv1d")
    with pytest.raises(ValueError, match="centres of monochromatic must be one of best, mean, got 'median'"):
        Monochromatic("median")
    for restarts, centres in itertools.product((0, True, 2.5), ("best", "mean")):
        with pytest.raises(ValueError, match="restarts of monochromatic must be an integer of at least 1"):
            Monochromatic(centres, restarts=restarts)
