"""Phases of a few lines: `Recompose`, `Recalibrate`, `Evaluate`."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lowrank_exp.checks import whole
from lowrank_exp.machine.stopwatch import stopwatch
from lowrank_exp.network.copying import copy_network
from lowrank_exp.phases.phase import Done, Phase, Setting
from lowrank_exp.phases.rehearsal import Rehearsal
from lowrank_exp.surgery import recompose_
from lowrank_exp.training import recalibrate_
from lowrank_exp.training.probes.pace import forward_seconds


@dataclass(frozen=True, kw_only=True)
class Recompose(Phase):
    """Turn factorized layers back into dense ones, to be factorized anew.

    Args:
        layers: names or `re:` patterns of the layers that were factorized.
    """

    layers: Sequence[str] = ("re:.*",)

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        recompose_(network, self.layers)

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        recompose_(network, self.layers)
        return Done()

    def rehearse(self, network: nn.Module, setting: Setting) -> Rehearsal:
        network, seconds = copy_network(network), stopwatch()
        self.run_(network, setting)
        return Rehearsal(network, [("weights multiplied out", seconds())])


@dataclass(frozen=True, kw_only=True)
class Recalibrate(Phase):
    """Estimate batch-norm statistics again on training images; nothing to do where there is no batch norm.

    Args:
        max_images: so many training images, or all where there are fewer; without augmentation.
        batch_size: images per forward pass.
    """

    max_images: int
    batch_size: int

    def __post_init__(self) -> None:
        for name, least in (("max_images", 2), ("batch_size", 1)):
            value = getattr(self, name)
            wrong = f"recalibration needs {name} of at least {least}, a whole number, got {value!r}"
            whole(name, value, least, wrong)

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        return

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        loader = setting.data.train_loader(self.batch_size, setting.seed, augment=False)
        images = min(self.max_images, setting.data.sizes["train"])
        return Done(applied=recalibrate_(network, loader, images, setting.device) > 0)

    def rehearse(self, network: nn.Module, setting: Setting) -> Rehearsal:
        if not any(isinstance(module, _BatchNorm) and module.running_mean is not None for module in network.modules()):
            return Rehearsal(network)
        images = min(self.max_images, setting.data.sizes["train"])
        loader = setting.data.train_loader(self.batch_size, setting.seed, augment=False)
        seconds = images * forward_seconds(network, loader, setting.device)
        return Rehearsal(network, [(f"statistics of {images:,} images", seconds)])


@dataclass(frozen=True, kw_only=True)
class Evaluate(Phase):
    """Change nothing: a row of figures for the network as it is."""

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        return

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        return Done()

    def rehearse(self, network: nn.Module, setting: Setting) -> Rehearsal:
        return Rehearsal(network)
