"""Networks as other people write them, for jobs: `model._target_=foreign_networks.Net`, and `kind` for what is odd."""

import math

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Two convolutions and a linear layer on images of one channel; `kind` is one of those below."""

    def __init__(self, kind: str = "plain", num_classes: int = 10) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b, self.f = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.f(torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3)))
        return y * math.nan if self.kind == "logits" else y
