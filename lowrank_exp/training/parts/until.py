"""An end of a fit before its last epoch, by what is measured of the network after every epoch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import nn

from lowrank_exp.training.parts.part import AtWork, Fit, History, Part


class Until(Protocol):
    """What is measured after every epoch, and whether the fit is to end there.

    A fit that goes on from its checkpoint measures nothing again: what was measured stands in the history. The object's
    `repr` tells it from others, its options included; with several devices it is sent to every process.
    """

    def measure(self, network: nn.Module) -> Mapping[str, float]:
        """Numbers of the network, which join the metrics of the epoch; it is not changed."""

    def met(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Whether the fit ends after the last epoch of `history`."""


@dataclass(frozen=True)
class Ending(Part):
    """An end before the last epoch as a part of a training."""

    name: ClassVar[str] = "until"

    until: Until

    def described(self) -> dict[str, Any]:
        return {self.name: repr(self.until)}

    def at_work(self, fit: Fit) -> "Watch":
        return Watch(self.until, fit.network)


class Watch(AtWork):
    """Adds the numbers of `until` to the epoch's metrics, and ends the fit where they say so."""

    def __init__(self, until: Until, network: nn.Module) -> None:
        self.until, self.network = until, network

    def after_epoch(self, line: dict[str, float], history: History) -> bool:
        """Measure, then ask."""
        line.update(self.until.measure(self.network))
        return self.until.met(history)
