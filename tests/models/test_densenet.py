import pytest
import torch
from torch import nn
from torchvision.models.densenet import DenseNet

from lowrank_exp import measure
from lowrank_exp.models import densenet
from support.cells import cells


def on_meta(**arguments):
    with torch.device("meta"):
        return densenet(**arguments)


def measured(network):
    return measure(network, torch.zeros(1, *network.input_shape), seconds=0)


def torchvision_for_cifar(layers, growth):
    """torchvision's DenseNet-BC with three blocks, its stem for ImageNet replaced by one 3x3 convolution."""
    network = DenseNet(growth, (layers,) * 3, 2 * growth, bn_size=4, num_classes=10)
    network.features.conv0 = nn.Conv2d(3, 2 * growth, 3, padding=1, bias=False)
    network.features.norm0 = network.features.relu0 = network.features.pool0 = nn.Identity()
    return network


@pytest.mark.parametrize(("depth", "layers", "growth"), [(22, 3, 8), (100, 16, 12)])
def test_bc_has_names_and_shapes_of_torchvision(depth, layers, growth):
    with torch.device("meta"):
        theirs = torchvision_for_cifar(layers, growth).state_dict()
    ours = on_meta(depth=depth, growth=growth, bottleneck=True, reduction=0.5).state_dict()
    assert [(n, tuple(t.shape)) for n, t in ours.items()] == [(n, tuple(t.shape)) for n, t in theirs.items()]


def test_bc_outputs_are_those_of_torchvision():
    torch.manual_seed(0)
    theirs = torchvision_for_cifar(3, 8)
    for norm in (module for module in theirs.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.1)
    ours = densenet(22, 8, bottleneck=True, reduction=0.5)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)


def test_a_plain_layer_is_a_bottleneck_layer_without_its_first_convolution():
    """Written out: every layer reads the stem's maps and those of all layers before it, in that order."""
    torch.manual_seed(0)
    network = densenet(depth=10, growth=4, input_size=8).eval()
    x = network.features.conv0(torch.randn(2, 3, 8, 8))
    maps = [x]
    for layer in network.features.denseblock1:
        joined = torch.cat(maps, dim=1)
        normalized = joined / (1 + layer.norm1.eps) ** 0.5  # statistics are 0 and 1
        maps.append(nn.functional.conv2d(normalized.clamp(min=0), layer.conv1.weight, padding=1))
    assert len(maps) == 3
    torch.testing.assert_close(network.features.denseblock1(x), torch.cat(maps, dim=1))


def counted(depth, growth):
    """Convolution weights and batch norm parameters of the plain DenseNet with 3n + 4 layers, by its definition."""
    n, channels = (depth - 4) // 3, 16
    weights, norms = 27 * channels, 0
    for block in range(3):
        for _ in range(n):
            weights, norms, channels = weights + 9 * channels * growth, norms + 2 * channels, channels + growth
        norms += 2 * channels
        weights += channels * channels if block < 2 else 0
    return weights, norms, channels


@pytest.mark.parametrize(("depth", "parameters", "printed"), [(40, 1_015_232, 1016), (100, 6_967_952, 6968)])
def test_parameters_that_repr_prints(depth, parameters, printed):
    """In thousands, without the linear layer; the printed 1016 is 1015.2 here, rounded up."""
    network = on_meta(depth=depth)
    weights, norms, channels = counted(depth, 12)
    assert weights + norms == parameters
    assert sum(p.numel() for name, p in network.named_parameters() if not name.startswith("classifier")) == parameters
    assert 0 <= printed - parameters / 1000 < 1
    ours = measured(network)
    assert ours.weights == weights + 10 * channels
    assert ours.parameters == parameters + 10 * channels + 10


def test_costs_in_the_tables():
    bc = {"depth": 100, "bottleneck": True, "reduction": 0.5}
    costs = [measured(on_meta(**arguments)) for arguments in ({"depth": 40}, {"depth": 100}, bc)]
    assert [cost.macs for cost in costs] == [264_812_928, 1_769_516_448, 287_929_692]
    assert [cost.parameters for cost in costs] == [1_019_722, 6_979_642, 769_162]
    assert [cost.weights for cost in costs] == [1_001_616, 6_862_416, 745_164]


@pytest.mark.parametrize(("depth", "bottleneck"), [(22, False), (22, True), (40, False)])
@pytest.mark.parametrize("reduction", [1.0, 0.5])
def test_depth_counts_the_layers_of_the_longest_path(depth, bottleneck, reduction):
    network = on_meta(depth=depth, bottleneck=bottleneck, reduction=reduction)
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules()) == depth


@pytest.mark.parametrize(
    ("bottleneck", "reduction", "first", "kept"),
    [(False, 1.0, 16, 52), (False, 0.5, 16, 26), (True, 1.0, 16, 34), (True, 0.5, 12, 15), (True, 0.3, 12, 9)],
)
def test_channels_of_stem_and_transition(bottleneck, reduction, first, kept):
    """Depth 22, k = 6: six layers a block, or three bottlenecks; 16 (2k for BC) and 6k or 3k more maps."""
    features = on_meta(depth=22, growth=6, bottleneck=bottleneck, reduction=reduction).features
    assert features.conv0.out_channels == first
    assert features.transition1.conv.out_channels == kept


def test_gradients_reach_every_parameter_at_the_smallest_input():
    torch.manual_seed(0)
    network = densenet(10, 4, bottleneck=True, reduction=0.5, input_size=4, in_channels=1, num_classes=3)
    network(torch.randn(4, *network.input_shape)).square().sum().backward()
    assert {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()} == set()


@cells(
    ("arguments", "message"),
    [
        ({"depth": 5}, r"depth=5, but it must be a whole number, 7 or more"),
        ({"depth": 41}, r"depth=41, but without bottlenecks a depth is 3n \+ 4; the nearest are 40 and 43"),
        ({"depth": 43, "bottleneck": True}, r"with bottlenecks a depth is 6n \+ 4; the nearest are 40 and 46"),
        ({"growth": 0}, r"growth=0"),
        ({"bottleneck": "yes"}, r"bottleneck='yes', but it must be true or false"),
        ({"reduction": 0}, r"reduction=0, but it must be above 0 and at most 1"),
        ({"reduction": 1.5}, r"reduction=1\.5"),
        ({"reduction": 0.001}, r"reduction=0\.001 leaves none of a transition's 160 maps"),
        ({"input_size": 3}, r"input_size=3, but densenet needs 4 or more"),
    ],
)
def test_refuses_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        densenet(**arguments)
