"""A fit carried out by Lightning: the Trainer, and what it is told. Imported late: Lightning takes seconds."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch import nn
from torch.utils.data import DataLoader

from lowrank_exp.text.terminal import PASSING
from lowrank_exp.training import distributed, generators
from lowrank_exp.training.compilation import compilation
from lowrank_exp.training.module import AfterEveryEpoch, Classifier
from lowrank_exp.training.parts.part import Fit
from lowrank_exp.training.progress import EpochProgress
from lowrank_exp.training.quiet import quiet_lightning
from lowrank_exp.training.recipe import Metrics, Recipe
from lowrank_exp.training.saving import BesideTheTarget, SaveEveryEpoch


@dataclass(frozen=True)
class FitAtWork:
    """What a fit needs beside network, images and device; `decides` is what must agree where it goes on."""

    recipe: Recipe
    seed: int
    decides: dict[str, Any]
    places: list[str]
    checkpoint: Path | None
    epochs_done: int
    left: dict[str, Any]  # by parts, in the checkpoint that it goes on from
    progress: bool | str
    label: str


def carry_out(
    fit: FitAtWork,
    network: nn.Module,
    train_loader: DataLoader,
    val_loader: DataLoader | None,
    where: torch.device,
    on_epoch: Callable[[Metrics], None] | None,
) -> list[Metrics]:
    """Train on one device, alone or beside other processes that do the same."""
    recipe = fit.recipe
    steps = -(-len(train_loader) // recipe.accumulate)
    folder = None if fit.checkpoint is None else fit.checkpoint.parent
    told = Fit(recipe, network, fit.seed, steps, fit.epochs_done, fit.left, folder)
    parts = {part.name: part.at_work(told) for part in recipe.parts}
    module = Classifier(network, recipe, recipe.epochs * steps, parts)
    own = [*generators.owned(train_loader, val_loader), *(one for part in parts.values() for one in part.generators)]
    saving = SaveEveryEpoch(fit.checkpoint, fit.decides, fit.seed, own)
    callbacks: list[pl.Callback] = [OwnSignals(), AfterEveryEpoch(), saving]
    if on_epoch is not None:
        callbacks.append(pl.callbacks.LambdaCallback(on_train_epoch_end=lambda *_: on_epoch(dict(module.history[-1]))))
    if fit.progress:
        callbacks.append(EpochProgress(fit.label, passing=fit.progress == PASSING))
    skips = any(part.skips for part in parts.values())
    with quiet_lightning(), _lent(network), compilation(recipe.compile, where), ExitStack() as stack:
        for part in parts.values():
            stack.enter_context(part.around_fit())
        _trainer(fit.places, recipe.epochs, callbacks, skips).fit(
            module,
            _Opened(train_loader),
            None if val_loader is None else _Opened(val_loader),
            ckpt_path=fit.checkpoint if fit.epochs_done else None,
            weights_only=True,
        )
    return module.history


def _trainer(places: list[str], epochs: int, callbacks: list[pl.Callback], skips: bool) -> pl.Trainer:
    """A Trainer that runs epochs and nothing else; `skips`: a step may leave parameters out."""
    return pl.Trainer(
        **distributed.lightning_options(places, skips),
        # No other processes, also inside a SLURM or torchrun job.
        plugins=[LightningEnvironment(), BesideTheTarget()],
        max_epochs=epochs,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


class OwnSignals(pl.Callback):
    """Leaves SIGTERM to whom it belonged before the fit.

    Lightning's handler waits for the end of the batch, asks other processes in a way that hangs if they do not expect
    it, and ends the process with exit status 0.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Lightning has not yet put its own in its place."""
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Now it has; only the main thread may change it, and Lightning does nothing elsewhere."""
        if threading.current_thread() is threading.main_thread() and self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)


class _Opened:
    """A loader whose pass begins when its first batch is asked for.

    Lightning opens the first pass of a fit while it sets up, the others at their epoch. A DataLoader draws
    random numbers and starts its workers when it is opened: a fit that goes on would draw in another order
    than one left alone. Behind a generator, every pass begins at the same place.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader
        self.sampler = getattr(loader, "sampler", None)  # Lightning calls their set_epoch
        self.batch_sampler = getattr(loader, "batch_sampler", None)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        yield from self.loader


@contextmanager
def _lent(network: nn.Module) -> Iterator[None]:
    """The network in training mode; afterwards at home, without gradients."""
    home = next(network.parameters()).device
    network.train()
    try:
        yield
    finally:
        network.zero_grad(set_to_none=True)
        network.to(home)
