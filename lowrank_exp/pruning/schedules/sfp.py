"""Soft filter pruning: the smallest filters of every layer are set to 0 after each epoch, and may grow again.

Legend: P the share of a layer's filters (the authors' code calls 1 - P the rate).
"""

from dataclasses import dataclass, field

from torch import Tensor, nn

from lowrank_exp.checks import whole
from lowrank_exp.edits import edits_of
from lowrank_exp.network.shapes import meta_copy
from lowrank_exp.pruning.counting import basic_blocks, sfp_published_macs
from lowrank_exp.pruning.criteria import L2
from lowrank_exp.pruning.schedules.schedule import Action, Mask, Moment, Schedule, Zero, fraction_of_filters, some_go
from lowrank_exp.pruning.schedules.view import Criterion, View
from lowrank_exp.pruning.selection import pick_lowest_of_each


@dataclass(frozen=True, kw_only=True)
class SFP(Schedule):
    """After every epoch floor(P O) of the O filters of every layer become 0; the next epoch trains them on.

    After the last epoch they stay 0, and the batch norms behind them are silenced too, so that removing them changes
    nothing.

    Args:
        share: P, of each layer's filters, from 0 to below 1; 0.3 in most of the paper's tables.
        criterion: which filters; the paper's is `L2`, the norm.
        every: epochs from one time to the next, at least 1.
        start: whether filters are also set to 0 before the first epoch, as the authors' code does. Behind them a new
            batch norm has shift 0, at which a ReLU passes no gradient on: filters of a new network that begin at 0 stay
            there.
        coupled: False: each layer has filters of its own, as published; where several layers add to one channel, it
            can be removed only if all have chosen it. True: such layers lose the same channels, those of the lowest
            mean score, and all of them can be removed.

    Raises:
        ValueError: an option out of range.

    Source: He, Kang, Dong, Fu, Yang 2018, "Soft filter pruning for accelerating deep convolutional neural networks",
    algorithm 1.

    Differs from the paper:
        1. The bias of a filter becomes 0 too, where there is one.
        2. No filters are set to 0 before training, see `start`.
        3. Batch norms are silenced in the end: the paper leaves their shifts, which the small network cannot have.
    """

    share: float = 0.3
    criterion: Criterion = field(default_factory=L2)
    every: int = 1
    start: bool = False
    coupled: bool = False

    def __post_init__(self) -> None:
        fraction_of_filters("SFP: share", self.share)
        whole("SFP: every", self.every)

    def check(self, view: View, steps_per_epoch: int, epochs: int) -> None:
        some_go(self, view.sizes().values(), together=False)
        if not epochs:
            raise ValueError(
                "SFP: filters become 0 at the end of epochs, and the training has none: give it some, or take one-shot "
                "pruning, which needs none"
            )

    def due(self, moment: Moment, view: View) -> Action | None:
        if moment.last:
            return Mask(self._smallest(view))
        begins = moment.begins and moment.step == 0 and self.start
        if begins or (moment.ends_epoch and moment.epoch % self.every == 0):
            return Zero(self._smallest(view))
        return None

    def rankings(self, view: View, steps_per_epoch: int, epochs: int) -> int:
        return self.start + -(-epochs // self.every)

    def stand_in(self, view: View) -> dict[str, tuple[int, ...]]:
        single = {group.name for group in view.groups if self.coupled or len(group.producers) == 1}
        return {name: kept for name, kept in view.shares(self.share).items() if name in single}

    def published_costs(self, network: nn.Module, example: Tensor) -> dict[str, float]:
        """`sfp_published_macs` at 1 - share, and the fraction that this is below the same count of the whole network.

        Of ResNets with basic blocks and no convolutions in shortcuts, as they were built; of others there is no such
        count.
        """
        if edits_of(network) or not basic_blocks(network):
            return {}
        network, example = meta_copy(network), example.to("meta")
        dense, macs = (sfp_published_macs(network, example, keep) for keep in (1, 1 - self.share))
        return {"sfp_published_macs": macs, "sfp_published_reduction": 1 - macs / dense}

    def _smallest(self, view: View) -> dict[str, tuple[int, ...]]:
        scores = view.scores(self.criterion)
        if not self.coupled:
            return pick_lowest_of_each(scores, self.share)
        return view.filters_of(pick_lowest_of_each(view.of_groups(scores, "mean"), self.share, groups=view.groups))
