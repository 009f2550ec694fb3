"""Channel SVD: a K x K convolution into R maps, then a 1 x 1 convolution.

Legend: G groups, O out channels of one group, I in channels of one group, K all kernel entries, R rank.
"""

from typing import Any

from torch import Tensor, nn

from lowrank_exp.cost import CONVOLUTIONS
from lowrank_exp.decomposition.convolution import TRANSPOSED, axes, convolution_like, pointwise_like
from lowrank_exp.decomposition.svd import SVDDecomposition, middle, two, wrong_kind


class ChannelSVD(SVDDecomposition):
    r"""Cut the SVD of the matrix whose rows are (in channel, kernel entry) and whose columns are the out channels.

    .. math:: W_{(i,k),o} \approx \sum_{r=1}^{R} (u_{(i,k),r} \sqrt{s_r}) (\sqrt{s_r} v_{r,o})

    The first layer has the kernel, stride, padding and dilation of the dense one and R maps; the second is 1 x 1 and
    has the bias. Full rank: min(I K, O) of one group. Works on convolutions of one to three axes, transposed too.

    Source: Zhang, Zou, He, Sun 2015, "Accelerating very deep convolutional networks", section 3.1 (without data).
    """

    name = "channel_svd"

    def refusal(self, layer: nn.Module) -> str | None:
        return wrong_kind(layer, self.name, CONVOLUTIONS)

    def matrices(self, layer: nn.Module) -> Tensor:
        G, weight = layer.groups, layer.weight
        if isinstance(layer, TRANSPOSED):  # weight (G I, O, *K)
            return weight.reshape(G, layer.in_channels // G, weight.shape[1], -1).transpose(2, 3).flatten(1, 2)
        return weight.reshape(G, layer.out_channels // G, -1).transpose(1, 2)  # weight (G O, I, *K)

    def unfold(self, layer: nn.Module, left_GMR: Tensor, right_GRN: Tensor) -> tuple[Tensor, Tensor]:
        G, _, R = left_GMR.shape
        kernel, ones = layer.kernel_size, (1,) * axes(layer)
        second = right_GRN.transpose(1, 2).reshape(layer.out_channels, R, *ones)
        if isinstance(layer, TRANSPOSED):
            left_GIKR = left_GMR.reshape(G, layer.in_channels // G, -1, R)
            return left_GIKR.transpose(2, 3).reshape(layer.in_channels, R, *kernel), second
        return left_GMR.transpose(1, 2).reshape(G * R, layer.in_channels // G, *kernel), second

    def skeleton(self, layer: nn.Module, rank: int, device: Any = None) -> nn.Sequential:
        maps, everywhere = middle(layer, rank), (True,) * axes(layer)
        return two(
            convolution_like(layer, layer.in_channels, maps, keep=everywhere, bias=False, device=device),
            pointwise_like(layer, maps, layer.out_channels, bias=layer.bias is not None, device=device),
        )
