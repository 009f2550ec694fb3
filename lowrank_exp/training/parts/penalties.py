"""What a regularizer does in a fit: before the forward pass, to the gradients, and to the history."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lowrank_exp.regularizers import Regularizer
from lowrank_exp.training.divergence import (
    TRY_PENALTY,
    Broken,
    Lengths,
    broken_gradients,
    broken_values,
    gradient_length,
    steep,
)
from lowrank_exp.training.parts.part import AtWork, Fit, History, Part

SAMPLES = 16  # of a weight's schedule, by which a checkpoint of another one is told apart


@dataclass(frozen=True)
class Penalized(Part):
    """A regularizer as a part of a training."""

    name: ClassVar[str] = "penalties"

    regularizer: Regularizer

    def check(self, network: nn.Module) -> None:
        self.regularizer.check(network)

    def described(self) -> dict[str, Any]:
        terms, projection = self.regularizer.terms, self.regularizer.projection
        if not (terms or projection):
            return {}
        weights = [self.regularizer.weights(index / SAMPLES) for index in range(SAMPLES)]
        told = {name: f"{term.penalty} x {[f'{at[name]:.9g}' for at in weights]}" for name, term in terms.items()}
        return {self.name: told, "projection": str(projection)}

    def at_work(self, fit: Fit) -> "Penalties":
        return Penalties(self.regularizer, fit.network, fit.steps_per_epoch, fit.recipe.epochs, fit.epochs_done)


class Penalties(AtWork):
    """A regularizer at work in one fit: a step's place in it, and the values of an epoch.

    Args:
        regularizer: penalties and a projection.
        network: the plain network, whose gradients are those of the step.
        steps_per_epoch, epochs: of the whole fit.
        epochs_done: already.
    """

    def __init__(
        self, regularizer: Regularizer, network: nn.Module, steps_per_epoch: int, epochs: int, epochs_done: int = 0
    ) -> None:
        self.regularizer, self.network = regularizer, network
        self.total_steps, self.step = epochs * steps_per_epoch, epochs_done * steps_per_epoch
        self.before_epoch([])

    def before_epoch(self, history: History) -> None:
        """Forget the values of the epoch before."""
        self.began = self.step
        self.values: dict[str, list[tuple[int, Tensor]]] = {}
        self.lengths: list[Lengths] = []

    def before_step(self) -> None:
        """The projection, where there is one and it is due."""
        rank = self.regularizer.project_(self.network, self.step)
        if rank is not None:
            self._add("projected_rank", rank)

    def on_gradients(self) -> None:
        """The penalties' part of the gradients of this step; then the next one begins."""
        if self.regularizer.terms:
            after = {"": gradient_length(self.network)}
            for name, value in self.regularizer.applied_(self.network, self.step, self.total_steps):
                self._add(f"penalty_{name}", value)
                after[name] = gradient_length(self.network)
            self.lengths.append(Lengths.taken(self.step - self.began, after))
        self.step += 1

    def metrics(self) -> dict[str, float]:
        """The mean over the epoch's steps of every value, without its weight."""
        stacked = {name: torch.stack([value for _, value in values]) for name, values in self.values.items()}
        return {name: values.double().mean().item() for name, values in stacked.items()}

    def broken(self) -> list[Broken]:
        """Of every value, and of the gradients, the first in this epoch that is not finite."""
        found = broken_gradients(self.lengths)
        for place, term in enumerate(self.regularizer.terms, start=1):
            values, advice = self.values.get(f"penalty_{term}", []), TRY_PENALTY.format(term=term)
            found += broken_values(values, 2 * place, f"penalty_{term}", advice)
        return found

    def advice(self, step: int) -> str:
        """On the penalty that made the gradient much longer before the step."""
        return steep(self.lengths, step)

    def _add(self, name: str, value: Tensor) -> None:
        self.values.setdefault(name, []).append((self.step - self.began, value))
