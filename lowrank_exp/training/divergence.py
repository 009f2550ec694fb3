"""What is said of a training that diverged: which number was the first that is not finite, and what to try."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LOSS, TEACHER = "the training loss", "the teacher's part of the training loss"
STEEPER = 10  # times longer with penalties than without: then these are named beside a loss that is not finite

TRY = "Lower the learning rate, warm it up, or look for non-finite values in images and weights."
TRY_TEACHER = "Look for non-finite values in the teacher's weights, or lower distill.alpha."
TRY_PENALTY = "Lower regularizer.terms.{term}.weight, or the learning rate."


@dataclass(frozen=True)
class Lengths:
    """Lengths of a step's whole gradient: of the loss alone, then with each penalty's added, in their order."""

    step: int
    names: Sequence[str]
    lengths: Tensor

    @classmethod
    def taken(cls, step: int, after: Mapping[str, Tensor]) -> "Lengths":
        return cls(step, list(after), torch.stack(list(after.values())))


@dataclass(frozen=True, order=True)
class Broken:
    """A number that is not finite: at which optimizer step of the epoch, and in which place of that step's order."""

    step: int
    order: int
    what: str
    value: float
    advice: str


def gradient_length(network: nn.Module) -> Tensor:
    """The Euclidean length of all gradients together, a scalar on the device; not finite if one entry is not."""
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


def broken_values(values: Sequence[tuple[int, Tensor]], order: int, what: str, advice: str) -> list[Broken]:
    """The first of a step's values, `(step of the epoch, scalar)` each, that is not finite; none: an empty list."""
    numbers = torch.stack([value for _, value in values]).double().tolist() if values else []
    found = [(step, number) for (step, _), number in zip(values, numbers, strict=True) if not _finite(number)]
    return [Broken(found[0][0], order, what, found[0][1], advice)] if found else []


def broken_gradients(taken: Sequence[Lengths]) -> list[Broken]:
    """The first gradient that is not finite, and whose part in it was the first that is not."""
    for lengths in taken:
        numbers = lengths.lengths.double().tolist()
        for place, (name, number) in enumerate(zip(lengths.names, numbers, strict=True)):
            if not _finite(number):
                advice = TRY_PENALTY.format(term=name) if place else TRY
                what = f"the gradient of penalty_{name}" if place else f"the gradient of {LOSS}"
                return [Broken(lengths.step, 2 * place + 1, what, number, advice)]
    return []


def steep(taken: Sequence[Lengths], step: int) -> str:
    """A sentence on the penalty that made the gradient `STEEPER` times longer before `step`; empty: none did."""
    for lengths in reversed([one for one in taken if one.step < step]):
        numbers = lengths.lengths.double().tolist()
        for name, before, after in zip(lengths.names[1:], numbers, numbers[1:], strict=False):
            if after > STEEPER * max(before, 1e-12):
                return (
                    f" At step {lengths.step} penalty_{name} made the gradient {after / max(before, 1e-12):,.0f} times "
                    f"as long: lower regularizer.terms.{name}.weight."
                )
    return ""


def broken_weights(network: nn.Module) -> str | None:
    """The name of the first parameter that is not finite; None: all are."""
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    finite = torch.stack([one.isfinite().all() for one in parameters.values()]).tolist()
    return next((name for name, fine in zip(parameters, finite, strict=True) if not fine), None)


def _finite(number: float) -> bool:
    return abs(number) < float("inf")
