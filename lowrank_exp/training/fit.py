"""`fit_`: train a network, surviving interruptions."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch import nn
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from lowrank_exp.network.modes import kept_modes
from lowrank_exp.regularizers import Regularizer
from lowrank_exp.training import checkpoint as checkpoints
from lowrank_exp.training import distributed, generators
from lowrank_exp.training.compilation import compilation
from lowrank_exp.training.device import resolve
from lowrank_exp.training.memory_format import AUTO, check_channels_last
from lowrank_exp.training.module import Classifier, Metrics
from lowrank_exp.training.parts.distillation import Distillation, Teacher
from lowrank_exp.training.parts.penalties import described, trained
from lowrank_exp.training.parts.pruner import Pruner, Pruning
from lowrank_exp.training.parts.quant_noise import NoisyWeights, QuantNoise
from lowrank_exp.training.parts.stochastic_depth import StochasticDepth, Survivors
from lowrank_exp.training.parts.until import Until, WatchEveryEpoch
from lowrank_exp.training.progress import EpochProgress
from lowrank_exp.training.quiet import quiet_lightning

PRECISIONS = ("fp32", "bf16")


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
    channels_last: bool | str = AUTO,
    precision: str = "fp32",
    accumulate: int = 1,
    compile: bool = False,
    devices: int = 1,
    regularizer: Regularizer | None = None,
    exempt: Sequence[str] = (),
    until: Until | None = None,
    stochastic_depth: StochasticDepth | Mapping[str, Any] | None = None,
    quant_noise: QuantNoise | Mapping[str, Any] | None = None,
    pruning: Pruning | None = None,
    distill: Distillation | None = None,
    snapshots: Mapping[int, Path] | None = None,
    on_epoch: Callable[[Metrics], None] | None = None,
    progress: bool = True,
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
        epochs: passes over the training images; 0 trains nothing.
        optimizer: called with the trainable parameters, such as `partial(torch.optim.SGD, lr=0.1)`.
        schedule: progress (step / total steps) in [0, 1) to a factor on the learning rate; None keeps it.
        seed: of every random draw; order and augmentation may follow the sampler's own.
        checkpoint: where the state is written after every epoch and looked for at the start; None for
            neither.
        device: 'auto', 'cpu', 'cuda', 'cuda:1', 'mps'.
        label_smoothing: of the training loss, in [0, 1).
        channels_last: compute in that memory format; 'auto': where it is faster, see `channels_last_gains`.
        precision: 'fp32', or 'bf16': the network under torch's autocast, in training and validation; weights, loss
            and optimizer stay in float32.
        accumulate: batches per step of optimizer and schedule, whose gradient is the mean over all their images;
            at the end of an epoch a smaller group makes a step as well.
        compile: run the network through `torch.compile`, within the fit only.
        devices: processes that train together, each on a device of its own from `device` on (on the CPU: on its
            share of the threads). They share out every batch; see `distributed.py`.
        regularizer: penalties whose gradients are added to those of the loss; the history has the mean of each over
            the epoch's steps, without its weight, as `penalty_<name>`.
        exempt: what the optimizer's weight decay spares, such as `[s, U, V]`; see
            `lowrank_exp.regularizers.parameter_groups`.
        until: ends the fit early, see `lowrank_exp.training.parts.until.Until`; the schedule stays that of all epochs.
        stochastic_depth: which residual blocks are skipped at random: a `StochasticDepth`, or a mapping of its options
            such as `{"last": 0.5}`. Not with `compile`.
        quant_noise: a random part of the weights is quantized in every forward pass in training: a `QuantNoise`, or a
            mapping of its options such as `{"phi": "int8", "p": 0.5}`.
        pruning: filters are silenced, revived or removed on the way, see `Pruning`; the history then has
            `silent_filters` or `macs` per epoch. Not with `compile`, several devices or `quant_noise`; with
            `stochastic_depth` only where nothing is removed.
        distill: another network has a part in the training loss, see `Distillation`; `train_loss` is then that of both
            parts. Not with several devices.
        snapshots: where the network's weights are written after so many epochs; 0: before the first one. Not with
            several devices.
        on_epoch: called with the metrics of every epoch as it ends; when going on, first with all stored
            ones.
        progress: show a bar (a line per epoch where standard error is no terminal).
        label: what the bar calls it.

    Returns:
        Per epoch: `epoch` (from 0), `train_loss` and `train_accuracy` (means over the epoch's images as it
        went, with label smoothing), `val_loss` and `val_accuracy` (without), `learning_rate` (the epoch's
        first), `seconds` (training and validation). Accuracies are fractions, losses nats.

    Raises:
        ValueError: an argument out of range, an empty loader, nothing to train, a checkpoint that cannot be read
            or belongs to another fit, compilation that does not work on this machine, or something that cannot be
            shared out to several devices.
        FloatingPointError: the loss is not finite; the message says where. The checkpoint is of the epoch
            before.
    """
    _check(network, train_loader, val_loader, epochs, label_smoothing)
    depth = StochasticDepth.of(stochastic_depth)
    noises = {"stochastic_depth": depth, "quant_noise": QuantNoise.of(quant_noise)}
    check_computing(precision, accumulate, compile, channels_last, depth)
    for option in noises.values():
        if option is not None:
            option.check(network)
    if pruning is not None:
        check_pruning(compile, devices, noises["quant_noise"], depth if pruning.schedule.removes else None)
    distributed.check_devices(devices, distill, snapshots)
    where = resolve(device)
    places = distributed.places(where, devices)
    for name, loader in (("train_loader", train_loader), ("val_loader", val_loader)):
        if loader is not None:
            distributed.check_shares(loader, name, devices)
    recipe = checkpoints.recipe(
        network,
        optimizer(trained(network, exempt)),
        schedule,
        epochs=epochs,
        seed=seed,
        steps=len(train_loader),
        label_smoothing=float(label_smoothing),
        precision=precision,
        accumulate=accumulate,
        compile=compile,
        channels_last=channels_last,
        devices=devices,
        loader_generators=len(generators.owned(train_loader, val_loader)),
        **described(regularizer, exempt),
        **({} if until is None else {"until": repr(until)}),
        **{name: asdict(option) for name, option in noises.items() if option is not None},
        **({} if pruning is None else {"pruning": str(pruning)}),
        **({} if distill is None else {"distill": distill.described()}),
    )
    path = None if checkpoint is None else Path(checkpoint)
    stored = checkpoints.read(path, recipe) if path is not None and path.exists() else None
    history = [] if stored is None else stored[checkpoints.FIT]["history"]
    for metrics in history if on_epoch is not None else []:
        on_epoch(dict(metrics))
    if len(history) == epochs or (until is not None and history and until.met(history)):
        if stored is not None:
            checkpoints.shape_(network, stored)
            network.load_state_dict(checkpoints.weights(stored))
            if depth is not None:
                depth.fold_(network)
        return history

    goes_on = stored is not None
    fit = _Fit(optimizer, schedule, regularizer, tuple(exempt), until, recipe, places, path, goes_on, progress, label)
    if devices == 1:
        pruned = stored[checkpoints.FIT].get("pruning") if goes_on else None
        steps = -(-len(train_loader) // accumulate)
        fit = replace(fit, teacher=Teacher(distill), snapshots=dict(snapshots or {}))
        fit = replace(fit, pruner=Pruner(pruning, network, seed, steps, epochs, pruned))
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
    """What a fit needs beside network, images and device; `recipe` holds all that is plain data."""

    optimizer: Callable[[Iterable[Parameter]], Optimizer]
    schedule: Callable[[float], float] | None
    regularizer: Regularizer | None
    exempt: tuple[str, ...]
    until: Until | None
    recipe: dict[str, Any]
    places: list[str]
    checkpoint: Path | None
    goes_on: bool
    progress: bool
    label: str
    pruner: Pruner | None = None
    teacher: Teacher | None = None
    snapshots: Mapping[int, Path] = field(default_factory=dict)


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
    steps = -(-len(train_loader) // recipe["accumulate"])
    options = {name: recipe[name] for name in ("label_smoothing", "channels_last", "precision", "accumulate")}
    options |= {"compiled": recipe["compile"], "regularizer": fit.regularizer, "exempt": fit.exempt}
    survivors = Survivors(StochasticDepth.of(recipe.get("stochastic_depth")), network, recipe["seed"])
    noisy_weights = NoisyWeights(QuantNoise.of(recipe.get("quant_noise")), network, recipe["seed"])
    pruner = fit.pruner or Pruner(None, network, recipe["seed"], steps, recipe["epochs"])
    options |= {"survivors": survivors, "noisy_weights": noisy_weights, "pruner": pruner, "teacher": fit.teacher}
    module = Classifier(network, fit.optimizer, fit.schedule, recipe["epochs"] * steps, **options)
    own = [*generators.owned(train_loader, val_loader), *survivors.generators, *noisy_weights.generators]
    own += pruner.generators
    callbacks: list[pl.Callback] = [OwnSignals()]
    if fit.until is not None:
        callbacks.append(WatchEveryEpoch(fit.until))
    if fit.snapshots:
        callbacks.append(checkpoints.Snapshots(fit.snapshots))
    callbacks.append(checkpoints.SaveEveryEpoch(fit.checkpoint, recipe, recipe["seed"], own))
    if on_epoch is not None:
        callbacks.append(pl.callbacks.LambdaCallback(on_train_epoch_end=lambda *_: on_epoch(dict(module.history[-1]))))
    if fit.progress:
        callbacks.append(EpochProgress(fit.label))
    with quiet_lightning(), _lent(network), compilation(recipe["compile"], where), survivors.at_work():
        _trainer(fit.places, recipe["epochs"], callbacks, survivors.skip).fit(
            module,
            _Opened(train_loader),
            None if val_loader is None else _Opened(val_loader),
            ckpt_path=fit.checkpoint if fit.goes_on else None,
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


def _check(
    network: nn.Module, train_loader: DataLoader, val_loader: DataLoader | None, epochs: int, label_smoothing: float
) -> None:
    if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 0:
        raise ValueError(f"epochs is {epochs!r}; allowed is an integer, 0 (train nothing) or more")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing is {label_smoothing}; allowed is a fraction in [0, 1)")
    for name, loader in (("train_loader", train_loader), ("val_loader", val_loader)):
        if loader is None and name == "val_loader":
            continue
        try:
            batches = len(loader)
        except TypeError:
            raise ValueError(f"{name} has no length: the schedule needs to know its batches") from None
        if batches == 0:
            raise ValueError(f"{name} has no batches: give it images, or a smaller batch size if it drops the last")


def check_computing(
    precision: str,
    accumulate: int,
    compile: bool,
    channels_last: bool | str,
    stochastic_depth: StochasticDepth | None = None,
) -> None:
    """Raise ValueError for a way to compute that there is not."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; allowed are {' and '.join(PRECISIONS)}")
    if isinstance(accumulate, bool) or not isinstance(accumulate, int) or accumulate < 1:
        raise ValueError(f"accumulate is {accumulate!r}; allowed is an integer, 1 (a step per batch) or more")
    if not isinstance(compile, bool):
        raise ValueError(f"compile is {compile!r}; allowed are true and false")
    check_channels_last(channels_last)
    if compile and stochastic_depth is not None:
        raise ValueError(
            "compile is true, and stochastic_depth skips other blocks at every step, for each set of which the network "
            "would be compiled again: set compile=false or stochastic_depth=null"
        )


def check_pruning(compile: bool, devices: int, quant_noise: object = None, stochastic_depth: object = None) -> None:
    """Raise ValueError for a way to compute in which filters cannot be pruned."""
    for name, set_, instead in (
        ("compile is true", compile, "compile=false"),
        (f"devices is {devices}", devices > 1, "devices=1"),
        ("quant_noise is given", quant_noise is not None, "quant_noise=null"),
        ("stochastic_depth is given", stochastic_depth is not None, "stochastic_depth=null"),
    ):
        if set_:
            raise ValueError(
                f"{name}, and filters shall be pruned during the fit, which it would not see: set {instead}"
            )
