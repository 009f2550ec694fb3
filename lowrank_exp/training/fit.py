"""`fit_`: train a network, surviving interruptions."""

from collections.abc import Callable
from pathlib import Path

from torch import nn
from torch.utils.data import DataLoader

from lowrank_exp.network.modes import kept_modes
from lowrank_exp.training import checkpoint as checkpoints
from lowrank_exp.training import distributed, generators
from lowrank_exp.training.device import resolve
from lowrank_exp.training.recipe import Metrics, Recipe


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

    from lowrank_exp.training.carry_out import FitAtWork, carry_out  # Lightning takes seconds

    fit = FitAtWork(recipe, seed, decides, places, path, len(history), left, progress, label)
    if recipe.devices == 1:
        with generators.undisturbed(where), kept_modes(network):
            return carry_out(fit, network, train_loader, val_loader, where, on_epoch)

    def hear(metrics: Metrics) -> None:
        history.append(metrics)
        if on_epoch is not None:
            on_epoch(dict(metrics))

    loaders = train_loader, val_loader
    network.load_state_dict(distributed.in_processes(carry_out, fit, network, loaders, places, hear))
    return history


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
