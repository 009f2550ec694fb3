"""Nonlinear response reconstruction; what stands behind a layer."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from lowrank_exp.reconstruct.nonlinear import CODE, PAPER, relu_error, relu_response, z_update
from lowrank_exp.reconstruct.readers import readers
from lowrank_exp.reconstruct.samples import Sample
from support.cells import cells
from support.layer_cases import images


@pytest.mark.parametrize("lam", [0.01, 0.1, 1.0, 30.0])
def test_z_is_the_minimum_over_a_grid(lam):
    grid = np.linspace(-8, 8, 16001)
    rng = np.random.default_rng(0)
    y, y_map = 2 * rng.standard_normal((2, 60))
    r_y = np.maximum(y, 0)
    z = z_update(torch.from_numpy(y_map), torch.from_numpy(r_y), lam).numpy()

    def cost(z):
        return (r_y - np.maximum(z, 0)) ** 2 + lam * (z - y_map) ** 2

    least = np.min([cost(one) for one in grid], axis=0)
    assert (cost(z) <= least + 1e-12).all()
    assert (cost(z) >= least - 2e-3 * (1 + lam) * 8e-1).all()
    nearest = grid[np.argmin([cost(one) for one in grid], axis=0)]
    np.testing.assert_allclose(z, nearest, atol=2e-3)


def sample(seed=0, G=2, O=8, P=400):
    y = images((G, P, O), seed) @ images((G, O, O), seed + 1) - 1
    return y, images((G, O, 12), seed + 2)


@pytest.mark.parametrize("schedule", [PAPER, CODE])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_the_error_behind_the_relu_is_smaller_than_the_linear_one(schedule, asymmetric):
    y, W = sample()
    hat = y + 0.5 * images(y.shape, seed=7) if asymmetric else y
    linear = relu_error(y, hat, *relu_response(y, hat, W, 3, schedule=()))
    found = relu_error(y, hat, *relu_response(y, hat, W, 3, schedule))
    assert (found <= linear).all()
    assert (found <= 0.95 * linear).all()
    assert (found > 0).all()


def test_the_linear_solution_is_the_start():
    y, W = sample()
    M, _ = relu_response(y, y, W, 3, schedule=())
    for g in range(2):
        centred = y[g].numpy() - y[g].numpy().mean(0)
        V = np.linalg.svd(centred, full_matrices=False)[2][:3]
        np.testing.assert_allclose(M[g].numpy(), V.T @ V, atol=1e-8)


def test_what_the_relu_hides_costs_little():
    """Two-dimensional responses, spoiled where the ReLU is zero anyway."""
    P = 2000
    clean = images((1, P, 2), 1) @ images((1, 2, 6), 2)
    y = torch.where(clean > 0, clean, clean - 2 * images(clean.shape, 3).abs())
    W = images((1, 6, 6), 4)
    linear = relu_error(y, y, *relu_response(y, y, W, 2, schedule=()))
    found = relu_error(y, y, *relu_response(y, y, W, 2, schedule=((0.01, 200), (1.0, 50))))
    assert found.item() < 0.7 * linear.item()
    assert relu_error(y, y, *relu_response(y, y, W, 6)).item() <= 1e-18 * (y**2).sum()


def test_groups_are_apart():
    y, W = sample()
    M, b = relu_response(y, y, W, 3)
    for g in range(2):
        alone_M, alone_b = relu_response(y[g : g + 1], y[g : g + 1], W[g : g + 1], 3)
        torch.testing.assert_close(M[g : g + 1], alone_M, rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(b[g : g + 1], alone_b, rtol=1e-7, atol=1e-8)


def reader_of(model, name="layer", shape=(2, 3, 8, 8)):
    model.eval()
    layers = {name: model.get_submodule(name)}
    return readers(model, layers, lambda: model(torch.ones(shape)))[name]


class Net(nn.Module):
    def __init__(self, then):
        super().__init__()
        self.layer, self.norm, self.other = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.inplace = nn.ReLU(inplace=True)
        with torch.no_grad():
            for norm in (self.norm, self.other):
                norm.weight.copy_(torch.tensor([1.0, -2.0, 0.5, 0.0]))
                norm.bias.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
                norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
                norm.running_var.copy_(torch.tensor([1.0, 4.0, 9.0, 16.0]))
        self.then = then

    def forward(self, x):
        return self.then(self, self.layer(x))


BEHIND = {
    "a function": (lambda net, y: F.relu(y), True, False),
    "torch's": (lambda net, y: torch.relu(y), True, False),
    "a method": (lambda net, y: y.relu(), True, False),
    "in place": (lambda net, y: net.inplace(y) + 1, True, False),
    "a method in place": (lambda net, y: y.relu_() * y, True, False),
    "a batch norm": (lambda net, y: F.relu(net.norm(y)), True, True),
    "a batch norm, in place": (lambda net, y: net.inplace(net.norm(y)), True, True),
    "a pool": (lambda net, y: F.relu(F.max_pool2d(y, 2)), True, False),
    "batch norm, pool, dropout": (
        lambda net, y: F.relu(F.dropout(nn.MaxPool2d(2)(net.norm(y)), 0.5, False)),
        True,
        True,
    ),
    "the shape is looked at": (lambda net, y: F.relu(y) * y.shape[1], True, False),
    "nothing": (lambda net, y: y, False, False),
    "a sum first": (lambda net, y: F.relu(net.norm(y) + 1), False, False),
    "a sum in place first": (lambda net, y: F.relu(y.add_(1)), False, False),
    "another reader": (lambda net, y: F.relu(y) + y, False, False),
    "another reader of the batch norm": (lambda net, y: (lambda n: F.relu(n) + n)(net.norm(y)), False, False),
    "two batch norms": (lambda net, y: F.relu(net.norm(y)) + F.relu(net.other(y)), False, False),
    "batch norm twice": (lambda net, y: F.relu(net.other(net.norm(y))), False, False),
    "a list of readers": (lambda net, y: torch.cat([y, y]).relu(), False, False),
    "ReLU6": (lambda net, y: F.relu6(y), False, False),
    "mean": (lambda net, y: F.relu(y.mean((2, 3))), False, False),
}


@cells(("then", "relu", "norm"), BEHIND.values(), ids=BEHIND.keys())
def test_what_reads_a_layer(then, relu, norm):
    net = Net(then)
    reader = reader_of(net)
    assert (reader.relu, reader.a is not None) == (relu, norm)
    if norm:
        y = images((5, 4, 3, 3), dtype=torch.float32)
        with torch.no_grad():
            wanted = net.norm(y).double()
        shape = (1, 4, 1, 1)
        torch.testing.assert_close(y * reader.a.reshape(shape) + reader.c.reshape(shape), wanted, rtol=1e-5, atol=1e-5)


def test_a_batch_norm_by_the_batch_is_no_part_of_it():
    net = nn.Sequential()
    net.add_module("layer", nn.Conv2d(3, 4, 3))
    net.append(nn.BatchNorm2d(4, track_running_stats=False)).append(nn.ReLU())
    assert not reader_of(net).relu


class Twice(nn.Module):
    def __init__(self, norms):
        super().__init__()
        self.layer, self.norms = nn.Conv2d(3, 3, 3, padding=1), nn.ModuleList(norms)

    def forward(self, x):
        for norm in self.norms:
            x = F.relu(norm(self.layer(x)))
        return x


def test_a_layer_called_twice_needs_the_same_reader_each_time():
    norm = nn.BatchNorm2d(3)
    assert reader_of(Twice([norm, norm])).a is not None
    assert not reader_of(Twice([norm, nn.BatchNorm2d(3)])).relu


@pytest.mark.parametrize("size", [1, 4, 7, 30])
def test_samples_do_not_depend_on_the_batch_size(size):
    layer, y = nn.Conv2d(2, 6, 1, groups=2), images((30, 6, 5, 4))

    def taken(size):
        sample = Sample(images=20, positions=3, seed=2)
        for first in range(0, 30, size):
            if first < 20:
                sample.add(layer, first, y[first : first + size])
        return sample.rows_GPO(layer)[0]

    whole = taken(30)
    assert whole.shape == (2, 60, 3)
    assert torch.equal(taken(size), whole)


def test_samples_are_places_of_their_images():
    layer, y = nn.Linear(1, 2), torch.arange(4.0)[:, None, None] * 100 + torch.arange(50.0)[None, :, None]
    sample = Sample(images=4, positions=10, seed=0)
    sample.add(layer, 0, torch.cat([y, -y], dim=2), torch.cat([y + 0.5, y], dim=2))
    rows, hat = sample.rows_GPO(layer)
    assert (rows[0, :, 0] // 100).tolist() == [image for image in range(4) for _ in range(10)]
    assert len(set((rows[0, :, 0] % 100).tolist())) > 15
    assert torch.equal(rows[0, :, 1], -rows[0, :, 0])
    assert torch.equal(hat[0, :, 0], rows[0, :, 0] + 0.5)


def test_images_with_few_places_give_them_all():
    layer, y = nn.Linear(1, 2), images((3, 4, 2))
    sample = Sample(images=9, positions=5, seed=0)
    sample.add(layer, 0, y)
    assert torch.equal(sample.rows_GPO(layer)[0][0], y.flatten(0, 1))
