"""Penalties against NumPy, autograd and finite differences.

Legend: G groups, M rows, N columns of each group's matrix, R rank.
"""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp.decomposition import ChannelSVD, GroupedChannelSVD, LinearSVD, SpatialSVD, recompose
from lowrank_exp.network.gram import gram
from lowrank_exp.regularizers import (
    L1,
    FrobeniusDecay,
    Hoyer,
    HoyerSquare,
    NuclearNorm,
    Orthogonality,
    Regularizer,
    SoftOrthogonality,
    TRPProjection,
    Weighted,
    ramp,
)
from lowrank_exp.svd_form import SVDForm
from support.cells import cells


def svd_network(dtype=torch.float64, seed=0):
    """Layers in SVD form of several kinds, their factors drawn at random: neither orthonormal nor of one sign."""
    network = nn.Sequential(
        SVDForm.from_dense(nn.Conv2d(3, 5, 3), ChannelSVD()),
        SVDForm.from_dense(nn.Conv2d(4, 6, 3, groups=2), SpatialSVD(), 3),
        SVDForm.from_dense(nn.ConvTranspose2d(4, 3, 3), ChannelSVD("pointwise_first"), 2),
        nn.Conv2d(2, 2, 1),
        SVDForm.from_dense(nn.Linear(6, 4), LinearSVD()),
    )
    return redrawn(network, dtype, seed)


def dense_network(dtype=torch.float64, seed=1):
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3),
        nn.Conv2d(4, 6, (1, 3), groups=2),
        nn.ConvTranspose2d(4, 6, 3, groups=2),
        nn.Conv1d(2, 4, 5),
        nn.Linear(6, 4),
    )
    return redrawn(network, dtype, seed)


CHAINS = {
    "channel": ChannelSVD().factorize(nn.Conv2d(4, 6, 3, stride=2), 3),
    "pointwise first, groups": ChannelSVD("pointwise_first").factorize(nn.Conv2d(4, 6, 3, groups=2), 2),
    "spatial": SpatialSVD().factorize(nn.Conv2d(4, 6, (3, 5)), 4),
    "grouped channel": GroupedChannelSVD(2).factorize(nn.Conv2d(8, 6, 3, groups=2), 2),
    "transposed": SpatialSVD("horizontal_first").factorize(nn.ConvTranspose2d(4, 6, 3, groups=2), 2),
    "linear": LinearSVD().factorize(nn.Linear(5, 7), 3),
}


def chain_network(dtype=torch.float64, seed=2):
    return redrawn(nn.Sequential(*copy.deepcopy(list(CHAINS.values())), *svd_network()), dtype, seed)


