"""The phases of Cuttlefish: a training that begins dense, and goes on with factors once stable ranks have settled."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from lowrank_exp.checks import fraction
from lowrank_exp.decomposition import Decomposition, Decompositions
from lowrank_exp.edits import Factorize as Factorized
from lowrank_exp.edits import edits_of
from lowrank_exp.machine.stopwatch import stopwatch
from lowrank_exp.phases.factorize import Factorize
from lowrank_exp.phases.phase import Done, Phase, Setting
from lowrank_exp.phases.rehearsal import Rehearsal
from lowrank_exp.phases.train import Train
from lowrank_exp.rank import profile
from lowrank_exp.rank.candidates import candidates
from lowrank_exp.rank.policies.stable_rank import stable_ranks
from lowrank_exp.rank.settled import check_rule, settled
from lowrank_exp.regularizers import Regularizer

CURVE = "stable_rank_"  # in the history, before the layer's name


@dataclass(frozen=True, kw_only=True)
class TrainUntilSettled(Phase):
    """Train a dense network until the stable ranks of its layers do not move any more, see `rank.settled`.

    After every epoch the history has the stable rank of every layer that `factorize` may decompose, in units of that
    of a random matrix, as `stable_rank_<layer>` (`stable_rank_<layer>.<number>` where a decomposition cuts several
    matrices). The learning rate is that of the first epochs of the whole training.

    Args:
        train: the whole training, of which this is the first part; `epochs` counts both.
        factorize: the phase that comes after it: its decomposition and rules say which layers are looked at.
        window: epochs looked at.
        threshold: how far a stable rank may move per epoch.
        latest: fraction of the epochs of `train`, rounded up, after which the network is factorized anyway, with a
            warning; in (0, 1].

    Source: Wang et al. 2023, "Cuttlefish: low-rank model training without all the tuning".

    Differs from the paper:
        1. The layers left dense are those that rules name and those of which no rank is cheaper; the paper times the
           first ones on the GPU.
        2. The random matrix is the expected one, see `stable_rank`.
    """

    trains: ClassVar[bool] = True

    train: Train
    factorize: Factorize
    window: int = 11
    threshold: float = 0.1
    latest: float = 0.5

    def __post_init__(self) -> None:
        check_rule(self.window, self.threshold)
        fraction("latest", self.latest, f"latest={self.latest!r} must be a fraction of the epochs, in (0, 1]")

    @property
    def remedy(self) -> str:
        return self.train.remedy

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        self.train.walk_(network, example)
        self.settling(network, example)

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        settling = self.settling(network, setting.example)
        done = self.train.changed(until=settling).run_(network, setting)
        if done.history and not settling.still(done.history):
            warning = (
                f"the stable ranks had not settled after {len(done.history)} of {self.train.recipe.epochs} epochs, the "
                "latest allowed: the network is factorized all the same. Raise latest, or the threshold"
            )
            return replace(done, warnings=[*done.warnings, warning])
        return done

    def rehearse(self, network: nn.Module, setting: Setting) -> Rehearsal:
        """As if the ranks settled as late as is allowed; `TrainOn` then has the fewest epochs left."""
        settling = self.settling(network, setting.example)
        rehearsal = self.train.changed(epochs=settling.most).rehearse(network, setting)
        seconds = stopwatch()
        settling.measure(network)
        seconds = settling.most * seconds()
        part = (f"stable ranks after each of {settling.most} epochs", seconds)
        return replace(rehearsal, parts=[*rehearsal.parts, part])

    def settling(self, network: nn.Module, example: Tensor) -> "Settling":
        """What is measured of this network, and when it ends the training.

        Raises:
            ValueError: there is no layer that may be decomposed.
        """
        chosen = Decompositions.of(self.factorize.decomposition)
        names = candidates(profile(network, example, chosen), self.factorize.rank)
        if not names:
            raise ValueError("no layer of this network may be decomposed: there is no stable rank to look at")
        kinds = chosen.by_layer({name: network.get_submodule(name) for name in names})
        return Settling(kinds, self.window, self.threshold, math.ceil(self.latest * self.train.recipe.epochs))


@dataclass(frozen=True)
class Settling:
    """Measures the stable ranks of layers after every epoch of a fit; ends it when they have settled.

    Args:
        kinds: the decomposition of every layer that is looked at, by name.
        window, threshold: see `rank.settled`.
        most: epochs after which the fit ends anyway.
    """

    kinds: Mapping[str, Decomposition]
    window: int
    threshold: float
    most: int

    def measure(self, network: nn.Module) -> dict[str, float]:
        """The stable ranks, in units of those of random matrices."""
        curves = {}
        for name, kind in self.kinds.items():
            ranks = stable_ranks(kind.unfoldings(network.get_submodule(name)))
            places = [name] if len(ranks) == 1 else [f"{name}.{place}" for place in range(len(ranks))]
            curves |= {f"{CURVE}{place}": rank for place, rank in zip(places, ranks, strict=True)}
        return curves

    def met(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Whether the fit ends."""
        return len(history) >= self.most or self.still(history)

    def still(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Whether the stable ranks have settled."""
        names = [name for name in history[-1] if name.startswith(CURVE)]
        return settled({name: [line[name] for line in history] for name in names}, self.window, self.threshold)


@dataclass(frozen=True, kw_only=True)
class TrainOn(Phase):
    """The rest of a training whose first epochs other phases have done: its learning rate goes on where it was.

    The number of epochs is that of `train` less all that the phases before it have trained. The momentum of the
    optimizer starts anew, and the schedules of penalties are those of a training of this length.

    Args:
        train: the whole training.
        regularizer: penalties in the place of those of `train`.
        exempt: what weight decay spares, in the place of what it spares in `train`.

    A network of which no layer was factorized goes on with the penalties of `train`.

    Raises:
        ValueError: the phases before it have trained more epochs than `train` has.
    """

    trains: ClassVar[bool] = True

    train: Train
    regularizer: Regularizer | None = None
    exempt: Sequence[str] = ()

    @property
    def remedy(self) -> str:
        return self.train.remedy

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        self._of(network).walk_(network, example)

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        return self._rest(network, setting).run_(network, setting)

    def rehearse(self, network: nn.Module, setting: Setting) -> Rehearsal:
        return self._rest(network, setting).rehearse(network, setting)

    def _rest(self, network: nn.Module, setting: Setting) -> Train:
        """What is left of the training."""
        total, done = self.train.recipe.epochs, sum(setting.epochs.values())
        if done > total:
            raise ValueError(
                f"the training has {total} epochs, and the phases before have trained {done}: "
                "give it more, or them less"
            )
        train = self._of(network).changed(epochs=total - done)
        schedule = train.recipe.schedule
        return train if schedule is None or not done else train.changed(schedule=Later(schedule, done / total))

    def _of(self, network: nn.Module) -> Train:
        """The training of this network: with penalties on factors where there are some."""
        if not any(isinstance(edit, Factorized) for edit in edits_of(network)):
            return self.train
        return self.train.changed(regularizer=self.regularizer, exempt=self.exempt)


@dataclass(frozen=True)
class Later:
    """A schedule from the place `begin` in [0, 1) on: its progress p is begin + p (1 - begin) of the whole.

    >>> Later(lambda progress: 1 - progress, 0.5)(0.5)
    0.25
    """

    schedule: Callable[[float], Any]
    begin: float

    def __call__(self, progress: float) -> float:
        return self.schedule(self.begin + progress * (1 - self.begin))
