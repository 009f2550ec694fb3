"""The entries of a weight that read given inputs.

Legend: G groups, O and I output and input channels.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def where_read(layer: nn.Module, inputs: Iterable[int]) -> Tensor:
    """Where the weight of a convolution, transposed or not, or of a linear layer reads one of `inputs`.

    Returns:
        A boolean tensor of the weight's shape, on the CPU.

    >>> where_read(nn.Conv2d(4, 2, 1, groups=2), [1]).flatten(1)
    tensor([[False,  True],
            [False, False]])
    """
    mask = torch.zeros(layer.weight.shape, dtype=torch.bool)
    inputs = sorted(set(inputs))
    if isinstance(layer, nn.Linear):
        mask[:, inputs] = True
    elif layer.transposed:
        mask[inputs] = True
    else:
        I, O = (channels // layer.groups for channels in (layer.in_channels, layer.out_channels))
        for i in inputs:
            g = i // I
            mask[g * O : (g + 1) * O, i % I] = True
    return mask
