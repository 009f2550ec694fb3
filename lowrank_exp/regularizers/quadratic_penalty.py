"""The quadratic penalty of LC: weights near given ones, of low rank."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lowrank_exp.network.cost import LAYERS
from lowrank_exp.regularizers.penalty import Penalty, choose_layers, gradient


@dataclass(frozen=True, repr=False)
class QuadraticPenalty(Penalty):
    r"""Half the squared distance of dense weights from targets.

    .. math:: L = \tfrac12 \sum_l \|W_l - T_l\|_F^2, \qquad \frac{\partial L}{\partial W_l} = W_l - T_l

    In the L step of LC the target is T = Theta, the weight at its low rank, or Theta + M / mu with the multipliers M of
    the augmented Lagrangian; the penalty's weight is mu.

    Args:
        targets: by the names of convolutions and linear layers, of the shape of their weights.

    Raises:
        ValueError: no target.

    Source: Idelbayev, Carreira-Perpinan 2020, "Low-rank compression of neural nets: learning the rank of each layer".

    >>> network = nn.Sequential(nn.Linear(2, 1))
    >>> QuadraticPenalty({"0": network[0].weight.detach() + 3.0}).value(network).item()
    9.0
    """

    targets: Mapping[str, Tensor] = field(compare=False)

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError("QuadraticPenalty needs the target of at least one layer")

    def __repr__(self) -> str:
        content = hashlib.sha256()
        for name, target in self.targets.items():
            content.update(name.encode())
            content.update(target.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return f"QuadraticPenalty({len(self.targets)} layers, {content.hexdigest()[:16]})"

    @property
    def layers(self) -> Sequence[str]:
        """The names of the layers."""
        return list(self.targets)

    def value(self, network: nn.Module) -> Tensor:
        return torch.stack([(W - target).square().sum() / 2 for W, target in self._pairs(network)]).sum()

    def _add_(self, network: nn.Module, weight: float) -> Tensor:
        terms = []
        for W, target in self._pairs(network):
            difference = W - target
            terms.append(torch.linalg.vector_norm(difference).square() / 2)
            if weight != 0 and W.requires_grad:
                gradient(W).add_(difference, alpha=weight)
        return torch.stack(terms).sum()

    def _pairs(self, network: nn.Module) -> list[tuple[Tensor, Tensor]]:
        chosen = choose_layers(
            network,
            self.layers,
            lambda module: isinstance(module, LAYERS),
            "QuadraticPenalty",
            "convolutions and linear layers",
        )
        pairs = []
        for name, layer in chosen.items():
            target = self.targets[name]
            if target.shape != layer.weight.shape:
                raise ValueError(
                    f"the target of {name} has the shape {tuple(target.shape)}, its weight {tuple(layer.weight.shape)}"
                )
            pairs.append((layer.weight, target.to(layer.weight)))
        return pairs
