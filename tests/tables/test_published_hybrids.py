"""Parameters of Pufferfish's hybrid networks, dense layers first and factors behind, as published."""

import re

import pytest
import torch
from torch import nn

from lowrank_exp import factorize_, measure
from lowrank_exp.models import resnet, vgg

EXAMPLE = torch.zeros(1, 3, 32, 32)


def meta(make, **options):
    with torch.device("meta"):
        return make(**options)


def parameters(network):
    return measure(network, EXAMPLE, seconds=0).parameters


def quarter(network, names):
    """A rank of a quarter of the out channels for every named convolution."""
    return {name: network.get_submodule(name).out_channels // 4 for name in names}


def kernels(network, size):
    named = network.named_modules()
    return [name for name, one in named if isinstance(one, nn.Conv2d) and one.kernel_size == (size, size)]


@pytest.mark.parametrize(("norm", "dense", "hybrid"), [(True, 11_173_962, 3_336_266), (False, 11_173_834, 3_336_138)])
def test_resnet18(norm, dense, hybrid):
    network = meta(resnet, depth=18, stem="cifar")
    if not norm:  # the authors' code has no batch norm after the first convolution
        network.bn1 = nn.Identity()
    assert parameters(network) == dense
    low = [name for name in kernels(network, 3) if not re.match(r"conv1|layer1\.0\.", name)]
    assert len(low) == 14
    factorize_(network, quarter(network, low), "channel_svd")
    assert parameters(network) == hybrid


def test_vgg19():
    """The authors' network has no bias in its convolutions, and two hidden layers of 512 in its head."""
    network = meta(vgg, depth=19, bias=False, head="cifar512x2")
    assert parameters(network) == 20_560_330
    convolutions = kernels(network, 3)
    assert len(convolutions) == 16
    ranks = quarter(network, convolutions[9:]) | dict.fromkeys(["classifier.0", "classifier.3"], 128)
    factorize_(network, ranks, "channel_svd")
    assert parameters(network) == 8_370_634