def redrawn(network, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    network.to(dtype)
    for parameter in network.parameters():
        drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.copy_(drawn * 0.7)
    return network


def forms_of(network):
    for form in network:
        if isinstance(form, SVDForm):
            for U, s, V in zip(form.U, form.s, form.V, strict=True):
                yield U.detach().numpy(), s.detach().numpy(), V.detach().numpy()


def orthogonality(network):
    return sum(
        (np.sum((U.T @ U - np.eye(len(s))) ** 2) + np.sum((V @ V.T - np.eye(len(s))) ** 2)) / len(s) ** 2
        for U, s, V in forms_of(network)
    )


def hoyer(network):
    return sum(np.linalg.norm(s, 1) / np.linalg.norm(s, 2) for _, s, _ in forms_of(network))


def hoyer_square(network):
    return sum(np.linalg.norm(s, 1) ** 2 / np.sum(s**2) for _, s, _ in forms_of(network))


def l1(network):
    return sum(np.abs(s).sum() for _, s, _ in forms_of(network))


def frobenius(network):
    dense = [recompose(chain).weight.detach().numpy() for chain in network if isinstance(chain, nn.Sequential)]
    products = [U @ np.diag(s) @ V for U, s, V in forms_of(network)]
    return 0.5 * sum(np.sum(product**2) for product in dense + products)


def filters(layer):
    """The filters of every group of a layer as rows, by slicing alone."""
    weight, groups = layer.weight.detach().numpy(), getattr(layer, "groups", 1)
    for block in np.split(weight, groups):
        rows = np.swapaxes(block, 0, 1) if isinstance(layer, nn.ConvTranspose2d) else block
        yield rows.reshape(len(rows), -1)


def overlaps(network):
    for layer in network:
        for rows in filters(layer):
            unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            yield unit @ unit.T - np.eye(len(rows))


def nuclear(network):
    matrices = [rows.T for layer in network if not isinstance(layer, nn.Linear) for rows in filters(layer)]
    return sum(np.linalg.norm(matrix, "nuc") for matrix in matrices)


def spatial_nuclear(network):
    total = 0.0
    for layer in (network[0], network[1]):
        for block in np.split(layer.weight.detach().numpy(), layer.groups):
            O, I, H, W = block.shape
            total += np.linalg.norm(block.transpose(1, 2, 3, 0).reshape(I * H, W * O), "nuc")
    return total


CASES = {
    "orthogonality": (Orthogonality(), svd_network, orthogonality),
    "hoyer": (Hoyer(), svd_network, hoyer),
    "hoyer-square": (HoyerSquare(), svd_network, hoyer_square),
    "l1": (L1(), svd_network, l1),
    "frobenius": (FrobeniusDecay(["re:.*"]), chain_network, frobenius),
    "frobenius, svd forms": (FrobeniusDecay(), svd_network, frobenius),
    "soft, squared": (SoftOrthogonality(), dense_network, lambda n: sum(np.sum(P**2) for P in overlaps(n))),
    "soft, absolute": (
        SoftOrthogonality("absolute"),
        dense_network,
        lambda n: sum(np.sum(np.abs(P)) for P in overlaps(n)),
    ),
    "nuclear": (NuclearNorm(ChannelSVD()), dense_network, nuclear),
    "nuclear, spatial": (NuclearNorm(SpatialSVD(), layers=["0", "1"]), dense_network, spatial_nuclear),
}


def gradients(network):
    return [None if p.grad is None else p.grad.clone() for p in network.parameters()]


def near(x, y, tolerance):
    return torch.linalg.vector_norm(x - y) <= tolerance * torch.linalg.vector_norm(y)


@pytest.fixture(params=CASES)
def case(request):
    penalty, network, oracle = CASES[request.param]
    return penalty, network, oracle


def test_value_is_numpys(case):
    penalty, network, oracle = case
    network = network()
    expected = oracle(network)
    assert penalty.value(network).item() == pytest.approx(expected, rel=1e-12)
    assert penalty.apply_(network).item() == pytest.approx(expected, rel=1e-12)


def test_gradient_is_autograds_and_that_of_finite_differences(case):
    penalty, network, _ = case
    network = network()
    penalty.apply_(network)
    closed = gradients(network)
    automatic = torch.autograd.grad(penalty.value(network), list(network.parameters()), allow_unused=True)
    generator = torch.Generator().manual_seed(3)
    assert any(gradient is not None for gradient in automatic)
    for parameter, ours, theirs in zip(network.parameters(), closed, automatic, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is None:
            continue
        assert near(ours, theirs, 1e-10)
        for _ in range(3):
            direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            difference = 0.0
            for sign, share in ((1, 8 / 12), (-1, -8 / 12), (2, -1 / 12), (-2, 1 / 12)):  # fourth order
                parameter.data.add_(direction, alpha=sign * 1e-4)
                difference += share * penalty.value(network).item() / 1e-4
                parameter.data.sub_(direction, alpha=sign * 1e-4)
            length = ours.norm() * direction.norm()
            assert abs((ours * direction).sum() - difference) <= 1e-6 * length


def test_gradient_is_added_times_the_weight(case):
    penalty, network, _ = case
    plain, added = network(), network()
    penalty.apply_(plain)
    for parameter in added.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = [parameter.detach().clone() for parameter in added.parameters()]
    penalty.apply_(added, 0.25)
    for one, whole, weight in zip(plain.parameters(), added.parameters(), before, strict=True):
        assert torch.equal(whole.detach(), weight)
        expected = torch.ones_like(one) if one.grad is None else 1 + 0.25 * one.grad
        assert torch.allclose(whole.grad, expected, rtol=1e-12, atol=1e-12)
        assert not whole.grad.requires_grad


def test_equal_input_gives_equal_bits_in_float32_and_inside_autocast(case):
    penalty, network, oracle = case
    first, second = network(torch.float32), network(torch.float32)
    value = penalty.apply_(first, 0.3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = penalty.apply_(second, 0.3)
    assert torch.equal(value, again)
    assert not value.requires_grad
    assert value.item() == pytest.approx(oracle(network()), rel=1e-5)
    for one, other in zip(gradients(first), gradients(second), strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


def test_weight_zero_and_frozen_parameters_get_no_gradient(case):
    penalty, network, oracle = case
    network = network()
    assert penalty.apply_(network, 0.0).item() == pytest.approx(oracle(network), rel=1e-12)
    assert all(gradient is None for gradient in gradients(network))
    network.requires_grad_(False)
    assert penalty.apply_(network).item() == pytest.approx(oracle(network), rel=1e-12)
    assert all(gradient is None for gradient in gradients(network))


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("nuclear")])
def test_nothing_is_read_back_to_the_host(name, monkeypatch):
    def refuse(*_):
        raise AssertionError("a number was read back")

    penalty, network, _ = CASES[name]
    network = network(torch.float32)
    for reading in ("item", "tolist", "__bool__", "__float__", "__int__", "nonzero", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, reading, refuse)
    penalty.apply_(network, 0.5)


def test_memory_format_does_not_matter():
    for penalty in (SoftOrthogonality(), NuclearNorm(SpatialSVD(), layers=["0", "1"])):
        plain, last = dense_network()[:3], dense_network()[:3].to(memory_format=torch.channels_last)
        penalty.apply_(plain)
        penalty.apply_(last)
        for one, other in zip(plain.parameters(), last.parameters(), strict=True):
            assert (one.grad is None and other.grad is None) or near(other.grad, one.grad, 1e-12)


@pytest.mark.parametrize("penalty", [Hoyer(), HoyerSquare(), L1()])
def test_zeros_of_s_have_sub_gradient_zero(penalty):
    form = SVDForm.from_dense(nn.Linear(3, 3), LinearSVD())
    with torch.no_grad():
        form.s.zero_()
    assert penalty.apply_(form).item() == 0
    assert form.s.grad.tolist() == [[0, 0, 0]]
    assert penalty.value(form).item() == 0
    form.s.data.copy_(torch.tensor([[4.0, 0.0, -3.0]]))
    form.s.grad = None
    value = penalty.apply_(form).item()
    # By hand: |s| sums to 7, the norm is 5.
    expected = {
        "Hoyer": (7 / 5, [1 / 5 - 4 * 7 / 125, 0, -1 / 5 + 3 * 7 / 125]),
        "HoyerSquare": (49 / 25, [14 / 25 * (1 - 28 / 25), 0, 14 / 25 * (-1 + 21 / 25)]),
        "L1": (7, [1, 0, -1]),
    }[penalty.name]
    assert value == pytest.approx(expected[0], rel=1e-6)
    assert form.s.grad[0].tolist() == pytest.approx(expected[1], rel=1e-5)


@pytest.mark.parametrize(("penalty", "power"), [(Hoyer(), -1), (HoyerSquare(), -1)])
def test_hoyer_has_no_scale_even_where_squares_leave_float32(penalty, power):
    form = SVDForm.from_dense(nn.Linear(3, 3), LinearSVD())
    form.s.data.copy_(torch.tensor([[4.0, 1.0, -3.0]]))
    plain = penalty.apply_(form)
    slope = form.s.grad.clone()
    for scale in (2.0**-80, 2.0**80):
        form.s.data.copy_(torch.tensor([[4.0, 1.0, -3.0]]) * scale)
        form.s.grad = None
        assert torch.equal(penalty.apply_(form), plain)
        assert torch.equal(form.s.grad, slope * scale**power)


def test_orthogonality_is_zero_at_an_svd_and_its_gradient_leads_back():
    torch.manual_seed(0)
    form = SVDForm.from_dense(nn.Conv2d(4, 6, 3, dtype=torch.float64), ChannelSVD())
    assert Orthogonality().apply_(form).item() == pytest.approx(0, abs=1e-20)
    form.U.data.mul_(1.1)  # each of 6 columns has length 1.1: 6 (1.21 - 1)^2 / 36
    assert Orthogonality().value(form).item() == pytest.approx(0.21**2 / 6, rel=1e-9)
    form.V.data.mul_(1.1)  # a sum of both, not a difference
    assert Orthogonality().value(form).item() == pytest.approx(2 * 0.21**2 / 6, rel=1e-9)
    before = Orthogonality().value(form).item()
    for _ in range(100):
        form.zero_grad(set_to_none=True)
        after = Orthogonality().apply_(form).item()
        with torch.no_grad():
            form.U -= form.U.grad
            form.V -= form.V.grad
    assert after < 1e-12 * before


@pytest.mark.parametrize("R", [255, 256, 300, 384])
def test_gram_in_blocks_is_the_product(R):
    rows = np.random.default_rng(0).standard_normal((2, R, 40))
    found = gram(torch.from_numpy(rows))
    assert np.allclose(found.numpy(), rows @ rows.transpose(0, 2, 1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CHAINS)
def test_frobenius_decay_of_a_chain_is_weight_decay_of_its_product(name):
    network = redrawn(nn.Sequential(copy.deepcopy(CHAINS[name])))
    expected = 0.5 * recompose(network[0]).weight.square().sum().item()
    assert FrobeniusDecay(["0"]).apply_(network).item() == pytest.approx(expected, rel=1e-12)


def test_soft_orthogonality_leaves_lengths_alone():
    network = dense_network()
    penalty = SoftOrthogonality()
    value = penalty.apply_(network)
    for layer in network:
        if isinstance(layer, nn.ConvTranspose2d):
            continue
        along = (layer.weight * layer.weight.grad).flatten(1).sum(1)
        assert along.abs().max() < 1e-12
        layer.weight.data.mul_(3)
    assert penalty.value(network).item() == pytest.approx(value.item(), rel=1e-12)


def test_a_filter_of_zeros_overlaps_with_none():
    layer = nn.Linear(2, 3, bias=False)
    layer.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]))
    for norm, expected in (("squared", 1.0), ("absolute", 2 / 2**0.5)):
        layer.weight.grad = None
        assert SoftOrthogonality(norm).apply_(layer).item() == pytest.approx(expected, rel=1e-6)
        assert layer.weight.grad[1].tolist() == [0, 0]
        assert torch.autograd.grad(SoftOrthogonality(norm).value(layer), layer.weight)[0].isfinite().all()


