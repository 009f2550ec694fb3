"""What every decomposition offers: shapes in, factors and plain layers out."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn


class Decomposition(ABC):
    """A way to write one layer's weight as a product of thinner layers.

    A decomposition has no state but its options (constructor arguments), so that `(name, options, rank)` in a file is
    enough to build the same shapes again. Ranks run from 1 to `full_rank(layer)`.
    """

    name: ClassVar[str]

    def options(self) -> dict[str, Any]:
        """The constructor arguments, as plain values."""
        return {}

    @abstractmethod
    def refusal(self, layer: nn.Module) -> str | None:
        """Why this decomposition cannot be applied to `layer`; None where it can."""

    @abstractmethod
    def full_rank(self, layer: nn.Module) -> int:
        """The rank at which the decomposition is exact for every weight (per group where the layer has groups)."""

    @abstractmethod
    def rank_weights(self, layer: nn.Module) -> np.ndarray:
        """Weights of the factors at ranks 1, 2 ... full, shape `(full_rank,)`."""

    @abstractmethod
    def rank_macs(self, layer: nn.Module, input_shapes: tuple[tuple[int, ...], ...]) -> np.ndarray:
        """MACs of the factors at ranks 1, 2 ... full over all calls of the layer, shape `(full_rank,)`."""

    @abstractmethod
    def singular_values(self, layer: nn.Module) -> Tensor:
        """Singular values of every group's matrix, descending, shape `(G, full_rank)`."""

    @abstractmethod
    def skeleton(self, layer: nn.Module, rank: int, device: Any = None) -> nn.Sequential:
        """The plain layers that take the place of `layer` at `rank`, weights not set."""

    @abstractmethod
    def factorize(self, layer: nn.Module, rank: int) -> nn.Sequential:
        """The plain layers with the best weights at `rank`; `layer` itself is not changed."""

    def check_rank(self, layer: nn.Module, rank: Any, layer_name: str = "layer") -> int:
        """`rank` as an int.

        Raises:
            ValueError: not an integer, below 1 or above the full rank.
        """
        full = self.full_rank(layer)
        if isinstance(rank, bool) or not isinstance(rank, int | np.integer):
            raise ValueError(f"{layer_name}: rank must be an integer from 1 to {full} for {self.name}, got {rank!r}")
        if rank < 1:
            raise ValueError(f"{layer_name}: rank {rank} is below 1; {self.name} takes ranks 1 to {full}")
        if rank > full:
            raise ValueError(
                f"{layer_name}: rank {rank} is above the full rank {full}; {self.name} takes ranks 1 to {full} here"
            )
        return int(rank)

    def check_weight(self, layer: nn.Module, layer_name: str = "layer") -> None:
        """Nothing, if there is something to decompose.

        Raises:
            ValueError: the weight has entries that are not finite.
        """
        if not layer.weight.is_meta and not layer.weight.isfinite().all():
            raise ValueError(
                f"{layer_name}: its weight has entries that are not finite, which {self.name} cannot factor"
            )
