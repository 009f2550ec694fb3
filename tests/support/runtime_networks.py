"""Small networks for runtimes: batch norms after layers of every kind, residual additions, modules of ours."""

import torch
from torch import nn

from lowrank_exp.layers import PadShortcut, Reorder


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
    """Networks by name, and the shape of an example of two images for each."""
    depthwise = [nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6)]
    transposed = nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2, bias=False)
    return {
        "residual": (Residual(), (2, 3, 8, 8)),
        "depthwise, grouped, transposed": (
            nn.Sequential(*depthwise, Reorder([5, 0, 1, 2, 4, 3]), transposed, nn.BatchNorm2d(4), nn.Hardswish()),
            (2, 4, 7, 6),
        ),
        "1-D": (
            nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(24, 5), nn.BatchNorm1d(5)),
            (2, 3, 8),
        ),
        "3-D": (
            nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.ConvTranspose3d(4, 2, 2)),
            (2, 2, 4, 5, 3),
        ),
    }


def with_statistics(network):
    """The network with batch norms as training leaves them: nothing in them is 0 or 1."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            for tensor, low, high in (
                (module.running_mean, -1, 1),
                (module.running_var, 0.5, 2),
                (module.weight, -2, 2),
                (module.bias, -1, 1),
            ):
                nn.init.uniform_(tensor, low, high)
    return network


def batch_norms(network):
    """How many batch norms a network has."""
    return sum(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) for module in network.modules())


def outputs(network, x):
    with torch.no_grad():
        return network(x)
