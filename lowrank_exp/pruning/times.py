"""Times of pruned networks: the channels that are left decide them, not the weights."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from lowrank_exp.files.results import digest
from lowrank_exp.network.inputs import floating_type
from lowrank_exp.network.shapes import meta_copy
from lowrank_exp.pruning.trial import lively_copy
from lowrank_exp.rank.timed import batch_of
from lowrank_exp.rank.times.clock import Clock
from lowrank_exp.runtime import Prepared, time_interleaved

VERSION = 1  # of what is measured and how; raised by hand
REPEATS = 4  # times as long as the clock times a layer
DENSE, LEFT = "dense", "left"  # networks: before, and after channels have gone


class PrunedTimes:
    """Times of networks with fewer channels, as fractions of the time of the network that they are left of.

    Each is built with weights that are made up, and passed through in turn with the dense network. Of networks that
    have not been measured the time is predicted from their MACs: on straight lines between those that have.

    Args:
        clock: its runtime, batch size and store.
        dense: the network before anything is removed, on the device where it is timed; it is not changed.
        example: an image, `(1, ...)`.

    Attributes:
        measured: the fractions of the time by fractions of the MACs, of what was measured so far.
        block: how many channels go together, see `schedules.goal.find_block`; None: it is not known yet.
    """

    def __init__(self, clock: Clock, dense: nn.Module, example: Tensor) -> None:
        self.clock, self.batch = clock, batch_of(example, clock)
        self.dense, self.device, self.type = meta_copy(dense), next(dense.parameters()).device, floating_type(dense)
        self.measured: dict[float, float] = {1.0: 1.0}
        self.block: int | None = None

    def milliseconds(self, networks: Mapping[str, nn.Module]) -> dict[str, float]:
        """The times of networks and, by the name `dense`, of the dense one, all taken in turn.

        Args:
            networks: on any device, also the meta one.
        """
        key = self.clock.conditions | {
            "device": self.device.type,
            "batch": list(self.batch.shape),
            "dense": digest(repr(self.dense)),
            "pruned": {name: digest(repr(network)) for name, network in networks.items()},
            "interleaved": VERSION,
        }

        def measure(names: list[str]) -> dict[str, float]:
            prepared = {name: self._prepare(network) for name, network in ({DENSE: self.dense} | networks).items()}
            timings = time_interleaved(prepared, seconds=REPEATS * self.clock.seconds)
            return {name: timing.minimum_ms for name, timing in timings.items()}

        return self.clock.times.table(key, [DENSE, *networks], measure)

    def time(self, network: nn.Module, macs: float) -> float:
        """The fraction of the dense network's time that a network takes, which has that fraction of the MACs."""
        ms = self.milliseconds({LEFT: network})
        self.measured[macs] = ms[LEFT] / ms[DENSE]
        return self.measured[macs]

    def predict(self, macs: float) -> float:
        """The fraction of the time that a network with that fraction of the MACs is expected to take.

        It rises with the MACs. Below all networks that were measured it falls in proportion to them.
        """
        known = sorted(self.measured.items())
        times = np.maximum.accumulate([time for _, time in known])
        lowest = known[0][0]
        return float(np.interp(macs, [m for m, _ in known], times) * min(1.0, macs / lowest))

    def state(self) -> dict[str, Any]:
        """Of a fit that will go on: plain data."""
        return {"measured": [list(pair) for pair in self.measured.items()], "block": self.block}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Know what was known where `state` was left."""
        self.measured |= {macs: time for macs, time in state["measured"]}
        self.block = state["block"]

    def _prepare(self, network: nn.Module) -> Prepared:
        return self.clock.runtime.prepare_for_timing(lively_copy(network).to(self.device, self.type).eval(), self.batch)
