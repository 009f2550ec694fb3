import pytest
import torch
from torch import nn

from lowrank_exp.network.subnormals import LIMITS, clear_subnormals_, count_subnormals
from support.cells import cells


def layer(*weights, dtype=torch.float32):
    made = nn.Linear(len(weights), 1, bias=False).to(dtype)
    made.weight.data[0] = torch.tensor(weights, dtype=dtype)
    return made


@cells(
    ("dtype", "subnormal", "least"),
    [
        (torch.float32, [1e-40, -1e-44], 1.1755e-38),
        (torch.bfloat16, [1e-40, -3e-40], 1.1756e-38),
        (torch.float64, [1e-309, -5e-324], 2.2251e-308),
    ],
)
def test_weights_below_the_smallest_normal_become_zeros(dtype, subnormal, least):
    made = layer(*subnormal, least, -least, 0.0, 1.0, dtype=dtype)
    before = made.weight.clone()
    assert count_subnormals(made) == 2
    assert clear_subnormals_(made) == 2
    assert made.weight[0, :2].tolist() == [0.0, 0.0]
    assert torch.equal(made.weight[0, 2:], before[0, 2:])
    assert (count_subnormals(made), clear_subnormals_(made)) == (0, 0)


def test_half_precision_keeps_its_small_weights():
    made = layer(6e-8, 5e-5, dtype=torch.float16)
    before = made.weight.clone()
    assert (count_subnormals(made), clear_subnormals_(made)) == (0, 0)
    assert torch.equal(made.weight, before)
    assert (before != 0).all()
    assert torch.float16 not in LIMITS


def test_biases_and_batch_norms_count_and_the_meta_device_has_none():
    net = nn.Sequential(layer(1.0), nn.Linear(1, 2), nn.BatchNorm1d(2), layer(1e-40, 2.0).to("meta"))
    net[1].bias.data[:] = 1e-40
    net[2].weight.data[0] = -1e-40
    assert count_subnormals(net) == 3
    assert clear_subnormals_(net) == 3
    assert net[2].weight.tolist() == [0.0, 1.0]


def test_gradients_are_not_disturbed():
    made = layer(1e-40, 1.0)
    made(torch.ones(1, 2)).sum().backward()
    clear_subnormals_(made)
    assert made.weight.requires_grad
    assert made.weight.grad.tolist() == [[1.0, 1.0]]
    assert made.weight.tolist() == [[0.0, pytest.approx(1.0)]]
