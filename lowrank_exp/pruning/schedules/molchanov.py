"""Molchanov's loop: rank, remove some filters, train a little, and again, until the network is small enough."""

import warnings
from dataclasses import dataclass, field
from typing import ClassVar

from lowrank_exp.pruning.combine import FORMS, cost_regularised, normalised
from lowrank_exp.pruning.criteria import Taylor
from lowrank_exp.pruning.criteria.criterion import chosen_from
from lowrank_exp.pruning.schedules.schedule import Action, Moment, Remove, Schedule, whole
from lowrank_exp.pruning.schedules.view import Criterion, View
from lowrank_exp.pruning.selection import Chosen, lowest

MEGA = 1e6


@dataclass(frozen=True, kw_only=True)
class Molchanov(Schedule):
    """Every `updates` steps the `filters` coupled channels of the lowest scores are removed, until a target is met.

    The last time only as many go as the target for MACs asks for. After it the training goes on to its last epoch.

    Args:
        criterion: ranks filters; the paper's is `Taylor`.
        macs: target: the fraction of the MACs at the beginning that may remain, in (0, 1); None: none.
        accuracy: target: nothing more is removed after an epoch whose validation accuracy (a fraction) is below it;
            None: none. With both, the first one met counts.
        filters: channels removed at a time, at least 1.
        updates: steps from one time to the next, at least 1.
        form: brings the scores of layers to one measure, see `combine.normalised`; the paper's is `l2`.
        cost_weight: lambda, taken off a score for every million MACs that its channel costs at that moment; 0: none.
        how: how the scores of the filters of one channel are put together, see `group_scores`.

    Raises:
        ValueError: an option out of range, or no target.

    Source: Molchanov, Tyree, Karras, Aila, Kautz 2017, "Pruning convolutional neural networks for resource efficient
    inference".

    Differs from the paper:
        1. Filters are ranked on images of their own, without augmentation, not on the batches of the updates.
        2. The paper's lambda, 1e-3, goes with a cost whose unit it does not state.
        3. Channels that several layers share go together.
    """

    removes: ClassVar[bool] = True

    criterion: Criterion = field(default_factory=Taylor)
    macs: float | None = 0.5
    accuracy: float | None = None
    filters: int = 1
    updates: int = 30
    form: str = "l2"
    cost_weight: float = 0.0
    how: str = "sum"

    def __post_init__(self) -> None:
        whole(self, "filters", 1)
        whole(self, "updates", 1)
        chosen_from(self, "form", FORMS)
        if self.macs is None and self.accuracy is None:
            raise ValueError("Molchanov: there is no target: set macs or accuracy")
        for option in ("macs", "accuracy"):
            value = getattr(self, option)
            if value is not None and (isinstance(value, bool) or not 0 < value < 1):
                raise ValueError(f"Molchanov: {option}={value!r} is no fraction between 0 and 1")
        weight = self.cost_weight
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise ValueError(f"Molchanov: cost_weight={weight!r} is no number of 0 or more")

    def check(self, view: View, steps_per_epoch: int, epochs: int) -> None:
        if self.macs is None:
            return
        least = view.macs(view.without({group.name: range(group.channels) for group in view.groups})) / view.dense_macs
        if least > self.macs:
            raise ValueError(
                f"Molchanov: macs={self.macs} cannot be reached: with one channel left of every group, {least:.3f} of "
                "the MACs remain. Raise macs, or prune other layers too"
            )

    def met(self, view: View) -> bool:
        """Whether nothing more is to be removed."""
        if self.accuracy is not None and any(accuracy < self.accuracy for accuracy in view.accuracies):
            return True
        return self.macs is not None and view.macs() <= self.macs * view.dense_macs

    def due(self, moment: Moment, view: View) -> Action | None:
        if moment.last and self.macs is not None and not self.met(view):
            warnings.warn(
                f"{view.macs() / view.dense_macs:.3f} of the MACs remain after all epochs, the target is {self.macs}: "
                "train for longer, remove more filters at a time, or at shorter intervals",
                stacklevel=2,
            )
        first = moment.begins and moment.step == 0
        if not first and (moment.begins or moment.step % self.updates or moment.last):
            return None
        count = min(self.filters, sum(group.channels - 1 for group in view.groups))
        if not count or self.met(view):
            return None
        scores = view.of_groups(normalised(view.scores(self.criterion), self.form), self.how)
        if self.cost_weight:
            scores = cost_regularised(scores, _saved(view), self.cost_weight)
        return Remove(view.without(self._enough(scores, count, view)))

    def stand_in(self, view: View) -> dict[str, tuple[int, ...]]:
        if self.macs is None:
            return {}
        low, high = 0.0, 1.0  # shares: too few and enough
        for _ in range(8):
            middle = (low + high) / 2
            small = view.macs(view.shares(middle)) <= self.macs * view.dense_macs
            low, high = (low, middle) if small else (middle, high)
        return view.shares(min(high, 1 - 1e-9))

    def _enough(self, scores: dict, count: int, view: View) -> Chosen:
        """The `count` lowest, or the fewest with which the target for MACs is met."""
        chosen = lowest(scores, count, groups=view.groups)
        if self.macs is None or view.macs(view.without(chosen)) > self.macs * view.dense_macs:
            return chosen
        few, enough = 0, count
        while enough - few > 1:
            middle = (few + enough) // 2
            fewer = lowest(scores, middle, groups=view.groups)
            if view.macs(view.without(fewer)) <= self.macs * view.dense_macs:
                enough, chosen = middle, fewer
            else:
                few = middle
        return chosen


def _saved(view: View) -> dict[str, float]:
    """By group the millions of MACs that one of its channels costs now."""
    now = view.macs()
    return {
        group.name: (now - view.macs(view.without({group.name: [0]}))) / MEGA if group.channels > 1 else 0.0
        for group in view.groups
    }