def test_nuclear_norm_where_rank_lacks_is_the_shortest_sub_gradient():
    rng = np.random.default_rng(5)
    matrix = rng.standard_normal((6, 2)) @ rng.standard_normal((2, 5))
    layer = nn.Linear(5, 6, dtype=torch.float64)
    layer.weight.data.copy_(torch.from_numpy(matrix))
    value = NuclearNorm(LinearSVD()).apply_(layer)
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    assert value.item() == pytest.approx(s[:2].sum(), rel=1e-12)
    assert np.allclose(layer.weight.grad.numpy(), u[:, :2] @ v[:2], atol=1e-12)
    layer.weight.data.zero_()
    layer.weight.grad = None
    assert NuclearNorm(LinearSVD()).apply_(layer).item() == 0
    assert layer.weight.grad.abs().max() == 0


def test_trp_keeps_the_smallest_rank_with_the_energy():
    rng = np.random.default_rng(6)
    left, right = (np.linalg.qr(rng.standard_normal((6, 6)))[0] for _ in range(2))
    # Of the squares the first holds 2/3, then 5/6, 11/12, 23/24, 59/60 and 1.
    values = np.sqrt([16, 4, 2, 1, 0.6, 0.4])
    for energy, rank in ((0.5, 1), (0.7, 2), (0.9, 3), (0.95, 4), (0.97, 5), (1.0, 6)):
        layer = nn.Linear(6, 6, dtype=torch.float64)
        layer.weight.data.copy_(torch.from_numpy((left * values) @ right.T))
        assert TRPProjection(LinearSVD(), energy).apply_(layer).item() == rank
        expected = (left[:, :rank] * values[:rank]) @ right[:, :rank].T
        assert np.allclose(layer.weight.detach().numpy(), expected, atol=1e-12)
    for energy, rank in ((0.9, 1), (0.91, 2)):  # 9 of 10 is enough
        layer.weight.data.copy_(torch.diag(torch.tensor([3.0, 1, 0, 0, 0, 0])))
        assert TRPProjection(LinearSVD(), energy).apply_(layer).item() == rank


