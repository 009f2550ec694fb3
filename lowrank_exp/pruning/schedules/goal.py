"""What may be left of a network, in MACs and in measured time, and the fewest channels without which no more is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowrank_exp.pruning.schedules.view import View
from lowrank_exp.pruning.selection import Chosen, pick_lowest
from lowrank_exp.pruning.times import DENSE

Keep = Mapping[str, Sequence[int]]
TRIES = 6  # networks that are measured for one answer
NEAR = 0.02  # below a target of time, within which it is not tried to keep more
STRIDE = 0.85  # of MACs or time, at which it is measured again
BLOCKS = (1, 8, 16)  # channels that runtimes compute together
FLAT = 1.05  # times nearer to each other are taken for equal
SPARE = 0.75  # of a target of time: what blocks must reach, so that there is still a choice


@dataclass(frozen=True)
class Goal:
    """Fractions of the MACs and of the time at the beginning that may be left; None: any. All that are given hold."""

    macs: float | None = None
    latency: float | None = None

    def __bool__(self) -> bool:
        return self.macs is not None or self.latency is not None

    def on_the_way(self, share: float) -> "Goal":
        """What may be left when that share of what has to go is gone."""

        def straight(target: float | None) -> float | None:
            return None if target is None else 1 - (1 - target) * share

        return Goal(straight(self.macs), straight(self.latency))

    def holds(self, view: View, keep: Keep | None = None) -> bool:
        """Whether no more is left of the network, or would be with `keep`; its time is predicted from the MACs."""
        macs = view.macs(keep)
        if self.macs is not None and macs > self.macs * view.dense_macs:
            return False
        return self.latency is None or view.known_times.predict(macs / view.dense_macs) <= self.latency

    def reached(self, view: View) -> bool:
        """The same of the network as it is, whose time is measured where it may be near."""
        near = self if self.latency is None else replace(self, latency=self.latency / STRIDE)
        return near.holds(view) and (self.latency is None or view.time_left() <= self.latency)


def pick_fewest(scores: Mapping[str, Tensor], count: int, view: View, goal: Goal, together: int = 1) -> Chosen:
    """The fewest channels of the lowest scores without which the goal holds, `count` at most; else all of these.

    Times are predicted. See `pick_lowest` for channels that go `together`.
    """
    chosen = pick_lowest(scores, count, groups=view.groups, together=together)
    if not goal or not goal.holds(view, view.without(chosen)):
        return chosen
    few, enough, too_few = 0, count, None
    while enough - few > 1:
        middle = (few + enough) // 2
        fewer = pick_lowest(scores, middle, groups=view.groups, together=together)
        if fewer == chosen or (fewer != too_few and goal.holds(view, view.without(fewer))):
            enough, chosen = middle, fewer
        else:
            few, too_few = middle, fewer
    return chosen


def pick_by_time(scores: Mapping[str, Tensor], count: int, view: View, goal: Goal, together: int = 1) -> Chosen:
    """The same with measured times: what is predicted is measured, and predicted anew with what was learnt."""
    best: Chosen | None = None
    tried: set[int] = set()
    for _ in range(TRIES):
        chosen = pick_fewest(scores, count, view, goal, together)
        if goal.latency is None or not goal.holds(view, view.without(chosen)) or size(chosen) in tried:
            return chosen if best is None else best
        tried.add(size(chosen))
        left = view.time_left(view.without(chosen))
        if left <= goal.latency and (best is None or size(chosen) < size(best)):
            best = chosen
        if goal.latency * (1 - NEAR) <= left <= goal.latency:
            break
    return chosen if best is None else best


def size(chosen: Chosen) -> int:
    """How many channels go."""
    return sum(map(len, chosen.values()))


def measure_on_the_way(view: View) -> None:
    """Measure the network as it is, unless one of little more MACs was."""
    left = view.macs_left()
    if not any(left <= macs <= left / STRIDE for macs in view.known_times.measured):
        view.time_left()


def least(view: View, together: int = 1) -> Keep:
    """What stays when all channels go that can; see `pick_lowest` for channels that go `together`."""
    scores = {group.name: torch.zeros(group.channels) for group in view.groups}
    count = sum(group.channels - 1 for group in view.groups)
    return view.without(pick_lowest(scores, count, groups=view.groups, together=together))


def find_block(view: View, goal: Goal) -> int:
    """How many channels of a group go together, so that what stays fills the blocks that the runtime computes.

    Networks of which one channel more than half is left of every group, or that rounded up to blocks, are timed in
    turn. Blocks are those that compute the most MACs in the time that channels take: what is left of the time with one
    channel of every group is not theirs. Of those that are as good as the best the narrowest are taken, and they are
    halved until the target can be reached with channels to spare.
    """
    keeps = {}
    for block in BLOCKS:
        left = {group.name: -(-(group.channels // 2 + 1) // block) * block for group in view.groups}
        gone = {group.name: range(max(0, group.channels - left[group.name])) for group in view.groups}
        keeps[block] = view.without(gone)
    ms = view.known_times.milliseconds({str(block): view.cut(keep) for block, keep in keeps.items()})
    idle = view.time_left(least(view)) * ms[DENSE]
    speeds = {block: view.macs(keep) / max(ms[str(block)] - idle, 1e-9) for block, keep in keeps.items()}
    block = min(block for block in BLOCKS if speeds[block] * FLAT >= max(speeds.values()))
    while block > 1 and not _can_spare(view, goal, block):
        block //= 2
    return block


def _can_spare(view: View, goal: Goal, block: int) -> bool:
    keep = least(view, block)
    within = goal.macs is None or view.macs_left(keep) <= SPARE * goal.macs
    return within and (goal.latency is None or view.time_left(keep) <= SPARE * goal.latency)
