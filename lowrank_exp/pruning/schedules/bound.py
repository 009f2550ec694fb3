"""What a number of channels can save at most, before any of them has a score."""

from bisect import bisect_left
from itertools import accumulate

from lowrank_exp.pruning.schedules.view import View
from lowrank_exp.pruning.selection import parts

ROUNDING = 1e-9


class MostSaved:
    """The least MACs that can be left of a network when n of its channels have gone, whichever they are.

    One channel saves most in the whole network: of a convolution between two groups that lose the shares x and y,
    1 - (1 - x)(1 - y) <= x + y of the MACs go. So n channels save at most the sum of the n largest savings of single
    ones, where every group keeps one.

    Args:
        view: of the network, which may lie on the meta device.
    """

    def __init__(self, view: View) -> None:
        savings: list[float] = []
        for group in view.groups:
            cells = parts(group.channels, group.blocks)
            most = min(map(len, cells)) - 1
            if most:
                saved = view.macs() - view.macs(view.without({group.name: [cell[0] for cell in cells]}))
                savings += [saved / len(cells)] * (most * len(cells))
        self.dense = view.dense_macs
        self.saved = [0.0, *accumulate(sorted(savings, reverse=True))]

    def left(self, channels: int) -> float:
        """The smallest fraction of the MACs that may be left without so many channels."""
        return 1 - self.saved[min(channels, len(self.saved) - 1)] / self.dense

    def needed(self, macs: float) -> int:
        """How many channels have to go at least before that fraction of the MACs may be left.

        Raises:
            ValueError: all of them do not suffice by this count.
        """
        n = bisect_left(self.saved, (1 - macs - ROUNDING) * self.dense)
        if n == len(self.saved):
            raise ValueError(f"{macs} of the MACs cannot be reached: {self.left(n):.3f} remain at least")
        return n
