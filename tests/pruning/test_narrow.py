"""A network made narrower to so many MACs has the shapes that the option `width` of our zoo gives."""

import pytest
import torch
from torch import nn

from lowrank_exp.checks import WithoutEffectError
from lowrank_exp.models import build, cifar_resnet, lenet5, vanilla_cnn
from lowrank_exp.network.cost import network_cost
from lowrank_exp.pruning.narrow import narrow_


def shapes(network):
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("network", [lenet5(), cifar_resnet(depth=8, input_size=8), cifar_resnet(8, "b", input_size=8)])
def test_the_width_is_that_of_the_zoo_and_no_other_is_nearer(network):
    example, zoo = torch.zeros(1, *network.input_shape), network.zoo

    def macs(width):
        return network_cost(build(zoo["name"], {**zoo["arguments"], "width": width}), example).macs

    wanted = macs(1.0) // 2
    width = narrow_(network, wanted, example)
    assert 0.4 < width < 0.9
    assert shapes(network) == shapes(build(zoo["name"], {**zoo["arguments"], "width": width}))
    nearest = min((macs(step / 200) for step in range(80, 181)), key=lambda cost: abs(cost - wanted))
    assert abs(network_cost(network, example).macs - wanted) <= abs(nearest - wanted)
    assert network(example).isfinite().all()


def test_drawn_weights_keep_the_variance_of_their_inputs():
    torch.manual_seed(0)
    network = vanilla_cnn(convolutions=3, filters=64, input_size=8)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    drawn = [float(layer.weight.detach().std()) * layer.weight[0].numel() ** 0.5 for layer in layers]
    width = narrow_(network, network_cost(network, torch.zeros(1, 3, 8, 8)).macs // 3, torch.zeros(1, 3, 8, 8))
    assert [layer.out_channels for layer in layers] == [round(64 * width)] * 3
    left = [float(layer.weight.detach().std()) * layer.weight[0].numel() ** 0.5 for layer in layers]
    assert left == pytest.approx(drawn, rel=0.05)


def test_groups_of_a_grouped_convolution_stay_equal():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 2, 1))
    example = torch.zeros(1, 3, 8, 8)
    narrow_(network, network_cost(network, example).macs // 2, example)
    assert (network[2].in_channels % 2, network[2].out_channels % 2, network[2].groups) == (0, 0, 2)
    assert network[2].in_channels < 8
    assert network(example).shape == (1, 2, 6, 6)


def test_a_network_without_a_width_says_why():
    example = torch.zeros(1, 3, 8, 8)
    alone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten())
    with pytest.raises(WithoutEffectError, match=r"has no width: none of its channels can go \(0: "):
        narrow_(alone, 100, example)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with pytest.raises(WithoutEffectError, match="at its own width is the one nearest to 5,000 MACs"):
        narrow_(network, 5000, example)
