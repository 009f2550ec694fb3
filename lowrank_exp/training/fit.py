"""`fit_`: train a network, surviving interruptions."""

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

from lowrank_exp.network.modes import kept_modes
from lowrank_exp.text.terminal import PASSING
from lowrank_exp.training import checkpoint as checkpoints
from lowrank_exp.training import distributed, generators
from lowrank_exp.training.compilation import compilation
from lowrank_exp.training.device import resolve
from lowrank_exp.training.module import AfterEveryEpoch, Classifier, Metrics
from lowrank_exp.training.parts.part import Fit
from lowrank_exp.training.progress import EpochProgress
from lowrank_exp.training.quiet import quiet_lightning
from lowrank_exp.training.recipe import Recipe


def fit_(
    network: nn.Module,
    train_loader: DataLoader,
    val_loader: DataLoader | None,
    recipe: Recipe,
    *,
    seed: int,
    checkpoint: Path | None = None,
    device: str = "auto",
    on_epoch: Callable[[Metrics], None] | None = None,
    on_resume: Callable[[int, int], None] | None = None,
    progress: bool | str = True,
    label: str = "train",
) -> list[Metrics]:
    """Train a network in place by cross-entropy; returns one dict of metrics per epoch.

    A fit that was killed goes on after its last finished epoch when it is called again with the same
    arguments, and ends with the same bits as one left alone (same machine and threads; on GPUs as far as
    their kernels repeat). The network comes back on its device and in its modes (it is trained in training
    mode throughout, and its gradients are cleared). Python's, NumPy's and torch's generators are seeded with
    `seed` for the fit and stand afterwards as before it.

    Args:
        network: images (N, ...) to logits (N, C). Parameters that need no gradient stay as they are.
        train_loader: batches of images and labels; where its sampler has `set_epoch`, it is told every epoch.
        val_loader: likewise; looked at after every epoch, in eval mode. None where there are no validation
            images: `val_loss` and `val_accuracy` are then None.
        recipe: how it is trained.
        seed: of every random draw; order and augmentation may follow the sampler's own.
        checkpoint: where the state is written after every epoch and looked for at the start; None for
            neither. Snapshots of the recipe lie in the same folder, see `snapshot`.
        device: 'auto', 'cpu', 'cuda', 'cuda:1', 'mps'; of several devices the first.
        on_epoch: called with the metrics of every epoch as it ends; when going on, first with all stored
            ones.
        on_resume: called, before them, with how many epochs have finished, and of how many.
        progress: show a bar (a line per epoch where standard error is not a terminal); `PASSING`: one that goes when
            the fit has ended.
        label: what the bar calls it.

    Returns:
        Per epoch: `epoch` (from 0), `train_loss` and `train_accuracy` (means over the epoch's images as it
        went, with label smoothing), `val_loss` and `val_accuracy` (without), `learning_rate` (the epoch's
        first), `seconds` (training and validation). Accuracies are fractions, losses nats.

    Raises:
        ValueError: an empty loader, nothing to train, a recipe that does not suit the network, a checkpoint that cannot
            be read or belongs to another fit, compilation that does not work on this machine, or something that cannot
            be shared out to several devices.
        FloatingPointError: the loss is not finite; the message says where. The checkpoint is of the epoch
            before.
    """
    _check_loaders(train_loader, val_loader, recipe.devices)
    recipe.check(network)
    where = resolve(device)
    places = distributed.places(where, recipe.devices)
    path = None if checkpoint is None else Path(checkpoint)
    decides = checkpoints.deciding(
        network,
        recipe,
        seed=seed,
        steps=len(train_loader),
        loader_generators=len(generators.owned(train_loader, val_loader)),
    )
    stored = checkpoints.read(path, decides) if path is not None and path.exists() else None
    history = [] if stored is None else stored[checkpoints.FIT]["history"]
    left = {} if stored is None else {part.name: stored[checkpoints.FIT].get(part.name) for part in recipe.parts}
    if on_resume is not None and history:
        on_resume(len(history), recipe.epochs)
    if on_epoch is not None:
        for metrics in history:
            on_epoch(dict(metrics))
    until = recipe.until
    if len(history) == recipe.epochs or (until is not None and history and until.met(history)):
        if stored is not None:
            for part in recipe.parts:
                part.shape_(network, left.get(part.name))
            network.load_state_dict(checkpoints.weights(stored))
            for part in recipe.parts:
                part.end_(network)
        return history

    fit = _Fit(recipe, seed, decides, places, path, len(history), left, progress, label)
    if recipe.devices == 1:
        with generators.undisturbed(where), kept_modes(network):
            return _carry_out(fit, network, train_loader, val_loader, where, on_epoch)

    def hear(metrics: Metrics) -> None:
        history.append(metrics)
        if on_epoch is not None:
            on_epoch(dict(metrics))

    loaders = train_loader, val_loader
    network.load_state_dict(distributed.in_processes(_carry_out, fit, network, loaders, places, hear))
    return history


@dataclass(frozen=True)
class _Fit:
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


def _carry_out(
    fit: _Fit,
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
    saving = checkpoints.SaveEveryEpoch(fit.checkpoint, fit.decides, fit.seed, own)
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
        plugins=[LightningEnvironment(), checkpoints.BesideTheTarget()],
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


def _check_loaders(train_loader: DataLoader, val_loader: DataLoader | None, devices: int) -> None:
    for name, loader in (("train_loader", train_loader), ("val_loader", val_loader)):
        if loader is None and name == "val_loader":
            continue
        try:
            batches = len(loader)
        except TypeError:
            raise ValueError(f"{name} has no length: the schedule needs to know its batches") from None
        if batches == 0:
            raise ValueError(f"{name} has no batches: give it images, or a smaller batch size if it drops the last")
        distributed.check_shares(loader, name, devices)
