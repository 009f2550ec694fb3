"""Iterative pruning: rank, remove some filters, train a little, and again, until the network is small enough."""

from dataclasses import dataclass, field
from typing import ClassVar

from lowrank_exp.checks import fraction, one_of, positive, whole
from lowrank_exp.pruning.combine import FORMS, normalise, take_off_costs
from lowrank_exp.pruning.criteria import Taylor
from lowrank_exp.pruning.schedules.bound import MostSaved
from lowrank_exp.pruning.schedules.goal import Goal, find_block, measure_on_the_way, pick_by_time, pick_fewest
from lowrank_exp.pruning.schedules.schedule import Action, Moment, Remove, Schedule
from lowrank_exp.pruning.schedules.view import Criterion, View

MEGA = 1e6
TOLERANCE = 0.01  # of a target for MACs or time, within which it is met
SPENT = 0.95  # of a target, from which on it counts as used up
WORDS = {"macs": "MACs", "latency": "time"}


@dataclass(frozen=True, kw_only=True)
class Iterative(Schedule):
    """Every `updates` steps the `filters` coupled channels of the lowest scores are removed, until a target is met.

    The last time only as many go as the targets for MACs and time ask for. After it the training goes on to its last
    epoch. With `filters` None as many go every time as keep MACs and time on straight lines to their targets, which are
    met after three quarters of the steps.

    Time is that of the network on a runtime, as a fraction of the time at the beginning: measured at steps of the MACs
    and at the end, predicted from the MACs between (`PrunedTimes`). Where there is a target for it and `filters` is
    None, channels go in blocks as the runtime computes them (`find_block`).

    Args:
        criterion: ranks filters; the paper's is `Taylor`.
        macs: target: the fraction of the MACs at the beginning that may remain, in (0, 1); None: none.
        latency: target: the fraction of the time at the beginning that may remain, in (0, 1); None: none. With `macs`
            both hold in the end.
        accuracy: target: nothing more is removed after an epoch whose validation accuracy (a fraction) is below it;
            None: none. With others, the first one met counts.
        filters: channels removed at a time, at least 1; None: as many as reach the targets for MACs and time.
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
    latency: float | None = None
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
        if not self.goal and self.accuracy is None:
            raise ValueError("Iterative: there is no target: set macs, latency or accuracy")
        if not self.goal and self.filters is None:
            raise ValueError(
                "Iterative: filters=None needs a target for MACs or time: set macs or latency, or a number of filters"
            )
        for option in ("macs", "latency", "accuracy"):
            value = getattr(self, option)
            if value is not None:
                fraction(option, value, f"Iterative: {option}={value!r} is not a fraction between 0 and 1", one=False)
        positive("Iterative: cost_weight", self.cost_weight, zero=True)

    @property
    def goal(self) -> Goal:
        """What may be left in the end."""
        return Goal(self.macs, self.latency)

    def check(self, view: View, steps_per_epoch: int, epochs: int) -> None:
        steps = steps_per_epoch * epochs
        if not steps:
            raise ValueError(
                "Iterative: filters go between the steps of a training, and this one has 0 epochs: give it some, or "
                "take one-shot pruning, which needs none"
            )
        if not self.goal and epochs < 2:
            raise ValueError(
                f"Iterative: accuracy={self.accuracy} is looked at between epochs, and the training has one: give "
                "it more, or set macs"
            )
        self._check_reach(view)
        self._check_updates(steps)
        if self.macs is not None and self.filters is not None:
            self._check_steps(self.macs, MostSaved(view), steps_per_epoch, epochs)

    def _check_reach(self, view: View) -> None:
        """Nothing, if one channel of every group is few enough; its time is not known where nothing is measured."""
        keep = view.without({group.name: range(group.channels) for group in view.groups})
        ways = {"macs": view.macs_left} | ({} if view.times is None else {"latency": view.time_left})
        for option, left in ways.items():
            target = getattr(self, option)
            if target is not None and (least := left(keep)) > target:
                raise ValueError(
                    f"Iterative: {option}={target} cannot be reached: with one channel left of every group, "
                    f"{least:.3f} of the {WORDS[option]} remain. Raise {option}, or prune other layers too"
                )

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
        return bool(self.goal) and self.goal.reached(view)

    def due(self, moment: Moment, view: View) -> Action | None:
        first = moment.begins and moment.step == 0
        if not first and (moment.begins or moment.step % self.updates or moment.last):
            return None
        count = sum(group.channels - 1 for group in view.groups)
        goal, last, together = self.goal, True, 1
        if self.latency is not None:
            measure_on_the_way(view)
        if self.filters is None:
            turns = self._turns(moment.steps_per_epoch * moment.epochs)
            share = min(1, (moment.step // self.updates + 1) / turns)
            goal, last = goal.on_the_way(share), share == 1
        else:
            count = min(self.filters, count)
        if not count or self.met(view) or (self.filters is None and goal.holds(view)):
            return None
        if self.filters is None and self.latency is not None:
            together = view.known_times.block or find_block(view, self.goal)
            view.known_times.block = together
        scores = view.of_groups(normalise(view.scores(self.criterion), self.form), self.how)
        if self.cost_weight:
            scores = take_off_costs(scores, _saved(view), self.cost_weight)
        if self.latency is not None and last:
            return Remove(view.without(pick_by_time(scores, count, view, self.goal, together)))
        return Remove(view.without(pick_fewest(scores, count, view, goal, together)))

    def missed(self, view: View) -> str:
        channels = sum(group.channels for group in view.groups)
        more = "remove more filters at a time (filters=null: as many as it takes), or more often, or train for longer"
        if self.accuracy is not None and any(accuracy < self.accuracy for accuracy in view.accuracies):
            return ""
        if not self.goal:
            best = f"{min(view.accuracies):.4f} at the lowest" if view.accuracies else "not measured"
            return (
                f"pruning went on to the end of the training: the validation accuracy was {best}, the target is "
                f"{self.accuracy}; {view.macs_left():.4f} of the MACs and {channels:,} channels remain: {more}"
            )
        left = {"macs": view.macs_left()} | ({} if self.latency is None else {"latency": view.time_left()})
        missed = [
            f"{left[option]:.4f} of the {WORDS[option]} remain, the target is {target}"
            for option, target in (("macs", self.macs), ("latency", self.latency))
            if target is not None and left[option] > target * (1 + TOLERANCE)
        ]
        return f"{', '.join(missed)}; {channels:,} channels are left: {more}" if missed else ""

    def remarks(self, view: View) -> list[str]:
        if self.macs is None or self.latency is None:
            return []
        left = view.time_left()
        if left > self.latency * min(SPENT, view.macs_left() / self.macs):
            return []
        return [
            f"{left:.4f} of the time remain, and {self.latency} may: macs={self.macs} asked for more to go. Where time "
            "alone is to hold, set pruning.macs=null"
        ]

    def rankings(self, view: View, steps_per_epoch: int, epochs: int) -> int:
        steps = steps_per_epoch * epochs
        times = len(range(0, steps, self.updates))
        if not self.goal:
            return times
        if self.filters is None:
            return min(times, self._turns(steps))
        kept = self.stand_in(view)
        gone = sum(group.channels - len(kept[group.name]) for group in view.groups if group.name in kept)
        return min(times, -(-gone // self.filters))

    def _turns(self, steps: int) -> int:
        """How many times filters go until the targets for MACs and time are met, of a training of so many steps."""
        return len(range(0, steps * 3 // 4 + 1, self.updates))

    def stand_in(self, view: View) -> dict[str, tuple[int, ...]]:
        targets = [target for target in (self.macs, self.latency) if target is not None]
        if not targets:
            return {}
        low, high = 0.0, 1.0  # shares: too few and enough
        for _ in range(8):
            middle = (low + high) / 2
            small = view.macs(view.shares(middle)) <= min(targets) * view.dense_macs  # as if time fell as they do
            low, high = (low, middle) if small else (middle, high)
        return view.shares(min(high, 1 - 1e-9))


def _saved(view: View) -> dict[str, float]:
    """By group the millions of MACs that one of its channels costs now."""
    now = view.macs()
    return {
        group.name: (now - view.macs(view.without({group.name: [0]}))) / MEGA if group.channels > 1 else 0.0
        for group in view.groups
    }
