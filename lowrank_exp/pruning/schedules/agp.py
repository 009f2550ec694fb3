"""Automated gradual pruning: sparsity grows along a cubic, fast at first.

Legend: s_i, s_f, s_t sparsity at first, in the end, after t steps; t_0 the first step, Delta_t steps from one time to
the next, n times.
"""

from dataclasses import dataclass, field

from lowrank_exp.checks import one_of, whole
from lowrank_exp.pruning.criteria import L2
from lowrank_exp.pruning.groups import ChannelGroup
from lowrank_exp.pruning.schedules.schedule import Action, Mask, Moment, Schedule, fraction_of_filters, some_go
from lowrank_exp.pruning.schedules.view import Criterion, View
from lowrank_exp.pruning.selection import pick_lowest_of_each, pick_lowest_share


@dataclass(frozen=True, kw_only=True)
class AGP(Schedule):
    r"""Coupled channels are silenced little by little, until a share s_f of them is.

    .. math:: s_t = s_f + (s_i - s_f) \left(1 - \frac{t - t_0}{n \Delta t}\right)^3

    A channel that is silent stays so. The score of a channel that several layers share is the mean of its filters'.

    Args:
        share: s_f, of the channels that are silent in the end, from 0 to below 1.
        share_at_first: s_i, from 0 to `share`.
        criterion: ranks filters, at every time anew.
        begin, end: epochs between which the share grows; `end` None: three quarters of the training, rounded down.
        every: Delta_t, steps, at least 1.
        scope: `layer`: each group of coupled channels loses that share; `global`: all are ranked together.

    Raises:
        ValueError: an option out of range.

    Source: Zhu, Gupta 2017, "To prune, or not to prune: exploring the efficacy of pruning for model compression",
    equation 1.

    Differs from the paper:
        1. Filters in the place of single weights.
        2. The last time is at the end of the stretch also where it is not a multiple of Delta_t.
    """

    share: float = 0.3
    share_at_first: float = 0.0
    criterion: Criterion = field(default_factory=L2)
    begin: int = 0
    end: int | None = None
    every: int = 10
    scope: str = "layer"

    def __post_init__(self) -> None:
        fraction_of_filters("AGP: share", self.share)
        fraction_of_filters("AGP: share_at_first", self.share_at_first)
        if self.share_at_first > self.share:
            raise ValueError(
                f"AGP: share_at_first={self.share_at_first} is above share={self.share}: the share of silent filters "
                "only grows"
            )
        whole("AGP: begin", self.begin, 0)
        whole("AGP: every", self.every)
        if self.end is not None:
            whole("AGP: end", self.end, self.begin + 1)
        one_of("AGP: scope", self.scope, ("layer", "global"))

    def check(self, view: View, steps_per_epoch: int, epochs: int) -> None:
        some_go(self, [group.channels for group in view.groups], together=self.scope == "global")
        if self._end(epochs) <= self.begin or self._end(epochs) > epochs:
            raise ValueError(
                f"AGP: the share grows from epoch {self.begin} to {self._end(epochs)}, the training has {epochs} "
                "epochs: set begin and end within it"
            )

    def due(self, moment: Moment, view: View) -> Action | None:
        t_0, t_n = (epoch * moment.steps_per_epoch for epoch in (self.begin, self._end(moment.epochs)))
        t = moment.step
        starts = moment.begins and t == t_0
        if not starts and (moment.begins or not t_0 < t <= t_n or ((t - t_0) % self.every and t != t_n)):
            return None
        s_i, s_f = self.share_at_first, self.share
        s_t = s_f if t == t_n else s_f + (s_i - s_f) * (1 - (t - t_0) / (t_n - t_0)) ** 3
        choose = pick_lowest_of_each if self.scope == "layer" else pick_lowest_share
        off = {
            group.name: tuple(c for c in range(group.channels) if self._silent(group, c, view)) for group in view.groups
        }
        scores = view.of_groups(view.scores(self.criterion), "mean")
        more = choose(scores, s_t, gone=off, groups=view.groups)
        if view.masked and not more:
            return None
        return Mask(view.filters_of({name: sorted({*off[name], *more.get(name, ())}) for name in off}))

    def rankings(self, view: View, steps_per_epoch: int, epochs: int) -> int:
        return 1 + -(-(self._end(epochs) - self.begin) * steps_per_epoch // self.every)

    def stand_in(self, view: View) -> dict[str, tuple[int, ...]]:
        return view.shares(self.share)

    def _end(self, epochs: int) -> int:
        return max(1, epochs * 3 // 4) if self.end is None else self.end

    def _silent(self, group: ChannelGroup, c: int, view: View) -> bool:
        return all(set(view.masked.get(layer, ())).issuperset(entries[c]) for layer, entries in group.producers.items())
