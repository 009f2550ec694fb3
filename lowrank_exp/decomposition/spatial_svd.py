"""Spatial SVD: a vertical K x 1 convolution into R maps, then a horizontal 1 x K convolution.

Legend: G groups, O out channels of one group, I in channels of one group, H x W kernel, R rank.
"""

from typing import Any

from torch import Tensor, nn

from lowrank_exp.decomposition.convolution import TRANSPOSED, axes, convolution_like
from lowrank_exp.decomposition.svd import SVDDecomposition, middle, two, wrong_kind


class SpatialSVD(SVDDecomposition):
    r"""Cut the SVD of the matrix whose rows are (in channel, kernel row), columns (kernel column, out channel).

    .. math:: W_{(i,h),(w,o)} \approx \sum_{r=1}^{R} (u_{(i,h),r} \sqrt{s_r}) (\sqrt{s_r} v_{r,(w,o)})

    The vertical settings (stride, padding, dilation, output padding) lie on the first layer, the horizontal ones on the
    second, which also has the bias; so the full-rank pair gives the dense layer's output for every stride. Full rank:
    min(I H, W O) of one group. A one-dimensional kernel counts as a column, W = 1. Transposed convolutions too.

    Source: Jaderberg, Vedaldi, Zisserman 2014, scheme 2; Tai et al. 2016, section 2 (the closed form).

    Differs from the paper:
        1. ENC's code (Kim, Khan, Kyung 2019) puts both strides on the first layer, which is not exact at stride 2.
    """

    name = "spatial_svd"

    def refusal(self, layer: nn.Module) -> str | None:
        return wrong_kind(layer, self.name, (nn.Conv2d, nn.Conv1d, nn.ConvTranspose2d, nn.ConvTranspose1d))

    def matrices(self, layer: nn.Module) -> Tensor:
        G, H = layer.groups, layer.kernel_size[0]
        if isinstance(layer, TRANSPOSED):
            kernel_GIOHW = layer.weight.reshape(G, layer.in_channels // G, layer.out_channels // G, H, -1)
            kernel_GIHWO = kernel_GIOHW.permute(0, 1, 3, 4, 2)
        else:
            kernel_GOIHW = layer.weight.reshape(G, layer.out_channels // G, layer.in_channels // G, H, -1)
            kernel_GIHWO = kernel_GOIHW.permute(0, 2, 3, 4, 1)
        return kernel_GIHWO.flatten(3, 4).flatten(1, 2)

    def unfold(self, layer: nn.Module, left_GMR: Tensor, right_GRN: Tensor) -> tuple[Tensor, Tensor]:
        G, _, R = left_GMR.shape
        I, O = layer.in_channels // G, layer.out_channels // G
        column, row = _column(layer), _row(layer)
        left_GIHR = left_GMR.reshape(G, I, -1, R)
        right_GRWO = right_GRN.reshape(G, R, -1, O)
        if isinstance(layer, TRANSPOSED):
            first = left_GIHR.transpose(2, 3).reshape(G * I, R, *column)
            return first, right_GRWO.transpose(2, 3).reshape(G * R, O, *row)
        first = left_GIHR.permute(0, 3, 1, 2).reshape(G * R, I, *column)
        return first, right_GRWO.permute(0, 3, 1, 2).reshape(G * O, R, *row)

    def skeleton(self, layer: nn.Module, rank: int, device: Any = None) -> nn.Sequential:
        maps, vertical = middle(layer, rank), (True, False)[: axes(layer)]
        horizontal = tuple(not kept for kept in vertical)
        bias = layer.bias is not None
        return two(
            convolution_like(layer, layer.in_channels, maps, keep=vertical, bias=False, device=device),
            convolution_like(layer, maps, layer.out_channels, keep=horizontal, bias=bias, device=device),
        )


def _column(layer: nn.Module) -> tuple[int, ...]:
    return (layer.kernel_size[0], 1)[: axes(layer)]


def _row(layer: nn.Module) -> tuple[int, ...]:
    return (1, layer.kernel_size[-1]) if axes(layer) == 2 else (1,)
