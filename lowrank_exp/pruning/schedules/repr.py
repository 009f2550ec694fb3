"""RePr: filters that overlap with others are switched off for some epochs, and come back as new ones.

Legend: S1 how long the whole network is trained, S2 how long without the dropped filters, N cycles, p the share that is
dropped, F filters in all.
"""

from dataclasses import dataclass, field
from itertools import pairwise

from lowrank_exp.checks import one_of, positive, whole
from lowrank_exp.pruning.criteria import Orthogonality
from lowrank_exp.pruning.null_space import NullSpace
from lowrank_exp.pruning.schedules.schedule import Action, Mask, Moment, Revive, Schedule, fraction_of_filters, some_go
from lowrank_exp.pruning.schedules.view import Criterion, View
from lowrank_exp.pruning.selection import pick_lowest_of_each, pick_lowest_share


@dataclass(frozen=True, kw_only=True)
class RePr(Schedule):
    r"""N cycles, of S1 epochs of the whole network and S2 without floor(p F) of its filters, which then come back.

    A dropped filter is silent, with its bias and the batch norm behind it, and no step moves it. It comes back from the
    null space of its layer's kept filters and of its own old values, its bias and the batch norm's shift 0, the scale
    1, the statistics and what the optimizer remembers of it those of a new one. After the cycles training goes on.

    Args:
        criterion: ranks filters; the paper's is `Orthogonality`.
        S1, S2: epochs, at least 1, of which 20 and 10 are the paper's; or both as fractions of the training.
        N: cycles, at least 1; 3 is the paper's.
        share: p, of the filters that is dropped, from 0 to below 1; 0.3 is the paper's.
        scope: `global`, the filters of all layers are ranked together, as in the paper; `layer`, each layer loses
            floor(p O) of its O filters.
        first: whether the first layer is ranked too. Its filters are short, and overlap more than others.
        null_space: length of new filters, and what they are where the null space is empty.
        next_inputs: what becomes of weights that read a channel that was silent: `kept`, `zeroed`, `redrawn`.
        same: whether every cycle drops the filters of the first one again.
        revived_gradient: factor on the gradients of filters that came back, until filters are ranked again, or for as
            long as S1; above 0.
        last: `revived`, the paper's; or `masked`: the filters of the last cycle stay off, to be removed.

    Raises:
        ValueError: an option out of range.

    Source: Prakash, Storer, Florencio, Zhang 2019, "RePr: improved training of convolutional filters", algorithm 1.
    `scope=layer`, the first layer left out, larger gradients of filters that came back and the three values of
    `next_inputs` are remedies that its re-implementers named.

    Differs from the paper:
        1. The paper does not say what becomes of biases and of the next layer's weights.
        2. A layer's last filter is not dropped; its turn passes to the next in rank.
    """

    criterion: Criterion = field(default_factory=Orthogonality)
    S1: int | float = 20
    S2: int | float = 10
    N: int = 3
    share: float = 0.3
    scope: str = "global"
    first: bool = True
    null_space: NullSpace = field(default_factory=NullSpace)
    next_inputs: str = "kept"
    same: bool = False
    revived_gradient: float = 1.0
    last: str = "revived"

    def __post_init__(self) -> None:
        if isinstance(self.S1, float) and isinstance(self.S2, float):
            if not (self.S1 > 0 and self.S2 > 0 and self.N * (self.S1 + self.S2) <= 1):
                raise ValueError(
                    f"RePr: N={self.N} times S1={self.S1} and S2={self.S2} must be fractions of a training, above 0 "
                    "and up to 1 in all"
                )
        else:
            whole("RePr: S1", self.S1)
            whole("RePr: S2", self.S2)
        whole("RePr: N", self.N)
        fraction_of_filters("RePr: share", self.share)
        one_of("RePr: scope", self.scope, ("global", "layer"))
        one_of("RePr: next_inputs", self.next_inputs, ("kept", "zeroed", "redrawn"))
        one_of("RePr: last", self.last, ("revived", "masked"))
        factor = self.revived_gradient
        positive("revived_gradient", factor, f"RePr: revived_gradient={factor!r} is not a number above 0")

    def check(self, view: View, steps_per_epoch: int, epochs: int) -> None:
        places = self._places(steps_per_epoch, epochs)
        end = steps_per_epoch * epochs - (self.last == "revived")  # filters that come back last are trained
        if any(later <= sooner for sooner, later in pairwise([0, *places])) or places[-1] > end:
            after = " with a rest for the filters that come back last" if self.last == "revived" else ""
            raise ValueError(
                f"RePr: N={self.N} cycles of S1={self.S1} and S2={self.S2} do not fit into {epochs} epochs{after}: "
                "give the training more epochs, or fewer and shorter cycles"
            )
        if not self._ranked(view):
            raise ValueError("RePr: the first layer is the only one with filters that can be dropped: set first=true")
        some_go(self, view.sizes(self._ranked(view)).values(), together=self.scope == "global")

    def due(self, moment: Moment, view: View) -> Action | None:
        places = self._places(moment.steps_per_epoch, moment.epochs)
        if not moment.at(moment.step) or moment.step not in places:
            return None
        turn = places.index(moment.step)
        if turn % 2 == 0:
            return Mask(self._dropped(view), remember=True)
        stay = self.last == "masked" and turn == len(places) - 1
        return None if stay else Revive(self.null_space, self.next_inputs)

    def gradient_factor(self, moment: Moment) -> float:
        places = self._places(moment.steps_per_epoch, moment.epochs)
        back = max((t for t in places[1::2] if t <= moment.step), default=None)
        return 1.0 if back is None or moment.step >= back + places[0] else self.revived_gradient

    def rankings(self, view: View, steps_per_epoch: int, epochs: int) -> int:
        return 1 if self.same else self.N

    def stand_in(self, view: View) -> dict[str, tuple[int, ...]]:
        if self.last == "revived":
            return {}
        ranked = set(self._ranked(view))
        single = {group.name for group in view.groups if len(group.producers) == 1 and ranked & set(group.producers)}
        return {name: kept for name, kept in view.shares(self.share).items() if name in single}

    def _places(self, steps_per_epoch: int, epochs: int) -> list[int]:
        """Steps at which filters go, and come back, in turn."""
        unit = steps_per_epoch * (epochs if isinstance(self.S1, float) else 1)
        begins = [cycle * (self.S1 + self.S2) for cycle in range(self.N)]
        return [round(place * unit) for begin in begins for place in (begin + self.S1, begin + self.S1 + self.S2)]

    def _ranked(self, view: View) -> list[str]:
        return view.layers if self.first else view.layers[1:]

    def _dropped(self, view: View) -> dict[str, tuple[int, ...]]:
        if self.same and view.first is not None:
            return dict(view.first)
        choose = pick_lowest_share if self.scope == "global" else pick_lowest_of_each
        return choose(view.scores(self.criterion, self._ranked(view)), self.share)
