"""Taylor: by how much the loss changes, to first order, when a filter's map is taken away.

Legend: C the loss of an image, z_m a map at position m of M, N images, O filters; y the derivative of C by the map's
gate.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowrank_exp.checks import one_of
from lowrank_exp.pruning.criteria.criterion import DataCriterion, over_positions


@dataclass(frozen=True, kw_only=True)
class Taylor(DataCriterion):
    r"""The mean over the images of the absolute first-order change of the loss.

    .. math:: y = \frac1M \sum_m \frac{\partial C}{\partial z_m} z_m, \qquad \Theta = \frac1N \sum_n |y_n|

    M y is the derivative of the loss by a gate that multiplies the whole map. Behind a ReLU and before it y is the
    same.

    Args:
        at: see `DataCriterion`; the paper's is `relu`.
        absolute: `image`, of each image's y before the mean over images, the paper's; `mean`, of the mean over all
            images, which popular code takes and in which images cancel out; `none`, the mean as it is, signed: what
            removing the filter is expected to lower the loss by.
        positions: `mean` over the positions of a map, the paper's; `sum`, in nats whatever the size of the map.

    Raises:
        ValueError: another value of an option.

    Source: Molchanov, Tyree, Karras, Aila, Kautz 2017, "Pruning convolutional neural networks for resource efficient
    inference", equation of the Taylor criterion.
    """

    absolute: str = "image"
    positions: str = "mean"
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("Taylor: absolute", self.absolute, ("image", "mean", "none"))
        one_of("Taylor: positions", self.positions, ("mean", "sum"))

    def of_map(self, z: Tensor, g: Tensor | None) -> tuple[Tensor, ...]:
        return (over_positions(z * g),)

    def of_images(self, sums_SNO: Tensor, M: int) -> Tensor:
        y_TNO = sums_SNO / M if self.positions == "mean" else sums_SNO
        return y_TNO.abs() if self.absolute == "image" else y_TNO

    def score(self, means_TO: Tensor) -> Tensor:
        return means_TO[0].abs() if self.absolute == "mean" else means_TO[0]


@dataclass(frozen=True, kw_only=True)
class OBD(DataCriterion):
    r"""The second-order change of the loss when a map is taken away, its curvature from the squares of gradients.

    .. math:: y = \sum_m \frac{\partial C}{\partial z_m} z_m, \qquad
        \Theta = \tfrac12 \frac{\partial^2 \mathbb{E} C}{\partial \text{gate}^2} \approx \tfrac12 \operatorname{Var} y

    in nats. At a minimum of the loss the mean of y is 0 and both forms agree.

    Args:
        at: see `DataCriterion`.
        form: `variance` of y over the images, or its `second_moment`, which is the Fisher information of the gate.

    Raises:
        ValueError: another value of an option.

    Source: LeCun, Denker, Solla 1990, "Optimal brain damage"; for maps, Molchanov et al. 2017, relation of the Taylor
    criterion to it.

    Differs from the paper:
        1. The second derivative is that of the gate of a map, not of each weight, and comes from squared first
           derivatives (Gauss-Newton, Fisher), not from a second backward pass.
    """

    form: str = "variance"
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("OBD: form", self.form, ("variance", "second_moment"))

    def of_map(self, z: Tensor, g: Tensor | None) -> tuple[Tensor, ...]:
        return (over_positions(z * g),)

    def of_images(self, sums_SNO: Tensor, M: int) -> Tensor:
        return torch.cat([sums_SNO, sums_SNO.square()])

    def score(self, means_TO: Tensor) -> Tensor:
        mean_O, square_O = means_TO
        return square_O / 2 if self.form == "second_moment" else (square_O - mean_O.square()).clamp(min=0) / 2
