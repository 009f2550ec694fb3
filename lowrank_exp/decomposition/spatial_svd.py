"""Spatial SVD: a vertical K x 1 convolution into R maps, then a horizontal 1 x K convolution; or the other way round.

Legend: G groups, O out channels of one group, I in channels of one group, H x W kernel, R rank; A and B the kernel
along the axis that the first and the second layer work along.
"""

from typing import Any

from torch import Tensor, nn

from lowrank_exp.decomposition.convolution import axes, convolution_like, kernel_GOIK, weight_like
from lowrank_exp.decomposition.svd import SVDDecomposition, checked_order, middle, two, wrong_kind

_ORDERS = ("vertical_first", "horizontal_first")


class SpatialSVD(SVDDecomposition):
    r"""Cut the SVD of the matrix whose rows are (in channel, kernel row), columns (kernel column, out channel).

    .. math:: W_{(i,h),(w,o)} \approx \sum_{r=1}^{R} (u_{(i,h),r} \sqrt{s_r}) (\sqrt{s_r} v_{r,(w,o)})

    That is the order `vertical_first`; `horizontal_first` exchanges h and w. The settings of an axis (stride, padding,
    dilation, output padding) lie on the layer that works along it, the bias on the second layer; so the full-rank pair
    gives the dense layer's output for every stride. Full rank: min(I H, W O) of one group; horizontal first min(I W,
    H O). A one-dimensional kernel counts as a column, W = 1. Transposed convolutions too.

    Args:
        order: which layer comes first, `vertical_first` or `horizontal_first`.

    Raises:
        ValueError: another order.

    Source: Jaderberg, Vedaldi, Zisserman 2014, scheme 2; Tai et al. 2016 (the closed form).

    Differs from the paper:
        1. ENC's code (Kim, Khan, Kyung 2019) puts both strides on the first layer, which is not exact at stride 2.

    >>> chain = SpatialSVD(order="horizontal_first").factorize(nn.Conv2d(4, 6, (3, 5), stride=(2, 1)), 7)
    >>> [(tuple(part.weight.shape), part.stride) for part in chain]
    [((7, 4, 1, 5), (1, 1)), ((6, 7, 3, 1), (2, 1))]
    """

    name = "spatial_svd"

    def __init__(self, order: str = "vertical_first") -> None:
        self.order = checked_order(self.name, order, _ORDERS)

    def options(self) -> dict[str, Any]:
        return {} if self.order == _ORDERS[0] else {"order": self.order}

    def refusal(self, layer: nn.Module) -> str | None:
        return wrong_kind(layer, self.name, (nn.Conv2d, nn.Conv1d, nn.ConvTranspose2d, nn.ConvTranspose1d))

    def first_axes(self, layer: nn.Module) -> tuple[bool, ...]:
        return self._kept(layer)[0]

    def matrices(self, layer: nn.Module) -> Tensor:
        W_GOIHW = kernel_GOIK(layer)
        if axes(layer) == 1:
            W_GOIHW = W_GOIHW[..., None]
        W_GOIAB = W_GOIHW if self.order == "vertical_first" else W_GOIHW.mT
        return W_GOIAB.permute(0, 2, 3, 4, 1).flatten(3, 4).flatten(1, 2)

    def unfold(self, layer: nn.Module, left_GMR: Tensor, right_GRN: Tensor) -> tuple[Tensor, Tensor]:
        G, _, R = left_GMR.shape
        first, second = self._kept(layer)
        left_GRIA = left_GMR.mT.reshape(G, R, layer.in_channels // G, *_along(layer, first))
        right_GORB = right_GRN.unflatten(2, (-1, layer.out_channels // G)).permute(0, 3, 1, 2)
        right_GORB = right_GORB.reshape(*right_GORB.shape[:3], *_along(layer, second))
        return weight_like(layer, left_GRIA), weight_like(layer, right_GORB)

    def skeleton(self, layer: nn.Module, rank: int, device: Any = None) -> nn.Sequential:
        maps, bias = middle(layer, rank), layer.bias is not None
        first, second = self._kept(layer)
        return two(
            convolution_like(layer, layer.in_channels, maps, keep=first, bias=False, device=device),
            convolution_like(layer, maps, layer.out_channels, keep=second, bias=bias, device=device),
        )

    def _kept(self, layer: nn.Module) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
        """The axes that the first and the second layer work along."""
        vertical, horizontal = (True, False)[: axes(layer)], (False, True)[: axes(layer)]
        return (vertical, horizontal) if self.order == "vertical_first" else (horizontal, vertical)


def _along(layer: nn.Module, keep: tuple[bool, ...]) -> tuple[int, ...]:
    """The kernel size along the axes marked in `keep`, 1 along the others."""
    return tuple(size if kept else 1 for size, kept in zip(layer.kernel_size, keep, strict=True))
