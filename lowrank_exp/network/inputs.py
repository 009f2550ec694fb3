"""Images as a network takes them: on its device and in its floating-point type."""

import torch
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)  # in which no loss is computed


def like_network(images: Tensor, network: nn.Module) -> Tensor:
    """`images` where the first parameter of `network` lies, and in its type; integers keep theirs.

    >>> like_network(torch.zeros(1, 4), nn.Linear(4, 2).double()).dtype
    torch.float64
    """
    first = next(network.parameters(), None)
    device = images.device if first is None else first.device
    return images.to(device, floating_type(network) if images.is_floating_point() else images.dtype)


def floating_type(network: nn.Module) -> torch.dtype:
    """The type of the first floating-point parameter of `network`; float32 for one without any."""
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
