"""The phase that trains a pruned network again from a point of the training before it was pruned."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from lowrank_exp.checks import fraction
from lowrank_exp.edits import Edit, KeepChannels, edits_of
from lowrank_exp.phases.cuttlefish import Later
from lowrank_exp.phases.phase import Done, Phase, Setting
from lowrank_exp.phases.rehearsal import Rehearsal
from lowrank_exp.phases.train import Train
from lowrank_exp.pruning.cut import cut_
from lowrank_exp.training.parts.snapshots import snapshot


@dataclass(frozen=True, kw_only=True)
class Rewind(Phase):
    """Train with the learning rates that an earlier training had from a point on, for as many epochs as it had left.

    With the weights of that point it is weight rewinding; with those at hand, learning-rate rewinding. The optimizer
    starts anew.

    Args:
        train: the earlier training; its schedule and number of epochs count.
        phase: its name.
        at: the point: a fraction of its epochs, in [0, 1), rounded down to whole ones.
        weights: whether weights are taken back too: those of the channels that are left. `train.snapshots` must name
            that point, and nothing but pruning may have happened since.

    Raises:
        ValueError: a point out of range, or one that was not kept.

    Source: Renda, Frankle, Carbin 2020, "Comparing rewinding and fine-tuning in neural network pruning".
    """

    trains: ClassVar[bool] = True

    train: Train
    phase: str = "train"
    at: float = 0.1
    weights: bool = True

    def __post_init__(self) -> None:
        fraction("at", self.at, f"at={self.at!r} must be a fraction of the epochs, in [0, 1)", zero=True, one=False)
        points = [self.train.recipe.epochs_at(point) for point in self.train.recipe.snapshots]
        if self.weights and self.train.recipe.epochs_at(self.at) not in points:
            raise ValueError(
                f"the weights at {self.at} of the training {self.phase} are not kept: set "
                f"method.phases.{self.phase}.snapshots=[{self.at}], or weights=false"
            )

    @property
    def looks_back(self) -> list[str]:
        return [self.phase, *self.train.looks_back]

    @property
    def remedy(self) -> str:
        return self.train.remedy

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        self._rest().walk_(network, example)

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        if self.weights:
            earlier = setting.network(self.phase)
            path = snapshot(setting.folders[self.phase], self.train.recipe.epochs_at(self.at))
            earlier.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
            rewound_(earlier, edits_of(network)[len(edits_of(earlier)) :])
            network.load_state_dict(earlier.state_dict())
        return self._rest().run_(network, setting)

    def rehearse(self, network: nn.Module, setting: Setting) -> Rehearsal:
        return replace(self._rest().rehearse(network, setting), same_weights=False)

    def _rest(self) -> Train:
        done, total = self.train.recipe.epochs_at(self.at), self.train.recipe.epochs
        train, schedule = self.train.changed(epochs=total - done, snapshots=()), self.train.recipe.schedule
        return train if schedule is None or not done else train.changed(schedule=Later(schedule, done / total))


def rewound_(network: nn.Module, edits: Sequence[Edit]) -> nn.Module:
    """Take from `network`, in place, the channels that a later one has lost; what is left keeps its numbers.

    Raises:
        ValueError: something else than channels went.
    """
    modules = dict(network.named_modules())
    for edit in edits:
        if not isinstance(edit, KeepChannels):
            raise ValueError(
                f"{edit.layer} was decomposed after the weights that are asked for: weights are taken back through "
                "pruning only; set weights=false"
            )
        cut_(modules[edit.layer], edit)
    return network
