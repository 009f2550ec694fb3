"""Whether a network computes in channels_last: the memory format (N, H, W, C) of images (N, C, H, W).

Only the images are brought to the format; convolutions hand it on, whatever the format of their weights.
"""

import torch
from torch import Tensor, nn

from lowrank_exp.network.modes import evaluating
from lowrank_exp.training.generators import undisturbed

AUTO = "auto"


def check_channels_last(value: bool | str) -> None:
    """Raise ValueError for what is neither true, false nor 'auto'."""
    if not isinstance(value, bool) and value != AUTO:
        raise ValueError(f"channels_last is {value!r}; allowed are true, false and 'auto' (where it is faster)")


def channels_last_gains(network: nn.Module, images: Tensor) -> bool:
    """Whether channels_last is faster for this network, and possible.

    It is faster on the processor for every network with a 2-D convolution. It is possible unless the network's code
    asks for the other format, as `x.view(len(x), -1)` behind a convolution does: two of the images are passed through,
    in evaluation mode.

    >>> channels_last_gains(nn.Conv2d(3, 4, 3), torch.zeros(2, 3, 8, 8))
    True
    >>> channels_last_gains(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), torch.zeros(2, 3, 8, 8))
    False
    """
    if images.dim() != 4 or images.device.type != "cpu":
        return False
    if not any(isinstance(module, nn.Conv2d) for module in network.modules()):
        return False
    try:
        with undisturbed(images.device), evaluating(network):
            network(in_channels_last(images[:2]))
    except RuntimeError:
        return False
    return True


def in_channels_last(images: Tensor) -> Tensor:
    """Images (N, C, H, W) in that format; tensors of other dimensions as they are."""
    return images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images
