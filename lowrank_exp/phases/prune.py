"""The phases of pruning: a training in which filters go, and the removal of those that are silent."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lowrank_exp.checks import whole
from lowrank_exp.machine.stopwatch import stopwatch
from lowrank_exp.phases.phase import Done, Phase, Setting
from lowrank_exp.phases.rehearsal import Rehearsal, walked
from lowrank_exp.phases.timing import clock_of
from lowrank_exp.phases.train import Train
from lowrank_exp.pruning import channel_groups, keepable, remove_
from lowrank_exp.pruning.criteria import Oracle, WeightCriterion, WeightedSum
from lowrank_exp.pruning.criteria.bn_scale import norms_behind
from lowrank_exp.pruning.schedules import Schedule, View
from lowrank_exp.pruning.silent import silent_channels
from lowrank_exp.pruning.times import DENSE, LEFT, PrunedTimes
from lowrank_exp.training import FirstImages, Pruner, Pruning
from lowrank_exp.training.probes.ranking_pace import filters, ranking_seconds


@dataclass(frozen=True, kw_only=True)
class Prune(Phase):
    """Train, and prune on the way as a schedule says.

    Schedules silence filters, which the phase `Remove` then takes out, or remove them themselves (`Iterative`).

    Args:
        train: the training; of 0 epochs, only what is due before the first one is done.
        schedule: of `lowrank_exp.pruning.schedules`.
        layers: names or `re:` patterns of the layers whose filters may go; `ranks`: the channels between the factors of
            decomposed layers; None: all convolutions. What shares channels with them goes along.
        ignored: names or `re:` patterns of layers of whose filters none goes.
        images: for criteria that look at data: training images, other ones for every ranking, or all where there are
            fewer; without augmentation. For the oracle: validation images, the same for every ranking.
        batch_size: of these.
        latency: by what times are measured, if the schedule has a target for them: `runtime`, `threads`, `batch_size`;
            as `latency` of the configuration.
    """

    version: ClassVar[int] = 2
    trains: ClassVar[bool] = True

    train: Train
    schedule: Schedule
    layers: Sequence[str] | None = None
    ignored: Sequence[str] = ()
    images: int = 1000
    batch_size: int = 128
    latency: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("images", "batch_size"):
            whole(name, getattr(self, name))
        if not isinstance(self.schedule, Schedule):
            raise ValueError(f"schedule is a {type(self.schedule).__name__}, none of lowrank_exp.pruning.schedules")
        self.train.changed(pruning=self.pruning(torch.zeros(1)))  # which says whether they go together

    @property
    def looks_back(self) -> list[str]:
        return self.train.looks_back

    @property
    def remedy(self) -> str:
        return "Prune less, or train for longer on the way and afterwards"

    @property
    def criterion(self) -> Any:
        """The schedule's; None where it has none."""
        return getattr(self.schedule, "criterion", None)

    @property
    def validates(self) -> str:
        if isinstance(self.criterion, Oracle):
            return "the oracle measures losses"
        return "the accuracy that is its target is measured" if getattr(self.schedule, "accuracy", None) else ""

    @property
    def bounds_time(self) -> bool:
        """Whether the schedule has a target for measured time."""
        return getattr(self.schedule, "latency", None) is not None

    def conditions(self) -> dict[str, Any]:
        return clock_of(self.latency).conditions if self.bounds_time else {}

    def check_steps(self, network: nn.Module, example: Tensor, images: int) -> None:
        batches = -(-images // self.train.recipe.batch_size)
        view = self.pruning(example).view(network)
        self.schedule.check(view, -(-batches // self.train.recipe.accumulate), self.train.recipe.epochs)

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        self.train.walk_(network, example)
        view = self.pruning(example).view(network)
        summed = isinstance(self.criterion, WeightedSum)
        for part in self.criterion.criteria.values() if summed else [self.criterion]:
            if isinstance(part, WeightCriterion) and part.needs_norm:
                norms = norms_behind(network, view.layers, example[:1])
                for name in view.layers:
                    part.of_layer(name, network.get_submodule(name), norms.get(name))
        if self.schedule.removes:
            remove_(network, self.schedule.stand_in(view), groups=view.groups)

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        pruning = self._with_images(setting)
        if self.bounds_time:
            clock = clock_of(self.latency, times=setting.times, progress=setting.progress)
            pruning = replace(pruning, times=PrunedTimes(clock, network, setting.example))
        before = pruning.view(network).dense_macs
        done = Done()
        if self.train.recipe.epochs:
            done = self.train.changed(pruning=pruning).run_(network, setting)
        else:
            Pruner(pruning, network, setting.seed, 1, 0).before_epoch([])
        after = replace(pruning.view(network), dense_macs=before)
        after.accuracies = [line["val_accuracy"] for line in done.history if line["val_accuracy"] is not None]
        missed_target = [missed] if (missed := self.schedule.missed(after)) else []
        remarks = [] if missed_target else self.schedule.remarks(after)
        values = revival_figures(done.history) | (time_figures(after) if self.bounds_time else {})
        return replace(
            done, values=values, warnings=[*done.warnings, *missed_target, *remarks], missed=bool(missed_target)
        )

    def rehearse(self, network: nn.Module, setting: Setting) -> Rehearsal:
        training = self.train.rehearse(network, setting)
        pruning = self._with_images(setting)
        view = pruning.view(network)
        batches = -(-setting.data.sizes["train"] // self.train.recipe.batch_size)
        rankings = self.schedule.rankings(view, -(-batches // self.train.recipe.accumulate), self.train.recipe.epochs)
        parts, unknown = [*training.parts], ["the times of networks with fewer channels"] * self.bounds_time
        if self.criterion is None or rankings is None or pruning.batches is None:
            unknown.append(f"the rankings of {type(self.schedule).__name__}")
        elif isinstance(self.criterion, WeightCriterion):
            seconds = ranking_seconds(network, view.layers, self.criterion, pruning.batches(0), 1, setting.device)
            parts.append((f"{rankings:,} rankings of filters", rankings * seconds))
        else:
            oracle = isinstance(self.criterion, Oracle)
            images = min(self.images, setting.data.sizes["val" if oracle else "train"])
            batches, count = pruning.held_out if oracle else pruning.batches(0), -(-images // self.batch_size)
            seconds = ranking_seconds(network, view.layers, self.criterion, batches, count, setting.device)
            passes = f"a pass over {images:,} images for each of {filters(network, view.layers):,} filters"
            of_what = passes if oracle else f"{images:,} images each"
            parts.append((f"{rankings:,} rankings, {of_what}", rankings * seconds))
        return Rehearsal(
            walked(network, setting.example, self.walk_),
            parts,
            " and ".join(unknown),
            same_weights=False,
            epochs=self.train.recipe.epochs,
        )

    def _with_images(self, setting: Setting) -> Pruning:
        """What the training is told."""
        loader = setting.data.train_loader(self.batch_size, setting.seed, augment=False)
        images = min(self.images, setting.data.sizes["train"])

        def batches(ranking: int) -> Iterable:
            return FirstImages(loader, images, labels=True, epoch=ranking)

        pruning = replace(self.pruning(setting.example), batches=batches, folder=setting.folder)
        if isinstance(self.criterion, Oracle):
            held_out = setting.data.val_sample(self.images, setting.seed, self.batch_size)
            pruning = replace(pruning, held_out=held_out)
        return pruning

    def pruning(self, example: Tensor) -> Pruning:
        """What the training is told, but for the images; `example` is one of them, `(1, C, ...)`."""
        return Pruning(self.schedule, tuple(example.shape[1:]), self.layers, tuple(self.ignored), example=example)


def time_figures(view: View) -> dict[str, float]:
    """What remains of the time, as a fraction and in milliseconds, and what the network took before: as measured."""
    ms = view.known_times.milliseconds({LEFT: view.cut()})
    left, dense = ms[LEFT], ms[DENSE]
    return {"latency_left": left / dense, "latency_left_ms": left, "latency_dense_ms": dense}


def revival_figures(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Lengths of the gradients of filters that came back and of others in their layers, and the ratio of the two.

    Means over the epochs that have both, weighted alike; nothing where no filter came back. See `Pruner.metrics`.

    >>> lines = [{"train_loss": 2.0}, {"gradient_revived": 3.0, "gradient_others": 2.0}]
    >>> revival_figures(lines)
    {'gradient_revived': 3.0, 'gradient_others': 2.0, 'gradient_ratio': 1.5}
    """
    after = [line for line in history if "gradient_revived" in line]
    if not after:
        return {}
    names = ("gradient_revived", "gradient_others")
    revived, others = (sum(line[name] for line in after) / len(after) for name in names)
    return {"gradient_revived": revived, "gradient_others": others} | (
        {"gradient_ratio": revived / others} if others else {}
    )


@dataclass(frozen=True, kw_only=True)
class Remove(Phase):
    """Take silent channels out of the network; its output stays what it was.

    Where the schedule's paper counts MACs in a way of its own, the values have those beside the real ones: for `SFP` of
    all convolutions of a ResNet for CIFAR (basic blocks, shortcut "a") `sfp_published_macs` and
    `sfp_published_reduction`. Elsewhere there is no such count and it is left out.

    Args:
        prune: the phase that has silenced them; it tells how many there will be, before anything has been trained.
    """

    version: ClassVar[int] = 2

    prune: Prune

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        view = self.prune.pruning(example).view(network)
        if not self.prune.schedule.removes:
            remove_(network, self.prune.schedule.stand_in(view), groups=view.groups)

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        example = setting.example
        every = self.prune.layers is None and not self.prune.ignored
        costs = self.prune.schedule.published_costs(network, example) if every else {}
        groups = channel_groups(network, example, self.prune.ignored)
        silent = silent_channels(network, groups)
        keep: dict[Any, tuple[int, ...]] = {
            group: keepable(group, silent[group.name]) for group in groups if group.name in silent
        }
        return Done(applied=bool(remove_(network, keep, groups=groups).edits), values=costs)

    def rehearse(self, network: nn.Module, setting: Setting) -> Rehearsal:
        """As many channels go as the schedule says, which are made up: none is silent yet."""
        seconds = stopwatch()
        network = walked(network, setting.example, self.walk_)
        return Rehearsal(network, [("silent channels taken out", seconds())], same_weights=False)
