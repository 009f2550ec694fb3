"""What a training may have beside the loss by the labels: the protocol by which a recipe and a fit ask for it.

A `Part` is an option of a recipe: what it is, and what it refuses. An `AtWork` is a part in one fit: what it does to
the network, the loss and the gradients, and what it keeps. The LightningModule loops over them, in their order.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lowrank_exp.training.divergence import Broken

History = Sequence[Mapping[str, float]]  # a line per epoch


@dataclass(frozen=True)
class Fit:
    """What a part is told of a fit before it begins.

    `stored` has what parts left in the checkpoint that it goes on from (`AtWork.state`), by name; `folder` is that of
    the checkpoint.
    """

    recipe: Any  # a Recipe
    network: nn.Module
    seed: int
    steps_per_epoch: int
    epochs_done: int = 0
    stored: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None


@dataclass(frozen=True)
class Running:
    """What a part is told when the first epoch begins here.

    `rank` is that of this process among `processes`; `reduction`: whether a batch's loss is the `mean` or the `sum`
    over its images. A part that edits the network must refuse compilation and several devices, which would not see it.
    """

    optimizer: Optimizer
    device: torch.device
    rank: int = 0
    processes: int = 1
    reduction: str = "mean"


class Part(ABC):
    """An option of a recipe, a frozen dataclass; `name` is that of the option."""

    name: ClassVar[str]

    @abstractmethod
    def at_work(self, fit: Fit) -> "AtWork":
        """The part in one fit; of several processes each has its own.

        Raises:
            ValueError: the network does not suit it.
        """

    def refuse(self, recipe: Any) -> None:
        """Raise ValueError for a recipe with options that it does not go together with."""
        return

    def check(self, network: nn.Module) -> None:
        """Raise ValueError for a network, perhaps on the meta device, that does not suit it; change nothing."""
        return

    def described(self) -> dict[str, Any]:
        """What decides it, as plain data by name: must agree where a fit goes on from a checkpoint."""
        return {self.name: asdict(self)}

    def shape_(self, network: nn.Module, state: Any) -> None:
        """Bring the network to the shapes that it had when the part left `state` (perhaps None) in a checkpoint."""
        return

    def end_(self, network: nn.Module) -> None:
        """Do to weights that a checkpoint has as they are in training what the end of the fit does to them."""
        return


class AtWork:
    """A part in one fit: each method is asked at its time, and does nothing unless the part has something to do.

    `generators` are its own, whose states a checkpoint keeps; `skips`: whether a step may leave parameters out.
    """

    generators: Sequence[torch.Generator] = ()
    skips: bool = False

    def around_fit(self) -> AbstractContextManager:
        """Around all epochs and what is done before and after them."""
        return nullcontext()

    def start(self, running: Running) -> None:
        """The first epoch here begins."""
        return

    def before_epoch(self, history: History) -> None:
        """An epoch begins, after those of `history`."""
        return

    def before_step(self) -> None:
        """The first forward pass of an optimizer step is near."""
        return

    def around_pass(self, images: Tensor, first: bool) -> AbstractContextManager:
        """Around a forward and a backward pass in training; `first`: of an optimizer step."""
        return nullcontext()

    def on_loss(self, loss: Tensor, logits_NC: Tensor, images: Tensor) -> Tensor:
        """The loss with what the part has to add."""
        return loss

    def on_gradients(self) -> None:
        """The gradients of a step are there, and the optimizer has not yet taken it."""
        return

    def after_step(self) -> None:
        """The optimizer has taken a step."""
        return

    def before_validation(self) -> None:
        """Validation begins, with the network in evaluation mode."""
        return

    def after_validation(self) -> None:
        """Validation is over."""
        return

    def metrics(self) -> dict[str, float]:
        """What joins the epoch's line of the history."""
        return {}

    def after_epoch(self, line: dict[str, float], history: History) -> bool:
        """An epoch has ended, `line` is the last one of `history` and may be added to; whether the fit ends here."""
        return False

    def state(self) -> Any:
        """For a checkpoint, plain data and tensors; None: nothing."""
        return None

    def broken(self) -> list[Broken]:
        """Of all that the part has computed in this epoch, what is not finite."""
        return []

    def advice(self, step: int) -> str:
        """A sentence after a blank, or nothing, on why the loss may not have been finite at a step of this epoch."""
        return ""


def refuse_in_processes(recipe: Any, what: str, instead: str) -> None:
    """Raise ValueError for a recipe of several devices, and so of several processes, beside a part that is in one."""
    if recipe.devices > 1:
        raise ValueError(f"devices is {recipe.devices}, and {what} in one process only: set devices=1, or {instead}")


def refuse_together(clashes: Sequence[tuple[str, bool, str]], why: str) -> None:
    """Raise ValueError for the first option that a part does not go together with.

    Args:
        clashes: the option in words, whether it is there, and what to set instead.
        why: goes between.
    """
    for option, there, instead in clashes:
        if there:
            raise ValueError(f"{option}, and {why}: set {instead}")
