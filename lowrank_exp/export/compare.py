"""Two functions of the same images compared: how far their outputs lie apart, and whether they say the same class."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BATCH = 64  # images of a tensor that go through the networks together


@dataclass(frozen=True)
class Likeness:
    r"""How like the outputs b of a file are to those of the network, a, over so many `images`.

    Attributes:
        difference: :math:`\max |a - b| / \max |a|` over all outputs of all images; infinite where b is not finite.
        equal_predictions: the share of images whose largest output (over axis 1) is in the same place; None where
            outputs have no axis 1.
    """

    difference: float
    equal_predictions: float | None
    images: int


def compare(network: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], batches: Iterable) -> Likeness:
    """How like two functions are on batches `(N, ...)`.

    Raises:
        ValueError: there are no images, the other function does not take so many at a time, or outputs are not a
            tensor, not finite, or of different shapes.
    """
    apart, largest, equal, asked, count = 0.0, 0.0, 0, 0, 0
    for batch in batches:
        wanted = network(batch)
        try:
            got = other(batch)
        except Exception as error:  # each runtime has exceptions of its own
            raise ValueError(f"the file does not take a batch of {len(batch)} images: {error!s:.300}") from error
        if not isinstance(wanted, Tensor):
            raise ValueError(f"the network gives a {type(wanted).__name__}, and what is exported must give one tensor")
        if got.shape != wanted.shape:
            raise ValueError(f"for {len(batch)} images the file gives {tuple(got.shape)}, not {tuple(wanted.shape)}")
        if not wanted.isfinite().all():
            raise ValueError("the network has outputs that are NaN or infinite: nothing can be compared")
        count += len(batch)
        if not wanted.numel():
            continue
        largest = max(largest, float(wanted.abs().max()))
        distance = float((wanted.double() - got.double()).abs().max())
        apart = max(apart, distance if distance == distance else float("inf"))
        if wanted.dim() > 1:
            same = wanted.argmax(1) == got.argmax(1)
            equal, asked = equal + int(same.sum()), asked + same.numel()
    if not count:
        raise ValueError("images holds no image: give a tensor (N, ...) or batches of them, that can be gone through")
    difference = apart / largest if largest else (float("inf") if apart else 0.0)
    return Likeness(difference, equal / asked if asked else None, count)


def batches_of(images: Iterable, example: Tensor) -> Iterator[Tensor]:
    """`images`, a tensor `(N, ...)` or batches (tensors, or tuples that start with one), on the CPU like `example`.

    Raises:
        ValueError: they are of another shape than the example's.
    """
    for batch in images.split(BATCH) if isinstance(images, Tensor) else images:
        batch = (batch if isinstance(batch, Tensor) else torch.as_tensor(batch[0])).detach().cpu()
        if batch.shape[1:] != example.shape[1:]:
            raise ValueError(
                f"images are of {tuple(batch.shape[1:])}, and example_input is of {tuple(example.shape[1:])}, the only "
                "size that the file takes"
            )
        yield batch.to(example.dtype).contiguous()
