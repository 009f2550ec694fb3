"""Two networks side by side, the original one and the one as compressed so far, layer after layer.

What both have come to before a layer is kept for every batch, so that the next layer's pass goes on from there. Where
memory does not suffice, a batch keeps what it had before an earlier layer, or nothing: it runs again from there.
"""

import copy
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from lowrank_exp.network.copying import copy_network
from lowrank_exp.network.modes import evaluating
from lowrank_exp.reconstruct.layer_fit import LayerFit, sampled
from lowrank_exp.reconstruct.passes import forward
from lowrank_exp.reconstruct.steps import Steps, Values

log = logging.getLogger(__name__)

Data = Callable[[], Iterator[Tensor]]  # the batches of images again, the same each time


class Both(Protocol):
    """A network and its copy, in which layers are replaced one after the other."""

    def show(self, layer_fit: LayerFit) -> None:
        """One layer's calls in both networks go to its fit; the layer itself is still dense in both."""
        ...

    def replace(self, name: str, chain: nn.Module) -> None:
        """From now on the compressed network has `chain` in the place of a layer."""
        ...


def in_sequence(model: nn.Module, calls: Mapping[str, int], data: Data, memory: int) -> Both:
    """Both networks carried forward; run whole for every layer where `torch.fx` cannot trace the network.

    Args:
        model: not changed.
        calls: of the layers in one pass, in the order of the first ones.
        data: images.
        memory: bytes for what is kept between layers and for the statistics of one layer together.
    """
    try:
        return Carried(model, calls, data, memory)
    except ValueError as error:
        log.info("the network is run whole for every layer that is fitted: it cannot be traced (%s)", error)
        return Whole(model, calls, data)


class Whole:
    """Both networks run from the images for every layer."""

    def __init__(self, model: nn.Module, calls: Mapping[str, int], data: Data) -> None:
        self._model, self._compressed = model, copy_network(model)
        self._calls, self._data = calls, data

    def show(self, layer_fit: LayerFit) -> None:
        """See `Both`."""
        first, twin, calls = 0, self._compressed.get_submodule(layer_fit.name), self._calls[layer_fit.name]
        with evaluating(self._model), evaluating(self._compressed):
            for images in self._data():
                pairs = _Pairs(layer_fit, first)
                # Later layers may write over their inputs, and the first ones over the images.
                forward(self._model, images.clone(), {layer_fit.layer: pairs.dense}, calls)
                forward(self._compressed, images.clone(), {twin: pairs.compressed}, calls)
                first += len(images)
                if sampled([layer_fit], first):
                    return

    def replace(self, name: str, chain: nn.Module) -> None:
        """See `Both`."""
        self._compressed.set_submodule(name, copy.deepcopy(chain))


@dataclass(frozen=True)
class Kept:
    """What one batch has come to at a place of the list of steps, in both networks.

    images: their number; bytes: of all tensors, those that share their storage counted once.
    """

    images: int
    place: int
    dense: Values
    compressed: Values
    bytes: int


class Carried:
    """Both networks run from one layer to the next.

    Raises:
        ValueError: the network cannot be traced.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], data: Data, memory: int) -> None:
        self._data, self._memory = data, memory
        self._twin = copy_network(model)  # tracing may leave things on a network
        with evaluating(self._twin):
            self._steps = Steps(self._twin, names, next(data())[:2])
        self._chains: dict[str, nn.Module] = {}
        self._batches: int | None = None  # known after the first whole pass
        self.kept: dict[int, Kept] = {}

    @property
    def bytes(self) -> int:
        """What is kept."""
        return sum(one.bytes for one in self.kept.values())

    def show(self, layer_fit: LayerFit) -> None:
        """See `Both`."""
        room = self._memory - layer_fit.bytes()
        for number in sorted(self.kept, reverse=True):
            if self.bytes > room:
                del self.kept[number]
        first, name, steps = 0, layer_fit.name, self._steps
        cut, end = steps.first[name], steps.last[name] + 1
        with evaluating(self._twin):
            for number, images in self._each():
                now = self._forward(number, images, cut, room)
                pairs = _Pairs(layer_fit, first)
                steps.run(now.dense, cut, end, watch={name: pairs.dense})
                steps.run(now.compressed, cut, end, self._chains, {name: pairs.compressed})
                first += now.images
                if sampled([layer_fit], first):
                    return

    def replace(self, name: str, chain: nn.Module) -> None:
        """See `Both`."""
        self._chains[name] = copy.deepcopy(chain).eval()

    def _forward(self, number: int, images: Tensor | None, cut: int, room: int) -> Kept:
        """One batch at a cut, to be used up; a copy of it is kept where there is room."""
        before = self.kept.get(number)
        if before is not None:
            count, place = before.images, before.place
            dense, compressed = copy.deepcopy(before.dense), copy.deepcopy(before.compressed)
        else:
            assert images is not None
            count, place = len(images), 0
            dense, compressed = (self._steps.start(images.clone()) for _ in range(2))
        self._steps.run(dense, place, cut)
        self._steps.run(compressed, place, cut, self._chains)
        now = Kept(count, cut, dense, compressed, _bytes(dense) + _bytes(compressed))
        if self.bytes - (before.bytes if before else 0) + now.bytes <= room:
            # Steps may write over what they get: what is kept is never given to them.
            self.kept[number] = Kept(count, cut, copy.deepcopy(dense), copy.deepcopy(compressed), now.bytes)
        return now

    def _each(self) -> Iterator[tuple[int, Tensor | None]]:
        """Every batch's number, with its images where nothing of it is kept."""
        images, source, given = None, None, 0
        for number in itertools.count():
            if number == self._batches:
                return
            if number in self.kept:
                yield number, None
                continue
            source = source or self._data()
            while given <= number:
                images, given = next(source, None), given + 1
            if images is None:
                self._batches = number
                return
            yield number, images


class _Pairs:
    """The calls of one layer with one batch, in the original network and then in the compressed one."""

    def __init__(self, layer_fit: LayerFit, first_image: int) -> None:
        self._layer_fit, self._first_image = layer_fit, first_image
        self._dense: list[tuple[Tensor, Tensor]] = []
        self._turns: Iterator[tuple[Tensor, Tensor]] | None = None

    def dense(self, x: Tensor, y: Tensor) -> None:
        """One call in the original network."""
        self._dense.append((x.clone(), y.clone()))

    def compressed(self, x: Tensor, y: Tensor) -> None:
        """The same call in the compressed network."""
        self._turns = self._turns or iter(self._dense)
        self._layer_fit.add(self._first_image, *next(self._turns), hat=(x, y))


def _bytes(values: Mapping[str, Any]) -> int:
    """Of the storages of all tensors in there, each counted once."""
    tensors = [value for value in _pytree.tree_leaves(dict(values)) if isinstance(value, torch.Tensor)]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    return sum(storages.values())
