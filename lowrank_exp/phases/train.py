"""`Train`: all weights are trained, the dense network's or those of a small one."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lowrank_exp.phases.collapse import outweighed
from lowrank_exp.phases.phase import Done, Phase, Setting
from lowrank_exp.phases.rehearsal import Rehearsal
from lowrank_exp.training import Recipe, fit_
from lowrank_exp.training.checkpoint import FIT
from lowrank_exp.training.probes.pace import fit_seconds


@dataclass(frozen=True, kw_only=True)
class Train(Phase):
    """Train all weights: the dense network, or fine-tuning of a small one.

    Args:
        recipe: how; the teacher of `distill` is the name of an earlier phase, or `initial`. `until` and `pruning` are
            given by other phases that train. In a configuration the recipe is named, and what is set beside it takes
            the place of its own options.
    """

    version: ClassVar[int] = 2
    trains: ClassVar[bool] = True
    keeps_dense: ClassVar[bool] = True

    recipe: Recipe

    @property
    def looks_back(self) -> list[str]:
        return [] if self.recipe.distill is None else [self.recipe.distill.teacher]

    @property
    def remedy(self) -> str:
        terms = [] if self.recipe.regularizer is None else list(self.recipe.regularizer.terms)
        weights = f"the weights of its penalties ({', '.join(terms)}), or " if terms else ""
        return (
            f"Lower {weights}the learning rate of this training; where its loss has hardly fallen, raise the learning "
            "rate or train for longer"
        )

    def changed(self, **options: Any) -> "Train":
        """The same with other options of its recipe."""
        return replace(self, recipe=replace(self.recipe, **options))

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        self.recipe.check(network)

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        recipe = self._taught(setting)
        history = fit_(
            network,
            setting.data.train_loader(recipe.batch_size, setting.seed, recipe.augment),
            setting.data.val_loader(recipe.batch_size) if setting.data.sizes["val"] else None,
            recipe,
            seed=setting.seed,
            checkpoint=setting.folder / "last.ckpt",
            device=setting.device,
            on_epoch=setting.on_epoch,
            on_resume=setting.on_resume,
            progress=setting.progress,
            label=setting.name,
        )
        signs = []
        if recipe.regularizer is not None and recipe.regularizer.terms:
            signs = outweighed(history, recipe.regularizer.weights, recipe.epochs, setting.data.num_classes)
        return Done(history, warnings=signs)

    def rehearse(self, network: nn.Module, setting: Setting) -> Rehearsal:
        recipe, total = self._taught(setting), self.recipe.epochs
        loader = setting.data.train_loader(recipe.batch_size, setting.seed, recipe.augment)
        epochs = total - _epochs_done(setting.folder / "last.ckpt")
        seconds = fit_seconds(
            network,
            loader,
            setting.data.val_loader(recipe.batch_size) if setting.data.sizes["val"] else None,
            replace(recipe, epochs=epochs),
            seed=setting.seed,
            device=setting.device,
        )
        left = f"{epochs} of {total} epochs" if epochs < total else f"{epochs} epochs"
        steps = -(-len(loader) // recipe.accumulate)
        otherwise = (("not compiled", recipe.compile), ("on one device", recipe.devices > 1))
        measured = [words for words, differs in otherwise if differs]
        part = ", ".join([left, f"{steps:,} steps each", *measured])
        return Rehearsal(network, [(part, seconds)], same_weights=not total, epochs=total)

    def _taught(self, setting: Setting) -> Recipe:
        """The recipe with the network that teaches in the place of its name."""
        if (distill := self.recipe.distill) is None:
            return self.recipe
        return replace(self.recipe, distill=replace(distill, teacher=setting.network(distill.teacher)))


def _epochs_done(checkpoint: Path) -> int:
    """Finished epochs of a training that was interrupted."""
    if not checkpoint.is_file():
        return 0
    return len(torch.load(checkpoint, map_location="cpu", weights_only=True)[FIT]["history"])
