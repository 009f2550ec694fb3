"""How far a filter is from all others of its layer.

Legend: G groups, F filters of a group, X the entries of a filter; O = G F filters, w_f one filter.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from lowrank_exp.network.gram import gram
from lowrank_exp.pruning.criteria.criterion import WeightCriterion
from lowrank_exp.pruning.criteria.filters import filters


@dataclass(frozen=True)
class GeometricMedian(WeightCriterion):
    r"""The sum of a filter's distances to the others of its layer; the lowest lie near the geometric median.

    .. math:: s_f = \sum_{j} \|w_f - w_j\|_2

    Filters of different groups see different channels: as filters of all channels they are orthogonal, and their
    distance is the root of the sum of their squared lengths.

    Source: He, Liu, Wang, Hu, Yang 2019, "Filter pruning via geometric median for deep convolutional neural networks
    acceleration", equation for the relaxed problem.
    """

    def of_layer(self, name: str, layer: nn.Module, norm: nn.Module | None) -> Tensor:
        W_GFX = filters(layer).double()
        G, F, _ = W_GFX.shape
        # Distances are those of the filters less their mean, of which fewer digits cancel where filters are alike.
        centred_GFX = W_GFX - W_GFX.mean(dim=1, keepdim=True)
        within_GF = _distances(gram(centred_GFX)).sum(dim=2)
        if G == 1:
            return within_GF.flatten()
        squares_O = W_GFX.square().sum(dim=2).flatten()
        roots_GFGF = (squares_O[:, None] + squares_O[None, :]).sqrt().view(G, F, G, F)
        same_GF = roots_GFGF.diagonal(dim1=0, dim2=2).sum(dim=1).mT  # of the own group, left out
        return (within_GF + roots_GFGF.sum(dim=(2, 3)) - same_GF).flatten()


def _distances(A_GFF: Tensor) -> Tensor:
    """Distances from inner products, `(G, F, F)`; what rounding left below zero is a distance of zero."""
    squares_GF = A_GFF.diagonal(dim1=1, dim2=2)
    return (squares_GF[:, :, None] + squares_GF[:, None, :] - 2 * A_GFF).clamp_(min=0).sqrt_()
