"""What the decompositions by one truncated SVD per group have in common.

Legend: G groups, M rows, N columns of each group's matrix, R rank, O out channels, I in channels (of one group).
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lowrank_exp.decomposition.base import Decomposition, Rank, fill_
from lowrank_exp.decomposition.fitting.energy import energy_of
from lowrank_exp.decomposition.fitting.gram import gram_singular_values, gram_svd
from lowrank_exp.decomposition.numbers import numbers


class SVD(NamedTuple):
    """`matrices_GMN = U_GMR diag(S_GR) V_GRN`, singular values descending."""

    U_GMR: Tensor
    S_GR: Tensor
    V_GRN: Tensor

    def split(self, rank: int) -> tuple[Tensor, Tensor]:
        """The two factors at `rank`, `sqrt(S)` on either side: `(G, M, rank)` and `(G, rank, N)`."""
        root_GR = self.S_GR[:, :rank].sqrt()
        return self.U_GMR[:, :, :rank] * root_GR[:, None, :], root_GR[:, :, None] * self.V_GRN[:, :rank, :]


class SVDDecomposition(Decomposition):
    """Fold the weight into one matrix per group, cut its SVD at the rank, unfold the two factors into two layers.

    The squared error of the weight equals the sum of the squared singular values cut off (Eckart and Young 1936). The
    rank is that of each group: a layer of G groups has G x rank maps between its two factors.
    """

    cuts = 1

    @abstractmethod
    def matrices(self, layer: nn.Module) -> Tensor:
        """The weight of `layer` as one matrix per group, `(G, M, N)`."""

    @abstractmethod
    def unfold(self, layer: nn.Module, left_GMR: Tensor, right_GRN: Tensor) -> tuple[Tensor, ...]:
        """Weights of the layers of the skeleton."""

    def first_axes(self, layer: nn.Module) -> tuple[bool, ...] | None:
        """Which axes of the kernel the first factor works along, where a layer has a form with U, s and V trained.

        The rows of `matrices` then are (in channel, the kernel's entries along these axes), the columns (its other
        entries, out channel). None: there is no such form.
        """
        return None

    def full_rank(self, layer: nn.Module) -> int:
        _, M, N = self.matrices(layer).shape
        return min(M, N)

    def energies(self, layer: nn.Module, ranks: Sequence[Rank]) -> np.ndarray:
        return energy_of(self.singular_values(layer).cpu().numpy())[np.asarray(ranks) - 1]

    def svd(self, layer: nn.Module, rank: int | None = None) -> SVD:
        """The thin SVD of every group's matrix, at least in float32; up to `rank`, or whole to serve every rank."""
        return SVD(*gram_svd(self._numbers(layer), rank))

    def singular_values(self, layer: nn.Module) -> Tensor:
        """The singular values of every group's matrix, `(G, full rank)`, descending."""
        return gram_singular_values(self._numbers(layer))

    def unfoldings(self, layer: nn.Module) -> tuple[tuple[np.ndarray, int], ...]:
        return ((self.singular_values(layer).cpu().numpy(), max(self.matrices(layer).shape[1:])),)

    def factorize(self, layer: nn.Module, rank: int, svd: SVD | None = None) -> nn.Sequential:
        """The plain layers with the truncated SVD of the weight.

        Args:
            layer: the layer to decompose; it is not changed.
            rank: from 1 to `full_rank(layer)`.
            svd: `self.svd(layer)`, where it is at hand already.

        Raises:
            ValueError: a rank out of range.
        """
        rank = self.check_rank(layer, rank)
        weights = self.unfold(layer, *(svd or self.svd(layer, rank)).split(rank))
        return fill_(self.skeleton(layer, rank), weights, layer)

    def factorizer(self, layer: nn.Module, svds: Callable | None = None) -> Callable[[int], nn.Sequential]:
        return partial(self.factorize, layer, svd=self.svd(layer) if svds is None else svds(self, layer))

    def _numbers(self, layer: nn.Module) -> Tensor:
        with torch.no_grad():
            return numbers(self.matrices(layer))


def two(first: nn.Module, second: nn.Module) -> nn.Sequential:
    """The chain of two factors; its children are named "0" and "1"."""
    return nn.Sequential(first, second)


def middle(layer: nn.Module, rank: int) -> int:
    """Maps between the two factors of a convolution."""
    return layer.groups * rank


def checked_order(name: str, order: str, allowed: tuple[str, str]) -> str:
    """`order`, which layer comes first.

    Raises:
        ValueError: none of `allowed`.
    """
    if order not in allowed:
        raise ValueError(f"{name}: order must be one of {', '.join(allowed)}, got {order!r}")
    return order


def wrong_kind(layer: nn.Module, name: str, allowed: tuple[type, ...]) -> str | None:
    """The reason that refuses a layer whose type is none of `allowed`."""
    if type(layer) in allowed:
        return None
    kinds = ", ".join(kind.__name__ for kind in allowed)
    return f"{name} takes {kinds}, not {type(layer).__name__}"
