"""What the decompositions by one truncated SVD per group have in common.

Legend: G groups, M rows, N columns of each group's matrix, R rank, O out channels, I in channels (of one group).
"""

from abc import abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lowrank_exp.cost import macs_of_chain
from lowrank_exp.decomposition.base import Decomposition


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

    @abstractmethod
    def matrices(self, layer: nn.Module) -> Tensor:
        """The weight of `layer` as one matrix per group, `(G, M, N)`."""

    @abstractmethod
    def unfold(self, layer: nn.Module, left_GMR: Tensor, right_GRN: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the first and the second layer."""

    def full_rank(self, layer: nn.Module) -> int:
        _, M, N = self.matrices(layer).shape
        return min(M, N)

    def rank_weights(self, layer: nn.Module) -> np.ndarray:
        chain = self.skeleton(layer, 1, device="meta")
        return np.arange(1, self.full_rank(layer) + 1) * sum(factor.weight.numel() for factor in chain)

    def rank_macs(self, layer: nn.Module, input_shapes: tuple[tuple[int, ...], ...]) -> np.ndarray:
        chain = self.skeleton(layer, 1, device="meta")
        return np.arange(1, self.full_rank(layer) + 1) * sum(macs_of_chain(chain, shape) for shape in input_shapes)

    def svd(self, layer: nn.Module) -> SVD:
        """The thin SVD of every group's matrix, at least in float32. It serves every rank."""
        return SVD(*torch.linalg.svd(self._numbers(layer), full_matrices=False))

    def singular_values(self, layer: nn.Module) -> Tensor:
        return torch.linalg.svdvals(self._numbers(layer))

    def factorize(self, layer: nn.Module, rank: int, svd: SVD | None = None) -> nn.Sequential:
        """Two plain layers with the truncated SVD of the weight.

        Args:
            layer: the layer to decompose; it is not changed.
            rank: from 1 to `full_rank(layer)`.
            svd: `self.svd(layer)`, where it is at hand already.

        Raises:
            ValueError: a rank out of range.
        """
        rank = self.check_rank(layer, rank)
        chain = self.skeleton(layer, rank)
        with torch.no_grad():
            weights = self.unfold(layer, *(svd or self.svd(layer)).split(rank))
            for factor, weight in zip(chain, weights, strict=True):
                factor.weight.copy_(weight)
                factor.weight.requires_grad_(layer.weight.requires_grad)
            if layer.bias is not None:
                chain[-1].bias.copy_(layer.bias)
                chain[-1].bias.requires_grad_(layer.bias.requires_grad)
        return chain.train(layer.training)

    def _numbers(self, layer: nn.Module) -> Tensor:
        with torch.no_grad():
            matrices_GMN = self.matrices(layer).detach()
        return matrices_GMN if matrices_GMN.dtype == torch.float64 else matrices_GMN.float()


def two(first: nn.Module, second: nn.Module) -> nn.Sequential:
    """The chain of two factors; its children are named "0" and "1"."""
    return nn.Sequential(first, second)


def middle(layer: nn.Module, rank: int) -> int:
    """Maps between the two factors of a convolution."""
    return layer.groups * rank


def wrong_kind(layer: nn.Module, name: str, allowed: tuple[type, ...]) -> str | None:
    """The reason that refuses a layer whose type is none of `allowed`."""
    if type(layer) in allowed:
        return None
    kinds = ", ".join(kind.__name__ for kind in allowed)
    return f"{name} takes {kinds}, not {type(layer).__name__}"
