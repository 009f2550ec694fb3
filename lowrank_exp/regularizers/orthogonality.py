"""Orthogonality of U and V, the condition under which s are the singular values.

Legend: G groups, M rows, N columns of each group's matrix, R rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowrank_exp.network.gram import add_product_, gram
from lowrank_exp.regularizers.penalty import Penalty, check_layers, gradient, svd_forms


@dataclass(frozen=True)
class Orthogonality(Penalty):
    r"""How far the columns of U and the rows of V are from orthonormal, of every layer in SVD form and every group.

    .. math:: L_o = \sum_l \frac{1}{R_l^2} \bigl(\|U_l^T U_l - I\|_F^2 + \|V_l V_l^T - I\|_F^2\bigr), \qquad
        \frac{\partial L_o}{\partial U} = \frac{4}{R^2} U (U^T U - I), \qquad
        \frac{\partial L_o}{\partial V} = \frac{4}{R^2} (V V^T - I) V

    U is (G, M, R), V is (G, R, N), which is the paper's V^T; R <= min(M, N) in every layer in SVD form, so a value of 0
    can be reached. The Gram matrices serve value and gradient.

    Args:
        layers: names or `re:` patterns of layers in SVD form; None: all.

    Raises:
        ValueError: `layers` is not a list of names.

    Source: Yang et al. 2020, "Learning low-rank deep neural networks via singular vector orthogonality regularization
    and singular value sparsification", equation for L_o; their weight is 1 on CIFAR-10, 2 on ImageNet.

    Differs from the paper:
        1. In no way. Two mistakes are known from retellings of it, and neither is here: a minus sign between the two
           norms, which rewards a V far from orthonormal without bound; and norms that are not squared, over R^2, whose
           gradient keeps its length however close to orthonormal the matrix is, and has none where it is orthonormal.
        2. The authors' code takes the Gram matrix of a matrix's smaller side. Here that is always R.
    """

    layers: Sequence[str] | None = None

    def __post_init__(self) -> None:
        check_layers(self.layers, "Orthogonality")

    def value(self, network: nn.Module) -> Tensor:
        terms = []
        for form in svd_forms(network, self.layers, "Orthogonality"):
            I_RR = torch.eye(form.rank, dtype=form.U.dtype, device=form.U.device)
            both = (form.U.mT @ form.U - I_RR).square().sum() + (form.V @ form.V.mT - I_RR).square().sum()
            terms.append(both / form.rank**2)
        return torch.stack(terms).sum()

    def _add_(self, network: nn.Module, weight: float) -> Tensor:
        terms = []
        for form in svd_forms(network, self.layers, "Orthogonality"):
            for factor, rows_GRX in ((form.U, form.U.mT), (form.V, form.V)):
                E_GRR = gram(rows_GRX)
                E_GRR.diagonal(dim1=1, dim2=2).sub_(1)
                terms.append(torch.linalg.vector_norm(E_GRR).square() / form.rank**2)
                if weight != 0 and factor.requires_grad:
                    slope_GRX = gradient(factor).mT if factor is form.U else gradient(factor)
                    add_product_(slope_GRX, E_GRR, rows_GRX, 4 * weight / form.rank**2)
        return torch.stack(terms).sum()
