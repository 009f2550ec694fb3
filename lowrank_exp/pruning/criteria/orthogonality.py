"""RePr's metric: how much a filter overlaps with the others of its layer.

Legend: G groups, F filters of a group, X the entries of a filter; W_l the filters of layer l as rows, J_l how many.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowrank_exp.checks import positive
from lowrank_exp.network.gram import gram
from lowrank_exp.pruning.criteria.criterion import WeightCriterion
from lowrank_exp.pruning.criteria.filters import filters


def overlap(layer: nn.Module) -> Tensor:
    r"""RePr's `O_l^f` of every filter of a layer, `(J_l,)`, float64: 0 for one that is orthogonal to all others.

    .. math:: \hat w_f = w_f / \|w_f\|_2, \qquad P_l = |\hat W_l \hat W_l^T - I|, \qquad
        O_l^f = \frac{1}{J_l} \sum_j P_l[f, j]

    Cosines are computed in the precision of the weights.

    Source: Prakash, Storer, Florencio, Zhang 2019, "RePr: improved training of convolutional filters", equations of the
    metric (section on inter-filter orthogonality).

    Differs from the paper:
        1. Each filter is scaled to length one. The paper divides by the norm of W; then P would have no zeros on its
           diagonal.
        2. A filter of zeros overlaps with none: its diagonal entry of P is 0, not 1.
        3. Filters of different groups see different channels and do not overlap; J_l counts them all.

    >>> layer = nn.Linear(2, 3, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 5.0]]))
    >>> [round(O, 4) for O in overlap(layer).tolist()]
    [0.3333, 0.3333, 0.0]
    """
    W_GFX = filters(layer)
    J = W_GFX.shape[0] * W_GFX.shape[1]
    lengths_GF = torch.linalg.vector_norm(W_GFX, dim=2)
    lengths_GF = torch.where(lengths_GF > 0, lengths_GF, 1)
    P_GFF = gram(W_GFX)
    P_GFF /= lengths_GF[:, :, None]
    P_GFF /= lengths_GF[:, None, :]
    P_GFF.diagonal(dim1=1, dim2=2).zero_()
    return torch.linalg.vector_norm(P_GFF, ord=1, dim=2, dtype=torch.float64).flatten() / J


@dataclass(frozen=True)
class Orthogonality(WeightCriterion):
    r"""The negative of RePr's overlap: filters that overlap most with their layer's others go first.

    .. math:: s_f = -X^a \, O_l^f

    X is the fan-in. Cosines of unrelated filters are about :math:`\sqrt{2 / (\pi X)}`, so with a = 0, the paper's
    metric, a ranking over all layers drops the filters of the first ones; a = 1/2 takes that away.

    Args:
        fan_in_power: a; 0 is the paper's, 0.5 and 0.25 are remedies that others named.

    Raises:
        ValueError: a is not a number of 0 or more.

    Source: see `overlap`.
    """

    fan_in_power: float = 0.0

    def __post_init__(self) -> None:
        a = self.fan_in_power
        wrong = f"Orthogonality: fan_in_power={a!r} is not a number of 0 or more: 0 is the paper's metric"
        positive("fan_in_power", a, wrong, zero=True)

    def of_layer(self, name: str, layer: nn.Module, norm: nn.Module | None) -> Tensor:
        X = filters(layer).shape[2]
        return -(float(X) ** self.fan_in_power) * overlap(layer)
