"""Grouped channel SVD: a K x K convolution of every part of the in channels into R maps, then a 1 x 1 convolution.

Legend: G groups of the layer, k input groups of each, O out channels of one group, I in channels of one group, K all
kernel entries, R rank (the paper's j).
"""

from typing import Any

from torch import Tensor, nn

from lowrank_exp.checks import whole
from lowrank_exp.decomposition.convolution import axes, convolution_like, kernel_GOIK, pointwise_like, weight_like
from lowrank_exp.decomposition.svd import SVDDecomposition, middle, two, wrong_kind
from lowrank_exp.network.cost import CONVOLUTIONS


class GroupedChannelSVD(SVDDecomposition):
    r"""Split the in channels into k groups and cut the channel SVD of each at the same rank.

    .. math:: W^{(l)}_{(i,\kappa),o} \approx \sum_{r=1}^{R} (u^{(l)}_{(i,\kappa),r} \sqrt{s^{(l)}_r})
        (\sqrt{s^{(l)}_r} v^{(l)}_{r,o}), \qquad l = 1 \ldots k

    The first layer is a grouped K x K convolution, k groups per group of the dense layer with R maps each, and has the
    stride, padding and dilation of the dense one; the second is 1 x 1 over all k R maps of a group and has the bias.
    Full rank: min(I / k K, O). Weights of a group: R (I K + k O). With k = 1 it is the channel SVD. Works on
    convolutions of one to three axes, transposed too.

    Args:
        groups: k; it must divide the in channels of each group of the layer.

    Raises:
        ValueError: groups that are not an integer from 1 on.

    Source: Liebenwein, Maalouf, Feldman, Rus 2021, "Compressing neural networks: towards determining the optimal
    layer-wise decomposition" (ALDS), https://arxiv.org/abs/2107.11442.

    Differs from the paper:
        1. Only the decomposition is here. The paper's bound on the relative error in the operator norm, sqrt(k) times
           the largest singular value cut off over the largest of the whole matrix, belongs to a rank policy; the
           authors' code leaves sqrt(k) out.
        2. sqrt(S) lies on either side of the cut, so that both layers have weights of one scale.

    >>> [tuple(part.weight.shape) for part in GroupedChannelSVD(groups=2).factorize(nn.Conv2d(4, 6, 3), 5)]
    [(10, 2, 3, 3), (6, 10, 1, 1)]
    """

    name = "grouped_channel_svd"

    def __init__(self, groups: int = 2) -> None:
        whole("groups", groups, message=f"{self.name}: groups must be an integer, 1 or more, got {groups!r}")
        self.groups = groups

    def options(self) -> dict[str, Any]:
        return {"groups": self.groups}

    @property
    def input_groups(self) -> int:
        return self.groups

    def refusal(self, layer: nn.Module) -> str | None:
        wrong = wrong_kind(layer, self.name, CONVOLUTIONS)
        if wrong is not None:
            return wrong
        I = layer.in_channels // layer.groups
        if I % self.groups:
            per_group = f" per group of {layer.groups}" if layer.groups > 1 else ""
            return f"{self.name} splits the in channels into {self.groups}, which does not divide {I}{per_group}"
        return None

    def matrices(self, layer: nn.Module) -> Tensor:
        W_GOkIK = kernel_GOIK(layer).flatten(3).unflatten(2, (self.groups, -1))
        return W_GOkIK.transpose(1, 2).flatten(0, 1).flatten(2).mT

    def unfold(self, layer: nn.Module, left_GMR: Tensor, right_GRN: Tensor) -> tuple[Tensor, Tensor]:
        first_GRIK = left_GMR.mT.unflatten(2, (-1, *layer.kernel_size))
        second_GRO = right_GRN.unflatten(0, (layer.groups, self.groups)).flatten(1, 2)
        ones = (1,) * axes(layer)
        return weight_like(layer, first_GRIK), second_GRO.mT.flatten(0, 1).unflatten(1, (-1, *ones))

    def skeleton(self, layer: nn.Module, rank: int, device: Any = None) -> nn.Sequential:
        groups, everywhere = layer.groups * self.groups, (True,) * axes(layer)
        maps = middle(layer, rank) * self.groups
        return two(
            convolution_like(layer, layer.in_channels, maps, keep=everywhere, bias=False, groups=groups, device=device),
            pointwise_like(layer, maps, layer.out_channels, bias=layer.bias is not None, device=device),
        )
