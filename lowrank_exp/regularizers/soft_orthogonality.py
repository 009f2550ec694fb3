"""RePr's orthogonality loss: the filters of a layer apart from one another.

Legend: G groups, F filters (out channels) of a group, X the entries of a filter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowrank_exp.network.cost import LAYERS
from lowrank_exp.network.gram import add_product_, gram
from lowrank_exp.regularizers.kernels import kernel_GOIK, weight_of
from lowrank_exp.regularizers.penalty import Penalty, check_layers, choose_layers, gradient

_NORMS = ("squared", "absolute")


@dataclass(frozen=True)
class SoftOrthogonality(Penalty):
    r"""How much the filters of every convolution and linear layer overlap, whatever their lengths.

    .. math:: L = \sum_l \|P_l\|, \qquad P = \hat W \hat W^T - I, \qquad \hat w_f = w_f / \|w_f\|_2

    where the norm is the sum of the squared entries (`squared`, the squared Frobenius norm) or of the absolute ones
    (`absolute`). With P' = 4 P and p_f = 4 sum_j P_fj^2, or P' = 2 sgn(P) and p_f = 2 sum_j |P_fj|,

    .. math:: \frac{\partial L}{\partial w_f} =
        \frac{1}{\|w_f\|_2} \Bigl(\sum_j P'_{fj} \hat w_j - p_f \hat w_f\Bigr)

    orthogonal to the filter: its length is left to the loss. A filter of zeros overlaps with none and gets no gradient.

    Args:
        norm: `squared` or `absolute`.
        layers: names or `re:` patterns of convolutions and linear layers; None: all.

    Raises:
        ValueError: another norm, or `layers` is not a list of names.

    Source: Prakash, Storer, Florencio, Zhang 2019, "RePr: improved training of convolutional filters".

    Differs from the paper:
        1. The paper adds up the absolute values, with a weight of 0.01: that is `absolute`, whose gradient jumps where
           two filters become orthogonal. `squared` has none of these.
        2. Filters are scaled to length one each. The paper divides by the norm of W; then P would have no zeros on its
           diagonal.
        3. Filters of different groups see different channels and are not compared.
    """

    norm: str = "squared"
    layers: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.norm not in _NORMS:
            raise ValueError(f"SoftOrthogonality: norm must be one of {', '.join(_NORMS)}, got {self.norm!r}")
        check_layers(self.layers, "SoftOrthogonality")

    def value(self, network: nn.Module) -> Tensor:
        terms = []
        for layer in self._layers(network):
            W_GFX = kernel_GOIK(layer, layer.weight).flatten(2)
            W_GFX = W_GFX / _filter_lengths(W_GFX)
            P_GFF = W_GFX @ W_GFX.mT
            P_GFF = P_GFF - torch.diag_embed(P_GFF.diagonal(dim1=1, dim2=2))
            terms.append(P_GFF.square().sum() if self.norm == "squared" else P_GFF.abs().sum())
        return torch.stack(terms).sum()

    def _add_(self, network: nn.Module, weight: float) -> Tensor:
        terms = []
        for layer in self._layers(network):
            kernel = kernel_GOIK(layer, layer.weight)
            W_GFX = kernel.flatten(2)
            lengths_GF1 = _filter_lengths(W_GFX)
            W_GFX = W_GFX / lengths_GF1
            P_GFF = gram(W_GFX)
            P_GFF.diagonal(dim1=1, dim2=2).zero_()
            sizes_GFF = P_GFF.square() if self.norm == "squared" else P_GFF.abs()
            p_GF1 = sizes_GFF.sum(dim=2, keepdim=True)
            terms.append(p_GF1.sum())
            if weight == 0 or not layer.weight.requires_grad:
                continue
            factor, P_GFF = (4, P_GFF) if self.norm == "squared" else (2, P_GFF.sign_())
            slope_GFX = add_product_(W_GFX * -p_GF1, P_GFF, W_GFX) / lengths_GF1
            gradient(layer.weight).add_(weight_of(layer, slope_GFX.view(kernel.shape)), alpha=factor * weight)
        return torch.stack(terms).sum()

    def _layers(self, network: nn.Module) -> list[nn.Module]:
        fits = choose_layers(
            network,
            self.layers,
            lambda module: isinstance(module, LAYERS),
            "SoftOrthogonality",
            "convolutions and linear layers",
        )
        return list(fits.values())


def _filter_lengths(W_GFX: Tensor) -> Tensor:
    """The norm of every filter, `(G, F, 1)`; 1 for filters of zeros."""
    lengths_GF1 = torch.linalg.vector_norm(W_GFX, dim=2, keepdim=True)
    return torch.where(lengths_GF1 > 0, lengths_GF1, 1)
