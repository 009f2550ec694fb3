"""What a filter's map holds over the images, and the loss's gradient there.

Legend: z a map, g the derivative of an image's loss by it, M positions, N images, O filters.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowrank_exp.pruning.criteria.criterion import DataCriterion, over_positions


@dataclass(frozen=True, kw_only=True)
class ActivationMean(DataCriterion):
    """The mean of a map over positions and images.

    Args:
        at: see `DataCriterion`.

    Source: Molchanov, Tyree, Karras, Aila, Kautz 2017, "Pruning convolutional neural networks for resource efficient
    inference", activation.
    """

    needs_gradient: ClassVar[bool] = False

    def of_map(self, z: Tensor, g: Tensor | None) -> tuple[Tensor, ...]:
        return (over_positions(z),)

    def of_images(self, sums_SNO: Tensor, M: int) -> Tensor:
        return sums_SNO / M

    def score(self, means_TO: Tensor) -> Tensor:
        return means_TO[0]


@dataclass(frozen=True, kw_only=True)
class ActivationStd(DataCriterion):
    """The standard deviation of a map over positions and images together, of the population.

    Args:
        at: see `DataCriterion`.

    Source: Molchanov et al. 2017, standard deviation of the activation.
    """

    needs_gradient: ClassVar[bool] = False

    def of_map(self, z: Tensor, g: Tensor | None) -> tuple[Tensor, ...]:
        return over_positions(z), over_positions(z.square())

    def of_images(self, sums_SNO: Tensor, M: int) -> Tensor:
        return sums_SNO / M

    def score(self, means_TO: Tensor) -> Tensor:
        mean_O, square_O = means_TO
        return (square_O - mean_O.square()).clamp(min=0).sqrt()


@dataclass(frozen=True, kw_only=True)
class APoZ(DataCriterion):
    """One less the average percentage of zeros of a map: the share of its values that are above zero.

    Where no ReLU stands behind the map, values at and below zero count as the zeros that one would make of them.

    Args:
        at: see `DataCriterion`.

    Source: Hu, Peng, Tai, Tang 2016, "Network trimming: a data-driven neuron pruning approach towards efficient deep
    architectures"; there a high percentage goes first, here its complement is low.
    """

    needs_gradient: ClassVar[bool] = False

    def of_map(self, z: Tensor, g: Tensor | None) -> tuple[Tensor, ...]:
        return (over_positions((z <= 0).to(torch.float32)),)

    def of_images(self, sums_SNO: Tensor, M: int) -> Tensor:
        return sums_SNO / M

    def score(self, means_TO: Tensor) -> Tensor:
        return 1 - means_TO[0]


@dataclass(frozen=True, kw_only=True)
class Gradient(DataCriterion):
    r"""The mean absolute derivative of the loss by a map, :math:`\frac{1}{NM} \sum |\partial C_n / \partial z_{nm}|`.

    Args:
        at: see `DataCriterion`.

    Source: one of the metrics that RePr (Prakash, Storer, Florencio, Zhang 2019) is compared with; the paper gives no
    equation for it.
    """

    needs_gradient: ClassVar[bool] = True

    def of_map(self, z: Tensor, g: Tensor | None) -> tuple[Tensor, ...]:
        return (over_positions(torch.abs(g)),)

    def of_images(self, sums_SNO: Tensor, M: int) -> Tensor:
        return sums_SNO / M

    def score(self, means_TO: Tensor) -> Tensor:
        return means_TO[0]
