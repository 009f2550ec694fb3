"""Every runtime computes what torch computes, and leaves the network that it is given as it was."""

import copy

import pytest
import torch
from torch import nn

from lowrank_exp.layers import PadShortcut, Reorder
from lowrank_exp.runtime import installed_runtimes, runtime_named


class Residual(nn.Module):
    """Two convolutions and what they are added to, by code that no module is."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.shortcut, self.fc = PadShortcut(3, 8, 2), nn.Linear(8, 5)

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return self.fc((y + self.shortcut(x)).relu().mean((2, 3)))


def networks():
    """Networks by name, in training mode, and an example for each."""
    depthwise = [nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6)]
    transposed = nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2, bias=False)
    return {
        "residual": (Residual(), (2, 3, 8, 8)),
        "depthwise, grouped, transposed": (
            nn.Sequential(*depthwise, Reorder([5, 0, 1, 2, 4, 3]), transposed, nn.BatchNorm2d(4), nn.Hardswish()),
            (2, 4, 7, 6),
        ),
        "1-D": (
            nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5)),
            (2, 3, 8),
        ),
        "3-D": (
            nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.ConvTranspose3d(4, 2, 2)),
            (2, 2, 4, 5, 3),
        ),
    }


def with_statistics(network):
    """Weights and statistics of batch norms as training leaves them: nothing is 0 or 1."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, -2, 2)
            nn.init.uniform_(module.bias, -1, 1)
    return network


@pytest.mark.parametrize("runtime", installed_runtimes())
def test_outputs_are_those_of_torch(runtime):
    torch.manual_seed(0)
    for name, (network, shape) in networks().items():
        with_statistics(network)
        before, x = copy.deepcopy(network), torch.randn(shape)
        with torch.no_grad():
            wanted = copy.deepcopy(network).eval()(x)
        prepared = runtime_named(runtime, threads=1).prepare(network, x)
        torch.testing.assert_close(prepared(x), wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item(), msg=name)
        prepared.run()
        torch.testing.assert_close(prepared(x), wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item(), msg=name)
        assert prepared.conditions["batch_size"] == 2, name
        assert (
            [m.training for m in network.modules()]
            == [m.training for m in before.modules()]
            == [True for _ in before.modules()]
        ), name
        for key, tensor in before.state_dict().items():
            assert torch.equal(network.state_dict()[key], tensor), (name, key)
        assert list(network.state_dict()) == list(before.state_dict()), name


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_any_number_of_images_is_taken(runtime):
    torch.manual_seed(0)
    network = with_statistics(Residual()).eval()
    prepared = runtime_named(runtime).prepare(network, torch.randn(1, 3, 8, 8))
    for count in (1, 2, 5):
        x = torch.randn(count, 3, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(prepared(x), network(x), rtol=1e-5, atol=1e-5)
