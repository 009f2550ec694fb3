"""Layers that have filters, and the filters of a layer as rows of matrices.

Legend: G groups, F filters (out channels) of a group, X the entries of a filter (its fan-in), O = G F.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lowrank_exp.decomposition.convolution import TRANSPOSED
from lowrank_exp.network.cost import LAYERS


def filters(layer: nn.Module, weight: Tensor | None = None) -> Tensor:
    """The filters of a convolution, transposed or not, or of a linear layer as rows, `(G, F, X)`, detached.

    At least in float32. Row f of group g is the out channel `g F + f`.

    Args:
        layer: whose filters.
        weight: one of that layer's shape; None: its own.

    >>> filters(nn.Conv2d(4, 6, 3, groups=2)).shape
    torch.Size([2, 3, 18])
    """
    own: Tensor = layer.weight
    weight = (own if weight is None else weight).detach()
    return by_filter(layer, weight if weight.dtype == torch.float64 else weight.float()).flatten(2)


def by_filter(layer: nn.Module, weight: Tensor) -> Tensor:
    """A weight of that layer's shape as a view `(G, F, ...)`, so that what is written into it goes to the weight."""
    if isinstance(layer, nn.Linear):
        return weight[None]
    per_group = weight.unflatten(0, (layer.groups, -1))
    return per_group.transpose(1, 2) if isinstance(layer, TRANSPOSED) else per_group


def scored_layers(network: nn.Module, layers: Sequence[str]) -> dict[str, nn.Module]:
    """The named layers, if all of them have filters.

    Raises:
        ValueError: one has none, or does not exist.
    """
    modules = dict(network.named_modules())
    for name in layers:
        if not isinstance(modules.get(name), LAYERS):
            got = f"is a {type(modules[name]).__name__}" if name in modules else "does not exist"
            raise ValueError(f"{name!r} {got}: only filters of convolutions and linear layers are scored")
    return {name: modules[name] for name in layers}
