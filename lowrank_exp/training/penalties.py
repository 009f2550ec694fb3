"""What a regularizer does in a fit: before the forward pass, to the gradients, and to the history."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from lowrank_exp.regularizers import Regularizer, parameter_groups

SAMPLES = 16  # of a weight's schedule, by which a checkpoint of another one is told apart


class Penalties:
    """A regularizer at work in one fit: a step's place in it, and the values of an epoch.

    Args:
        regularizer: None: nothing is done.
        network: the plain network, whose gradients are those of the step.
        total_steps: optimizer steps of the whole fit.
        start: optimizer steps that are done already.
    """

    def __init__(self, regularizer: Regularizer | None, network: nn.Module, total_steps: int, start: int) -> None:
        self.regularizer, self.network, self.total_steps, self.step = regularizer, network, total_steps, start
        self.values: dict[str, list[Tensor]] = {}

    def before_forward(self) -> None:
        """The projection, where there is one and it is due."""
        if self.regularizer is not None:
            rank = self.regularizer.project_(self.network, self.step)
            self._add({} if rank is None else {"projected_rank": rank})

    def add_gradients(self) -> None:
        """The penalties' part of the gradients of this step; then the next one begins."""
        if self.regularizer is not None:
            values = self.regularizer.apply_(self.network, self.step, self.total_steps)
            self._add({f"penalty_{name}": value for name, value in values.items()})
        self.step += 1

    def take_means(self) -> dict[str, float]:
        """The mean of every value since the last call, without its weight."""
        means = {name: torch.stack(values).double().mean().item() for name, values in self.values.items()}
        self.values = {}
        if bad := [f"{name} is {value}" for name, value in means.items() if not math.isfinite(value)]:
            raise FloatingPointError(f"{', '.join(bad)}: lower the learning rate or the weight of the penalty")
        return means

    def _add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)


def trained(network: nn.Module, exempt: Sequence[str]) -> list[Parameter] | list[dict[str, Any]]:
    """What the optimizer is called with: the trainable parameters, in groups where weight decay spares some.

    Raises:
        ValueError: `exempt` names no parameter, see `parameter_groups`.
    """
    if exempt:
        return parameter_groups(network, None, exempt)
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def described(regularizer: Regularizer | None, exempt: Sequence[str]) -> dict[str, Any]:
    """What decides the penalties of a fit, as plain data; empty where there are none."""
    told: dict[str, Any] = {"exempt": list(exempt)} if exempt else {}
    if regularizer is None or not (regularizer.terms or regularizer.projection):
        return told
    weights = [regularizer.weights(index / SAMPLES) for index in range(SAMPLES)]
    terms = {
        name: f"{term.penalty} x {[f'{at[name]:.9g}' for at in weights]}" for name, term in regularizer.terms.items()
    }
    return told | {"penalties": terms, "projection": str(regularizer.projection)}
