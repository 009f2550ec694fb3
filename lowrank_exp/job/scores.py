"""How good a network is on the test and validation images of a job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lowrank_exp.files import confusion
from lowrank_exp.phases.collapse import Measured
from lowrank_exp.training import Scores, evaluate, why_no_scores

if TYPE_CHECKING:  # with Lightning, which takes seconds
    from lowrank_exp.data import ImageData


@dataclass(frozen=True)
class Scored:
    """What was measured.

    `scores`: of a `PhaseResult`, by name; `warnings`: why there are none; `images`: accuracies with how many images of
    each class they are of.
    """

    scores: dict[str, Any]
    warnings: list[str]
    images: list[Measured]


def score(network: nn.Module, data: ImageData, batch_size: int, device: str, counts: Path) -> Scored:
    """Score a network on all test and validation images, and write down which class was taken for which.

    Args:
        network: gives logits.
        data: set up.
        batch_size: images per forward pass.
        device: where to compute.
        counts: the file of the confusion counts.
    """
    test = evaluate(network, data.test_loader(batch_size), device, confusion=True)
    warnings, by_class, images, val = [], {}, [], None
    if test.confusion is None or test.class_accuracy is None:
        warnings.append(why_no_scores(network, test))
    else:
        confusion.write(counts, data.classes, test.confusion.numpy())
        names = confusion.class_names(data.classes)
        by_class = dict(zip(names, test.class_accuracy[: len(names)], strict=True))
        images.append(_with_classes("test", test, test.confusion))
    if data.sizes["val"]:
        on_val = evaluate(network, data.val_loader(batch_size), device, confusion=True)
        val = on_val.accuracy
        if images and on_val.confusion is not None:
            images.append(_with_classes("validation", on_val, on_val.confusion))
    scores = {"accuracy": test.accuracy, "val_accuracy": val, "loss": test.loss, "top5": test.top5}
    return Scored(scores | {"class_accuracy": by_class}, warnings, images)


def _with_classes(images: str, scores: Scores, confusion_CC: Tensor) -> Measured:
    return Measured(images, scores.accuracy, confusion_CC.sum(1).tolist())
