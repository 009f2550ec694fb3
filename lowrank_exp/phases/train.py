"""`Train`: all weights are trained, the dense network's or those of a small one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from lowrank_exp.phases.collapse import outweighed
from lowrank_exp.phases.phase import Done, Phase, Setting
from lowrank_exp.phases.rehearsal import Rehearsal
from lowrank_exp.regularizers import Regularizer
from lowrank_exp.training import (
    Distillation,
    Pruning,
    QuantNoise,
    StochasticDepth,
    check_computing,
    check_devices,
    check_pruning,
    fit_,
    trained,
)
from lowrank_exp.training.checkpoint import FIT
from lowrank_exp.training.parts.until import Until
from lowrank_exp.training.probes.pace import fit_seconds


@dataclass(frozen=True, kw_only=True)
class Train(Phase):
    """Train all weights: the dense network, or fine-tuning of a small one.

    Args:
        epochs: passes over the training images; 0 trains nothing.
        batch_size: images per step.
        optimizer: called with the parameters.
        schedule: from progress in [0, 1) to a factor on the learning rate; None keeps it constant.
        augment: whether the data's augmentation is on.
        label_smoothing: in [0, 1).
        precision, accumulate, compile, channels_last, devices: how it is computed, see `fit_`. Memory format and
            compilation change the last bits of the numbers; so do devices and accumulation, and the statistics of
            batch norm; bf16 changes them from the third digit.
        regularizer: penalties, see `lowrank_exp.regularizers`; None: the loss alone.
        exempt: what weight decay spares: `s`, `U`, `V`, `factors`, `norm`, `bias`, and names of parameters.
        until: ends the training early, see `fit_`; given by other phases that train.
        stochastic_depth: residual blocks are skipped at random: a `lowrank_exp.training.StochasticDepth` or a mapping
            of its options; None: never.
        quant_noise: weights are quantized at random: a `lowrank_exp.training.QuantNoise` or a mapping of its options;
            None: never.
        pruning: filters go while it trains, see `fit_`; given by other phases that train.
        distill: a `lowrank_exp.training.Distillation` or a mapping of its options, its teacher the name of an earlier
            phase; None: the labels alone.
        snapshots: when weights are kept for `Rewind`: fractions of the epochs, in [0, 1], rounded down to whole ones.
    """

    version: ClassVar[int] = 2
    trains: ClassVar[bool] = True

    epochs: int
    batch_size: int
    optimizer: Callable[[Iterable[Parameter]], Optimizer]
    schedule: Callable[[float], float] | None = None
    augment: bool = True
    label_smoothing: float = 0.0
    precision: str = "fp32"
    accumulate: int = 1
    compile: bool = False
    channels_last: bool | str = "auto"
    devices: int = 1
    regularizer: Regularizer | None = None
    exempt: Sequence[str] = ()
    until: Until | None = None
    stochastic_depth: StochasticDepth | Mapping[str, Any] | None = None
    quant_noise: QuantNoise | Mapping[str, Any] | None = None
    pruning: Pruning | None = None
    distill: Distillation | Mapping[str, Any] | None = None
    snapshots: Sequence[float] = ()

    def __post_init__(self) -> None:
        for name, lowest in (("epochs", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise ValueError(f"{name} must be an integer of at least {lowest}, got {value!r}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing!r}")
        depth = StochasticDepth.of(self.stochastic_depth)
        check_computing(self.precision, self.accumulate, self.compile, self.channels_last, depth)
        QuantNoise.of(self.quant_noise)
        check_devices(self.devices, Distillation.of(self.distill), self.snapshots)
        if bad := [at for at in self.snapshots if isinstance(at, bool) or not 0 <= at <= 1]:
            raise ValueError(f"snapshots must be fractions of the epochs, in [0, 1], got {bad[0]!r}")
        if self.pruning is not None:
            removes = self.pruning.schedule.removes
            check_pruning(self.compile, self.devices, self.quant_noise, depth if removes else None)

    @property
    def looks_back(self) -> list[str]:
        distill = Distillation.of(self.distill)
        return [] if distill is None else [distill.teacher]

    @property
    def remedy(self) -> str:
        terms = [] if self.regularizer is None else list(self.regularizer.terms)
        weights = f"the weights of its penalties ({', '.join(terms)}), or " if terms else ""
        return (
            f"Lower {weights}the learning rate of this training; where its loss has hardly fallen, raise the learning "
            "rate or train for longer"
        )

    def epochs_at(self, fraction: float) -> int:
        """Whole epochs that are a fraction of the training."""
        return int(fraction * self.epochs + 1e-9)

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        self.optimizer(trained(network, self.exempt))
        for option in (self.regularizer, StochasticDepth.of(self.stochastic_depth), QuantNoise.of(self.quant_noise)):
            if option is not None:
                option.check(network)
        if self.schedule is not None:
            self.schedule(0.0)

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        distill = Distillation.of(self.distill)
        if distill is not None:
            distill = replace(distill, teacher=setting.network(distill.teacher))
        history = fit_(
            network,
            setting.data.train_loader(self.batch_size, setting.seed, self.augment),
            setting.data.val_loader(self.batch_size) if setting.data.sizes["val"] else None,
            epochs=self.epochs,
            optimizer=self.optimizer,
            schedule=self.schedule,
            seed=setting.seed,
            checkpoint=setting.folder / "last.ckpt",
            device=setting.device,
            label_smoothing=self.label_smoothing,
            precision=self.precision,
            accumulate=self.accumulate,
            compile=self.compile,
            channels_last=self.channels_last,
            devices=self.devices,
            regularizer=self.regularizer,
            exempt=self.exempt,
            until=self.until,
            stochastic_depth=self.stochastic_depth,
            quant_noise=self.quant_noise,
            pruning=self.pruning,
            distill=distill,
            snapshots={n: snapshot(setting.folder, n) for n in map(self.epochs_at, self.snapshots)},
            on_epoch=setting.on_epoch,
            progress=setting.progress,
            label=setting.name,
        )
        told = []
        if self.regularizer is not None and self.regularizer.terms:
            told = outweighed(history, self.regularizer.weights, self.epochs, setting.data.num_classes)
        return Done(history, warnings=told)

    def rehearse(self, network: nn.Module, setting: Setting) -> Rehearsal:
        loader = setting.data.train_loader(self.batch_size, setting.seed, self.augment)
        epochs = self.epochs - _epochs_done(setting.folder / "last.ckpt")
        distill = Distillation.of(self.distill)
        if distill is not None:
            distill = replace(distill, teacher=setting.network(distill.teacher))
        seconds = fit_seconds(
            network,
            loader,
            setting.data.val_loader(self.batch_size) if setting.data.sizes["val"] else None,
            epochs=epochs,
            optimizer=self.optimizer,
            seed=setting.seed,
            device=setting.device,
            label_smoothing=self.label_smoothing,
            precision=self.precision,
            accumulate=self.accumulate,
            channels_last=self.channels_last,
            regularizer=self.regularizer,
            exempt=self.exempt,
            stochastic_depth=self.stochastic_depth,
            quant_noise=self.quant_noise,
            distill=distill,
        )
        left = f"{epochs} of {self.epochs} epochs" if epochs < self.epochs else f"{epochs} epochs"
        steps = -(-len(loader) // self.accumulate)
        otherwise = (("not compiled", self.compile), ("on one device", self.devices > 1))
        measured = [told for told, differs in otherwise if differs]
        part = ", ".join([left, f"{steps:,} steps each", *measured])
        return Rehearsal(network, [(part, seconds)], same_weights=not self.epochs, epochs=self.epochs)


def snapshot(folder: Path, epochs: int) -> Path:
    """The file of the weights after so many epochs of the phase whose folder it is."""
    return folder / f"epoch-{epochs}.pt"


def _epochs_done(checkpoint: Path) -> int:
    """Finished epochs of a training that was interrupted."""
    if not checkpoint.is_file():
        return 0
    return len(torch.load(checkpoint, map_location="cpu", weights_only=True)[FIT]["history"])
