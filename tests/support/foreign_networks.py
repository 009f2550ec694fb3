"""Networks as other people write them, by `_target_: support.foreign_networks.Net`, and `kind` for what is odd."""

import math
import threading
import warnings

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Two convolutions and a linear layer on images of one channel; `kind` says what is odd about it."""

    def __init__(self, kind: str = "plain", num_classes: int = 10) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b, self.f = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, num_classes)
        if kind == "weight_norm":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it is of old style
                self.b = torch.nn.utils.weight_norm(self.b)
        elif kind == "lock":
            self.b.locks = {"of": [threading.Lock()]}
        elif kind == "history":
            self.cached = self.b.weight * 2
        elif kind in ("float16", "bfloat16", "float64"):
            self.to(getattr(torch, kind))
        elif kind == "distances in float16":
            self.half()
        elif kind == "frozen":
            self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "coordinates":
            x = x + torch.linspace(-1, 1, x.shape[-1])
        elif self.kind == "value" and x.max().item() > 1e9:
            x = x / 2
        elif self.kind == "finite":
            assert torch.isfinite(x).all()
        elif self.kind == "cpu":
            x = x.cpu()
        elif self.kind == "no zeros" and not x.any():
            raise ZeroDivisionError("an empty image")
        elif self.kind == "nothing":
            raise KeyError(self.kind)
        y = self.f(torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3)))
        if self.kind == "distances in float16":
            y = -torch.cdist(y, self.f.weight.T[:1].expand(10, -1))
        broken = self.kind == "logits" or (self.kind == "logits in evaluation" and not self.training)
        return y * math.nan if broken else y
