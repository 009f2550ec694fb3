"""Biclustering: by hand, next to TensorLy, and on layers of every setting."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lowrank_exp.decomposition.biclustering import Biclustering
from lowrank_exp.decomposition.recompose import recompose
from lowrank_exp.layers.reorder import Reorder
from support.cells import cells
from support.layer_cases import LAYERS, filled, images, kernels, relative, weight_of, with_kernels
from support.tensorly_peers import cp_error, tucker2_error


def clusters_for(layer):
    """Two where they divide the channels of a group, otherwise one."""
    channels = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    return [2 if count % 2 == 0 else 1 for count in channels]


CASES = {
    f"{inner}, {name}": (Biclustering(*clusters_for(layer), inner, restarts=1, iterations=20), layer, shape)
    for name, (layer, shape) in LAYERS.items()
    if not isinstance(layer, nn.Linear)
    for inner in ("outer", "svd")
}
every_case = cells(("decomposition", "layer", "shape"), CASES.values(), ids=CASES.keys())


def rebuilt(decomposition, layer, chain):
    """The dense kernels `(G, O, I, *K)`, put together block by block from the numbers in the chain."""
    reorder_in, first, spatial, _, last, reorder_out = chain
    L, G, H = layer.groups, decomposition.in_clusters, decomposition.out_clusters
    J, P = layer.in_channels // L // G, layer.out_channels // L // H
    first_w = first.weight.detach().double().numpy().reshape(L, G, H, -1, J)
    last_w = last.weight.detach().double().numpy().reshape(L, H, P, G, -1)
    spatial_w = kernels(spatial.weight, spatial)  # groups, out, in, *K
    K1, K2 = first_w.shape[3], last_w.shape[4]
    kernel = np.zeros((L * H * P, L * G * J, *layer.kernel_size))
    for l, g, h in np.ndindex(L, G, H):
        if decomposition.inner == "outer":
            b = spatial_w.reshape(L, G, H, K1, *layer.kernel_size)[l, g, h]
            block = np.einsum("kj,k...,pk->pj...", first_w[l, g, h], b, last_w[l, h, :, g])
        else:
            core = spatial_w.reshape(L, G, H, K2, K1, *layer.kernel_size)[l, g, h]
            block = np.einsum("kj,qk...,pq->pj...", first_w[l, g, h], core, last_w[l, h, :, g])
        rows = slice((l * H + h) * P, (l * H + h + 1) * P)
        kernel[rows, (l * G + g) * J : (l * G + g + 1) * J] = block
    kernel = kernel[reorder_out.order.numpy()][:, np.argsort(reorder_in.order.numpy())]
    per_group = kernel.reshape(L, H * P, L, G * J, *layer.kernel_size)
    return np.stack([per_group[l, :, l] for l in range(L)])


def by_hand():
    # In channels 0 and 2 are alike, and 1 and 3; so are out channels 0 and 2, and 1 and 3.
    layer = nn.Conv2d(4, 4, (1, 2)).double()
    M = torch.tensor([[1.0, -2.0], [3.0, 5.0]])  # out cluster, in cluster
    channels = torch.tensor([0, 1, 0, 1])
    layer.weight.data = (M[channels][:, channels][:, :, None, None] * torch.tensor([1.0, 2.0])).double()
    layer.bias.data = torch.tensor([10.0, 11.0, 12.0, 13.0]).double()
    return layer


def test_four_blocks_by_hand():
    layer = by_hand()
    chain = Biclustering().factorize(layer, 1)
    assert [part.order.tolist() for part in (chain[0], chain[3], chain[5])] == [
        [0, 2, 1, 3],
        [0, 2, 1, 3],
        [0, 2, 1, 3],
    ]
    assert chain[4].bias.tolist() == [10, 12, 11, 13]
    assert [part.groups for part in chain if hasattr(part, "groups")] == [2, 4, 2]

    # A block has the norm |M| sqrt(2 x 2) sqrt(1 + 4), of which each of its three vectors has the cube root.
    norms = (np.array([1.0, 3.0, 2.0, 5.0]) * 2 * np.sqrt(5)) ** (1 / 3)  # (g, h) = (0, 0), (0, 1), (1, 0), (1, 1)
    first, spatial, last = (chain[at].weight.detach().numpy() for at in (1, 2, 4))
    np.testing.assert_allclose(np.abs(first[:, :, 0, 0]), np.outer(norms, [0.5**0.5] * 2), rtol=1e-9)
    np.testing.assert_allclose(np.abs(spatial[:, 0, 0]), np.outer(norms, [0.2**0.5, 0.8**0.5]), rtol=1e-9)
    at_h_g = norms[[0, 2, 1, 3]].reshape(2, 1, 2).repeat(2, axis=1).reshape(4, 2)
    np.testing.assert_allclose(np.abs(last[:, :, 0, 0]), at_h_g * 0.5**0.5, rtol=1e-9)
    assert relative(rebuilt(Biclustering(), layer, chain), kernels(layer.weight, layer)) < 1e-8  # of the ridge


def test_one_block_of_the_wrong_rank_by_hand():
    # A 1 x 1 kernel diag(3, 2, 1, 0) in one block: rank K keeps the K largest of 9, 4, 1 squared.
    layer = nn.Conv2d(4, 4, 1, bias=False).double()
    layer.weight.data = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.0]).double())[:, :, None, None]
    wanted = [9 / 14, 13 / 14, 1, 1]
    np.testing.assert_allclose(Biclustering(1, 1).energies(layer, [1, 2, 3, 4]), wanted, atol=1e-8)
    svd = Biclustering(1, 1, "svd")
    np.testing.assert_allclose(svd.energies(layer, [(k, k) for k in (1, 2, 3, 4)]), wanted, atol=1e-12)
    np.testing.assert_allclose(svd.energies(layer, [(1, 3), (2, 1)]), [9 / 14, 9 / 14], atol=1e-12)


@every_case
@cells(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_full_rank_gives_the_output_of_the_layer(decomposition, layer, shape, dtype, tolerance):
    layer, x = filled(layer, dtype=dtype), images(shape, dtype=dtype)
    chain = decomposition.factorize(layer, decomposition.full_rank(layer))
    with torch.no_grad():
        got, wanted = chain(x), layer(x)
    assert (got.shape, got.dtype) == (wanted.shape, dtype)
    assert relative(got.double(), wanted.double()) <= tolerance


@every_case
def test_chain_is_the_dense_layer_of_its_own_kernel(decomposition, layer, shape):
    layer, x = filled(layer), images(shape)
    ladder = decomposition.ladder(layer)
    rank = ladder[len(ladder) // 2]
    chain = decomposition.factorize(layer, rank)
    kernel = rebuilt(decomposition, layer, chain)
    with torch.no_grad():
        wanted = with_kernels(layer, kernel)(x)
        assert relative(chain(x), wanted) <= 1e-12
        assert relative(recompose(chain)(x), wanted) <= 1e-12
    kept = 1 - relative(kernel, kernels(layer.weight, layer)) ** 2
    (energy,) = decomposition.energies(layer, [rank])
    if decomposition.inner == "outer":  # an estimate
        assert 0 < kept <= 1 + 1e-12
        assert energy == pytest.approx(kept, abs=0.05)
    else:
        assert energy - 1e-12 <= kept <= 1 + 1e-12
        assert energy > 0.8 * kept


@pytest.mark.parametrize("inner", ["outer", "svd"])
@pytest.mark.parametrize(("L", "G", "H"), [(1, 1, 1), (1, 2, 3), (2, 3, 2)])
def test_planted_blocks_are_found_and_exact(inner, L, G, H):
    rng = np.random.default_rng(1)
    J, P, X = 4, 3, (3, 2)
    planted = np.zeros((L, H * P, G * J, *X))
    for l in range(L):
        # Slices of one cluster are near one another: the same mean, far from those of the other clusters.
        for g, h in np.ndindex(G, H):
            a, b, c = rng.normal(1, 0.05, J), rng.standard_normal(X), rng.normal(1, 0.05, P)
            planted[l, h * P : (h + 1) * P, g * J : (g + 1) * J] = np.einsum("p,j,xy->pjxy", c, a, b)
        planted[l] = planted[l][rng.permutation(H * P)][:, rng.permutation(G * J)]
    layer = with_kernels(filled(nn.Conv2d(L * G * J, L * H * P, X, stride=2, padding=1, groups=L)), planted)
    decomposition = Biclustering(G, H, inner)
    chain = decomposition.factorize(layer, 1 if inner == "outer" else (1, 1))
    x = images((2, L * G * J, 7, 8))
    with torch.no_grad():
        assert relative(chain(x), layer(x)) < 1e-7
    if (G, H) != (1, 1):  # in one block the same rank is too low
        one = Biclustering(1, 1, inner)
        (energy,) = one.energies(layer, [1 if inner == "outer" else (1, 1)])
        assert 0.1 < energy < 0.95


def test_outer_is_as_close_as_the_cp_of_tensorly():
    layer = filled(nn.Conv2d(6, 8, 3, bias=False))
    tensor = kernels(layer.weight, layer)[0].reshape(8, 6, 9)
    decomposition = Biclustering(1, 1, iterations=300)
    for K in (1, 4, 9):
        chain = decomposition.factorize(layer, K)
        ours = relative(rebuilt(decomposition, layer, chain)[0].reshape(8, 6, 9), tensor) ** 2
        theirs = cp_error(tensor, K, sweeps=300) ** 2
        assert 0.85 * theirs < ours < 1.05 * theirs


def test_svd_is_the_partial_tucker_of_tensorly():
    layer = filled(nn.Conv2d(6, 8, 3, bias=False))
    kernel = kernels(layer.weight, layer)
    decomposition = Biclustering(1, 1, "svd", iterations=300)
    for K1, K2 in ((1, 1), (2, 5), (6, 3)):
        ours = relative(rebuilt(decomposition, layer, decomposition.factorize(layer, (K1, K2))), kernel)
        theirs = tucker2_error(kernel[0], K1, K2, n_iter_max=300, tol=1e-8)
        assert 0.98 * theirs < ours < 1.005 * theirs


def test_every_block_is_fitted_as_if_it_were_a_layer_of_its_own():
    layer = filled(nn.Conv2d(8, 12, 3, bias=False))
    decomposition, one = Biclustering(2, 3), Biclustering(1, 1)
    chain = decomposition.factorize(layer, 2)
    inputs, outputs = chain[0].order.numpy().reshape(2, 4), np.argsort(chain[5].order.numpy()).reshape(3, 4)
    whole, dense = rebuilt(decomposition, layer, chain)[0], kernels(layer.weight, layer)[0]
    for g, h in np.ndindex(2, 3):
        at = np.ix_(outputs[h], inputs[g])
        block = nn.Conv2d(4, 4, 3, bias=False).double()
        block.weight.data = weight_of(dense[at][None], block)
        alone = rebuilt(one, block, one.factorize(block, 2))[0]
        assert relative(whole[at], dense[at]) == pytest.approx(relative(alone, dense[at]), rel=0.02)


@pytest.mark.parametrize("inner", ["outer", "svd"])
@pytest.mark.parametrize("layer", [nn.Conv2d(8, 12, 3), nn.Conv2d(16, 8, 3, groups=2), nn.Conv1d(4, 4, 5)])
def test_energies_rise_along_the_ladder(inner, layer):
    layer, decomposition = filled(layer), Biclustering(2, 2, inner, restarts=2, iterations=10)
    ladder = decomposition.ladder(layer)
    energies = decomposition.energies(layer, ladder)
    weights = decomposition.rank_weights(layer)
    assert (np.diff(energies) >= -1e-12).all()
    assert (np.diff(weights) > 0).all()
    assert ladder[-1] == decomposition.full_rank(layer)
    assert 0 < energies[0] < 0.9
    assert energies[-1] == pytest.approx(1, abs=1e-12)
    np.testing.assert_array_equal(decomposition.energies(layer, ladder[::-1]), energies[::-1])


def test_ladders_of_a_large_layer():
    layer = nn.Conv2d(512, 512, 3, device="meta")
    assert Biclustering().ladder(layer) == list(range(1, 256 * 9 + 1))
    pairs = Biclustering(inner="svd").ladder(layer)
    assert (pairs[0], pairs[-1], len(pairs)) == ((1, 1), (256, 256), 511)
    assert max(abs(K1 - K2) for K1, K2 in pairs) == 1
    assert Biclustering(4, 1, "svd").ladder(layer)[-2:] == [(128, 511), (128, 512)]


@every_case
def test_costs_are_those_of_the_real_layers(decomposition, layer, shape):
    ladder = decomposition.ladder(layer)
    macs, weights = decomposition.rank_macs(layer, (shape, shape)), decomposition.rank_weights(layer)
    assert macs.shape == weights.shape == (len(ladder),)
    for at in {0, len(ladder) // 2, len(ladder) - 1}:
        chain = decomposition.skeleton(layer, ladder[at])
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            chain(torch.zeros(shape))
        assert macs[at] == 2 * (counter.get_total_flops() // 2)
        assert weights[at] == sum(f.weight.numel() for f in chain if hasattr(f, "weight"))


@pytest.mark.parametrize(("G", "H", "K", "K1", "K2"), [(48, 2, 6, 1, 2), (2, 2, 8, 19, 24), (1, 4, 3, 6, 5)])
def test_operations_are_the_formulas_of_the_paper(G, H, K, K1, K2):
    C, F, XY, N, M, stride = 96, 256, 25, 16, 12, 2
    layer = nn.Conv2d(C, F, 5, stride=stride, padding=2)
    out = N * M // stride**2
    (outer,) = Biclustering(G, H).rank_macs(layer, ((1, C, N, M),), [K])
    assert outer == G * H * K * (N * M * C // G + XY * out + F // H * out)
    (svd,) = Biclustering(G, H, "svd").rank_macs(layer, ((1, C, N, M),), [(K1, K2)])
    assert svd == G * H * (N * M * C // G * K1 + K1 * XY * K2 * out + K2 * F // H * out)


@pytest.mark.parametrize(
    ("decomposition", "rank", "reduction"),
    [
        (Biclustering(48, 2), 6, 6.88),  # printed with these numbers: 5.3
        (Biclustering(48, 2), 8, 5.16),
        (Biclustering(2, 2, "svd"), (19, 24), 9.98),  # printed with these numbers: 3.9
        (Biclustering(2, 2, "svd"), (19, 64), 3.89),
    ],
)
def test_reductions_of_weights_follow_from_the_numbers_of_the_paper(decomposition, rank, reduction):
    layer = nn.Conv2d(96, 256, 5, device="meta")
    (weights,) = decomposition.rank_weights(layer, [rank])
    assert layer.weight.numel() / weights == pytest.approx(reduction, abs=0.006)


@every_case
def test_skeleton_has_the_shapes_of_the_factors(decomposition, layer, shape):
    rank = decomposition.ladder(layer)[0]
    chain = decomposition.factorize(filled(layer), rank)
    plain, bare = decomposition.skeleton(layer, rank), decomposition.skeleton(layer, rank, device="meta")
    assert str(chain) == str(plain) == str(bare)
    shapes = [{n: t.shape for n, t in net.state_dict().items()} for net in (chain, plain, bare)]
    assert shapes[0] == shapes[1] == shapes[2]
    assert all(p.is_meta for p in bare.parameters())
    assert [type(part) is Reorder for part in chain] == [True, False, False, True, False, True]
    plain.double().load_state_dict(chain.state_dict())
    x = images(shape)
    with torch.no_grad():
        assert torch.equal(plain(x), chain(x))


@pytest.mark.parametrize("inner", ["outer", "svd"])
def test_groups_are_decomposed_each_by_itself(inner):
    layer = filled(nn.Conv2d(8, 12, 3, groups=2, bias=False))
    decomposition = Biclustering(2, 3, inner)
    rank = decomposition.full_rank(layer)
    whole = rebuilt(decomposition, layer, chain := decomposition.factorize(layer, rank))
    for g in range(2):
        half = nn.Conv2d(4, 6, 3, bias=False).double()
        half.weight.data = weight_of(kernels(layer.weight, layer)[g][None], half)
        alone = decomposition.factorize(half, rank)
        np.testing.assert_allclose(rebuilt(decomposition, half, alone)[0], whole[g], atol=1e-10)
        assert (chain[0].order[4 * g : 4 * g + 4] - 4 * g).tolist() == alone[0].order.tolist()
        assert (chain[5].order[6 * g : 6 * g + 6] - 6 * g).tolist() == alone[5].order.tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("inner", ["outer", "svd"])
def test_half_precision_is_kept(inner, dtype):
    layer, decomposition = filled(nn.Conv2d(4, 8, 3), dtype=dtype), Biclustering(2, 2, inner)
    chain = decomposition.factorize(layer, decomposition.full_rank(layer))
    assert {p.dtype for p in chain.parameters()} == {dtype}
    error = relative(rebuilt(decomposition, layer, chain), kernels(layer.weight, layer))
    assert torch.finfo(dtype).eps / 20 < error < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("inner", ["outer", "svd"])
def test_mode_gradients_and_the_dense_layer_are_left_as_they_were(inner):
    layer = filled(nn.Conv2d(4, 8, 3)).eval()
    layer.weight.requires_grad_(False)
    before = copy.deepcopy(layer.state_dict())
    decomposition = Biclustering(2, 2, inner)
    rank = decomposition.ladder(layer)[1]
    chain, again = (decomposition.factorize(layer, rank) for _ in range(2))
    assert [m.training for m in chain.modules()] == [False] * 7
    assert [p.requires_grad for p in chain.parameters()] == [False, False, False, True]
    for net, wanted in ((layer.state_dict(), before), (chain.state_dict(), again.state_dict())):
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in net.items())


@pytest.mark.parametrize("inner", ["outer", "svd"])
def test_zeros_stay_zeros(inner):
    layer, decomposition = nn.Conv2d(4, 6, 3, bias=False), Biclustering(2, 2, inner)
    layer.weight.data.zero_()
    for rank in decomposition.ladder(layer)[:2]:
        chain = decomposition.factorize(layer, rank)
        assert relative(rebuilt(decomposition, layer, chain), np.zeros(())) == 0
        assert decomposition.energies(layer, [rank]).tolist() == [1]


def test_ranks_are_those_of_the_blocks():
    layer = nn.Conv2d(24, 32, (3, 2), groups=2, device="meta")  # blocks of 6 in and 4 out channels per group
    assert Biclustering(2, 4).full_rank(layer) == 6 * 4
    assert Biclustering(2, 4, "svd").full_rank(layer) == (6, 4)
    assert Biclustering(12, 1, "svd").full_rank(layer) == (1, 6)  # one in channel times 3 x 2 entries
    assert Biclustering(1, 16, "svd").full_rank(layer) == (6, 1)


@pytest.mark.parametrize(
    ("decomposition", "rank", "message"),
    [
        (Biclustering(), 19, "rank 19 is above the full rank 18"),
        (Biclustering(), (1, 1), "must be an integer from 1 to 18 for biclustering"),
        (Biclustering(inner="svd"), 2, r"rank must be 2 integers for biclustering, at most \[2, 3\], got 2"),
        (Biclustering(inner="svd"), (3, 1), r"rank \[3, 1\] is above the full rank \[2, 3\]"),
        (Biclustering(inner="svd"), (0, 1), r"rank \[0, 1\] is below 1"),
    ],
)
def test_ranks_that_do_not_exist_are_refused(decomposition, rank, message):
    with pytest.raises(ValueError, match=message):
        decomposition.factorize(nn.Conv2d(4, 6, 3), rank)


def test_clusters_that_do_not_divide_are_refused_with_the_numbers():
    assert Biclustering().refusal(nn.Conv2d(3, 64, 7)) == (
        "in_clusters=2 does not divide the 3 in channels of a group into equal clusters; take 1, 3"
    )
    assert Biclustering(1, 4).refusal(nn.Conv2d(4, 12, 3, groups=2)) == (
        "out_clusters=4 does not divide the 6 out channels of a group into equal clusters; take 1, 2, 3, 6"
    )
    assert Biclustering().refusal(nn.Conv2d(4, 4, 3, groups=4)).startswith("in_clusters=2 does not divide the 1 in")
    assert Biclustering(3, 4).refusal(nn.Conv2d(3, 64, 7)) is None
    assert Biclustering().refusal(nn.Linear(4, 4)).startswith("biclustering takes Conv1d")


def test_options():
    given = {"in_clusters": 4, "out_clusters": 1, "inner": "svd", "seed": 3, "restarts": 2, "iterations": 9}
    assert Biclustering(**given).options() == given
    assert Biclustering(**Biclustering().options()).options() == Biclustering().options()
    with pytest.raises(ValueError, match="inner of biclustering must be one of outer, svd, got 'cp'"):
        Biclustering(inner="cp")
    for word in ("in_clusters", "out_clusters", "restarts", "iterations"):
        for count in (0, True, 2.0):
            with pytest.raises(ValueError, match=f"{word} of biclustering must be an integer of at least 1"):
                Biclustering(**{word: count})
