import pytest
import torch
from scipy.signal import correlate
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lowrank_exp.models import lenet5, lenet_300_100


def convolve(x_CHW, layer):
    """An unpadded convolution by SciPy."""
    kernel_OIKK, bias_O = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    return torch.stack(
        [
            torch.from_numpy(correlate(x_CHW.numpy(), kernel_IKK, mode="valid")[0] + bias)
            for kernel_IKK, bias in zip(kernel_OIKK, bias_O, strict=True)
        ]
    )


def pool(x_CHW):
    channels, height, width = x_CHW.shape
    return x_CHW.reshape(channels, height // 2, 2, width // 2, 2).amax(dim=(2, 4))


@pytest.mark.parametrize(("input_size", "in_channels"), [(32, 1), (28, 1), (16, 3)])
def test_output_is_that_of_the_layers_written_out(input_size, in_channels):
    torch.manual_seed(0)
    network = lenet5(input_size=input_size, in_channels=in_channels).double()
    image = torch.randn(*network.input_shape, dtype=torch.float64)
    maps = pool(convolve(image, network.conv1).clamp(min=0))
    maps = pool(convolve(maps, network.conv2).clamp(min=0))
    out = maps.reshape(-1)
    for layer, last in ((network.fc1, False), (network.fc2, False), (network.fc3, True)):
        out = layer.weight @ out + layer.bias
        out = out if last else out.clamp(min=0)
    torch.testing.assert_close(network(image[None])[0], out)


@pytest.mark.parametrize(
    ("input_size", "macs", "parameters"),
    [
        # conv1 6*25 weights on 28x28, conv2 16*6*25 on 10x10, then 400*120 + 120*84 + 84*10
        (32, 117_600 + 240_000 + 48_000 + 10_080 + 840, 61_706),
        (28, 86_400 + 153_600 + 30_720 + 10_080 + 840, 44_426),
    ],
)
def test_costs(input_size, macs, parameters):
    network = lenet5(input_size=input_size)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 1, input_size, input_size))
    assert counter.get_total_flops() // 2 == macs
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_layers_in_order():
    layers = {name: module for name, module in lenet5().named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert list(layers) == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    assert [tuple(layer.weight.shape) for layer in layers.values()] == [
        (6, 1, 5, 5),
        (16, 6, 5, 5),
        (120, 400),
        (84, 120),
        (10, 84),
    ]


def test_width_scales_channels_and_hidden_units():
    shapes = [tuple(layer.weight.shape) for layer in lenet5(width=0.5).children()]
    assert shapes == [(3, 1, 5, 5), (8, 3, 5, 5), (60, 200), (42, 60), (10, 42)]
    shapes = [tuple(layer.weight.shape) for layer in lenet_300_100(width=2).children()]
    assert shapes == [(600, 784), (200, 600), (10, 200)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": -1.0}, r"width=-1.0, but it must be a number above 0"),
        ({"input_size": 15}, r"input_size=15, but lenet5 needs 16 or more"),
        ({"num_classes": 0}, r"num_classes=0, but it must be a whole number, 1 or more"),
        ({"num_classes": True}, r"num_classes=True"),
        ({"in_channels": 1.0}, r"in_channels=1\.0"),
        ({"input_size": "32"}, r"input_size='32'"),
    ],
)
def test_refuses_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        lenet5(**arguments)


@pytest.mark.parametrize(("input_size", "in_channels"), [(28, 1), (5, 3)])
def test_output_of_lenet_300_100_is_that_of_the_layers_written_out(input_size, in_channels):
    torch.manual_seed(0)
    network = lenet_300_100(input_size=input_size, in_channels=in_channels, num_classes=7).double()
    image = torch.randn(*network.input_shape, dtype=torch.float64)
    out = image.reshape(-1)
    for layer, last in ((network.fc1, False), (network.fc2, False), (network.fc3, True)):
        out = layer.weight @ out + layer.bias
        out = out if last else out.clamp(min=0)
    torch.testing.assert_close(network(image[None])[0], out)


def test_costs_of_lenet_300_100():
    network = lenet_300_100()
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 1, 28, 28))
    assert counter.get_total_flops() // 2 == 784 * 300 + 300 * 100 + 100 * 10 == 266_200
    assert sum(parameter.numel() for parameter in network.parameters()) == 266_200 + 300 + 100 + 10


@pytest.mark.parametrize(("arguments", "message"), [({"input_size": 0}, "input_size=0"), ({"num_classes": 0}, "num_")])
def test_lenet_300_100_refuses_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        lenet_300_100(**arguments)
