"""A layer's work done with another weight, in the memory format of the input."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lowrank_exp.decomposition.convolution import TRANSPOSED, weight_like
from lowrank_exp.network.private import convolved

_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def apply_layer(layer: nn.Module, x: Tensor, kernel_GOIK: Tensor, bias: Tensor | None) -> Tensor:
    """What `layer` does, with another weight and bias, in the memory format of `x`."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, kernel_GOIK[0], bias)
    weight = _lay_out(weight_like(layer, kernel_GOIK), channels_last=_in_channels_last(x, len(layer.kernel_size)))
    if not isinstance(layer, TRANSPOSED):
        return convolved(layer, x, weight, bias)
    settings = (layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
    return _TRANSPOSED[len(layer.kernel_size)](x, weight, bias, *settings)


def _in_channels_last(x: Tensor, axes: int) -> bool:
    """Whether `x` lies in channels-last memory and not in the ordinary format too."""
    if axes not in _CHANNELS_LAST or x.dim() != axes + 2 or x.is_contiguous():
        return False
    return x.is_contiguous(memory_format=_CHANNELS_LAST[axes])


def _lay_out(weight_OIK: Tensor, channels_last: bool) -> Tensor:
    """The weight in a memory format, copied only where it lies in another.

    Sizes of 1 get the strides of that format too; torch's own `contiguous` leaves them, and its convolution of float64
    then fails.
    """
    weight = weight_OIK.movedim(1, -1) if channels_last else weight_OIK
    strides = [math.prod(weight.shape[axis + 1 :]) for axis in range(weight.dim())]
    if list(weight.stride()) != strides:
        weight = weight.reshape(-1).view(weight.shape)
    return weight.movedim(-1, 1) if channels_last else weight
