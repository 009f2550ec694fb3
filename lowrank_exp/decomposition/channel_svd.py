"""Channel SVD: a K x K convolution into R maps, then a 1 x 1 convolution; or the other way round.

Legend: G groups, O out channels of one group, I in channels of one group, K all kernel entries, R rank.
"""

from typing import Any

from torch import Tensor, nn

from lowrank_exp.decomposition.base import FITS
from lowrank_exp.decomposition.convolution import axes, convolution_like, kernel_GOIK, pointwise_like, weight_like
from lowrank_exp.decomposition.svd import SVDDecomposition, checked_order, middle, two, wrong_kind
from lowrank_exp.network.cost import CONVOLUTIONS

_ORDERS = ("kernel_first", "pointwise_first")


class ChannelSVD(SVDDecomposition):
    r"""Cut the SVD of the kernel with the out channels (or the in channels) against everything else.

    .. math:: \text{kernel first: } W_{(i,k),o} \approx
        \sum_{r=1}^{R} (u_{(i,k),r} \sqrt{s_r}) (\sqrt{s_r} v_{r,o}) \qquad
        \text{pointwise first: } W_{i,(k,o)} \approx \sum_{r=1}^{R} (u_{i,r} \sqrt{s_r}) (\sqrt{s_r} v_{r,(k,o)})

    One of the two layers has the kernel, stride, padding and dilation of the dense one, the other is 1 x 1; R maps per
    group lie between them, and the bias is that of the second. Kernel first, the R filters are shared by all out
    channels: full rank min(I K, O) of one group, R (I K + O) weights. Pointwise first, the in channels are compressed:
    full rank min(I, K O), R (I + K O) weights. Works on convolutions of one to three axes, transposed too.

    Args:
        order: which layer comes first, `kernel_first` or `pointwise_first`.

    Raises:
        ValueError: another order.

    Source: Zhang, Zou, He, Sun 2015, "Accelerating very deep convolutional networks" (kernel first;
    without data); Yang et al. 2020, "Learning low-rank deep neural networks via singular vector orthogonality
    regularization and singular value sparsification" (channel-wise decomposition).

    >>> [tuple(part.weight.shape) for part in ChannelSVD(order="pointwise_first").factorize(nn.Conv2d(4, 6, 3), 2)]
    [(2, 4, 1, 1), (6, 2, 3, 3)]
    """

    name = "channel_svd"

    def __init__(self, order: str = "kernel_first") -> None:
        self.order = checked_order(self.name, order, _ORDERS)

    def options(self) -> dict[str, Any]:
        return {} if self.order == _ORDERS[0] else {"order": self.order}

    @property
    def fits(self) -> frozenset[str]:
        return frozenset(FITS if self.order == _ORDERS[0] else FITS[:1])

    @property
    def input_groups(self) -> int | None:
        return 1 if self.order == _ORDERS[0] else None

    def refusal(self, layer: nn.Module) -> str | None:
        return wrong_kind(layer, self.name, CONVOLUTIONS)

    def first_axes(self, layer: nn.Module) -> tuple[bool, ...]:
        return (self.order == "kernel_first",) * axes(layer)

    def matrices(self, layer: nn.Module) -> Tensor:
        W_GOIK = kernel_GOIK(layer).flatten(3)
        if self.order == "kernel_first":
            return W_GOIK.flatten(2).mT
        return W_GOIK.permute(0, 2, 3, 1).flatten(2)

    def unfold(self, layer: nn.Module, left_GMR: Tensor, right_GRN: Tensor) -> tuple[Tensor, Tensor]:
        kernel, ones = layer.kernel_size, (1,) * axes(layer)
        if self.order == "kernel_first":
            first_GRIK = left_GMR.mT.unflatten(2, (-1, *kernel))
            return weight_like(layer, first_GRIK), right_GRN.mT.flatten(0, 1).unflatten(1, (-1, *ones))
        second_GRKO = right_GRN.unflatten(2, (*kernel, -1))
        return left_GMR.mT.flatten(0, 1).unflatten(1, (-1, *ones)), weight_like(layer, _out_first(second_GRKO))

    def skeleton(self, layer: nn.Module, rank: int, device: Any = None) -> nn.Sequential:
        maps, everywhere, bias = middle(layer, rank), (True,) * axes(layer), layer.bias is not None
        if self.order == "kernel_first":
            return two(
                convolution_like(layer, layer.in_channels, maps, keep=everywhere, bias=False, device=device),
                pointwise_like(layer, maps, layer.out_channels, bias=bias, device=device),
            )
        return two(
            pointwise_like(layer, layer.in_channels, maps, bias=False, device=device),
            convolution_like(layer, maps, layer.out_channels, keep=everywhere, bias=bias, device=device),
        )


def _out_first(kernel_GRKO: Tensor) -> Tensor:
    """`(G, R, *K, O)` as `(G, O, R, *K)`."""
    return kernel_GRKO.movedim(-1, 1)
