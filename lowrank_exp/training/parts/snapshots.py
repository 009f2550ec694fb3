"""The network's weights at some points of a training, kept in files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from lowrank_exp.checks import is_number
from lowrank_exp.files.whole import open_told, write_whole
from lowrank_exp.training.parts.part import AtWork, Fit, History, Part, Running, refuse_in_processes


@dataclass(frozen=True)
class Kept(Part):
    """Snapshots of the weights, beside the checkpoint.

    Args:
        at: fractions of the epochs, in [0, 1], rounded down to whole ones; 0: before the first one.
    """

    name: ClassVar[str] = "snapshots"

    at: Sequence[float]

    def __post_init__(self) -> None:
        if bad := [one for one in self.at if not is_number(one) or not 0 <= one <= 1]:
            raise ValueError(f"snapshots must be fractions of the epochs, in [0, 1], got {bad[0]!r}")

    def refuse(self, recipe: Any) -> None:
        refuse_in_processes(recipe, "snapshots of the weights are kept", "snapshots=[]")

    def described(self) -> dict[str, Any]:
        return {}  # they change no number

    def at_work(self, fit: Fit) -> "Snapshots":
        if fit.folder is None:
            raise ValueError("snapshots lie beside the checkpoint, and there is none: give checkpoint, or snapshots=[]")
        paths = {epochs: snapshot(fit.folder, epochs) for epochs in map(fit.recipe.epochs_at, self.at)}
        return Snapshots(paths, fit.network, fit.epochs_done)


class Snapshots(AtWork):
    """Writes the network's weights to `paths`, by the number of finished epochs."""

    def __init__(self, paths: dict[int, Path], network: nn.Module, epochs_done: int) -> None:
        self.paths, self.network, self.epochs_done = paths, network, epochs_done

    def start(self, running: Running) -> None:
        if self.epochs_done == 0:
            self._write(0)

    def after_epoch(self, line: dict[str, float], history: History) -> bool:
        self._write(len(history))
        return False

    def _write(self, epochs: int) -> None:
        if epochs in self.paths:
            with write_whole(self.paths[epochs]) as temporary, open_told(temporary) as file:
                torch.save({name: t.detach().cpu() for name, t in self.network.state_dict().items()}, file)


def snapshot(folder: Path, epochs: int) -> Path:
    """The file of the weights after so many epochs of the fit whose checkpoint lies in that folder."""
    return folder / f"epoch-{epochs}.pt"
