"""A layer without its numbers, as plain data: enough to tell what its factors cost at any rank."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lowrank_exp.decomposition import Decomposition, Rank
from lowrank_exp.decomposition.convolution import TRANSPOSED
from lowrank_exp.rank.offer import Costs

LINEAR = ("in_features", "out_features")
CONVOLUTION = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


@dataclass(frozen=True)
class LayerShape:
    """A convolution or linear layer: its type, its constructor's arguments, and the inputs that it was called on."""

    kind: str  # Conv2d, Linear ...
    settings: dict[str, Any]
    dtype: str  # of its weight: float32 ...
    input_shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, layer: nn.Module, input_shapes: Sequence[tuple[int, ...]]) -> "LayerShape":
        """That of a layer.

        >>> LayerShape.of(nn.Linear(3, 2), [(1, 3)]).settings
        {'in_features': 3, 'out_features': 2, 'bias': True}
        """
        names = LINEAR if isinstance(layer, nn.Linear) else CONVOLUTION
        names += ("output_padding",) * isinstance(layer, TRANSPOSED)
        settings = {name: getattr(layer, name) for name in names} | {"bias": layer.bias is not None}
        dtype = str(layer.weight.dtype).removeprefix("torch.")
        return cls(type(layer).__name__, settings, dtype, tuple(map(tuple, input_shapes)))

    def layer(self, device: str | torch.device = "meta") -> nn.Module:
        """A layer of this shape, on the meta device unless told another."""
        return getattr(nn, self.kind)(**self.settings, device=device, dtype=getattr(torch, self.dtype))

    def costs(self, decomposition: Decomposition, ranks: Sequence[Rank]) -> Costs:
        """What the factors cost at these ranks."""
        layer = self.layer()
        return Costs(
            decomposition.rank_macs(layer, self.input_shapes, ranks),
            decomposition.rank_weights(layer, ranks),
            decomposition.rank_bytes(layer, ranks),
        )
