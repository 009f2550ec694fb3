"""Reorder: channels in another order."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Reorder(nn.Module):
    """Give channel `order[c]` of the input as channel c of the output: `y[:, c] = x[:, order[c]]`.

    Args:
        order: every channel once.
        device: where the buffer lies; in memory where the network is on the meta device, since it tells the structure.

    >>> Reorder([2, 0, 1])(torch.tensor([[10, 11, 12]])).tolist()
    [[12, 10, 11]]
    """

    def __init__(self, order: Sequence[int] | Tensor, device: Any = None) -> None:
        super().__init__()
        device = "cpu" if str(device) == "meta" else device
        self.register_buffer("order", torch.as_tensor(order, dtype=torch.int64, device=device))

    def forward(self, x_NC: Tensor) -> Tensor:
        return x_NC.index_select(1, self.order)

    @property
    def in_channels(self) -> int:
        return len(self.order)

    def sources(self) -> list[int]:
        return self.order.tolist()

    def keep_channels_(self, out: Sequence[int], inputs: Sequence[int]) -> None:
        place = {channel: i for i, channel in enumerate(inputs)}
        order = [place.get(source) for source in self.order[list(out)].tolist()]
        if None in order:  # the order of a network that is rebuilt comes with its weights, later
            order = range(len(out))
        self.order = torch.tensor(order, device=self.order.device)

    def extra_repr(self) -> str:
        return f"{len(self.order)} channels"
