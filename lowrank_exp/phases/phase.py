"""What a method is made of: the contract of a phase, what it may use, and what it leaves behind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from lowrank_exp.decomposition.store import SVDStore
from lowrank_exp.phases.rehearsal import Prospect, Rehearsal, walked
from lowrank_exp.rank import Plan, TimeStore

if TYPE_CHECKING:  # with Lightning, which takes seconds
    from lowrank_exp.data import ImageData

FITTED = "fitted"  # in a phase's folder: chains of factors of a fit that has not finished


def _no_network(phase: str) -> nn.Module:
    raise ValueError(f"the network that phase {phase} has left is not at hand")


@dataclass(frozen=True)
class Setting:
    """What a phase may use: the data, its own seed, where it runs, and folders for what it must not lose.

    `folder` is the phase's own; `scores` is for scores of rank sets, which phases of other runs may look up; `epochs`
    has how many epochs the phases before it have trained, by name; `folders` their folders; `network` gives the one
    that an earlier phase has left, or `initial`, what the first phase got, or `untrained`, the dense network as its
    constructor draws it; `example` is an image, `(1, C, H, W)`, that
    networks take: of zeros, or the first training image where they do not take zeros; `times` keeps the measured times
    of layers' options; `on_resume` is told how many epochs, of how many, have finished where a phase goes on.
    """

    name: str
    data: ImageData
    seed: int
    device: str
    progress: bool | str
    folder: Path
    scores: Path
    svds: SVDStore
    on_epoch: Callable[[Mapping[str, float]], None]
    epochs: Mapping[str, int] = field(default_factory=dict)
    folders: Mapping[str, Path] = field(default_factory=dict)
    network: Callable[[str], nn.Module] = _no_network
    example: Tensor | None = None
    times: TimeStore = field(default_factory=TimeStore)
    on_resume: Callable[[int, int], None] = lambda finished, of: None


@dataclass(frozen=True)
class Done:
    """What a phase did: its curve, the plan it carried out, and whether there was anything for it to do.

    `values`: figures that only this phase has, by name (letters, digits, underscores); they stand with it in
    `result.json`. `warnings`: what a reader of its figures must know, a sentence each; `missed`: its target was not
    met, which a warning tells in numbers. `network`: another one in the place of the one that it got, which may have
    been edited otherwise; None: that one.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    plan: Plan | None = None
    applied: bool = True
    values: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    missed: bool = False
    network: nn.Module | None = None


class Phase(ABC):
    """One step of a method. `version` is raised by hand whenever the same configuration gives other numbers."""

    version: ClassVar[int] = 1
    trains: ClassVar[bool] = False  # the weights, by images and labels
    keeps_dense: ClassVar[bool] = False  # leaves a dense network dense, and as good as it can make it
    begins_anew: ClassVar[bool] = False  # gives a network that plans of earlier phases do not belong to

    @property
    def looks_back(self) -> list[str]:
        """Earlier phases whose networks it uses, beside the one that it gets."""
        return []

    def conditions(self) -> dict[str, Any]:
        """What its outcome depends on of this machine and process, plain values; mostly nothing.

        An outcome is stored under it, too: what was found under other conditions is not taken for it.
        """
        return {}

    @property
    def validates(self) -> str:
        """What it measures on validation images, as the beginning of a sentence; empty: nothing."""
        return ""

    @property
    def remedy(self) -> str:
        """What to try where the network is no better than chance after it, a sentence; empty: nothing."""
        return ""

    @property
    def told(self) -> str:
        """What is to be said of its choices when it begins, a sentence or two; empty: nothing."""
        return ""

    @abstractmethod
    def walk_(self, network: nn.Module, example: Tensor) -> None:
        """Do to a network on the meta device what `run_` will do to its shapes; raise ValueError for a mistake."""

    def check_steps(self, network: nn.Module, example: Tensor, images: int) -> None:
        """Raise ValueError if so many training images give too few steps for what `run_` is to do; change nothing.

        Called before `walk_`, with the same network on the meta device.
        """
        return

    @abstractmethod
    def run_(self, network: nn.Module, setting: Setting) -> Done:
        """Change `network` in place, or give another one in its place."""

    def rehearse(self, network: nn.Module, setting: Setting) -> Rehearsal:
        """What `run_` would do and how long it would take, without running it; `network` stays as it is.

        A phase of your own that does not tell has the shapes of `walk_`, and its cost is unknown.

        Args:
            network: on the device, as the phases before are expected to leave it: the shapes are exact, the weights are
                those at hand.
            setting: as for `run_`; of phases that have not run, `epochs` and `network` give what is expected.
        """
        return Rehearsal(
            walked(network, setting.example, self.walk_), unknown=f"{type(self).__name__} itself", same_weights=False
        )

    def show(self, plan: Plan, network: nn.Module, setting: Setting) -> Prospect:
        """What is to be seen of the plan that it carried out on `network`."""
        return Prospect.of(plan)
