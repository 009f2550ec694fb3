"""Slice-wise SVD: every H x W slice of a kernel, one per pair of channels, as a sum of separable ones.

Legend: G groups, O out channels of one group, I in channels of one group, H x W kernel, R rank.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowrank_exp.checks import one_of, whole
from lowrank_exp.decomposition.base import Rank
from lowrank_exp.decomposition.convolution import axes, convolution_like, kernel_GOIK, weight_like
from lowrank_exp.decomposition.svd import SVDDecomposition, wrong_kind
from lowrank_exp.layers.reorder import Reorder

_FORMS = ("auto", "dense", "chain")


class SliceWiseSVD(SVDDecomposition):
    r"""Cut the SVD of every slice of the kernel on its own.

    .. math:: W_{o,i,h,w} \approx
        \sum_{r=1}^{R} (u^{(o,i)}_{h,r} \sqrt{s^{(o,i)}_r}) (\sqrt{s^{(o,i)}_r} v^{(o,i)}_{r,w})

    Full rank: min(H, W); a one-dimensional kernel counts as a column, W = 1. The squared error is the sum of the tails
    of all slices. There are two forms:

    - `chain`: an H x 1 convolution that makes O R maps of every in channel, `Reorder` from (i, o, r) to (o, i, r)
      (left out where that changes nothing), and a 1 x W convolution that sums the I R maps of every out channel. It
      has R (H + W) weights per slice and saves where R < H W / (H + W), but holds G I O R maps: meant for depthwise
      layers, I = 1.
    - `dense`: one convolution of the shape of the layer with the cut kernel. It saves nothing; it shows what a
      spatial rank costs in accuracy.

    The vertical settings (stride, padding, dilation, output padding) lie on the first layer of a chain, the horizontal
    ones on the second. Works on convolutions of one and two axes, transposed too.

    Args:
        form: `chain`, `dense`, or `auto`: a chain where it is not refused, else dense.
        maps_limit: the most maps G I O min(H, W) of a chain at full rank; depthwise layers have no limit.

    Raises:
        ValueError: another form, a limit that is not an integer from 1 on.

    Source: Rigamonti, Sironi, Lepetit, Fua 2013, "Learning separable filters" (filters as sums of separable ones).

    Differs from the paper:
        1. Every slice has separable filters of its own, by SVD; the paper learns some that all filters share.

    >>> layer = nn.Conv2d(4, 4, 3, groups=4)
    >>> [tuple(part.weight.shape) for part in SliceWiseSVD().factorize(layer, 1)]
    [(4, 1, 3, 1), (4, 1, 1, 3)]
    """

    name = "slice_wise_svd"
    why_no_fit = "it leaves a single layer"

    def __init__(self, form: str = "auto", maps_limit: int = 4096) -> None:
        one_of("form", form, _FORMS, f"{self.name}: form must be one of {', '.join(_FORMS)}, got {form!r}")
        wrong = f"{self.name}: maps_limit must be an integer, 1 or more, got {maps_limit!r}"
        whole("maps_limit", maps_limit, message=wrong)
        self.form, self.maps_limit = form, maps_limit

    def options(self) -> dict[str, Any]:
        return {"form": self.form, "maps_limit": self.maps_limit}

    @property
    def fits(self) -> frozenset[str]:
        return frozenset() if self.form == "dense" else super().fits

    def refusal(self, layer: nn.Module) -> str | None:
        wrong = wrong_kind(layer, self.name, (nn.Conv2d, nn.Conv1d, nn.ConvTranspose2d, nn.ConvTranspose1d))
        if wrong is None and self.form == "chain" and not self._fits(layer):
            return (
                f"{self.name} as a chain would have {_maps(layer)} maps, above maps_limit {self.maps_limit}; "
                "raise maps_limit or take form auto or dense"
            )
        return wrong

    def matrices(self, layer: nn.Module) -> Tensor:
        W_SHW = kernel_GOIK(layer).flatten(0, 2)
        return W_SHW if axes(layer) == 2 else W_SHW[..., None]

    def full_rank(self, layer: nn.Module) -> int:
        return min(_sides(layer))

    def unfold(self, layer: nn.Module, left_GMR: Tensor, right_GRN: Tensor) -> tuple[Tensor, ...]:
        G, I, O = layer.groups, layer.in_channels // layer.groups, layer.out_channels // layer.groups
        if not self._chains(layer):
            W_GOIHW = (left_GMR @ right_GRN).unflatten(0, (G, O, I))
            return (weight_like(layer, W_GOIHW.reshape(G, O, I, *layer.kernel_size)),)
        H, W = _sides(layer)
        column, row = ((H, 1), (1, W)) if axes(layer) == 2 else ((H,), (1,))
        left_GIORH = left_GMR.mT.unflatten(0, (G, O, I)).transpose(1, 2)
        first = left_GIORH.reshape(G * I, -1, 1, *column)
        second = right_GRN.reshape(G * O, 1, -1, *row)
        return weight_like(layer, first), weight_like(layer, second)

    def skeleton(self, layer: nn.Module, rank: int, device: Any = None) -> nn.Sequential:
        G, I, O = layer.groups, layer.in_channels // layer.groups, layer.out_channels // layer.groups
        bias = layer.bias is not None
        if not self._chains(layer):
            everywhere = (True,) * axes(layer)
            return nn.Sequential(
                convolution_like(
                    layer, layer.in_channels, layer.out_channels, keep=everywhere, bias=bias, device=device
                )
            )
        maps = G * I * O * rank
        vertical, horizontal = (True, False)[: axes(layer)], (False, True)[: axes(layer)]
        parts = [
            convolution_like(layer, G * I, maps, keep=vertical, bias=False, groups=G * I, device=device),
            convolution_like(layer, maps, G * O, keep=horizontal, bias=bias, groups=G * O, device=device),
        ]
        if I > 1 and O > 1:
            order = torch.arange(maps).reshape(G, I, O, rank).transpose(1, 2).flatten()
            parts.insert(1, Reorder(order, device=layer.weight.device if device is None else device))
        return nn.Sequential(*parts)

    def rank_left(self, factors: nn.Module, rank: int) -> int:
        """That of every slice; pruning takes whole slices."""
        return rank

    def factor_weights(self, layer: nn.Module, ranks: Sequence[Rank]) -> np.ndarray:
        if self._chains(layer):
            return super().factor_weights(layer, ranks)
        return np.full((len(ranks), 1), layer.weight.numel())

    def _chains(self, layer: nn.Module) -> bool:
        return self.form != "dense" and self._fits(layer)

    def _fits(self, layer: nn.Module) -> bool:
        """Whether a chain has few enough maps."""
        return layer.in_channels == layer.groups or _maps(layer) <= self.maps_limit


def _sides(layer: nn.Module) -> tuple[int, int]:
    """Rows and columns of a slice."""
    return layer.kernel_size if axes(layer) == 2 else (*layer.kernel_size, 1)


def _maps(layer: nn.Module) -> int:
    """Maps between the two layers of a chain at full rank."""
    return layer.in_channels * (layer.out_channels // layer.groups) * min(_sides(layer))
