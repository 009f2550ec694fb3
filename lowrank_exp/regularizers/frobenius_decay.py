"""Frobenius decay: weight decay on the product of factors, not on the factors.

Legend: G groups, R rank, M rows, N columns of each group's product; C channels between two layers of a chain, of which
R belong to a group; O out channels, I in channels, K kernel entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowrank_exp.network.cost import CONVOLUTIONS
from lowrank_exp.network.gram import add_product_, gram
from lowrank_exp.regularizers.kernels import kernel_GOIK, weight_of
from lowrank_exp.regularizers.penalty import Penalty, check_layers, choose_layers, gradient
from lowrank_exp.svd_form import SVDForm


@dataclass(frozen=True)
class FrobeniusDecay(Penalty):
    r"""Half the squared Frobenius norm of the product, of layers in SVD form and of chains of two plain layers.

    .. math:: L = \tfrac12 \sum_l \|U_l D_l V_l\|_F^2 = \tfrac12 \sum_l \sum_{r,q} s_r A_{rq} B_{rq} s_q, \qquad
        A = U^T U, \quad B = V V^T, \quad D = \text{diag}(s)

    .. math:: \frac{\partial L}{\partial U} = U D B D, \qquad \frac{\partial L}{\partial s} = (A \circ B) s, \qquad
        \frac{\partial L}{\partial V} = D A D V

    and with D = I for a chain, whose product is the kernel of both convolutions together. What weight decay with
    the same weight does to a dense layer, this does to its factors; ordinary weight decay must be off for them, see
    `parameter_groups`: on factors it is twice the nuclear norm at its optimum, and drives ranks down.

    A chain is an `nn.Sequential` of exactly two linear layers, or of two convolutions that have no kernel along the
    same axis, as channel and spatial SVD leave them; grouped ones too.

    Args:
        layers: names or `re:` patterns of layers in SVD form and of chains; None: all layers in SVD form, and no
            chain.

    Raises:
        ValueError: `layers` is not a list of names.

    Source: Khodak, Tenenholtz, Mackey, Fusi 2021, "Initialization and regularization of factorized neural layers";
    their weight is that of weight decay, 1e-4 on CIFAR.

    >>> network = nn.Sequential(nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 2)))
    >>> for factor, numbers in zip(network[0], ([[3.0, 4.0]], [[0.0], [2.0]])):
    ...     _ = factor.weight.data.copy_(torch.tensor(numbers))
    >>> FrobeniusDecay(layers=["0"]).value(network).item()
    50.0
    """

    layers: Sequence[str] | None = None

    def __post_init__(self) -> None:
        check_layers(self.layers, "FrobeniusDecay")

    def value(self, network: nn.Module) -> Tensor:
        terms = []
        for layer in self._layers(network):
            if isinstance(layer, SVDForm):
                first_GRM, second_GRN = (layer.U * layer.s[:, None, :]).mT, layer.V
            else:
                weights = [part.weight for part in layer]
                first_GRM, second_GRN = _rows(layer, *weights)
            terms.append(torch.linalg.vector_norm(first_GRM.mT @ second_GRN).square() / 2)
        return torch.stack(terms).sum()

    def _add_(self, network: nn.Module, weight: float) -> Tensor:
        layers = self._layers(network)
        return torch.stack(
            [(_add_form_ if isinstance(one, SVDForm) else _add_chain_)(one, weight) for one in layers]
        ).sum()

    def _layers(self, network: nn.Module) -> list[nn.Module]:
        kinds = "layers in SVD form and chains of two plain layers"
        fits = (lambda module: isinstance(module, SVDForm)) if self.layers is None else _is_decayed
        chosen = choose_layers(network, self.layers, fits, "FrobeniusDecay", kinds)
        for name, layer in chosen.items():
            if reason := None if isinstance(layer, SVDForm) else _refusal(layer):
                raise ValueError(f"FrobeniusDecay cannot take the chain {name}: {reason}; leave it out of layers")
        return list(chosen.values())


def _add_form_(form: SVDForm, weight: float) -> Tensor:
    U_GRM, s_GR, V_GRN = form.U.mT, form.s, form.V
    A_GRR, B_GRR = gram(U_GRM), gram(V_GRN)
    slope_GR = ((A_GRR * B_GRR) @ s_GR[:, :, None]).squeeze(2)
    value = (slope_GR * s_GR).sum() / 2
    if weight == 0:
        return value
    outer_GRR = s_GR[:, :, None] * s_GR[:, None, :]
    if form.U.requires_grad:
        add_product_(gradient(form.U).mT, B_GRR.mul_(outer_GRR), U_GRM, weight)
    if form.V.requires_grad:
        add_product_(gradient(form.V), A_GRR.mul_(outer_GRR), V_GRN, weight)
    if form.s.requires_grad:
        gradient(form.s).add_(slope_GR, alpha=weight)
    return value


def _add_chain_(chain: nn.Sequential, weight: float) -> Tensor:
    first, second = chain
    first_GRM, second_GRN = _rows(chain, first.weight, second.weight)
    A_GRR, B_GRR = gram(first_GRM), gram(second_GRN)
    value = (A_GRR * B_GRR).sum() / 2
    if weight != 0 and first.weight.requires_grad:
        gradient(first.weight).add_(_first_weight(first, B_GRR @ first_GRM), alpha=weight)
    if weight != 0 and second.weight.requires_grad:
        gradient(second.weight).add_(_second_weight(second, A_GRR @ second_GRN), alpha=weight)
    return value


def _rows(chain: nn.Sequential, first_weight: Tensor, second_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both factors with the channels between them as rows, `(G, R, I K)` and `(G, R, O K)`.

    G is that of the layer with more groups: a block of the product is zero where the groups of both do not meet.
    """
    first, second = chain
    first_CM = kernel_GOIK(first, first_weight).flatten(2).flatten(0, 1)
    second_CN = kernel_GOIK(second, second_weight).transpose(1, 2).flatten(2).flatten(0, 1)
    G = max(_groups(first), _groups(second))
    return first_CM.unflatten(0, (G, -1)), second_CN.unflatten(0, (G, -1))


