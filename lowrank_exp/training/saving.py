"""Checkpoints of a fit, written by Lightning after every epoch; see `checkpoint` for what is in them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from lowrank_exp.files.whole import open_told, write_whole
from lowrank_exp.training import distributed, generators
from lowrank_exp.training.checkpoint import FIT


class BesideTheTarget(TorchCheckpointIO):
    """Writes to the path that it is given. Lightning's own goes by way of the folder for temporary files, which may be
    small, and holds the whole file in memory."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with open_told(path) as file:
            torch.save(checkpoint, file)


class SaveEveryEpoch(pl.Callback):
    """Writes the checkpoint after every epoch; puts history and generators back where a fit goes on.

    The generators are set when all else is set up and no batch was drawn yet: from `seed`, or as they were
    stored. Of several processes the first writes, each has generators of its own, seeded one after the other.

    Args:
        path: the file, replaced as a whole each time; None writes nothing.
        recipe: see `deciding`.
        seed: of a fit that starts from the beginning.
        own: generators that belong to the loaders.
    """

    def __init__(self, path: Path | None, recipe: dict[str, Any], seed: int, own: Sequence[torch.Generator]) -> None:
        self.path = path
        self.recipe = recipe
        self.seed = seed
        self.own = own
        self._saved: dict[str, Any] | None = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the fit's entry."""
        states = {name: part.state() for name, part in pl_module.parts.items()}
        checkpoint[FIT] = {
            "recipe": self.recipe,
            "history": [dict(metrics) for metrics in pl_module.history],
            **states,
            "generators": distributed.gathered(generators.states(pl_module.device, self.own), trainer.world_size),
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the history now, and the generators' states for the start."""
        pl_module.history = [dict(metrics) for metrics in checkpoint[FIT]["history"]]
        self._saved = checkpoint[FIT]["generators"][trainer.global_rank]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed the generators, or set them as they were after the last finished epoch."""
        generators.seed_all((self.seed + trainer.global_rank) % 2**32 if trainer.global_rank else self.seed)
        if self._saved is not None:
            generators.restore(self._saved, pl_module.device, self.own)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the checkpoint: the whole of it, or the old one stays."""
        if self.path is None:
            return
        if trainer.is_global_zero:
            with write_whole(self.path) as temporary:
                trainer.save_checkpoint(temporary, weights_only=False)
        else:  # has its part in the checkpoint, and writes nothing
            trainer.save_checkpoint(self.path, weights_only=False)
