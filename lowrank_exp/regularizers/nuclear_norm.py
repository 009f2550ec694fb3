"""Trained rank pruning (TRP): the nuclear norm of dense weights, and their projection onto low rank.

Legend: G groups, M rows, N columns of each group's matrix, R its full rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from lowrank_exp.checks import fraction, whole
from lowrank_exp.decomposition import SVDDecomposition
from lowrank_exp.decomposition.convolution import axes, convolution_like
from lowrank_exp.network.cost import CONVOLUTIONS
from lowrank_exp.regularizers.penalty import Penalty, check_layers, choose_layers, gradient, in_full_precision


@dataclass(frozen=True)
class NuclearNorm(Penalty):
    r"""The sum of the singular values of every dense layer's matrices.

    .. math:: L = \sum_l \|W_l\|_*, \qquad \frac{\partial L}{\partial W} = U_r V_r^T

    of the singular vectors whose values are not zero up to rounding (above max(M, N) eps s_1): where W lacks full rank
    that is the shortest sub-gradient.

    Args:
        decomposition: whose matrices are meant: `ChannelSVD()`, `SpatialSVD()`, `LinearSVD()` ... It takes the layers
            it can be applied to: convolutions, or linear layers.
        period: the penalty acts at every so many steps, from step 0 on, and not in between: the SVD costs.
        layers: names or `re:` patterns of such layers; None: all.

    Raises:
        ValueError: no decomposition by SVD, a period that is not an integer from 1 on, `layers` is not a list of names.

    Source: Xu et al. 2018, "Trained rank pruning for efficient deep neural networks"; their weight is 3e-4.
    """

    decomposition: SVDDecomposition
    period: int = 1
    layers: Sequence[str] | None = None

    def __post_init__(self) -> None:
        _check("NuclearNorm", self.decomposition, self.period, self.layers)

    def due(self, step: int) -> bool:
        return step % self.period == 0

    def value(self, network: nn.Module) -> Tensor:
        terms = []
        for layer in _layers(network, self.decomposition, self.layers, "NuclearNorm"):
            order_GMN = _order(layer, self.decomposition)
            matrices_GMN = layer.weight.flatten()[order_GMN]
            terms.append(torch.linalg.svdvals(matrices_GMN).sum())
        return torch.stack(terms).sum()

    def _add_(self, network: nn.Module, weight: float) -> Tensor:
        terms = []
        for layer in _layers(network, self.decomposition, self.layers, "NuclearNorm"):
            U_GMR, S_GR, V_GRN = self.decomposition.svd(layer)
            terms.append(S_GR.sum())
            if weight == 0 or not layer.weight.requires_grad:
                continue
            rounding = max(U_GMR.shape[1], V_GRN.shape[2]) * torch.finfo(layer.weight.dtype).eps
            is_kept_GR = rounding * S_GR[:, :1] < S_GR
            slope_GMN = (U_GMR * is_kept_GR[:, None, :]) @ V_GRN
            gradient(layer.weight).add_(_weight(layer, self.decomposition, slope_GMN), alpha=weight)
        return torch.stack(terms).sum()


@dataclass(frozen=True)
class TRPProjection:
    r"""Replace every dense layer's matrices by their truncated SVD, every `period` steps of the training.

    .. math:: W \leftarrow \sum_{r=1}^{k} s_r u_r v_r^T, \qquad
        k = \min\Bigl\{k : \sum_{r \le k} s_r^2 \ge e \sum_r s_r^2\Bigr\}

    The ranks are each layer's (and group's) own, and change from one projection to the next; the layers stay dense.

    Args:
        decomposition: as of `NuclearNorm`.
        energy: e, the share of the squared singular values to keep, in (0, 1].
        period: the paper's m, steps between two projections.
        layers: names or `re:` patterns of such layers; None: all.

    Raises:
        ValueError: an energy outside (0, 1], no decomposition by SVD, a period that is not an integer from 1 on,
            `layers` is not a list of names.

    Source: Xu et al. 2018, "Trained rank pruning for efficient deep neural networks": e = 0.9, and m = 1 in their code.

    >>> from lowrank_exp.decomposition import LinearSVD
    >>> network = nn.Sequential(nn.Linear(2, 2))
    >>> _ = network[0].weight.data.copy_(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
    >>> TRPProjection(LinearSVD()).apply_(network).item(), network[0].weight.tolist()
    (1.0, [[4.0, 0.0], [0.0, 0.0]])
    """

    decomposition: SVDDecomposition
    energy: float = 0.9
    period: int = 1
    layers: Sequence[str] | None = None

    def __post_init__(self) -> None:
        allowed = "allowed is a share in (0, 1], such as 0.9"
        fraction("energy", self.energy, f"TRPProjection: energy is {self.energy!r}; {allowed}")
        _check("TRPProjection", self.decomposition, self.period, self.layers)

    def apply_(self, network: nn.Module, step: int = 0) -> Tensor | None:
        """Project the weights in place, if it is time; called before the forward pass of a step.

        So gradients are those at the projected weights, and the optimizer's step starts from there. A weight that is
        frozen is projected too.

        Args:
            network: its weights are replaced in place.
            step: of the training, from 0.

        Returns:
            The mean kept rank over all matrices, detached, not read back to the host; None at a step between.

        Raises:
            ValueError: the network has no such layer, or `layers` names one that is none.
        """
        if step % self.period:
            return None
        ranks = []
        with in_full_precision(network):
            for layer in _layers(network, self.decomposition, self.layers, "TRPProjection"):
                U_GMR, S_GR, V_GRN = self.decomposition.svd(layer)
                is_kept_GR = _is_kept(S_GR, self.energy)
                projected_GMN = (U_GMR * (S_GR * is_kept_GR)[:, None, :]) @ V_GRN
                layer.weight.copy_(_weight(layer, self.decomposition, projected_GMN))
                ranks.append(is_kept_GR.sum(dim=1))
        return torch.cat(ranks).double().mean()


def _is_kept(S_GR: Tensor, energy: float) -> Tensor:
    """Whether the values before each one hold less than the share `energy` of the squares; S descending."""
    squares_GR = S_GR.double().square()
    before_RR = squares_GR.new_ones(squares_GR.shape[1], squares_GR.shape[1]).triu(1)
    return squares_GR @ before_RR < energy * squares_GR.sum(dim=1, keepdim=True)


def _order(layer: nn.Module, decomposition: SVDDecomposition) -> Tensor:
    """For every entry of the matrices, its place in the flattened weight: `weight.flatten()[order]` is `matrices`."""
    if isinstance(layer, nn.Linear):
        like = skip_init(nn.Linear, layer.in_features, layer.out_features, bias=False, device="meta")
    else:
        everywhere = (True,) * axes(layer)
        like = convolution_like(
            layer, layer.in_channels, layer.out_channels, keep=everywhere, bias=False, device="meta"
        )
    places = torch.arange(layer.weight.numel(), dtype=torch.float64).view(layer.weight.shape)
    like.weight = nn.Parameter(places, requires_grad=False)
    return decomposition.matrices(like).long().to(layer.weight.device)


def _weight(layer: nn.Module, decomposition: SVDDecomposition, matrices_GMN: Tensor) -> Tensor:
    """Matrices in the layout of the weight of `layer`."""
    weight = matrices_GMN.new_empty(layer.weight.numel())
    weight[_order(layer, decomposition).flatten()] = matrices_GMN.flatten()
    return weight.view(layer.weight.shape)


def _layers(
    network: nn.Module, decomposition: SVDDecomposition, layers: Sequence[str] | None, who: str
) -> list[nn.Module]:
    kinds = f"dense layers that {decomposition.name} takes"
    fits = (*CONVOLUTIONS, nn.Linear)
    return list(
        choose_layers(
            network,
            layers,
            lambda module: isinstance(module, fits) and decomposition.refusal(module) is None,
            who,
            kinds,
        ).values()
    )


def _check(who: str, decomposition: Any, period: Any, layers: Any) -> None:
    if not isinstance(decomposition, SVDDecomposition):
        raise ValueError(
            f"{who}: decomposition is {decomposition!r}; allowed is a decomposition by SVD, such as ChannelSVD()"
        )
    wrong = f"{who}: period is {period!r}; allowed is an integer, 1 (every step) or more"
    whole("period", period, message=wrong)
    check_layers(layers, who)
