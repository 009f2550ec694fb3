"""Sparsity of the singular values s of layers in SVD form: L1, Hoyer, Hoyer-square.

Legend: G groups of a layer, R rank; L the groups of all layers, each a row of one matrix, padded with zeros to the
largest rank: a zero adds nothing to a sum, and its sub-gradient is 0.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from lowrank_exp.regularizers.penalty import Penalty, check_layers, gradient, svd_forms
from lowrank_exp.svd_form import SVDForm


@dataclass(frozen=True)
class _Sparsity(Penalty):
    """The sum of a function of s over all layers in SVD form and their groups."""

    layers: Sequence[str] | None = None
    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_layers(self.layers, self.name)

    @staticmethod
    @abstractmethod
    def of(s_LR: Tensor) -> Tensor:
        """The function of every row, `(L,)`."""

    @staticmethod
    @abstractmethod
    def slope(s_LR: Tensor) -> Tensor:
        """The gradient of the function of every row, `(L, R)`."""

    def value(self, network: nn.Module) -> Tensor:
        forms = svd_forms(network, self.layers, self.name)
        return torch.stack([self.of(form.s).sum() for form in forms]).sum()

    def _add_(self, network: nn.Module, weight: float) -> Tensor:
        forms = svd_forms(network, self.layers, self.name)
        s_LR, rows = _stack_by_length(forms)
        trainable = [form.s.requires_grad for form in forms]
        if weight != 0 and any(trainable):
            slope_LR = self.slope(s_LR)
            slopes = [slope_LR[row, : form.rank] for form, row in zip(forms, rows, strict=True)]
            torch._foreach_add_(
                [gradient(form.s) for form in forms if form.s.requires_grad],
                [slope for slope, wanted in zip(slopes, trainable, strict=True) if wanted],
                alpha=weight,
            )
        return self.of(s_LR).sum()


def _stack_by_length(forms: list[SVDForm]) -> tuple[Tensor, list[slice]]:
    """The s of all layers as rows of one matrix `(L, R)`, and which rows are whose."""
    ends = accumulate((form.groups for form in forms), initial=0)
    rows = [slice(start, end) for start, end in pairwise(ends)]
    s_LR = forms[0].s.new_zeros(rows[-1].stop, max(form.rank for form in forms))
    places = [s_LR[row, : form.rank] for form, row in zip(forms, rows, strict=True)]
    torch._foreach_copy_(places, [form.s.detach() for form in forms])
    return s_LR, rows


def _one_where_zero(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 1)


def _scale_rows(s_LR: Tensor) -> tuple[Tensor, Tensor]:
    """Every row over its largest entry, so that no square leaves the range of numbers, and that entry `(L, 1)`."""
    peak_L1 = _one_where_zero(s_LR.abs().amax(dim=1, keepdim=True))
    return s_LR / peak_L1, peak_L1


@dataclass(frozen=True)
class L1(_Sparsity):
    r"""The sum of the absolute values; shrinks all of s alike.

    .. math:: L_s = \sum_r |s_r|, \qquad \frac{\partial L_s}{\partial s_r} = \text{sgn}(s_r), \quad \text{sgn}(0) = 0

    Args:
        layers: names or `re:` patterns of layers in SVD form; None: all. Their values are added up.

    Source: Yang et al. 2020, "Learning low-rank deep neural networks", L_s; the sub-gradient 0 at 0 is ours.

    >>> L1.of(torch.tensor([[3.0, -4.0, 0.0]])).tolist()
    [7.0]
    """

    name: ClassVar[str] = "L1"

    @staticmethod
    def of(s_LR: Tensor) -> Tensor:
        return s_LR.abs().sum(dim=1)

    @staticmethod
    def slope(s_LR: Tensor) -> Tensor:
        return s_LR.sign()


@dataclass(frozen=True)
class Hoyer(_Sparsity):
    r"""The sum of the absolute values over the Euclidean norm: few large values, whatever the scale of s.

    .. math:: L_s = \frac{\|s\|_1}{\|s\|_2} \in [1, \sqrt{R}], \qquad
        \frac{\partial L_s}{\partial s_r} = \frac{\text{sgn}(s_r)}{\|s\|_2} - \frac{\|s\|_1}{\|s\|_2^3} s_r

    with sgn(0) = 0; where all of s is zero, the value and the gradient are 0. The gradient is orthogonal to s, and
    twice the s has half the gradient.

    Args:
        layers: names or `re:` patterns of layers in SVD form; None: all. Their values are added up.

    Source: Yang et al. 2020, "Learning low-rank deep neural networks", L_s (their code subtracts 1 per layer, which
    changes no gradient).

    >>> Hoyer.of(torch.tensor([[3.0, -3.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0]])).tolist()
    [2.0, 0.0]
    """

    name: ClassVar[str] = "Hoyer"

    @staticmethod
    def of(s_LR: Tensor) -> Tensor:
        t_LR, _ = _scale_rows(s_LR)
        return t_LR.abs().sum(dim=1) / _one_where_zero(torch.linalg.vector_norm(t_LR, dim=1))

    @staticmethod
    def slope(s_LR: Tensor) -> Tensor:
        t_LR, peak_L1 = _scale_rows(s_LR)
        l1_L1 = t_LR.abs().sum(dim=1, keepdim=True)
        l2_L1 = _one_where_zero(torch.linalg.vector_norm(t_LR, dim=1, keepdim=True))
        return (t_LR.sign() / l2_L1 - t_LR * (l1_L1 / l2_L1**3)) / peak_L1


@dataclass(frozen=True)
class HoyerSquare(_Sparsity):
    r"""The square of Hoyer's quotient; counts the nonzero entries where these are of one size.

    .. math:: L_s = \frac{\|s\|_1^2}{\|s\|_2^2} \in [1, R], \qquad \frac{\partial L_s}{\partial s_r} =
        \frac{2 \|s\|_1}{\|s\|_2^2} \Bigl(\text{sgn}(s_r) - \frac{\|s\|_1}{\|s\|_2^2} s_r\Bigr)

    with sgn(0) = 0; where all of s is zero, the value and the gradient are 0.

    Args:
        layers: names or `re:` patterns of layers in SVD form; None: all. Their values are added up.

    Source: Yang et al. 2020, "Learning low-rank deep neural networks", L_s (their code subtracts 1 per layer).

    >>> HoyerSquare.of(torch.tensor([[2.0, -2.0, 0.0]])).tolist()
    [2.0]
    """

    name: ClassVar[str] = "HoyerSquare"

    @staticmethod
    def of(s_LR: Tensor) -> Tensor:
        t_LR, _ = _scale_rows(s_LR)
        return t_LR.abs().sum(dim=1).square() / _one_where_zero(t_LR.square().sum(dim=1))

    @staticmethod
    def slope(s_LR: Tensor) -> Tensor:
        t_LR, peak_L1 = _scale_rows(s_LR)
        l1_L1 = t_LR.abs().sum(dim=1, keepdim=True)
        squares_L1 = _one_where_zero(t_LR.square().sum(dim=1, keepdim=True))
        return 2 * l1_L1 / squares_L1 * (t_LR.sign() - t_LR * (l1_L1 / squares_L1)) / peak_L1
