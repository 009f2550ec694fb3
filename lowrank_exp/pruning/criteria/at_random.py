"""No criterion at all: what every other one is measured against."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lowrank_exp.checks import whole
from lowrank_exp.network.cost import out_channels
from lowrank_exp.pruning.criteria.criterion import WeightCriterion


@dataclass(frozen=True)
class Random(WeightCriterion):
    """Numbers between 0 and 1, drawn anew for each layer from the seed and the layer's name.

    Which other layers are scored changes nothing. Equal seeds give equal numbers: where one ranking follows another,
    give each its own, `dataclasses.replace(criterion, seed=criterion.seed + cycle)`.

    Args:
        seed: 0 or more.

    Raises:
        ValueError: the seed is not an integer of 0 or more.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        whole("seed", self.seed, 0, f"Random: seed={self.seed!r} is not an integer of 0 or more")

    def of_layer(self, name: str, layer: nn.Module, norm: nn.Module | None) -> Tensor:
        generator = np.random.default_rng([self.seed, *name.encode()])
        return torch.from_numpy(generator.random(out_channels(layer)))
