"""`fit_`: train a network, surviving interruptions."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch import nn
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from lowrank_exp.modes import kept_modes
from lowrank_exp.training import checkpoint as checkpoints
from lowrank_exp.training import generators
from lowrank_exp.training.device import resolve
from lowrank_exp.training.module import Classifier, Metrics
from lowrank_exp.training.progress import EpochProgress
from lowrank_exp.training.quiet import quiet_lightning


def fit_(
    network: nn.Module,
    train_loader: DataLoader,
    val_loader: DataLoader | None,
    *,
    epochs: int,
    optimizer: Callable[[Iterable[Parameter]], Optimizer],
    schedule: Callable[[float], float] | None,
    seed: int,
    checkpoint: Path | None,
    device: str = "auto",
    label_smoothing: float = 0.0,
    channels_last: bool = False,
    on_epoch: Callable[[Metrics], None] | None = None,
    progress: bool = True,
    label: str = "train",
) -> list[Metrics]:
    """Train a network in place by cross-entropy, on one device; returns one dict of metrics per epoch.

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
        epochs: passes over the training images; 0 trains nothing.
        optimizer: called with the trainable parameters, such as `partial(torch.optim.SGD, lr=0.1)`.
        schedule: progress (step / total steps) in [0, 1) to a factor on the learning rate; None keeps it.
        seed: of every random draw; order and augmentation may follow the sampler's own.
        checkpoint: where the state is written after every epoch and looked for at the start; None for
            neither.
        device: 'auto', 'cpu', 'cuda', 'cuda:1', 'mps'.
        label_smoothing: of the training loss, in [0, 1).
        channels_last: compute in that memory format; the weights are contiguous again afterwards.
        on_epoch: called with the metrics of every epoch as it ends; when going on, first with all stored
            ones.
        progress: show a bar (a line per epoch where standard error is no terminal).
        label: what the bar calls it.

    Returns:
        Per epoch: `epoch` (from 0), `train_loss` and `train_accuracy` (means over the epoch's images as it
        went, with label smoothing), `val_loss` and `val_accuracy` (without), `learning_rate` (the epoch's
        first), `seconds` (training and validation). Accuracies are fractions, losses nats.

    Raises:
        ValueError: an argument out of range, an empty loader, nothing to train, or a checkpoint that cannot
            be read or belongs to another fit.
        FloatingPointError: the loss is not finite; the message says where. The checkpoint is of the epoch
            before.
    """
    _check(network, train_loader, val_loader, epochs, label_smoothing)
    where = resolve(device)
    own = generators.owned(train_loader, val_loader)
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    recipe = checkpoints.recipe(
        network,
        optimizer(trainable),
        schedule,
        epochs=epochs,
        seed=seed,
        steps=len(train_loader),
        label_smoothing=float(label_smoothing),
        channels_last=bool(channels_last),
        loader_generators=len(own),
    )
    stored = None
    if checkpoint is not None and Path(checkpoint).exists():
        stored = checkpoints.read(Path(checkpoint), recipe)
    history = [] if stored is None else stored[checkpoints.FIT]["history"]
    for metrics in history if on_epoch is not None else []:
        on_epoch(dict(metrics))
    if len(history) == epochs:
        if stored is not None:
            network.load_state_dict(checkpoints.weights(stored))
        return history

    module = Classifier(network, optimizer, schedule, epochs * len(train_loader), label_smoothing, channels_last)
    callbacks: list[pl.Callback] = [
        checkpoints.SaveEveryEpoch(None if checkpoint is None else Path(checkpoint), recipe, seed, own)
    ]
    if on_epoch is not None:
        callbacks.append(pl.callbacks.LambdaCallback(on_train_epoch_end=lambda *_: on_epoch(dict(module.history[-1]))))
    if progress:
        callbacks.append(EpochProgress(label))
    with quiet_lightning(), generators.undisturbed(where), kept_modes(network), _lent(network, channels_last):
        _trainer(where, epochs, callbacks).fit(
            module,
            _Opened(train_loader),
            None if val_loader is None else _Opened(val_loader),
            ckpt_path=None if stored is None else checkpoint,
            weights_only=True,
        )
    return module.history


def _trainer(where: torch.device, epochs: int, callbacks: list[pl.Callback]) -> pl.Trainer:
    """A Trainer on one device that runs epochs and nothing else."""
    return pl.Trainer(
        accelerator={"cuda": "gpu"}.get(where.type, where.type),
        devices=[where.index] if where.type == "cuda" else 1,
        plugins=[LightningEnvironment()],  # one process, also inside a SLURM or torchrun job
        max_epochs=epochs,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


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
def _lent(network: nn.Module, channels_last: bool) -> Iterator[None]:
    """The network in training mode and memory format; afterwards at home, contiguous, without gradients."""
    home = next(network.parameters()).device
    network.train()
    if channels_last:
        network.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        network.zero_grad(set_to_none=True)
        network.to(home)
        if channels_last:
            network.to(memory_format=torch.contiguous_format)


def _check(
    network: nn.Module, train_loader: DataLoader, val_loader: DataLoader | None, epochs: int, label_smoothing: float
) -> None:
    if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 0:
        raise ValueError(f"epochs is {epochs!r}; allowed is an integer, 0 (train nothing) or more")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing is {label_smoothing}; allowed is a fraction in [0, 1)")
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError("the network has no parameter that needs a gradient: there is nothing to train")
    for name, loader in (("train_loader", train_loader), ("val_loader", val_loader)):
        if loader is None and name == "val_loader":
            continue
        try:
            batches = len(loader)
        except TypeError:
            raise ValueError(f"{name} has no length: the schedule needs to know its batches") from None
        if batches == 0:
            raise ValueError(f"{name} has no batches: give it images, or a smaller batch size if it drops the last")
