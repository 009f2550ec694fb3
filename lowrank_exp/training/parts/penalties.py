"""What a regularizer does in a fit: before the forward pass, to the gradients, and to the history."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from lowrank_exp.regularizers import Regularizer, parameter_groups
from lowrank_exp.training.divergence import (
    TRY_PENALTY,
    Broken,
    Lengths,
    broken_gradients,
    broken_values,
    gradient_length,
)

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
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Forget the values of the epoch before."""
        self.began = self.step
        self.values: dict[str, list[tuple[int, Tensor]]] = {}
        self.lengths: list[Lengths] = []

    def before_forward(self) -> None:
        """The projection, where there is one and it is due."""
        if self.regularizer is not None:
            rank = self.regularizer.project_(self.network, self.step)
            if rank is not None:
                self._add("projected_rank", rank)

    def add_gradients(self) -> None:
        """The penalties' part of the gradients of this step; then the next one begins."""
        if self.regularizer is not None and self.regularizer.terms:
            after = {"": gradient_length(self.network)}
            for name, value in self.regularizer.applied_(self.network, self.step, self.total_steps):
                self._add(f"penalty_{name}", value)
                after[name] = gradient_length(self.network)
            self.lengths.append(Lengths.taken(self.step - self.began, after))
        self.step += 1

    def means(self) -> dict[str, float]:
        """The mean over the epoch's steps of every value, without its weight."""
        stacked = {name: torch.stack([value for _, value in values]) for name, values in self.values.items()}
        return {name: values.double().mean().item() for name, values in stacked.items()}

    def broken(self) -> list[Broken]:
        """Of every value, and of the gradients, the first in this epoch that is not finite."""
        found = broken_gradients(self.lengths)
        terms = [] if self.regularizer is None else list(self.regularizer.terms)
        for place, term in enumerate(terms, start=1):
            values, advice = self.values.get(f"penalty_{term}", []), TRY_PENALTY.format(term=term)
            found += broken_values(values, 2 * place, f"penalty_{term}", advice)
        return found

    def _add(self, name: str, value: Tensor) -> None:
        self.values.setdefault(name, []).append((self.step - self.began, value))


def trained(network: nn.Module, exempt: Sequence[str]) -> list[Parameter] | list[dict[str, Any]]:
    """What the optimizer is called with: the trainable parameters, in groups where weight decay spares some.

    Raises:
        ValueError: `exempt` names no parameter, see `parameter_groups`, or there is nothing to train.
    """
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(
            "the network has no parameter that needs a gradient: there is nothing to train. Call "
            "network.requires_grad_(True) where it is built, or choose a method that does not train: oneshot, evaluate"
        )
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
