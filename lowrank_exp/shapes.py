"""A network without its numbers."""

import copy
from typing import Any

import torch
from torch import nn


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` on the meta device: shapes without numbers, but for integer buffers, which are structure."""
    memo: dict[int, Any] = {
        id(b): torch.empty_like(b, device="meta") if b.is_floating_point() else b.clone() for b in model.buffers()
    }
    memo |= {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, memo)
