"""An end of a fit before its last epoch, by what is measured of the network after every epoch."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import pytorch_lightning as pl
from torch import nn


class Until(Protocol):
    """What is measured after every epoch, and whether the fit is to end there.

    A fit that goes on from its checkpoint measures nothing again: what was measured stands in the history. The object's
    `repr` tells it from others, its options included; with several devices it is sent to every process.
    """

    def measure(self, network: nn.Module) -> Mapping[str, float]:
        """Numbers of the network, which join the metrics of the epoch; it is not changed."""

    def met(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Whether the fit ends after the last epoch of `history`."""


class WatchEveryEpoch(pl.Callback):
    """Adds the numbers of `until` to the epoch's metrics, and ends the fit where they say so.

    It must come before the callback that writes the checkpoint.
    """

    def __init__(self, until: Until) -> None:
        self.until = until

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure, then ask."""
        pl_module.history[-1].update(self.until.measure(pl_module.network))
        if self.until.met(pl_module.history):
            trainer.should_stop = True
