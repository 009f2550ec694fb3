"""Passes of data through a network, in which chosen layers show their inputs and outputs."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_exp.network.draws import drawn_apart

See = Callable[[Tensor, Tensor], None]  # gets a layer's input and output, once for every call


def images_of(batch: Any) -> Tensor:
    """The images of a batch that is a tensor, or a tuple with labels behind them.

    Raises:
        ValueError: something else.
    """
    images = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(images, Tensor) or images.dim() < 2 or len(images) == 0:
        raise ValueError(
            f"batches must give tensors of images (N, ...), or tuples with such a tensor in front; got {batch!r:.80}"
        )
    return images


def image_batches(batches: Iterable[Any], device: torch.device, seed: int) -> Iterator[Tensor]:
    """The images of every batch, on `device`.

    A loader that draws its order from torch's global generator gives the same order each time, see `drawn_apart`.
    """
    for batch in drawn_apart(batches, seed):
        yield images_of(batch).to(device)


def forward(model: nn.Module, images: Tensor, see: Mapping[nn.Module, See], calls: int | None = None) -> None:
    """One forward pass in which every layer of `see` shows each call's input and output.

    Args:
        model: in evaluation mode.
        images: `(N, ...)`.
        see: by layer.
        calls: after so many calls, of all these layers together, the rest of the pass is left out.
    """
    left = calls

    def hook(layer: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
        nonlocal left
        see[layer](args[0] if args else kwargs["input"], output)
        if left is not None:
            left -= 1
            if left == 0:
                raise _Enough

    hooks = []
    try:
        for layer in see:
            hooks.append(layer.register_forward_hook(hook, with_kwargs=True))
        model(images)
    except _Enough:
        pass
    finally:
        for one in hooks:
            one.remove()


class _Enough(Exception):  # noqa: N818 - it is none
    """All layers that matter were called."""


def names_within(memory: int, needed: Mapping[str, int]) -> Iterator[list[str]]:
    """Layers by the pass that they share: what they need, and one batch of it, is within `memory`, or it is one layer.

    >>> list(names_within(100, {"conv1": 30, "conv2": 30, "fc": 200}))
    [['conv1', 'conv2'], ['fc']]
    """
    some: list[str] = []
    for name in needed:
        sizes = [needed[one] for one in [*some, name]]
        if some and sum(sizes) + max(sizes) > memory:
            yield some
            some = []
        some.append(name)
    if some:
        yield some
