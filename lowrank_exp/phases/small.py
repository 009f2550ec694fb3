"""Phases of a few lines: `Recompose`, `Evaluate`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from lowrank_exp.machine.stopwatch import stopwatch
from lowrank_exp.network.copying import copy_network
from lowrank_exp.phases.phase import Done, Phase, Setting
from lowrank_exp.phases.rehearsal import Rehearsal
from lowrank_exp.surgery import recompose_


@dataclass(frozen=True, kw_only=True)
class Recompose(Phase):
    """Turn factorized layers back into dense ones, to be factorized anew.

    Args:
        layers: names or `re:` patterns of the layers that were factorized.
    """

    layers: Sequence[str] = ("re:.*",)

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        recompose_(network, self.layers)

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        recompose_(network, self.layers)
        return Done()

    def rehearse(self, network: nn.Module, setting: Setting) -> Rehearsal:
        network, seconds = copy_network(network), stopwatch()
        self.run_(network, setting)
        return Rehearsal(network, [("weights multiplied out", seconds())])


@dataclass(frozen=True, kw_only=True)
class Evaluate(Phase):
    """Change nothing: a row of figures for the network as it is."""

    keeps_dense: ClassVar[bool] = True

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        return

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        return Done()

    def rehearse(self, network: nn.Module, setting: Setting) -> Rehearsal:
        return Rehearsal(network)
