"""Checkpoints of a fit, read back to go on as if nothing had happened; see `saving` for how they are written.

A checkpoint is Lightning's own (network, optimizer, schedule, loop progress) with one more entry, `FIT`: the
recipe the fit was started with, the history so far, what parts of the training have left (of pruning: what it has
done) and the states of the random generators. It loads under `torch.load(weights_only=True)`.
"""

import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lowrank_exp.files.whole import check_sums
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
