"""Iterative pruning: rank, remove some filters, train a little, and again, until the network is small enough."""

from dataclasses import dataclass, field
from typing import ClassVar

from lowrank_exp.checks import fraction, one_of, positive, whole
from lowrank_exp.pruning.combine import FORMS, normalise, take_off_costs
from lowrank_exp.pruning.criteria import Taylor
from lowrank_exp.pruning.schedules.bound import MostSaved
from lowrank_exp.pruning.schedules.schedule import Action, Moment, Remove, Schedule
from lowrank_exp.pruning.schedules.view import Criterion, View
from lowrank_exp.pruning.selection import Chosen, pick_lowest

MEGA = 1e6
TOLERANCE = 0.01  # of a target for MACs, within which it is met


@dataclass(frozen=True, kw_only=True)
class Iterative(Schedule):
    """Every `updates` steps the `filters` coupled channels of the lowest scores are removed, until a target is met.

    The last time only as many go as the target for MACs asks for. After it the training goes on to its last epoch.
    With `filters` None as many go every time as keep the MACs on a straight line to their target, which is met after
    three quarters of the steps.

    Args:
        criterion: ranks filters; the paper's is `Taylor`.
        macs: target: the fraction of the MACs at the beginning that may remain, in (0, 1); None: none.
        accuracy: target: nothing more is removed after an epoch whose validation accuracy (a fraction) is below it;
            None: none. With both, the first one met counts.
        filters: channels removed at a time, at least 1; None: as many as reach the target for MACs in time.
        updates: steps from one time to the next, at least 1.
        form: brings the scores of layers to one measure, see `combine.normalise`; the paper's is `l2`.
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
    filters: int | None = 1
    updates: int = 30
    form: str = "l2"
    cost_weight: float = 0.0
    how: str = "sum"

    def __post_init__(self) -> None:
        if self.filters is not None:
            whole("Iterative: filters", self.filters)
        whole("Iterative: updates", self.updates)
        one_of("Iterative: form", self.form, FORMS)
        if self.macs is None and self.accuracy is None:
            raise ValueError("Iterative: there is no target: set macs or accuracy")
        if self.macs is None and self.filters is None:
            raise ValueError("Iterative: filters=None needs a target for MACs: set macs, or a number of filters")
        for option in ("macs", "accuracy"):
            value = getattr(self, option)
            if value is not None:
                fraction(option, value, f"Iterative: {option}={value!r} is not a fraction between 0 and 1", one=False)
        positive("Iterative: cost_weight", self.cost_weight, zero=True)

    def check(self, view: View, steps_per_epoch: int, epochs: int) -> None:
        steps = steps_per_epoch * epochs
        if not steps:
            raise ValueError(
                "Iterative: filters go between the steps of a training, and this one has 0 epochs: give it some, or "
                "take one-shot pruning, which needs none"
            )
        if self.macs is None:
            if epochs < 2:
                raise ValueError(
                    f"Iterative: accuracy={self.accuracy} is looked at between epochs, and the training has one: give "
                    "it more, or set macs"
                )
            self._check_updates(steps)
            return
        least = view.macs(view.without({group.name: range(group.channels) for group in view.groups})) / view.dense_macs
        if least > self.macs:
            raise ValueError(
                f"Iterative: macs={self.macs} cannot be reached: with one channel left of every group, {least:.3f} of "
                "the MACs remain. Raise macs, or prune other layers too"
            )
        self._check_updates(steps)
        if self.filters is not None:
            self._check_steps(self.macs, MostSaved(view), steps_per_epoch, epochs)

    def _check_updates(self, steps: int) -> None:
        if self.updates > steps:
            raise ValueError(
                f"Iterative: updates={self.updates} is more than the {steps:,} steps of the training: filters would go "
                "once and never again. Lower updates, or train for longer"
            )

    def _check_steps(self, macs: float, most: MostSaved, steps_per_epoch: int, epochs: int) -> None:
        """Nothing, if so many steps may be enough for the target, whichever channels the criterion chooses."""
        steps = steps_per_epoch * epochs
        times = len(range(0, steps, self.updates))
        left = most.left(times * self.filters)
        if left <= macs * (1 + TOLERANCE):
            return
        channels = most.needed(macs)
        turns = -(-channels // self.filters)
        enough = (turns - 1) * self.updates + 1
        sooner = f"updates={(steps - 1) // (turns - 1)}, " if 1 < turns <= steps else ""
        raise ValueError(
            f"Iterative: macs={macs} cannot be reached: {steps:,} steps ({epochs} epochs of {steps_per_epoch:,}), "
            f"{self.updates} from one time to the next, remove {times} x {self.filters} channels, and at least "
            f"{left:.3f} of the MACs remain. {channels:,} channels or more have to go: set filters=null (as many as it "
            f"takes) or filters={-(-channels // times)}, {sooner}or train for {enough:,} steps "
            f"({-(-enough // steps_per_epoch)} epochs) or more"
        )

    def met(self, view: View) -> bool:
        """Whether nothing more is to be removed."""
        if self.accuracy is not None and any(accuracy < self.accuracy for accuracy in view.accuracies):
            return True
        return self.macs is not None and view.macs() <= self.macs * view.dense_macs

    def due(self, moment: Moment, view: View) -> Action | None:
        first = moment.begins and moment.step == 0
        if not first and (moment.begins or moment.step % self.updates or moment.last):
            return None
        count = sum(group.channels - 1 for group in view.groups)
        goal = 1.0 if self.macs is None else self.macs
        if self.filters is None:
            turns = self._turns(moment.steps_per_epoch * moment.epochs)
            goal = 1 - (1 - self.macs) * min(1, (moment.step // self.updates + 1) / turns)
        else:
            count = min(self.filters, count)
        if not count or self.met(view) or (self.filters is None and view.macs() <= goal * view.dense_macs):
            return None
        scores = view.of_groups(normalise(view.scores(self.criterion), self.form), self.how)
        if self.cost_weight:
            scores = take_off_costs(scores, _saved(view), self.cost_weight)
        return Remove(view.without(self._enough(scores, count, view, goal)))

    def missed(self, view: View) -> str:
        left, channels = view.macs() / view.dense_macs, sum(group.channels for group in view.groups)
        more = "remove more filters at a time (filters=null: as many as it takes), or more often, or train for longer"
        if self.accuracy is not None and any(accuracy < self.accuracy for accuracy in view.accuracies):
            return ""
        if self.macs is None:
            best = f"{min(view.accuracies):.4f} at the lowest" if view.accuracies else "not measured"
            return (
                f"pruning went on to the end of the training: the validation accuracy was {best}, the target is "
                f"{self.accuracy}; {left:.4f} of the MACs and {channels:,} channels remain: {more}"
            )
        if left <= self.macs * (1 + TOLERANCE):
            return ""
        return f"{left:.4f} of the MACs remain, the target is {self.macs}; {channels:,} channels are left: {more}"

    def rankings(self, view: View, steps_per_epoch: int, epochs: int) -> int:
        steps = steps_per_epoch * epochs
        times = len(range(0, steps, self.updates))
        if self.macs is None:
            return times
        if self.filters is None:
            return min(times, self._turns(steps))
        kept = self.stand_in(view)
        gone = sum(group.channels - len(kept[group.name]) for group in view.groups if group.name in kept)
        return min(times, -(-gone // self.filters))

    def _turns(self, steps: int) -> int:
        """How many times filters go until the target for MACs is met, of a training of so many steps."""
        return len(range(0, steps * 3 // 4 + 1, self.updates))

    def stand_in(self, view: View) -> dict[str, tuple[int, ...]]:
        if self.macs is None:
            return {}
        low, high = 0.0, 1.0  # shares: too few and enough
        for _ in range(8):
            middle = (low + high) / 2
            small = view.macs(view.shares(middle)) <= self.macs * view.dense_macs
            low, high = (low, middle) if small else (middle, high)
        return view.shares(min(high, 1 - 1e-9))

    def _enough(self, scores: dict, count: int, view: View, goal: float) -> Chosen:
        """The `count` lowest, or the fewest with which no more than that fraction of the MACs is left."""
        chosen = pick_lowest(scores, count, groups=view.groups)
        if self.macs is None or view.macs(view.without(chosen)) > goal * view.dense_macs:
            return chosen
        few, enough = 0, count
        while enough - few > 1:
            middle = (few + enough) // 2
            fewer = pick_lowest(scores, middle, groups=view.groups)
            if view.macs(view.without(fewer)) <= goal * view.dense_macs:
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
