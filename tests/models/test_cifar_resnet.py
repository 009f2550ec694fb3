import copy
import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lowrank_exp import measure
from lowrank_exp.models import cifar_resnet
from lowrank_exp.models.cifar_resnet import PadShortcut
from support.cells import cells


def on_meta(**arguments):
    with torch.device("meta"):
        return cifar_resnet(**arguments)


def convolution_macs(network):
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *network.input_shape, device="meta"))
    return counter.get_total_flops() // 2 - network.linear.weight.numel()


def convolutions(network):
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize(
    ("depth", "macs", "parameters"),
    [
        (20, 40_550_400, 269_072),
        (32, 68_861_952, 463_504),
        (56, 125_485_056, 852_368),
        (110, 252_887_040, 1_727_312),
    ],
)
def test_published_costs(depth, macs, parameters):
    network = on_meta(depth=depth)
    assert convolution_macs(network) == macs
    assert network.linear.weight.numel() == 640
    outside_linear = [p for name, p in network.named_parameters() if not name.startswith("linear")]
    assert sum(parameter.numel() for parameter in outside_linear) == parameters
    assert len(convolutions(network)) == depth - 1


@pytest.mark.parametrize(
    ("arguments", "macs", "count"),
    [
        ({"depth": 20}, 40_812_544, 21),
        ({"depth": 32}, 69_124_096, 33),
        ({"depth": None, "blocks_per_stage": 9, "block": "bottleneck"}, 127_320_064, 85),
        ({"depth": None, "blocks_per_stage": 18, "block": "bottleneck"}, 247_644_160, 166),
    ],
)
def test_costs_of_the_svd_training_networks(arguments, macs, count):
    network = on_meta(shortcut="b", **arguments)
    assert convolution_macs(network) == macs
    assert len(convolutions(network)) == count


def test_convolution_weights_of_resnet20_b():
    assert sum(layer.weight.numel() for layer in convolutions(on_meta(shortcut="b"))) == 270_256


@pytest.mark.parametrize(("depth", "block"), [(20, "basic"), (29, "bottleneck"), (38, "bottleneck")])
@pytest.mark.parametrize("shortcut", ["a", "b"])
def test_depth_counts_the_layers_of_the_main_path(depth, block, shortcut):
    network = on_meta(depth=depth, block=block, shortcut=shortcut)
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert sum("shortcut" not in name for name in names) == depth


def test_pad_shortcut_against_numpy():
    x_NCHW = np.random.default_rng(0).standard_normal((2, 3, 5, 7))
    out = PadShortcut(3, 8, stride=2)(torch.from_numpy(x_NCHW)).numpy()
    np.testing.assert_array_equal(
        out, np.pad(x_NCHW[:, :, ::2, ::2], ((0, 0), (2, 3), (0, 0), (0, 0)), mode="constant")
    )


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_a_block_adds_its_shortcut(block):
    """With the residual branch's last scale at 0, a block is the rectified shortcut."""
    torch.manual_seed(0)
    network = cifar_resnet(depth=None, blocks_per_stage=2, block=block, shortcut="a").eval()
    first, second = network.layer2
    for unit in (first, second):
        nn.init.zeros_((unit.bn2 if block == "basic" else unit.bn3).weight)
    x = torch.randn(2, first.conv1.in_channels, 8, 8)
    out = first(x)
    quarter = x.shape[1] // 2
    torch.testing.assert_close(out[:, quarter:-quarter], x[:, :, ::2, ::2].clamp(min=0), rtol=0, atol=0)
    assert out[:, :quarter].abs().sum() == 0
    assert out[:, -quarter:].abs().sum() == 0
    torch.testing.assert_close(second(out), out, rtol=0, atol=0)


def test_projection_shortcut_is_its_convolution_and_batch_norm():
    torch.manual_seed(0)
    network = cifar_resnet(depth=8, shortcut="b").eval()
    block = network.layer3[0]
    nn.init.zeros_(block.bn2.weight)
    x_NCHW = torch.randn(2, 32, 8, 8)
    kernel_OI = block.shortcut[0].weight.detach()[:, :, 0, 0]
    norm = block.shortcut[1]
    nn.init.uniform_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    projected = torch.einsum("oi,nihw->nohw", kernel_OI, x_NCHW[:, :, ::2, ::2])
    mean, deviation = norm.running_mean[:, None, None], (norm.running_var + norm.eps).sqrt()[:, None, None]
    torch.testing.assert_close(block(x_NCHW), ((projected - mean) / deviation).clamp(min=0))