@pytest.mark.parametrize("decomposition", [ChannelSVD(), ChannelSVD("pointwise_first"), SpatialSVD()])
def test_trp_projects_every_convolution_and_every_group(decomposition):
    network = dense_network(torch.float32)
    network.to(memory_format=torch.contiguous_format)
    dense = copy.deepcopy(network)
    mean = TRPProjection(decomposition).apply_(network).item()
    ranks = []
    for before, after in zip(dense, network, strict=True):
        if isinstance(before, nn.Linear):
            assert torch.equal(before.weight, after.weight)
            continue
        for old, new in zip(decomposition.matrices(before), decomposition.matrices(after), strict=True):
            u, s, v = np.linalg.svd(old.numpy().astype(np.float64), full_matrices=False)
            shares = np.cumsum(s**2) / np.sum(s**2)
            ranks.append(int(np.argmax(shares >= 0.9)) + 1)
            kept = (u[:, : ranks[-1]] * s[: ranks[-1]]) @ v[: ranks[-1]]
            assert np.allclose(new.numpy(), kept, atol=1e-5)
    assert mean == pytest.approx(np.mean(ranks), rel=1e-12)


def test_trp_acts_at_every_period():
    network = dense_network(torch.float32)
    projection, penalty = TRPProjection(ChannelSVD(), period=3), NuclearNorm(ChannelSVD(), period=3)
    weight = network[0].weight.detach().clone()
    for step in (1, 2, 4):
        assert projection.apply_(network, step) is None
        assert penalty.apply_(network, 1.0, step) is None
    assert torch.equal(network[0].weight.detach(), weight)
    assert network[0].weight.grad is None
    assert penalty.apply_(network, 1.0, 6) > 0
    assert projection.apply_(network, 6) > 0
    assert not torch.equal(network[0].weight.detach(), weight)


