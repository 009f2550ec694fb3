"""The phase that compares criteria of pruning with the oracle, on the network as it is."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from lowrank_exp.checks import one_of, whole
from lowrank_exp.files.whole import write_whole
from lowrank_exp.network.cost import CONVOLUTIONS, LAYERS
from lowrank_exp.network.names import by_layer
from lowrank_exp.phases.phase import Done, Phase, Setting
from lowrank_exp.phases.rehearsal import Rehearsal
from lowrank_exp.pruning.correlation import Agreement, measure_agreement
from lowrank_exp.pruning.criteria import DataCriterion, Oracle, WeightCriterion, WeightedSum, filter_scores, oracle
from lowrank_exp.pruning.criteria.bn_scale import norms_behind
from lowrank_exp.pruning.criteria.criterion import PLACES
from lowrank_exp.text.plain_text import as_cell
from lowrank_exp.training import FirstImages, evaluate
from lowrank_exp.training.probes.ranking_pace import filters, ranking_seconds

Batches = list[tuple[Tensor, Tensor]]
SOURCES = ("val", "train")


@dataclass(frozen=True, kw_only=True)
class Agree(Phase):
    """Spearman's rank correlation of criteria with the oracle; the network stays as it is.

    The oracle silences one filter at a time and measures the loss on validation images: a pass over them for every
    filter. Its losses go to `oracle.jsonl` in the phase's folder as they are measured, and a run that was killed goes
    on with them. `agreement.csv` there has the correlation of every criterion within every layer.

    The values are `spearman_<criterion>_per_layer`, the mean over the layers, `_raw`, over the filters of all layers
    with the scores as they are, and `_l2`, with the scores of each layer divided by their norm. Left out is what is not
    defined: that of a criterion with equal scores only, and that of one that looks at batch norms without any. A
    criterion that finds a batch norm behind some layers only is compared on those.

    Args:
        criteria: by the name that its values get.
        layers: names or `re:` patterns of the layers whose filters are compared; None: all convolutions.
        images: validation images for the oracle, drawn by `seed`, or all where there are fewer; they are held in
            memory.
        seed: draws them.
        batch_size: of these.
        score_on: what criteria look at: `val`, the images of the oracle; `train`, so many training images without
            augmentation, as in pruning.
        absolute: the paper's better oracle counts a change of the loss for the better as one for the worse; false: it
            does not.
        at: what the oracle silences, see `oracle`; criteria have an option of their own.

    Raises:
        ValueError: no criteria, an option out of range.

    Source: Molchanov, Tyree, Karras, Aila, Kautz 2017, "Pruning convolutional neural networks for resource efficient
    inference", table of correlations.
    """

    keeps_dense: ClassVar[bool] = True

    criteria: Mapping[str, WeightCriterion | DataCriterion | WeightedSum]
    layers: Sequence[str] | None = None
    images: int = 1000
    seed: int = 0
    batch_size: int = 128
    score_on: str = "val"
    absolute: bool = True
    at: str = "relu"

    def __post_init__(self) -> None:
        if not self.criteria:
            raise ValueError("criteria: there are none to compare with the oracle; name at least one")
        for name, criterion in self.criteria.items():
            if not isinstance(criterion, WeightCriterion | DataCriterion | WeightedSum):
                raise ValueError(
                    f"criteria.{name} is a {type(criterion).__name__}, none of lowrank_exp.pruning.criteria that "
                    "estimates the oracle"
                )
        for name in ("images", "batch_size"):
            whole(name, getattr(self, name))
        for name, allowed in (("score_on", SOURCES), ("at", PLACES)):
            one_of(name, getattr(self, name), allowed)

    @property
    def validates(self) -> str:
        return "the oracle measures losses"

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        self.find_compared(network)

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        layers = self.find_compared(network)
        held_out = list(setting.data.val_sample(self.images, self.seed, self.batch_size))
        changes = oracle(
            network,
            layers,
            lambda network: evaluate(network, held_out, setting.device).loss,
            absolute=self.absolute,
            at=self.at,
            path=setting.folder / "oracle.jsonl",
            progress=setting.progress,
        )
        looked_at = held_out if self.score_on == "val" else self._training_images(setting)
        agreements = {}
        for name, criterion in self.criteria.items():
            if scored := _find_scored(criterion, network, layers, held_out):
                agreements[name] = measure_agreement(filter_scores(network, scored, criterion, looked_at), changes)
        _write(setting.folder / "agreement.csv", layers, agreements)
        return Done(values=_list_values(agreements))

    def rehearse(self, network: nn.Module, setting: Setting) -> Rehearsal:
        layers = self.find_compared(network)
        held_out = list(setting.data.val_sample(self.images, self.seed, self.batch_size))
        count, images = len(held_out), sum(len(labels) for _, labels in held_out)
        seconds = ranking_seconds(network, layers, Oracle(), held_out, count, setting.device)
        what = f"the oracle, a pass over {images:,} images for each of {filters(network, layers):,} filters"
        looked_at = held_out if self.score_on == "val" else self._training_images(setting)
        count = count if self.score_on == "val" else -(-looked_at.images // self.batch_size)
        others = sum(
            ranking_seconds(network, scored, criterion, looked_at, count, setting.device)
            for criterion in self.criteria.values()
            if (scored := _find_scored(criterion, network, layers, held_out))
        )
        return Rehearsal(network, [(what, seconds), (f"{len(self.criteria)} criteria", others)])

    def find_compared(self, network: nn.Module) -> list[str]:
        """The names of the layers, in the order of the network.

        Raises:
            ValueError: a name that does not exist, or no convolution.
        """
        modules = {name: module for name, module in network.named_modules() if isinstance(module, LAYERS)}
        if self.layers is not None:
            chosen = [self.layers] if isinstance(self.layers, str) else self.layers
            return list(by_layer(dict.fromkeys(chosen), modules, "the layers to compare"))
        names = [name for name, module in modules.items() if isinstance(module, CONVOLUTIONS)]
        if not names:
            raise ValueError("this network has no convolution: name the layers to compare, such as layers=[re:fc.*]")
        return names

    def _training_images(self, setting: Setting) -> FirstImages:
        loader = setting.data.train_loader(self.batch_size, self.seed, augment=False)
        return FirstImages(loader, min(self.images, setting.data.sizes["train"]), labels=True)


def _find_scored(criterion: object, network: nn.Module, layers: Sequence[str], batches: Batches) -> Sequence[str]:
    """The layers that a criterion can score: all, or those behind which there is a batch norm with a scale."""
    if not getattr(criterion, "needs_norm", False):
        return layers
    norms = norms_behind(network, layers, batches[0][0][:1])
    return [name for name in layers if name in norms and norms[name].weight is not None]


def _list_values(agreements: Mapping[str, Agreement]) -> dict[str, float]:
    values = {
        f"spearman_{name}_{what}": S
        for name, agreement in agreements.items()
        for what, S in (("per_layer", agreement.per_layer), ("raw", agreement.raw), ("l2", agreement.normalised))
    }
    return {name: S for name, S in values.items() if S is not None}


def _write(path: Path, layers: Sequence[str], agreements: Mapping[str, Agreement]) -> None:
    """A line per criterion; what is not defined is empty."""
    with write_whole(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["criterion", "per_layer", "raw", "l2", *map(as_cell, layers)])
        for name, agreement in agreements.items():
            within = [agreement.layers.get(layer) for layer in layers]
            table.writerow([as_cell(name), agreement.per_layer, agreement.raw, agreement.normalised, *within])
