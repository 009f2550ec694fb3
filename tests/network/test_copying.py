"""Copies of networks that hold odd things, and questions to networks that need numbers."""

import io
import threading
import types

import pytest
import torch
from torch import nn
from torch.nn.utils import prune, spectral_norm, weight_norm

from lowrank_exp.network.copying import copy_network
from lowrank_exp.network.cost import layer_costs
from lowrank_exp.network.inputs import floating_type, like_network
from lowrank_exp.network.shapes import by_shapes, copy_that_runs


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 4, 3)), nn.Flatten(), nn.Linear(64, 3)
    )


def derived(net):
    net[2][0].twice = [{"of": net[2][0].weight * 2}]


REPARAMETRIZED = {
    "weight norm": lambda net: weight_norm(net[2][0]),
    "spectral norm": lambda net: spectral_norm(net[2][0]),
    "pruned": lambda net: prune.l1_unstructured(net[2][0], "weight", amount=0.3),
    "derived": derived,
    "buffer": lambda net: net[2][0].register_buffer("twice", net[2][0].weight * 2),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", REPARAMETRIZED)
def test_what_was_computed_from_parameters_is_copied(kind):
    net, x = network(), torch.randn(2, 1, 8, 8)
    REPARAMETRIZED[kind](net)
    net.eval()
    twin = copy_network(net)
    assert torch.equal(twin(x), net(x))
    assert not {id(t) for t in twin.state_dict(keep_vars=True).values()} & {
        id(t) for t in net.state_dict(keep_vars=True).values()
    }
    twin(x).sum().backward()
    assert all(parameter.grad is None for parameter in net.parameters())
    assert layer_costs(net, x)["2.0"].macs == by_shapes(layer_costs, net, x)["2.0"].macs == 4 * 4 * 9 * 16


def held(value):
    return lambda layer: setattr(layer, "held", value)


NAMED = {
    "a lock": (held(threading.Lock()), "'held', a lock,"),
    "in a list of dicts": (held([1, {"x": threading.Lock()}]), r"\"held\[1\]\['x'\]\", a lock,"),
    "in an object": (held(types.SimpleNamespace(inner=(threading.Lock(),))), r"'held\.inner\[0\]', a lock,"),
    "a generator": (held(number for number in range(3)), "'held', a generator,"),
    "a stream": (held(io.TextIOWrapper(io.BytesIO())), "'held', a TextIOWrapper,"),
}


@pytest.mark.parametrize("kind", NAMED)
def test_what_cannot_be_copied_is_named(kind):
    hold, said = NAMED[kind]
    net = network()
    hold(net[2][0])
    with pytest.raises(
        ValueError, match=rf"^module 2\.0 \(Conv2d\): attribute {said} cannot be copied \(.+make it where"
    ):
        copy_network(net)
    with pytest.raises(ValueError, match=r"attribute .held"):
        by_shapes(layer_costs, net, torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"^the network \(Conv2d\): attribute"):
        copy_network(net[2][0])


class Looks(nn.Module):
    """Looks at its input's numbers, and takes no image of zeros."""

    def __init__(self):
        super().__init__()
        self.f = nn.Linear(4, 3)

    def forward(self, x):
        if x.sum().item() == 0:
            raise ZeroDivisionError
        return self.f(x.flatten(1) + torch.linspace(0, 1, 4))


def test_a_network_that_needs_numbers_is_asked_in_memory():
    net, zeros, ones = Looks(), torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    assert by_shapes(layer_costs, net, ones)["f"].macs == 12
    with pytest.raises(ZeroDivisionError):
        by_shapes(layer_costs, net, zeros)
    twin, example, output = copy_that_runs(net, iter([zeros, ones]))
    assert example is ones
    assert twin is not net
    assert torch.equal(output, net(ones))
    shapes, example, output = copy_that_runs(nn.Sequential(nn.Flatten(), net.f), iter([zeros, ones]))
    assert example is zeros
    assert output.is_meta
    assert output.shape == (1, 3)
    assert all(parameter.is_meta for parameter in shapes.parameters())
    with pytest.raises(
        ValueError, match=r"fails on an image of shape \(1, 1, 2, 2\).+ZeroDivisionError.+\(N, 1, 2, 2\)"
    ):
        copy_that_runs(net, [zeros])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_are_brought_to_the_networks_type(dtype):
    net = nn.Linear(4, 3).to(dtype)
    assert floating_type(net) == dtype
    images = torch.rand(2, 4)
    assert torch.equal(like_network(images, net), images.to(dtype))
    assert like_network(torch.ones(2, 4, dtype=torch.uint8), net).dtype == torch.uint8
    assert layer_costs(net, images)[""].macs == 12
    assert floating_type(nn.ReLU()) == torch.float32