def test_initialisation_is_he_normal():
    torch.manual_seed(0)
    network = cifar_resnet(depth=20)
    for layer in (network.layer2[1].conv1, network.layer3[1].conv1):
        fan_in = layer.in_channels * 9
        entries = layer.weight.numel()
        # The standard deviation of n normal values varies by 1 / sqrt(2 n) of itself: five such steps.
        assert float(layer.weight.detach().std()) == pytest.approx(
            math.sqrt(2 / fan_in), rel=5 / math.sqrt(2 * entries)
        )
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
        assert torch.equal(norm.bias, torch.zeros_like(norm.bias))


def small(block, shortcut):
    torch.manual_seed(0)
    arguments = {"depth": None, "blocks_per_stage": 1, "in_channels": 1, "input_size": 9, "num_classes": 3}
    return cifar_resnet(block=block, shortcut=shortcut, **arguments).eval()


@pytest.mark.parametrize(("block", "shortcut"), [("basic", "a"), ("bottleneck", "b")])
def test_exported_it_gives_the_same_output(block, shortcut):
    network = small(block, shortcut)
    x = torch.randn(2, *network.input_shape)
    torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), network(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize(("block", "shortcut"), [("basic", "a"), ("bottleneck", "b")])
def test_traced_pickled_or_copied_it_gives_the_same_output(block, shortcut):
    network = small(block, shortcut)
    x = torch.randn(2, *network.input_shape)
    copies = [pickle.loads(pickle.dumps(network)), copy.deepcopy(network)]
    for other in [torch.jit.trace(network, x), *copies]:
        torch.testing.assert_close(other(x), network(x))
    for other in copies:
        assert other.zoo == network.zoo
        assert other.input_shape == network.input_shape


@pytest.mark.parametrize(
    ("width", "macs", "weights"),
    [(0.5, 10_248_192 + 320, 67_032 + 320), (1.0, 40_550_400 + 640, 267_696 + 640)],
)
def test_costs_follow_the_width(width, macs, weights):
    """Counted by hand: 8, 16 and 32 channels for half the width; convolutions, and the linear layer."""
    found = measure(cifar_resnet(depth=20, width=width), torch.zeros(1, 3, 32, 32), seconds=0)
    assert (found.macs, found.weights) == (macs, weights)


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    network = cifar_resnet(depth=8, input_size=8)
    network(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()} == set()


@cells(
    ("arguments", "message"),
    [
        ({"depth": 21}, r"depth=21, but with basic blocks a depth is 6n \+ 2; the nearest are 20 and 26"),
        ({"depth": 50, "block": "bottleneck"}, r"a depth is 9n \+ 2; the nearest are 47 and 56"),
        ({"depth": 2}, r"depth=2, but it must be a whole number, 8 or more"),
        ({"depth": None}, r"exactly one of them"),
        ({"depth": 20, "blocks_per_stage": 3}, r"exactly one of them"),
        ({"depth": None, "blocks_per_stage": 0}, r"blocks_per_stage=0, but it must be"),
        ({"shortcut": "c"}, r"shortcut='c', but it must be one of a, b"),
        ({"block": "wide"}, r"block='wide', but it must be one of basic, bottleneck"),
        ({"input_size": 3}, r"input_size=3, but cifar_resnet needs 4 or more"),
        ({"num_classes": -1}, r"num_classes=-1"),
        ({"width": 0}, r"width=0, but it must be a number above 0"),
    ],
)
def test_refuses_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        cifar_resnet(**arguments)


@pytest.mark.outside_data("LOWRANK_EXP_WEIGHTS")
@pytest.mark.parametrize("depth", [20, 32, 44])
def test_public_checkpoints_load(depth):
    """LOWRANK_EXP_WEIGHTS names the folder of akamaster/pytorch_resnet_cifar10's pretrained files."""
    (path,) = Path(os.environ["LOWRANK_EXP_WEIGHTS"]).glob(f"resnet{depth}-*.th")
    network = cifar_resnet(depth=depth, weights=str(path))
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    own = {f"module.{name}": value for name, value in network.state_dict().items()}
    assert set(own) - set(state) == {name for name in own if name.endswith("num_batches_tracked")}
    assert all(torch.equal(own[name], value) for name, value in state.items())
