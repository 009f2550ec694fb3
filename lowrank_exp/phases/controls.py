"""Controls: phases that come after those of a row, and train what the row is to be compared with for as many epochs."""

import contextlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from lowrank_exp.checks import WithoutEffectError, whole
from lowrank_exp.decomposition import recompose
from lowrank_exp.edits import Edit, Factorize, edits_of
from lowrank_exp.files.exclusion import hold_lock
from lowrank_exp.files.results import digest
from lowrank_exp.machine.environment import tensors_digest
from lowrank_exp.network.cost import LAYERS, network_cost
from lowrank_exp.network.shapes import by_shapes
from lowrank_exp.phases.phase import Done, Phase, Setting
from lowrank_exp.phases.rehearsal import Rehearsal
from lowrank_exp.phases.train import Train
from lowrank_exp.pruning.narrow import narrow_
from lowrank_exp.rank import Plan
from lowrank_exp.rank.plan import PlannedLayer
from lowrank_exp.surgery import factorize_, replay_
from lowrank_exp.training.checkpoint import deciding


@dataclass(frozen=True, kw_only=True)
class Control(Phase):
    """A network other than the one it gets, trained for as many epochs as earlier phases have trained altogether.

    The training is stored under what decides it: the network that it begins with, the recipe, the data and the seed. So
    the rows of a table that need the same control train it once.

    Args:
        train: how. Its own number of epochs does not count.
        seed: of the order of images and of augmentation.
        epochs: so many, in the place of those that earlier phases have trained: where the weights come from a file,
            nobody here knows how long those were trained.
    """

    trains: ClassVar[bool] = True

    train: Train
    seed: int
    epochs: int | None = None

    def __post_init__(self) -> None:
        whole("seed", self.seed, 0)
        if self.epochs is not None:
            whole("epochs", self.epochs)

    @abstractmethod
    def start(self, network: nn.Module, setting: Setting) -> tuple[nn.Module, int, dict[str, float]]:
        """The network to train, for how many epochs, and figures to tell; `network` is what the row has made."""

    @property
    def looks_back(self) -> list[str]:
        return self.train.looks_back

    @property
    def remedy(self) -> str:
        return self.train.remedy

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        self.train.walk_(network, example)

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        other, train, values, apart = self._prepared(network, setting)
        apart.folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(apart.folder.with_name(f"{apart.folder.name}.lock"), lambda: _waiting(setting)):
            done = train.run_(other, apart)
        return replace(done, network=other, values=values)

    def rehearse(self, network: nn.Module, setting: Setting) -> Rehearsal:
        other, train, _, apart = self._prepared(network, setting)
        return replace(train.rehearse(other, apart), same_weights=False)

    def _prepared(self, network: nn.Module, setting: Setting) -> tuple[nn.Module, Train, dict[str, float], Setting]:
        """The network to train, how, figures, and a setting with the folder that all rows share."""
        other, epochs, values = self.start(network, setting)
        epochs = self.epochs or epochs
        if not epochs:
            raise WithoutEffectError(
                "no phase of this row trains, so that this control would be trained for 0 epochs: say for how many, "
                f"method.phases.{setting.name}.epochs=<number>, or leave it out"
            )
        other, train = other.to(setting.device), self.train.changed(epochs=epochs, snapshots=())
        decides = deciding(other, train.recipe, batch_size=train.recipe.batch_size, augment=train.recipe.augment)
        key = digest([tensors_digest(other), decides, setting.data.digest, self.seed, self.train.version])
        shared = replace(setting, folder=setting.scores / "controls" / key[:16], seed=int(key[:8], 16))
        return other, train, {**values, "epochs": float(epochs)}, shared


@dataclass(frozen=True, kw_only=True)
class DenseTrainedOn(Control):
    """The dense network, trained on for as many epochs as the phases after it have trained.

    Args:
        dense: the phase whose network is the dense one; where the method has none of that name, what the first phase
            got.
    """

    begins_anew: ClassVar[bool] = True

    dense: str = "train"

    def start(self, network: nn.Module, setting: Setting) -> tuple[nn.Module, int, dict[str, float]]:
        names = list(setting.epochs)
        after = names[names.index(self.dense) + 1 :] if self.dense in names else names
        dense = setting.network(self.dense if self.dense in names else "initial")
        return dense, sum(setting.epochs[name] for name in after), {}


@dataclass(frozen=True, kw_only=True)
class FromScratch(Control):
    """The architecture that the row has found, without its weights: drawn and trained for all epochs of the row.

    The dense network is drawn anew, and every layer is replaced by the factors of its drawn weight (spectral
    initialisation, Khodak et al. 2021), every pruned channel cut from it. The product of the factors is scaled to the
    norm of the drawn weight, of which low ranks keep little, since else a network without batch norm does not begin to
    learn.
    """

    def start(self, network: nn.Module, setting: Setting) -> tuple[nn.Module, int, dict[str, float]]:
        if not edits_of(network):
            raise WithoutEffectError("no layer of this row's network was changed: from scratch it is the dense network")
        drawn = setting.network("untrained")
        edited_alike_(drawn, edits_of(network))
        return drawn, sum(setting.epochs.values()), {}


@dataclass(frozen=True, kw_only=True)
class DenseByWidth(Control):
    """The dense network at the width at which it has the row's MACs, drawn and trained for all epochs of the row."""

    begins_anew: ClassVar[bool] = True

    def start(self, network: nn.Module, setting: Setting) -> tuple[nn.Module, int, dict[str, float]]:
        drawn, macs = setting.network("untrained"), by_shapes(network_cost, network, setting.example).macs
        width = narrow_(drawn, macs, setting.example)
        return drawn, sum(setting.epochs.values()), {"width": round(width, 4)}


def _waiting(setting: Setting) -> None:
    if setting.progress:
        print(f"{setting.name}: waiting for another job that trains this control")


def edited_alike_(network: nn.Module, edits: Sequence[Edit]) -> nn.Module:
    """Do to a dense network, in place, what was done to another one, at the same ranks and by its own weights.

    Factors whose product is known have it scaled to the norm of the weight that they replace.
    """
    for edit in edits:
        if not isinstance(edit, Factorize):
            replay_(network, [edit])
            continue
        norm = network.get_submodule(edit.layer).weight.norm()
        layer = PlannedLayer(edit.rank, edit.decomposition, "as in the row", options=edit.options)
        factorize_(network, Plan({edit.layer: layer}, tried=True))
        factors = network.get_submodule(edit.layer)
        with contextlib.suppress(ValueError), torch.no_grad():  # codebooks and sums of several parts keep their own
            last = [one for one in factors.modules() if isinstance(one, LAYERS)][-1]
            last.weight.mul_(norm / recompose(factors).weight.norm())
    return network