def test_regularizer_adds_what_the_loss_would_with_the_weights_of_the_moment():
    regularizer = Regularizer(
        {
            "orthogonality": Weighted(Orthogonality(), 0.5),
            "hoyer": (Hoyer(["re:[0-2]"]), 0.2, lambda p: ramp(p, 0.2, 0.6)),
        }
    )
    assert regularizer.weights(0.1) == {"orthogonality": 0.5, "hoyer": 0.0}
    assert regularizer.weights(0.5) == pytest.approx({"orthogonality": 0.5, "hoyer": 0.15})
    network = svd_network()
    x = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    network[4](x).square().mean().backward()
    values = regularizer.apply_(network, step=50, total_steps=100)
    ours = gradients(network)
    network.zero_grad()
    (network[4](x).square().mean() + regularizer.value(network, 0.5)).backward()
    for one, other in zip(ours, gradients(network), strict=True):
        assert (one is None and other is None) or torch.allclose(one, other, rtol=1e-9, atol=1e-12)
    assert values["orthogonality"].item() == pytest.approx(orthogonality(network), rel=1e-12)
    assert values["hoyer"].item() == pytest.approx(hoyer(network[:3]), rel=1e-12)
    assert list(values) == ["orthogonality", "hoyer"]
    assert regularizer.project_(network, 0) is None


def test_values_of_a_step_leave_out_what_did_not_act():
    regularizer = Regularizer({"nuclear": Weighted(NuclearNorm(ChannelSVD(), period=2), 1.0)})
    network = dense_network()
    assert list(regularizer.apply_(network, 0, 4)) == ["nuclear"]
    assert regularizer.apply_(network, 1, 4) == {}


@cells(
    ("build", "message"),
    [
        (lambda: Orthogonality("fc"), "allowed are null"),
        (lambda: Hoyer([]), "allowed are null"),
        (lambda: SoftOrthogonality("l2"), "one of squared, absolute"),
        (lambda: NuclearNorm("channel_svd"), "such as ChannelSVD"),
        (lambda: NuclearNorm(ChannelSVD(), period=0), "1 .every step. or more"),
        (lambda: TRPProjection(ChannelSVD(), energy=1.5), r"in \(0, 1\]"),
        (lambda: Regularizer({"a": Weighted(L1(), -1.0)}), "a: weight is -1.0"),
        (lambda: Regularizer({"a": Weighted("l1", 1.0)}), "a: penalty is 'l1'"),
        (lambda: Regularizer({"a": Weighted(L1(), 1.0, 0.5)}), "a: schedule is 0.5"),
        (lambda: Regularizer({"a": L1()}), "allowed is Weighted"),
        (lambda: Regularizer({"a": Weighted(L1(), 1.0, lambda p: -p)}).weights(0.5), "the schedule gives -0.5"),
        (lambda: Regularizer({}, projection=L1()), "allowed is a TRPProjection"),
        (lambda: ramp(0.5, 0.6, 0.4), "begin up to end"),
        (lambda: ramp(1.5), "progress is 1.5"),
        (lambda: L1().apply_(nn.Linear(2, 2)), "this network has none"),
        (lambda: L1(["3"]).apply_(svd_network()), "3 is a Conv2d"),
        (lambda: L1(["nine"]).apply_(svd_network()), "'nine', which does not exist"),
        (lambda: FrobeniusDecay(["re:.*"]).apply_(nn.Sequential(nn.Linear(2, 2))), "this network has none"),
        (
            lambda: FrobeniusDecay(["0"]).apply_(nn.Sequential(nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3)))),
            "chain 0: its kernels .* share an axis",
        ),
    ],
)
def test_mistakes_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