def _first_weight(layer: nn.Module, rows_GRM: Tensor) -> Tensor:
    """Undoes `_rows` for the first layer of a chain."""
    return weight_of(layer, rows_GRM.reshape(kernel_GOIK(layer, layer.weight).shape))


def _second_weight(layer: nn.Module, rows_GRN: Tensor) -> Tensor:
    """Undoes `_rows` for the second layer of a chain."""
    turned_GIOK = kernel_GOIK(layer, layer.weight).transpose(1, 2)
    return weight_of(layer, rows_GRN.reshape(turned_GIOK.shape).transpose(1, 2))


def _groups(layer: nn.Module) -> int:
    return 1 if isinstance(layer, nn.Linear) else layer.groups


def _is_decayed(module: nn.Module) -> bool:
    return isinstance(module, SVDForm) or (
        type(module) is nn.Sequential
        and len(module) == 2
        and any(all(isinstance(part, kind) for part in module) for kind in (nn.Linear, CONVOLUTIONS))
    )


def _refusal(chain: nn.Sequential) -> str | None:
    """Why the product of the two layers is not a matrix product; None where it is."""
    if isinstance(chain[0], nn.Linear):
        return None
    first, second = chain
    if any(one > 1 and other > 1 for one, other in zip(first.kernel_size, second.kernel_size, strict=True)):
        return f"its kernels {tuple(first.kernel_size)} and {tuple(second.kernel_size)} share an axis"
    if max(first.groups, second.groups) % min(first.groups, second.groups):
        return f"its groups {first.groups} and {second.groups} do not divide one another"
    return None
