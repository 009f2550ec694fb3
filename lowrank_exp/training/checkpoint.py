"""Checkpoints of a fit: written after every epoch, read back to go on as if nothing had happened.

A checkpoint is Lightning's own (network, optimizer, schedule, loop progress) with one more entry, `FIT`: the
recipe the fit was started with, the history so far, what parts of the training have left (of pruning: what it has
done) and the states of the random generators. It loads under `torch.load(weights_only=True)`.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import nn

from lowrank_exp.files.whole import check_sums, open_told, write_whole
from lowrank_exp.training import distributed, generators
from lowrank_exp.training.recipe import Recipe

FIT = "lowrank_exp_fit"
NETWORK = "network."  # the network's place in the LightningModule

# Where a recipe samples the schedule, so that a checkpoint of another schedule is told apart.
SAMPLES = 16


class DamagedCheckpointError(ValueError):
    """A file, `path`, that is not a whole checkpoint: nothing can go on from it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is not a readable checkpoint of a fit ({reason}). Delete it to train from the start.")
        self.path = path


def deciding(network: nn.Module, recipe: Recipe, **settings: Any) -> dict[str, Any]:
    """What must agree between the fit that wrote a checkpoint and the one that goes on from it.

    Raises:
        ValueError: the schedule gives something that is not a factor (negative or not finite).
    """
    optimizer = recipe.make_optimizer(network)
    options = {name: repr(value) for name, value in sorted(optimizer.defaults.items())}
    shapes = {name: list(value.shape) for name, value in network.state_dict().items() if torch.is_tensor(value)}
    return {
        **recipe.described(),
        **settings,
        "optimizer": type(optimizer).__name__,
        "optimizer options": options,
        "schedule": [f"{factor:.9g}" for factor in recipe.factors(SAMPLES)],
        "network": shapes,
    }


def read(path: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint at `path`, if it belongs to a fit with the recipe `expected`.

    Raises:
        DamagedCheckpointError: the file cannot be read, or is not a checkpoint of a fit.
        ValueError: it belongs to another fit.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        check_sums(content)
        content.seek(0)
        stored = torch.load(content, map_location="cpu", weights_only=True)
        found = stored[FIT]["recipe"]
    except Exception as error:
        raise DamagedCheckpointError(path, f"{type(error).__name__}: {str(error)[:200]}") from error
    differences = _differences(found, expected)
    if differences:
        raise ValueError(
            f"{path} is the checkpoint of another fit: {'; '.join(differences)}. "
            "Name another checkpoint, or delete it to train from the start."
        )
    return stored


def weights(stored: dict[str, Any]) -> dict[str, Any]:
    """The network's state dict in a checkpoint."""
    prefixed = stored["state_dict"].items()
    return {name.removeprefix(NETWORK): value for name, value in prefixed if name.startswith(NETWORK)}


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


def _differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """In words, where two recipes part; of the entries of a mapping only the first three."""
    lines = []
    for name in [*expected, *(name for name in found if name not in expected)]:
        there, here = found.get(name), expected.get(name)
        if there == here:
            continue
        if isinstance(there, dict) and isinstance(here, dict):
            keys = [key for key in {**here, **there} if there.get(key) != here.get(key)]
            parts = [f"{key} is {there.get(key, 'absent')} there and {here.get(key, 'absent')} here" for key in keys]
            more = f" (and {len(parts) - 3} more)" if len(parts) > 3 else ""
            lines.append(f"{name}: {', '.join(parts[:3])}{more}")
        elif isinstance(there, list):
            lines.append(f"{name} gives other factors")
        else:
            lines.append(f"{name} is {there} there and {here} here")
    return lines
