"""How good a network is on a loader: accuracy, loss, top-5, and which class was taken for which.

N images, C classes; logits_NC the network's output.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowrank_exp.models import not_finite
from lowrank_exp.models.parts import list_names
from lowrank_exp.network.modes import kept_modes
from lowrank_exp.training.device import resolve
from lowrank_exp.training.generators import undisturbed
from lowrank_exp.training.memory_format import channels_last_gains, in_channels_last

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
        confusion: int64 (C, C), images of label i (row) with the highest logit at j (column); None where it was not
            asked for.
        not_finite: images of which a logit is NaN or infinite. Where there are any, nothing above but `count` is a
            number: the highest of logits that are NaN would be that of class 0.
    """

    accuracy: float | None
    loss: float | None
    top5: float | None
    count: int
    confusion: Tensor | None = field(default=None, compare=False, repr=False)
    not_finite: int = 0

    @property
    def class_accuracy(self) -> list[float | None] | None:
        """Fraction of each class's images whose highest logit is the label's; None for a class without images."""
        if self.confusion is None:
            return None
        images_C, right_C = self.confusion.sum(1).tolist(), self.confusion.diagonal().tolist()
        return [right / images if images else None for right, images in zip(right_C, images_C, strict=True)]


def evaluate(
    network: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    device: str = "auto",
    num_classes: int | None = None,
    confusion: bool = False,
) -> Scores:
    """Score a network on every image of a loader, in eval mode and without gradients.

    The network's modes and device, and the global random generators, are afterwards as they were. Counts are
    whole numbers and the loss is summed in float64, so the batch size changes nothing but the last bits of
    the loss. Of a network that gives logits which are not finite there are no scores, see `Scores.not_finite`.

    Args:
        network: takes images of shape (N, ...), returns logits (N, C).
        loader: gives pairs of images and labels; labels of shape (N,), integers in [0, C). Images of five dimensions
            (N, V, ...) are V views of each, see `over_views`.
        device: where to compute: 'auto', 'cpu', 'cuda', 'cuda:1', 'mps'.
        num_classes: C, checked against the logits; taken from them where None.
        confusion: count which class was taken for which, too.

    Raises:
        ValueError: no images, logits that are not (N, C), another C than asked for, a label outside [0, C).
    """
    where = resolve(device)
    home = _home(network)
    hits = torch.zeros((), dtype=torch.int64, device=where)
    hits5 = torch.zeros((), dtype=torch.int64, device=where)
    spoilt = torch.zeros((), dtype=torch.int64, device=where)
    losses: list[Tensor] = []
    pairs: list[tuple[Tensor, Tensor]] = []
    count, classes, channels_last = 0, num_classes, False
    with kept_modes(network), undisturbed(where), torch.no_grad():
        try:
            network.eval().to(where)
            for images, labels in loader:
                images = images.to(where, non_blocking=True)
                channels_last = channels_last_gains(network, images) if count == 0 else channels_last
                logits_NC = over_views(network, in_channels_last(images) if channels_last else images)
                classes = _classes(logits_NC, labels, classes)
                labels_N = labels.to(where, non_blocking=True)
                losses.append(cross_entropy(logits_NC.float(), labels_N, reduction="sum"))
                spoilt += (~logits_NC.isfinite()).any(1).sum()
                predictions_N = logits_NC.argmax(1)
                hits += (predictions_N == labels_N).sum()
                if confusion:
                    pairs.append((labels_N, predictions_N))
                if classes >= FEWEST_CLASSES_FOR_TOP5:
                    hits5 += _hits5(logits_NC, labels_N, classes)
                count += len(labels)
        finally:
            network.to(home)
    if count == 0 or classes is None:
        raise ValueError("the loader gave no images: check its data set, and drop_last with a large batch size")
    if spoilt:
        return Scores(None, None, None, count, not_finite=spoilt.item())
    return Scores(
        accuracy=hits.item() / count,
        loss=torch.stack(losses).cpu().double().sum().item() / count,
        top5=hits5.item() / count if classes >= FEWEST_CLASSES_FOR_TOP5 else None,
        count=count,
        confusion=_confusion(pairs, classes) if confusion else None,
    )


def why_no_scores(network: nn.Module, scores: Scores) -> str:
    """Why a network whose logits are not finite has no scores, and where that may come from."""
    bad = not_finite(network)
    why = f"NaN or infinite are entries of {list_names(bad)}" if bad else "its weights are finite, activations overflow"
    return (
        f"the logits of {scores.not_finite} of {scores.count} test images are NaN or infinite: there is no "
        f"accuracy and no loss; {why}"
    )


def over_views(network: nn.Module, images: Tensor) -> Tensor:
    """Logits (N, C) of images (N, ...); of V views of each, (N, V, C, H, W), the logarithm of their mean softmax.

        log p_c = log 1/V sum_v softmax(network(x_v))_c

    Views pass one after the other, each in a batch of N: they need no more memory than one does.

    Source: Krizhevsky, Sutskever, Hinton 2012, section 4.1 (ten patches, mean of the softmax layer's predictions).
    """
    if images.dim() != 5:
        return network(images)
    logs_VNC = torch.stack([network(view).float().log_softmax(1) for view in images.unbind(1)])
    return logs_VNC.logsumexp(0) - math.log(len(logs_VNC))


def _hits5(logits_NC: Tensor, labels_N: Tensor, classes: int) -> Tensor:
    """How many labels are among the five highest logits (the true positives, summed over classes)."""
    from torchmetrics.functional.classification import multiclass_stat_scores  # seconds, and torchvision with it

    return multiclass_stat_scores(logits_NC, labels_N, classes, average="micro", top_k=5, validate_args=False)[0]


def _confusion(pairs: list[tuple[Tensor, Tensor]], classes: int) -> Tensor:
    """Labels and predictions of all batches, counted at once and on the processor.

    On CUDA a count per batch would wait for every batch, and with deterministic algorithms torchmetrics takes
    memory of N * C * C for it.
    """
    labels_N, predictions_N = (torch.cat(parts).cpu() for parts in zip(*pairs, strict=True))
    return torch.bincount(labels_N.long() * classes + predictions_N, minlength=classes**2).view(classes, classes)


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
