"""Jaderberg's scheme 1: separable filters of every in channel, and a 1 x 1 convolution that combines their maps.

Legend: G groups, O out channels and I in channels of one group, C = G I all in channels, H x W kernel, M filters.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowrank_exp.decomposition.base import Decomposition, Rank, fill_
from lowrank_exp.decomposition.convolution import axes, convolution_like, kernel_GOIK, pointwise_like, weight_like
from lowrank_exp.decomposition.fitting.als_options import ALSOptions
from lowrank_exp.decomposition.fitting.cp_als import cp_als
from lowrank_exp.decomposition.fitting.cp_energies import estimated_energies
from lowrank_exp.decomposition.fitting.gram import unfolded
from lowrank_exp.decomposition.svd import wrong_kind


class JaderbergScheme1(Decomposition):
    r"""M separable filters per in channel, shared by all out channels.

    .. math:: W_{o,c,h,w} \approx \sum_{m=1}^{M} a_{o,c,m}\, v_{c,m,h}\, h_{c,m,w}

    Three layers: H x 1 depthwise (every in channel to M maps), 1 x W depthwise, 1 x 1 with the bias. Stride, padding,
    dilation and output padding lie on the depthwise convolutions, each axis' where that axis is. The norm of a filter
    is spread equally over its factors. Rank: M; full rank: H W, exact with one filter per kernel entry. A kernel of one
    axis has one depthwise convolution, and the SVD of every channel is the best answer. Transposed convolutions too.

    Args:
        ridge: of the normal equations, relative.
        acceleration: extrapolate the sweeps.
        tolerance: stop when two sweeps in a row lower no channel's error by more than this share.
        max_iterations: sweeps at most.
        max_seconds: per layer; a fit stopped by it warns, and depends on the speed of the machine. None: no limit.
        restarts: further starts that are fitted to the end; every channel takes its best fit.
        seed: of the random parts of the starts.

    Raises:
        ValueError: an option out of range.

    Source: Jaderberg, Vedaldi, Zisserman 2014, "Speeding up convolutional neural networks with low rank expansions",
    scheme 1.

    Differs from the paper:
        1. The filters are of rank one from the start, a CP of every in channel's (O, H, W) by alternating least squares
           (all channels at once), in the place of the nuclear norm that drives free filters towards rank one.
        2. Every in channel has filters of its own; the variant with filters shared by all channels is left out.
    """

    name = "jaderberg_scheme1"
    cuts = 1

    def __init__(
        self,
        ridge: float = 1e-9,
        acceleration: bool = True,
        tolerance: float = 1e-6,
        max_iterations: int = 300,
        max_seconds: float | None = None,
        restarts: int = 4,
        seed: int = 0,
    ) -> None:
        self.als = ALSOptions(
            ridge=ridge,
            acceleration=acceleration,
            tolerance=tolerance,
            max_iterations=max_iterations,
            max_seconds=max_seconds,
            restarts=restarts,
            seed=seed,
        )

    def options(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self.als).items() if name != "init"}

    def refusal(self, layer: nn.Module) -> str | None:
        return wrong_kind(layer, self.name, (nn.Conv2d, nn.Conv1d, nn.ConvTranspose2d, nn.ConvTranspose1d))

    def full_rank(self, layer: nn.Module) -> int:
        return math.prod(layer.kernel_size)

    def skeleton(self, layer: nn.Module, rank: int, device: Any = None) -> nn.Sequential:
        parts, channels = [], layer.in_channels
        for kept in range(axes(layer)):
            keep, maps = tuple(axis == kept for axis in range(axes(layer))), layer.in_channels * rank
            parts.append(convolution_like(layer, channels, maps, keep=keep, bias=False, groups=channels, device=device))
            channels = maps
        bias = layer.bias is not None
        return nn.Sequential(*parts, pointwise_like(layer, channels, layer.out_channels, bias=bias, device=device))

    def factors(self, layer: nn.Module, rank: int) -> list[Tensor]:
        """`a (C, O, M)`, `v (C, H, M)` and, where the kernel has two axes, `h (C, W, M)`.

        Raises:
            ValueError: a rank out of range.
        """
        rank, tensor_COK = self.check_rank(layer, rank), self._tensor(layer)
        if rank == self.full_rank(layer):
            return _entries(tensor_COK)
        return list(cp_als(tensor_COK, rank, batch_axes=1, **asdict(self.als)).factors)

    def factorize(self, layer: nn.Module, rank: int) -> nn.Sequential:
        rank = self.check_rank(layer, rank)
        a_COM, *filters = self.factors(layer, rank)
        skeleton = self.skeleton(layer, rank)
        weights, groups = [], layer.in_channels
        for factor, v_CHM in zip(skeleton, filters, strict=False):
            weights.append(weight_like(factor, v_CHM.mT.reshape(groups, -1, 1, *factor.kernel_size)))
            groups = layer.in_channels * rank
        a_GIOM = a_COM.unflatten(0, (layer.groups, -1))
        last = a_GIOM.permute(0, 2, 1, 3).reshape(layer.out_channels, -1, *(1,) * axes(layer))
        return fill_(skeleton, [*weights, last], layer)

    def energies(self, layer: nn.Module, ranks: Sequence[Rank]) -> np.ndarray:
        """An estimate from short fits at six ranks, see `estimated_energies`."""
        return estimated_energies(self._tensor(layer), ranks, self.full_rank(layer), self.als)

    def unfoldings(self, layer: nn.Module) -> tuple[tuple[np.ndarray, int]]:
        """The kernels of every in channel, `(O, H W)`, which counts as a group: of M filters its rank is M at most."""
        return (unfolded(self._tensor(layer).flatten(2)),)

    def _tensor(self, layer: nn.Module) -> Tensor:
        """The kernels of every in channel, `(C, O, H, W)`."""
        return kernel_GOIK(layer).transpose(1, 2).flatten(0, 1)


def _entries(tensor_COK: Tensor) -> list[Tensor]:
    """The exact factors of full rank: filter m is 1 at the m-th kernel entry."""
    kernel = tensor_COK.shape[2:]
    a_COM = tensor_COK.flatten(2)
    norm_C1M = torch.linalg.vector_norm(a_COM, dim=1, keepdim=True)
    share_C1M = norm_C1M.where(norm_C1M > 0, 1.0) ** (1 / (1 + len(kernel)))
    places = torch.unravel_index(torch.arange(math.prod(kernel), device=a_COM.device), kernel)
    units = [torch.eye(n).to(a_COM)[:, at] for n, at in zip(kernel, places, strict=True)]
    return [a_COM / share_C1M ** len(kernel), *(unit * share_C1M for unit in units)]
