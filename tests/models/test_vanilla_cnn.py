import numpy as np
import pytest
import torch
from scipy.signal import correlate
from torch import nn

from lowrank_exp import measure
from lowrank_exp.models import vanilla_cnn


def on_meta(**arguments):
    with torch.device("meta"):
        return vanilla_cnn(**arguments)


@pytest.mark.parametrize(
    ("convolutions", "parameters", "printed"),
    [(3, 19_584, 20), (8, 66_144, 66), (13, 112_704, 113), (18, 159_264, 159)],
)
def test_parameters_that_repr_prints(convolutions, parameters, printed):
    network = on_meta(convolutions=convolutions)
    without_fc = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("fc"))
    assert without_fc == parameters
    assert round(without_fc / 1000) == printed
    ours = measure(network, torch.zeros(1, 3, 32, 32), seconds=0)
    assert ours.parameters == parameters + 32 * 1024 * 10 + 10
    assert ours.weights == 27 * 32 + (convolutions - 1) * 32 * 32 * 9 + 32 * 1024 * 10
    assert ours.macs == 1024 * (27 * 32 + (convolutions - 1) * 32 * 32 * 9) + 32 * 1024 * 10


def test_c3_32_without_batch_norm():
    """Re-implementations of C^3(32): 96 filters, 32,768 inputs of the linear layer."""
    network = on_meta(batch_norm=False)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert sum(layer.out_channels for layer in layers) == 96
    assert network.fc.in_features == 32_768
    assert sum(p.numel() for p in network.parameters()) == 19_584 - 192 + 327_690


@pytest.mark.parametrize("batch_norm", [True, False])
def test_output_is_that_of_the_layers_written_out(batch_norm):
    torch.manual_seed(0)
    network = vanilla_cnn(2, 4, batch_norm, num_classes=3, in_channels=2, input_size=5).double().eval()
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias)
    image = torch.randn(2, 5, 5, dtype=torch.float64)
    maps = image.numpy()
    for i in (1, 2):
        layer = getattr(network.features, f"conv{i}")
        padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)))
        kernel_OIKK, bias_O = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        out = [correlate(padded, kernel, mode="valid")[0] + b for kernel, b in zip(kernel_OIKK, bias_O, strict=True)]
        maps = np.stack(out)
        if batch_norm:
            norm = getattr(network.features, f"bn{i}")
            mean, var, scale, shift = (
                value.detach().numpy()[:, None, None]
                for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
            )
            maps = (maps - mean) / np.sqrt(var + norm.eps) * scale + shift
        maps = np.maximum(maps, 0)
    logits = network.fc.weight.detach().numpy() @ maps.reshape(-1) + network.fc.bias.detach().numpy()
    np.testing.assert_allclose(network(image[None])[0].detach().numpy(), logits, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"convolutions": 0}, r"convolutions=0, but it must be a whole number, 1 or more"),
        ({"filters": 2.5}, r"filters=2\.5, but it must be a whole number"),
        ({"batch_norm": 1}, r"batch_norm=1, but it must be true or false"),
        ({"input_size": 0}, r"input_size=0"),
    ],
)
def test_refuses_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        vanilla_cnn(**arguments)
