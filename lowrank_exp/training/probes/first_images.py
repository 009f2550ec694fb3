"""The same first images of a loader, as often as they are asked for."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from lowrank_exp.network.draws import drawn_apart


@dataclass(frozen=True)
class FirstImages:
    """Batches of the first `images` images of a loader, the last batch cut to size; with labels where asked for.

    Where the loader's sampler has `set_epoch`, it is set to `epoch`; a plain shuffling loader draws as if the global
    generator were seeded with that number, see `drawn_apart`. So every pass gives the same images.

    Raises:
        ValueError: the loader gives fewer images.

    >>> import torch
    >>> loader = [(torch.zeros(4, 1), torch.zeros(4)), (torch.ones(4, 1), torch.zeros(4))]
    >>> [len(batch) for batch in FirstImages(loader, 6)]
    [4, 2]
    """

    loader: Iterable
    images: int
    labels: bool = False
    epoch: int = 0

    def __iter__(self) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        set_epoch = getattr(getattr(self.loader, "sampler", None), "set_epoch", None)
        if callable(set_epoch):
            set_epoch(self.epoch)
        left = self.images
        for batch, labels in drawn_apart(self.loader, self.epoch):
            batch, labels = batch[:left], labels[:left]
            left -= len(batch)
            yield (batch, labels) if self.labels else batch
            if left == 0:
                return
        given = self.images - left
        raise ValueError(f"images is {self.images}, but the loader gives {given} per pass: ask for that many or fewer")
