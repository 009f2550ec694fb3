"""What a schedule of pruning is: asked at a moment of a training, it says what is to be done to which filters."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from lowrank_exp.checks import fraction
from lowrank_exp.pruning.groups import Filters
from lowrank_exp.pruning.null_space import NullSpace
from lowrank_exp.pruning.schedules.view import View
from lowrank_exp.pruning.selection import count_share


@dataclass(frozen=True)
class Moment:
    """A point of a training, after `step` optimizer steps.

    Every epoch begins with a moment of its own (`begins`), before which the network has been validated; then follows
    one after each step, the last of which lies before the epoch's validation.

    >>> moment = Moment(step=20, steps_per_epoch=10, epochs=3)
    >>> moment.epoch, moment.ends_epoch, moment.last
    (2, True, False)
    """

    step: int
    steps_per_epoch: int
    epochs: int
    begins: bool = False

    @property
    def epoch(self) -> int:
        """How many epochs are done; where one begins, its number from 0."""
        return self.step // self.steps_per_epoch

    @property
    def ends_epoch(self) -> bool:
        """Whether an epoch's last step was just done."""
        return not self.begins and self.step % self.steps_per_epoch == 0

    def at(self, step: int) -> bool:
        """Whether this is where something is done after `step` steps: before the next epoch where one begins there."""
        return self.step == step and self.begins == (step % self.steps_per_epoch == 0)

    @property
    def last(self) -> bool:
        """Whether the training's last step was just done."""
        return not self.begins and self.step == self.steps_per_epoch * self.epochs


@dataclass(frozen=True)
class Mask:
    """Silence these filters, and no others, from now on: nothing comes out of them, and no step moves them.

    Attributes:
        filters: by layer.
        remember: whether their weights are kept, for a revival.
    """

    filters: Filters
    remember: bool = False


@dataclass(frozen=True)
class Zero:
    """Set weights and biases of these filters to 0, once; training goes on with them."""

    filters: Filters


@dataclass(frozen=True)
class Revive:
    """Give all silent filters new weights, and let them train again.

    Attributes:
        null_space: where the weights come from.
        next_inputs: what becomes of the weights that read a channel that was silent: `kept`, `zeroed` or `redrawn`
            (evenly between -1 and 1 over the root of the fan-in, as torch initialises layers).
    """

    null_space: NullSpace = field(default_factory=NullSpace)
    next_inputs: str = "kept"


@dataclass(frozen=True)
class Remove:
    """Take channels out of the network: by name of a group those that stay."""

    keep: Mapping[str, tuple[int, ...]]


Action = Mask | Zero | Revive | Remove


class Schedule(ABC):
    """When filters are pruned, and how many; a frozen dataclass of its options, without a state.

    What has happened so far is told by the view: which filters are silent, and which were before.
    """

    removes: ClassVar[bool] = False
    """Whether channels are taken out of the network while it is trained."""

    @abstractmethod
    def check(self, view: View, steps_per_epoch: int, epochs: int) -> None:
        """Nothing, if a training of so many epochs can be pruned so.

        Args:
            view: of the network, which may lie on the meta device: no scores.
            steps_per_epoch, epochs: of the training; 0 epochs: only what is due before it is done.

        Raises:
            ValueError: it cannot; says what to change.
        """

    @abstractmethod
    def due(self, moment: Moment, view: View) -> Action | None:
        """What is to be done now; None: nothing."""

    def missed(self, view: View) -> str:
        """What of the target was not met by the end of the training, with numbers; empty: nothing."""
        return ""

    def remarks(self, view: View) -> list[str]:
        """What else is to be said of a target that was met, a sentence each."""
        return []

    @abstractmethod
    def stand_in(self, view: View) -> dict[str, tuple[int, ...]]:
        """By group how many channels will be left in the end, as nearly as can be told without weights.

        Which ones is made up; groups that will stay whole are left out.
        """

    def rankings(self, view: "View", steps_per_epoch: int, epochs: int) -> int | None:
        """How often filters are scored in a training, at most; None: it is not known. For estimates of time.

        Args:
            view, steps_per_epoch, epochs: see `check`.
        """
        return None

    def published_costs(self, network: nn.Module, example: Tensor) -> dict[str, float]:
        """What the pruned network costs as the schedule's paper counts it, by name; nothing where it has no such count.

        Args:
            network: at the end of the training, before silent filters are removed; all of its convolutions were pruned.
            example: an image, `(1, C, ...)`.
        """
        return {}

    def gradient_factor(self, moment: Moment) -> float:
        """Factor on the gradients of filters that have been revived, in the step that comes next."""
        return 1.0


def fraction_of_filters(name: str, p: object) -> None:
    """Nothing, if an option is a fraction of filters that may go.

    Raises:
        ValueError: it is not.
    """
    fraction(name, p, f"{name}={p!r} is not a fraction of filters: from 0 to below 1", zero=True, one=False)


def some_go(schedule: Any, sizes: Collection[int], together: bool) -> None:
    """Nothing, if a schedule's share of filters is one filter at least, and leaves every layer one.

    Args:
        schedule: has a `share`, a fraction.
        sizes: of the layers, or groups of coupled channels.
        together: whether all are ranked together; else each loses that share.

    Raises:
        ValueError: not a single filter would go, or more than can.
    """
    p = schedule.share
    goes = count_share(p, sum(sizes)) if together else max(count_share(p, size) for size in sizes)
    if p and not goes:
        of_what = f"all layers together have {sum(sizes)}" if together else f"the widest has {max(sizes)}"
        raise ValueError(f"{type(schedule).__name__}: share={p} is not a whole filter of any layer: {of_what}")
    if together and goes > sum(sizes) - len(sizes):
        raise ValueError(
            f"{type(schedule).__name__}: share={p} are {goes} filters of {sum(sizes)}, of which "
            f"{sum(sizes) - len(sizes)} can go: each of {len(sizes)} layers keeps one. Lower share"
        )
