"""A random part of the weights is quantized in training."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao.quantization import FakeQuantize, MinMaxObserver, PerChannelMinMaxObserver
from torch.utils.data import DataLoader, TensorDataset

from lowrank_exp.decomposition import ChannelSVD, LinearSVD, ProductQuantization, SpatialSVD
from lowrank_exp.surgery import factorize_
from lowrank_exp.svd_form import SVDForm, to_svd_
from lowrank_exp.training import QuantNoise, evaluate
from lowrank_exp.training.parts.quant_noise import NoisyWeights, noisy, on_grid
from support.cells import cells
from support.fits import fit_by_options_

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-3)
PASS = torch.zeros(1)  # images, at which the noise does not look
INT8 = {"phi": "int8", "p": 0.5}


class InterruptionError(Exception):
    pass


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)
    )


def images(count: int = 24) -> TensorDataset:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(count, 2, 6, 6, generator=draw)
    return TensorDataset(x, x.mean((2, 3)).argmax(1))


def fit(net: nn.Module, batch_size: int = 8, **options) -> list[dict]:
    arguments = {"epochs": 3, "optimizer": SGD, "schedule": None, "seed": 3, "checkpoint": None, "device": "cpu"}
    arguments |= {"progress": False} | options
    train, val = DataLoader(images(), batch_size=batch_size, shuffle=True), DataLoader(images(12), batch_size=12)
    history = fit_by_options_(net, train, val, **arguments)
    return [{name: value for name, value in line.items() if name != "seconds"} for line in history]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def same_bits(ours: nn.Module, theirs: nn.Module) -> bool:
    others = theirs.state_dict()
    return all(torch.equal(value, others[name]) for name, value in ours.state_dict().items())


# -- one weight ----------------------------------------------------------------------------------------------------


@cells("weight", [torch.randn(7, 33), torch.rand(4, 5) + 1, -torch.rand(4, 5), torch.zeros(2, 3)])
@cells("bits", [2, 4, 8])
@cells("range_", ["tensor", "channel"])
def test_at_p_one_all_is_on_the_grid_of_torch(weight, bits, range_):
    limits = {"quant_min": -(2 ** (bits - 1)), "quant_max": 2 ** (bits - 1) - 1}
    if range_ == "tensor":
        theirs = FakeQuantize(MinMaxObserver, dtype=torch.qint8, qscheme=torch.per_tensor_affine, **limits)
    else:
        kind = {"dtype": torch.qint8, "qscheme": torch.per_channel_affine, "ch_axis": 0}
        theirs = FakeQuantize(PerChannelMinMaxObserver, **kind, **limits)
    ours = noisy(weight, 1, QuantNoise(phi=f"int{bits}", p=1.0, range=range_), generator())
    assert torch.equal(ours, theirs(weight))


def test_the_grid_is_that_of_the_formula():
    """In float64 by NumPy, away from the middle between two steps."""
    w = np.random.default_rng(0).normal(size=(6, 50)).astype(np.float32)
    s = (w.max().astype(np.float64) - w.min()) / 15
    z = -8 - np.round(w.min() / s)
    clear = np.abs(w / s - np.floor(w / s) - 0.5) > 1e-3
    expected = (np.clip(np.round(w / s) + z, -8, 7) - z) * s
    np.testing.assert_allclose(on_grid(torch.from_numpy(w), 4).numpy()[clear], expected[clear], rtol=1e-5, atol=1e-6)
    assert clear.mean() > 0.98


@pytest.mark.parametrize("phi", ["int8", "pq", "proxy"])
def test_at_p_zero_nothing_changes(phi):
    weight = torch.randn(5, 12)
    book = torch.randn(4, 3) if phi == "pq" else None
    assert torch.equal(noisy(weight, 3, QuantNoise(phi=phi, p=0.0), generator(), book), weight)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_share_of_the_blocks(p):
    weight = torch.ones(200, 90)
    zero = noisy(weight, 9, QuantNoise(phi="proxy", p=p), generator()).view(-1, 9) == 0
    assert torch.equal(zero.any(1), zero.all(1))  # as a whole
    assert abs(zero[:, 0].float().mean() - p) < 4 * (p * (1 - p) / 2000) ** 0.5


def test_the_last_block_of_a_row_may_be_shorter():
    zero = noisy(torch.ones(400, 7), 3, QuantNoise(phi="proxy", p=0.5), generator()) == 0
    for part in zero.split([3, 3, 1], dim=1):
        assert torch.equal(part.any(1), part.all(1))
        assert abs(part[:, 0].float().mean() - 0.5) < 0.1


def test_pq_takes_the_nearest_centroid():
    weight, book = torch.randn(6, 8), torch.randn(5, 4)
    vectors = weight.numpy().reshape(-1, 4)
    squared = ((vectors[:, None, :] - book.numpy()[None]) ** 2).sum(2)
    expected = book.numpy()[squared.argmin(1)].reshape(6, 8)
    assert np.array_equal(noisy(weight, 4, QuantNoise(phi="pq", p=1.0), generator(), book).numpy(), expected)
    half = noisy(weight, 4, QuantNoise(phi="pq", p=0.5), generator(), book).numpy().reshape(-1, 4)
    from_book = (half == expected.reshape(-1, 4)).all(1)
    assert 0 < from_book.sum() < 12
    assert np.array_equal(half[~from_book], vectors[~from_book])


# -- a network -----------------------------------------------------------------------------------------------------


def test_at_p_one_the_network_is_the_fake_quantized_one():
    net = network().eval()
    expected = copy.deepcopy(net)
    for index in (0, 2, 6):
        weight = expected[index].weight
        fake = FakeQuantize(MinMaxObserver, quant_min=-128, quant_max=127, dtype=torch.qint8)
        weight.data = fake(weight.data)
    x = torch.randn(4, 2, 6, 6)
    with NoisyWeights(QuantNoise(phi="int8", p=1.0), net, 0).around_pass(PASS, True):
        torch.testing.assert_close(net(x), expected(x), rtol=0, atol=0)


def test_pq_at_p_one_is_the_product_quantized_network():
    """Of the same blocks by the same k-means; a weight of 8 rows of one block has 2 centroids."""
    net = network().eval()
    net[2] = nn.Conv2d(6, 8, 3, padding=1)
    quantization = ProductQuantization(iterations=20, centroids="float32", seed=7)
    expected = factorize_(copy.deepcopy(net), {"2": 8, "6": 16}, {"conv": quantization, "linear": quantization})
    noise = NoisyWeights(QuantNoise(phi="pq", p=1.0, centroids=16, layers=["2", "6"]), net, 7)
    noise.before_epoch([])
    assert [tuple(book.shape) for book in noise.books] == [(8, 9), (16, 4)]
    x = torch.randn(4, 2, 6, 6)
    with noise.around_pass(PASS, True):
        torch.testing.assert_close(net(x), expected(x), rtol=1e-5, atol=1e-5)


def test_weights_below_are_untouched_also_where_a_pass_fails():
    net, before = network(), network()
    noise = NoisyWeights(QuantNoise(phi="int4", p=0.5), net, 0)
    with noise.around_pass(PASS, True):
        assert not same_bits(net, before)
        net(torch.randn(2, 2, 6, 6)).sum().backward()
    net[3].load_state_dict(before[3].state_dict())  # its statistics
    assert same_bits(net, before)
    with pytest.raises(RuntimeError), noise.around_pass(PASS, True):
        net(torch.randn(2, 5, 6, 6))
    assert same_bits(net, before)


def test_gradients_are_straight_through():
    """Those at the noisy weights, for every entry."""
    net = network()
    x, labels = images(8)[:]
    noise = NoisyWeights(QuantNoise(phi="proxy", p=0.5), net, 0)
    with noise.around_pass(PASS, True):
        at = copy.deepcopy(net)
        nn.functional.cross_entropy(net(x), labels).backward()
    nn.functional.cross_entropy(at(x), labels).backward()
    for ours, theirs in zip(net.parameters(), at.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    assert (net[6].weight.grad[at[6].weight == 0] != 0).any()


def test_every_pass_draws_anew():
    net = network()
    noise = NoisyWeights(QuantNoise(phi="proxy", p=0.5), net, 0)
    drawn = []
    for _ in range(2):
        with noise.around_pass(PASS, True):
            drawn.append(net[6].weight == 0)
    assert 0.3 < (drawn[0] == drawn[1]).float().mean() < 0.7


def test_tied_weights_are_quantized_once_and_frozen_ones_too():
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    net[1].weight = net[0].weight
    net.requires_grad_(False)
    with NoisyWeights(QuantNoise(phi="proxy", p=0.5), net, 0).around_pass(PASS, True):
        assert abs((net[0].weight == 0).float().mean() - 0.5) < 0.1  # twice: 0.75


def test_factors_of_an_svd_form_as_thin_layers():
    """U and V are quantized as the rows of the layers that they become; s is not."""
    net = nn.Sequential(SVDForm.from_dense(nn.Conv2d(4, 6, 3), SpatialSVD()))
    before = copy.deepcopy(net[0])
    with NoisyWeights(QuantNoise(phi="int4", p=1.0, range="channel"), net, 0).around_pass(PASS, True):
        for name in ("U", "V"):
            rows = getattr(before, name).detach().mT.flatten(0, 1)
            assert torch.equal(getattr(net[0], name).detach().mT.flatten(0, 1), on_grid(rows, 4, "channel"))
        assert torch.equal(net[0].s, before.s)
    assert same_bits(net[0], before)


def test_which_layers():
    net = network()
    noise = NoisyWeights(QuantNoise(phi="proxy", p=1.0, layers=["re:[02]"]), net, 0)
    with noise.around_pass(PASS, True):
        assert [bool(net[index].weight.any()) for index in (0, 2, 6)] == [False, False, True]
    assert [weight.block for weight in QuantNoise(phi="pq", p=1.0)._weights(net)] == [9, 4, 4]
    assert [weight.block for weight in QuantNoise(phi="pq", p=1.0, block=2)._weights(net)] == [2, 2, 2]
    assert [weight.block for weight in QuantNoise(phi="int8", p=1.0)._weights(net)] == [1, 1, 1]
    quantized = factorize_(network(), {"6": 4}, {"linear": ProductQuantization()})
    assert [weight.layer for weight in QuantNoise(phi="int8", p=1.0)._weights(quantized)] == [
        quantized[0],
        quantized[2],
    ]


# -- a fit ---------------------------------------------------------------------------------------------------------


@cells("option", [INT8, {"phi": "pq", "p": 0.2, "centroids": 4}, {"phi": "proxy", "p": 0.1}])
@cells("form", ["dense", "svd", "factors"])
def test_networks_are_trained(option, form):
    net = network()
    if form == "svd":
        to_svd_(net, {"conv": ChannelSVD(), "linear": LinearSVD()})
    elif form == "factors":
        factorize_(net, {"0": 5, "2": 3, "6": 2}, {"conv": SpatialSVD(), "linear": LinearSVD()})
    plain = copy.deepcopy(net)
    history = fit(net, epochs=6, quant_noise=option)
    assert history[-1]["train_loss"] < 0.9 * history[0]["train_loss"]
    scores = evaluate(net, DataLoader(images(12), batch_size=12), "cpu")
    assert scores.loss == pytest.approx(history[-1]["val_loss"], rel=1e-5)
    fit(plain, epochs=6)
    assert not same_bits(net, plain)


def test_at_p_zero_a_fit_is_one_without_noise():
    ours, theirs = network(), network()
    assert fit(ours, quant_noise={"phi": "int4", "p": 0.0}) == fit(theirs)
    assert same_bits(ours, theirs)


@pytest.mark.parametrize("option", [INT8, {"phi": "pq", "p": 0.5, "centroids": 4}])
def test_going_on_equals_a_fit_left_alone(option, tmp_path):
    def stop(metrics):
        if metrics["epoch"] == 1:
            raise InterruptionError

    alone, ours = network(), network()
    expected = fit(alone, epochs=4, quant_noise=option, accumulate=2)
    path = tmp_path / "last.ckpt"
    with pytest.raises(InterruptionError):
        fit(ours, epochs=4, quant_noise=option, accumulate=2, checkpoint=path, on_epoch=stop)
    with pytest.raises(ValueError, match=r"quant_noise: p is 0\.5 there and 0\.4 here"):
        fit(ours, epochs=4, quant_noise=option | {"p": 0.4}, accumulate=2, checkpoint=path)
    assert fit(ours, epochs=4, quant_noise=option, accumulate=2, checkpoint=path) == expected
    assert same_bits(ours, alone)


def test_compiled_networks_see_the_noise(monkeypatch):
    """By a backend that only runs what was traced, so that bits are the same."""
    ours, theirs = network(), network()
    expected = fit(theirs, quant_noise=INT8)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "compile", partial(torch.compile, backend="eager"))
        assert fit(ours, quant_noise=INT8, compile=True) == expected
    assert same_bits(ours, theirs)


def test_in_bf16():
    assert fit(network(), epochs=6, quant_noise=INT8, precision="bf16")[-1]["train_loss"] < 0.9


@cells(
    ("option", "message"),
    [
        ({"phi": "int1", "p": 0.5}, "phi is 'int1'; allowed are int2 to int16, pq and proxy"),
        ({"phi": "int8", "p": 1.5}, r"p is 1.5; allowed is a probability in \[0, 1\]"),
        ({"phi": "int8"}, "is {'phi': 'int8'}; allowed are null and a mapping of phi, p and perhaps block"),
        ({"phi": "pq", "p": 0.1, "block": 0}, "block is 0; allowed is an integer, 1 or more"),
        ({"phi": "pq", "p": 0.1, "centroids": None}, "centroids is None; allowed is an integer, 1 or more"),
        ({"phi": "int8", "p": 0.1, "range": "row"}, "range is 'row'; allowed are tensor and channel"),
        ({"phi": "pq", "p": 0.1, "range": "channel"}, "range is of no use to phi=pq"),
        ({"phi": "int8", "p": 0.1, "centroids": 8}, "centroids is of no use to phi=int8"),
        (INT8 | {"layers": ["1"]}, "acts on convolutions, linear layers and SVD forms, but 1 is a ReLU"),
        (INT8 | {"layers": "0"}, "layers is '0'; allowed are null .all. and a list"),
    ],
)
def test_mistakes(option, message):
    with pytest.raises(ValueError, match=f"quant_noise.*{message}"):
        fit(network(), quant_noise=option)
