"""One-shot pruning: filters are ranked once, and the lowest stay silent."""

from dataclasses import dataclass, field

from lowrank_exp.checks import one_of, whole
from lowrank_exp.pruning.criteria import L1
from lowrank_exp.pruning.schedules.schedule import Action, Mask, Moment, Schedule, fraction_of_filters, some_go
from lowrank_exp.pruning.schedules.view import Criterion, View
from lowrank_exp.pruning.selection import pick_lowest_of_each, pick_lowest_share


@dataclass(frozen=True, kw_only=True)
class OneShot(Schedule):
    """At the beginning of one epoch the coupled channels of the lowest scores are silenced, for good.

    Args:
        share: of the channels, from 0 to below 1.
        criterion: ranks filters.
        scope: `layer`: each group of coupled channels loses that share; `global`: all are ranked together.
        how: how the scores of the filters of one channel are put together, see `group_scores`.
        epoch: counted from 0: 0, before any training.

    Raises:
        ValueError: an option out of range.

    Source: Li, Kadav, Durdanovic, Samet, Graf 2017, "Pruning filters for efficient ConvNets", pruned once and
    retrained.
    """

    share: float = 0.3
    criterion: Criterion = field(default_factory=L1)
    scope: str = "layer"
    how: str = "mean"
    epoch: int = 0

    def __post_init__(self) -> None:
        fraction_of_filters("OneShot: share", self.share)
        one_of("OneShot: scope", self.scope, ("layer", "global"))
        whole("OneShot: epoch", self.epoch, 0)

    def check(self, view: View, steps_per_epoch: int, epochs: int) -> None:
        some_go(self, [group.channels for group in view.groups], together=self.scope == "global")
        if self.epoch and self.epoch >= epochs:
            raise ValueError(f"OneShot: epoch={self.epoch} does not come in a training of {epochs}")

    def due(self, moment: Moment, view: View) -> Action | None:
        if not moment.begins or moment.epoch != self.epoch:
            return None
        choose = pick_lowest_of_each if self.scope == "layer" else pick_lowest_share
        scores = view.of_groups(view.scores(self.criterion), self.how)
        return Mask(view.filters_of(choose(scores, self.share, groups=view.groups)))

    def rankings(self, view: View, steps_per_epoch: int, epochs: int) -> int:
        return 1

    def stand_in(self, view: View) -> dict[str, tuple[int, ...]]:
        return view.shares(self.share)
