"""Responses of one layer to two inputs, those of the original network and those of the network as compressed so far.

Legend: x and y input and output in the original network, x^ and y^ in the compressed one.
"""

import copy

import torch
from torch import Tensor, nn

from lowrank_exp.reconstruct.patches import real


def difference(layer: nn.Module, seen: tuple[Tensor, Tensor], hat: tuple[Tensor, Tensor]) -> Tensor:
    """W (x - x^) at every place, in float64, in the shape of the output.

    Taken from the outputs, y - y^, so that it costs nothing; from the inputs in float64 where outputs are rounded to
    half precision, whose difference would be rounding.

    Args:
        layer: the dense layer.
        seen: x and y.
        hat: x^ and y^.
    """
    (x, y), (hat_x, hat_y) = seen, hat
    off = real(y).double() - real(hat_y).double()
    if y.dtype in (torch.float16, torch.bfloat16):
        exact = copy.deepcopy(layer).to(off.device).double()
        exact.bias = None
        off = exact(real(x).double() - real(hat_x).double())
    return off
