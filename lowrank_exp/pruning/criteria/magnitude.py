"""How large a filter's weights are.

Legend: G groups, F filters of a group, X the entries of a filter; O = G F filters, w_f one filter, `(X,)`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowrank_exp.checks import one_of
from lowrank_exp.pruning.criteria.criterion import WeightCriterion
from lowrank_exp.pruning.criteria.filters import filters


@dataclass(frozen=True)
class L1(WeightCriterion):
    r"""The sum of a filter's absolute weights, :math:`\sum_x |w_{fx}|`; its bias is left out.

    Source: Li, Kadav, Durdanovic, Samet, Graf 2017, "Pruning filters for efficient ConvNets".
    """

    def of_layer(self, name: str, layer: nn.Module, norm: nn.Module | None) -> Tensor:
        return filters(layer).double().abs().sum(dim=2).flatten()


@dataclass(frozen=True)
class L2(WeightCriterion):
    r"""The length of a filter, or the mean of its squared weights; its bias is left out.

    .. math:: \text{norm}: \|w_f\|_2, \qquad \text{mean\_square}: \frac{1}{X} \sum_x w_{fx}^2

    Within a layer both rank alike; between layers a norm grows with the fan-in X and a mean does not.

    Args:
        form: `norm` or `mean_square`.

    Raises:
        ValueError: another form.

    Source: norm: He, Kang, Dong, Fu, Yang 2018, "Soft filter pruning for accelerating deep convolutional neural
    networks", section 3.2. mean_square: Molchanov, Tyree, Karras, Aila, Kautz 2017, "Pruning convolutional neural
    networks for resource efficient inference", minimum weight.
    """

    form: str = "norm"

    def __post_init__(self) -> None:
        one_of("L2: form", self.form, ("norm", "mean_square"))

    def of_layer(self, name: str, layer: nn.Module, norm: nn.Module | None) -> Tensor:
        W_GFX = filters(layer).double()
        lengths_GF = torch.linalg.vector_norm(W_GFX, dim=2)
        return (lengths_GF if self.form == "norm" else W_GFX.square().mean(dim=2)).flatten()
