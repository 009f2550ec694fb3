"""From a fitted dense weight back to the factors of a layer.

Legend: G groups, O out channels and I in channels of one group, K kernel entries.
"""

import torch
from torch import Tensor, nn

from lowrank_exp.decomposition.base import Decomposition, Rank
from lowrank_exp.decomposition.convolution import kernel_GOIK, weight_like
from lowrank_exp.network.private import own_buffers, own_modules, own_parameters, rebuild


def weight_GOK(layer: nn.Module, device: torch.device) -> Tensor:
    """The weight with groups apart, one row per out channel, in float64: columns are (in channel, kernel entry)."""
    if isinstance(layer, nn.Linear):
        return layer.weight.detach().to(device).double()[None]
    return kernel_GOIK(layer).to(device).double().flatten(2)


def with_bias(layer: nn.Module) -> nn.Module:
    """`layer`, or where it has no bias a layer like it with a bias of zeros and the same weight.

    The chains of "response" and "relu" have the shapes of `kind.skeleton(with_bias(layer), rank)`.

    >>> with_bias(nn.Linear(3, 2, bias=False))
    Linear(in_features=3, out_features=2, bias=True)
    """
    if layer.bias is not None:
        return layer
    new = rebuild(layer, own_parameters(layer), own_buffers(layer), own_modules(layer))
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    zeros = torch.zeros(channels, dtype=layer.weight.dtype, device=layer.weight.device)
    new.bias = nn.Parameter(zeros, requires_grad=layer.weight.requires_grad)
    return new


def factors_of(
    kind: Decomposition, layer: nn.Module, rank: Rank, what_GOK: Tensor, bias_O: Tensor | None = None
) -> nn.Module:
    """The chain of `kind` for `layer` with another weight, of rank `rank`; and with another bias where one is given."""
    dense = _in_float64(layer if bias_O is None else with_bias(layer), what_GOK.device)
    with torch.no_grad():
        if isinstance(layer, nn.Linear):
            dense.weight.copy_(what_GOK[0])
        else:
            dense.weight.copy_(weight_like(layer, what_GOK.reshape(kernel_GOIK(layer).shape)))
        if bias_O is not None:
            dense.bias.copy_(bias_O)
    return kind.factorize(dense, rank).to(layer.weight.device, layer.weight.dtype)


def _in_float64(layer: nn.Module, device: torch.device) -> nn.Module:
    """A copy of `layer`, in float64 on `device`; not to be called."""
    parameters = {
        name: None if p is None else nn.Parameter(p.detach().to(device, torch.float64, copy=True), p.requires_grad)
        for name, p in own_parameters(layer).items()
    }
    return rebuild(layer, parameters, own_buffers(layer), own_modules(layer))
