"""Phases of a few lines: `Recompose`, `Recalibrate`, `Evaluate`."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lowrank_exp.checks import whole
from lowrank_exp.phases.phase import Done, Phase, Setting
from lowrank_exp.surgery import recompose_
from lowrank_exp.training import (
    recalibrate_,
)


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


@dataclass(frozen=True, kw_only=True)
class Evaluate(Phase):
    """Change nothing: a row of figures for the network as it is."""

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        return

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        return Done()
