"""PadShortcut: every second pixel, and channels of zeros beside those that there are."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import pad

from lowrank_exp.layers.moves_channels import NOTHING


class PadShortcut(nn.Module):
    """Shortcut A: takes every `stride`-th pixel and adds channels of zeros, as many in front as behind.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)), no parameters. Of an odd
    number of new channels the additional one comes behind.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride, self.in_channels = stride, in_channels
        self.front = (out_channels - in_channels) // 2
        self.behind = out_channels - in_channels - self.front

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return pad(x, (0, 0, 0, 0, self.front, self.behind))

    def sources(self) -> list[int]:
        return [*[NOTHING] * self.front, *range(self.in_channels), *[NOTHING] * self.behind]

    def keep_channels_(self, out: Sequence[int], inputs: Sequence[int]) -> None:
        self.front, self.in_channels = sum(channel < self.front for channel in out), len(inputs)
        self.behind = len(out) - self.front - self.in_channels

    def extra_repr(self) -> str:
        return f"stride={self.stride}, front={self.front}, behind={self.behind}"
