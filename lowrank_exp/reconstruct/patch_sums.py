r"""Sums over a layer's patches and their products, for convolutions without the patches themselves.

Legend: N images, G groups, O out channels and I in channels of one group, Ky x Kx kernel, D = I Ky Kx, H rows of an
image, J the rows of one remainder by the stride, L = N W places of one row of all images, P all places; m steps of the
kernel between two of its rows.

What two rows of the kernel read at a place of the output are two rows of the input, m dilations apart. The product of
two such rows belongs to many blocks (ky, ky + m) of the second moment, and is taken once for all of them: there are
2 Ky - 1 distances and Ky^2 blocks. Rows of zeros around an image are not looked at.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lowrank_exp.reconstruct.patches import CHUNK, padding_of, patches_GPD, real, responses_GPO, row_length


@dataclass
class PatchSums:
    """Over so many places, in float64: of the patches x `(G, D)`, of x x^T `(G, D, D)`, and of off x^T `(G, O, D)`."""

    count: int
    rows: Tensor
    products: Tensor
    beside: Tensor | None = None


def patch_sums(layer: nn.Module, x: Tensor, off: Tensor | None = None) -> Iterator[PatchSums]:
    """The sums over the patches of some images at a time.

    Args:
        layer: a convolution or a linear layer.
        x: its input.
        off: as large as its output for x; the products with it are summed too.

    >>> [sums.products.tolist() for sums in patch_sums(nn.Linear(2, 1), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))]
    [[[[10.0, 14.0], [14.0, 20.0]]]]
    """
    x, off = real(x), off if off is None else real(off)
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        axes = len(layer.kernel_size)
        x, off = (one if one is None or one.dim() == axes + 2 else one[None] for one in (x, off))
        images = max(1, CHUNK // (8 * layer.kernel_size[-1] * x[0].numel()))
        offs = [None] * len(x) if off is None else off.split(images)
        for some, some_off in zip(x.split(images), offs, strict=False):
            yield _of_rows(layer, some, some_off)
        return
    for x_GPD, off_GPO in patches_beside(layer, x, off):
        cross_GOD = None if off_GPO is None else off_GPO.mT @ x_GPD
        yield PatchSums(x_GPD.shape[1], x_GPD.sum(dim=1), x_GPD.mT @ x_GPD, cross_GOD)


def patches_beside(layer: nn.Module, x: Tensor, off: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Patches `(G, P, D)` of some images at a time, and `off` at the same places `(G, P, O)`; see `patch_sums`."""
    off_GPO, at = None if off is None else torch.cat(list(responses_GPO(layer, off)), dim=1), 0
    for x_GPD in patches_GPD(layer, x):
        yield x_GPD, None if off_GPO is None else off_GPO[:, at : at + x_GPD.shape[1]]
        at += x_GPD.shape[1]


def _of_rows(layer: nn.Conv1d | nn.Conv2d, x: Tensor, off: Tensor | None) -> PatchSums:
    rows = _Rows(layer, x)
    (Ky, Kx), G = rows.kernel, layer.groups
    I = layer.in_channels // G
    second = x.new_zeros(G, I, Ky, Kx, I, Ky, Kx, dtype=torch.float64)
    for m in range(Ky):
        for ky, block_GCC in rows.products(m).items():
            block = block_GCC.reshape(G, I, Kx, I, Kx)
            second[:, :, ky, :, :, ky + m] = block
            second[:, :, ky + m, :, :, ky] = block.permute(0, 3, 4, 1, 2)
    sums = torch.stack([rows.sums(ky).reshape(G, I, Kx) for ky in range(Ky)], dim=2)
    count, D = len(x) * rows.places, row_length(layer)
    cross = None if off is None else torch.stack([one.unflatten(2, (I, Kx)) for one in rows.cross(off)], dim=3)
    return PatchSums(
        count, sums.reshape(G, D), second.reshape(G, D, D), None if cross is None else cross.reshape(G, -1, D)
    )


