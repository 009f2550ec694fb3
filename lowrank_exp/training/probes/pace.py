"""How long a training and a forward pass take here: a few steps, timed and scaled up. Nothing is changed."""

import itertools
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from lowrank_exp.network.copying import copy_network
from lowrank_exp.training.evaluate import evaluate
from lowrank_exp.training.fit import fit_
from lowrank_exp.training.recipe import Recipe

SECONDS = 2.0  # of measuring, about
FORWARD = 1 / 3  # of a step, which is a forward and a backward pass of twice the work

clock = time.perf_counter


class FirstBatches:
    """The first `count` batches of a loader, as a loader."""

    def __init__(self, loader: DataLoader, count: int) -> None:
        self.loader, self.count = loader, count
        self.sampler = getattr(loader, "sampler", None)  # whose epoch is set by the fit

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(self.loader, self.count)


def fit_seconds(
    network: nn.Module,
    train_loader: DataLoader,
    val_loader: DataLoader | None,
    recipe: Recipe,
    *,
    seed: int,
    device: str = "auto",
    limit: float = SECONDS,
) -> float:
    """Seconds that `fit_` with these arguments would take, not compiled and on one device.

    A copy of the network is fitted for two miniature epochs, of k steps and the same share of the validation batches,
    with a learning rate of 0. The second one tells how long an epoch takes, what is done between epochs included; all
    else is counted once.

        seconds = set-up + epochs * (second miniature epoch) * steps / k

    k is what `limit` seconds allow for by the first step ever. Where that step alone takes longer, it is all that is
    measured.

    Args:
        network, train_loader, val_loader, recipe, seed, device: as for `fit_`; of the recipe, what ends it early,
            prunes or keeps snapshots is left out.
        limit: seconds to spend, about; a single step may take longer.
    """
    if (epochs := recipe.epochs) == 0:
        return 0.0
    still = {"schedule": _standstill, "compile": False, "devices": 1, "snapshots": (), "until": None, "pruning": None}
    steps, val_steps = len(train_loader), 0 if val_loader is None else len(val_loader)

    def miniature(count: int, epochs: int) -> tuple[list[float], float]:
        """Seconds up to the end of each epoch and to the end of all, one after the other; and the first epoch's own."""
        val = None if val_loader is None else FirstBatches(val_loader, max(1, round(val_steps * count / steps)))
        marks = [clock()]
        with tempfile.TemporaryDirectory() as folder:
            history = fit_(
                copy_network(network),
                FirstBatches(train_loader, count),
                val if epochs > 1 else None,
                replace(recipe, epochs=epochs, **still),
                seed=seed,
                device=device,
                checkpoint=Path(folder) / "last.ckpt",
                on_epoch=lambda metrics: marks.append(clock()),
                progress=False,
            )
        marks.append(clock())
        return [later - earlier for earlier, later in itertools.pairwise(marks)], history[0]["seconds"]

    (set_up, end), step = miniature(1, 1)
    if step >= limit:
        return max(0.0, set_up - step) + end + epochs * step * (steps + FORWARD * val_steps)
    count = max(1, min(steps, int(limit / 2 / step)))
    (first, epoch, end), _ = miniature(count, 2)
    return max(0.0, first - epoch) + end + epochs * epoch * steps / count


def forward_seconds(network: nn.Module, loader: DataLoader, device: str, limit: float = SECONDS / 2) -> float:
    """Seconds that `evaluate` takes per image, at the loader's batch size.

    Args:
        network: on its device.
        loader: gives images and labels.
        device: as for `evaluate`.
        limit: seconds to spend, about; a single batch may take longer.
    """

    def pass_over(count: int) -> tuple[float, int]:
        began = clock()
        images = evaluate(network, FirstBatches(loader, count), device).count
        return clock() - began, images

    seconds, images = pass_over(1)
    if seconds < limit:
        count = int(limit / seconds) if seconds else len(loader)
        seconds, images = pass_over(max(1, min(len(loader), count)))
    return seconds / images


def _standstill(progress: float) -> float:
    """A learning rate of 0: weights that do not move cannot diverge."""
    return 0.0
