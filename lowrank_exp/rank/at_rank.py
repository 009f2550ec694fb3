"""What one layer costs and keeps at a rank, on its ladder or not: small callables that can be pickled."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from lowrank_exp.decomposition import Decomposition, Rank
from lowrank_exp.decomposition.convolution import plain_like
from lowrank_exp.network.cost import LayerCost


@dataclass(frozen=True)
class Cost:
    """MACs of one image, weights, and bytes of the weights in a file."""

    macs: int
    weights: int
    bytes: int


def costs_of(
    layer: nn.Module, decomposition: Decomposition, cost: LayerCost, ranks: Sequence[Rank]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """MACs, weights and bytes of the factors at `ranks`, `(len(ranks),)` each."""
    return (
        decomposition.rank_macs(layer, cost.input_shapes, ranks),
        decomposition.rank_weights(layer, ranks),
        decomposition.rank_bytes(layer, ranks),
    )


@dataclass(frozen=True)
class CostAt:
    """The cost of a layer's factors at any rank. It keeps the layer's settings, not its numbers."""

    layer: nn.Module
    decomposition: Decomposition
    cost: LayerCost

    @classmethod
    def of(cls, layer: nn.Module, decomposition: Decomposition, cost: LayerCost) -> "CostAt":
        """That of `layer`."""
        return cls(plain_like(layer, device="meta"), decomposition, cost)

    def __call__(self, rank: Rank) -> Cost:
        rank = self.decomposition.check_rank(self.layer, rank, self.cost.name)
        return Cost(*(int(costs[0]) for costs in costs_of(self.layer, self.decomposition, self.cost, [rank])))


@dataclass(frozen=True)
class EnergyAt:
    """The share of the squared norm that any ranks keep. It keeps the weight, on the meta device its sizes alone."""

    layer: nn.Module
    decomposition: Decomposition

    @classmethod
    def of(cls, layer: nn.Module, decomposition: Decomposition) -> "EnergyAt":
        """That of `layer`, whose weight is not copied."""
        bare = plain_like(layer, device="meta")
        bare.weight = nn.Parameter(layer.weight.detach(), requires_grad=False)
        return cls(bare, decomposition)

    def __call__(self, ranks: Sequence[Rank]) -> np.ndarray:
        if not self.layer.weight.is_meta:
            return self.decomposition.energies(self.layer, ranks)
        full = self.decomposition.full_rank(self.layer)
        return np.array([np.mean(np.divide(rank, full)) for rank in ranks])


@dataclass(frozen=True)
class EnergyOnLadder:
    """The share of the squared norm that ranks of the ladder keep, where a rank is one number."""

    ladder: tuple[int, ...] | range
    energy: np.ndarray

    def __call__(self, ranks: Sequence[int]) -> np.ndarray:
        return self.energy[[self.ladder.index(rank) for rank in ranks]]