class _Rows:
    """The rows of some images, each place with what Kx entries of the kernel read there: `(G, I Kx, J L)`.

    One such matrix for every remainder of a row's number by the stride; its columns are in the order of the rows, so
    that consecutive rows are consecutive columns.
    """

    def __init__(self, layer: nn.Conv1d | nn.Conv2d, x: Tensor) -> None:
        sides = padding_of(layer)
        if layer.padding_mode != "zeros":
            x, sides = F.pad(x, sides, mode=layer.padding_mode), [0] * len(sides)
        plane = x if x.dim() == 4 else x[..., None]  # the one axis of Conv1d is that of the rows
        (self.top, below), across = sides[-2:], sides[:-2] or [0, 0]
        self.kernel, self.dilation, self.stride = (
            (*setting, 1)[:2] for setting in (layer.kernel_size, layer.dilation, layer.stride)
        )
        span = [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        self.height = plane.shape[2]
        self.out = (self.height + self.top + below - span[0]) // self.stride[0] + 1
        read_NCHWK = F.pad(plane, across).unfold(3, span[1], self.stride[1])[..., :: self.dilation[1]]
        N, C, _, W, Kx = read_NCHWK.shape
        self.columns, self.places, G = N * W, self.out * W, layer.groups
        self._by_remainder = []
        for remainder in range(self.stride[0]):
            some = read_NCHWK[:, :, remainder :: self.stride[0]].permute(1, 4, 2, 0, 3)
            rows = torch.empty(some.shape, dtype=torch.float64, device=x.device).copy_(some)
            self._by_remainder.append(rows.view(G, C // G * Kx, -1))

    def products(self, m: int) -> dict[int, Tensor]:
        """By row ky of the kernel the sum over all places of what it reads times what row ky + m reads."""
        found: dict[int, Tensor] = {}
        groups: dict[int, dict[int, tuple[int, int]]] = {}
        for ky in range(self.kernel[0] - m):
            remainder, _, first, last = self._range(ky, m)
            groups.setdefault(remainder, {})[ky] = first, last
        for remainder, ranges in groups.items():
            ahead, other = divmod(remainder + m * self.dilation[0], self.stride[0])
            for begin, end in pairwise(sorted({end for both in ranges.values() for end in both})):
                reading = [ky for ky, (first, last) in ranges.items() if first <= begin and end <= last]
                if reading:  # between two ends of ranges, so each of them takes all of it or nothing
                    some = self._columns(remainder, begin, end) @ self._columns(other, begin + ahead, end + ahead).mT
                    for ky in reading:
                        found[ky] = found[ky] + some if ky in found else some
        C = self._by_remainder[0].shape[1]
        zeros = self._by_remainder[0].new_zeros(len(self._by_remainder[0]), C, C)
        return {ky: found.get(ky, zeros) for ky in range(self.kernel[0] - m)}

    def sums(self, ky: int) -> Tensor:
        """Of what row ky of the kernel reads, `(G, I Kx)`."""
        remainder, _, first, last = self._range(ky)
        return self._columns(remainder, first, last).sum(dim=2)

    def cross(self, off: Tensor) -> Iterator[Tensor]:
        """For every row of the kernel the products of `off` with what it reads, `(G, O, I Kx)`."""
        G = len(self._by_remainder[0])
        plane = off if off.dim() == 4 else off[..., None]
        off_GOP = plane.double().permute(1, 2, 0, 3).reshape(G, plane.shape[1] // G, -1)
        for ky in range(self.kernel[0]):
            remainder, shift, first, last = self._range(ky)
            beside = off_GOP[:, :, (first - shift) * self.columns : (last - shift) * self.columns]
            yield beside @ self._columns(remainder, first, last).mT

    def _range(self, ky: int, m: int = 0) -> tuple[int, int, int, int]:
        """Where row ky of the kernel reads, and row ky + m too, within the images.

        Returns:
            The remainder of those rows by the stride; what their number, divided by the stride, is ahead of that of
            the row of the output; the first such number, and the one after the last.
        """
        s, start = self.stride[0], ky * self.dilation[0] - self.top
        shift, remainder = divmod(start, s)
        first = max(0, -(start // s))  # the first row of the output for which it is not above the image
        last = min(self.out, -((start + m * self.dilation[0] - self.height) // s))
        return remainder, shift, first + shift, max(first, last) + shift

    def _columns(self, remainder: int, begin: int, end: int) -> Tensor:
        return self._by_remainder[remainder][:, :, begin * self.columns : end * self.columns]
