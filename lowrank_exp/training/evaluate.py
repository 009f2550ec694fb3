"""How good a network is on a loader: accuracy, loss, top-5.

N images, C classes; logits_NC the network's output.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import multiclass_stat_scores

from lowrank_exp.modes import kept_modes
from lowrank_exp.training.device import resolve
from lowrank_exp.training.generators import undisturbed

# With five classes or fewer the right one is always among the five best: the number would say nothing.
FEWEST_CLASSES_FOR_TOP5 = 6


@dataclass(frozen=True)
class Scores:
    """What `evaluate` measured.

    Attributes:
        accuracy: fraction of images whose highest logit is the label's.
        loss: mean cross-entropy per image, in nats, without label smoothing.
        top5: fraction of images whose label is among the five highest logits; None below six classes.
        count: how many images.
    """

    accuracy: float
    loss: float
    top5: float | None
    count: int


def evaluate(
    network: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    device: str = "auto",
    num_classes: int | None = None,
) -> Scores:
    """Score a network on every image of a loader, in eval mode and without gradients.

    The network's modes and device, and the global random generators, are afterwards as they were. Counts are
    whole numbers and the loss is summed in float64, so the batch size changes nothing but the last bits of
    the loss.

    Args:
        network: takes images of shape (N, ...), returns logits (N, C).
        loader: gives pairs of images and labels; labels of shape (N,), integers in [0, C).
        device: where to compute: 'auto', 'cpu', 'cuda', 'cuda:1', 'mps'.
        num_classes: C, checked against the logits; taken from them where None.

    Raises:
        ValueError: no images, logits that are not (N, C), another C than asked for, a label outside [0, C).
    """
    where = resolve(device)
    home = _home(network)
    hits = torch.zeros((), dtype=torch.int64, device=where)
    hits5 = torch.zeros((), dtype=torch.int64, device=where)
    losses: list[Tensor] = []
    count, classes = 0, num_classes
    with kept_modes(network), undisturbed(where), torch.no_grad():
        try:
            network.eval().to(where)
            for images, labels in loader:
                logits_NC = network(images.to(where, non_blocking=True))
                classes = _classes(logits_NC, labels, classes)
                labels_N = labels.to(where, non_blocking=True)
                losses.append(cross_entropy(logits_NC.float(), labels_N, reduction="sum"))
                hits += _hits(logits_NC, labels_N, classes, 1)
                if classes >= FEWEST_CLASSES_FOR_TOP5:
                    hits5 += _hits(logits_NC, labels_N, classes, 5)
                count += len(labels)
        finally:
            network.to(home)
    if count == 0 or classes is None:
        raise ValueError("the loader gave no images: check its data set, and drop_last with a large batch size")
    return Scores(
        accuracy=hits.item() / count,
        loss=torch.stack(losses).cpu().double().sum().item() / count,
        top5=hits5.item() / count if classes >= FEWEST_CLASSES_FOR_TOP5 else None,
        count=count,
    )


def _hits(logits_NC: Tensor, labels_N: Tensor, classes: int, top_k: int) -> Tensor:
    """How many labels are among the top_k highest logits (the true positives, summed over classes)."""
    return multiclass_stat_scores(logits_NC, labels_N, classes, average="micro", top_k=top_k, validate_args=False)[0]


def _classes(logits_NC: Tensor, labels_N: Tensor, classes: int | None) -> int:
    """The number of classes, after checking that logits and labels agree with it."""
    if logits_NC.dim() != 2 or labels_N.shape != logits_NC.shape[:1]:
        raise ValueError(
            f"the network gave logits of shape {tuple(logits_NC.shape)} for labels of shape "
            f"{tuple(labels_N.shape)}; allowed are (N, classes) for (N,)"
        )
    width = logits_NC.shape[1]
    if classes is not None and classes != width:
        raise ValueError(f"num_classes is {classes}, but the network gives {width} logits per image")
    low, high = labels_N.min().item(), labels_N.max().item()
    if low < 0 or high >= width:
        raise ValueError(
            f"labels run from {low} to {high}, but the network has {width} classes, numbered from 0: "
            "give it the data set's number of classes"
        )
    return width


def _home(network: nn.Module) -> torch.device:
    """The device the network is on (the first parameter's; the processor for a network without any)."""
    parameter = next(network.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
