"""Loaders whose items are whole batches: the sampler says which images, the data set gathers them at once.

The order of an epoch is a function of (seed, epoch), the augmentation of an image of (seed, epoch, image).
Neither depends on the batch size, on a global random state or on what was drawn before, so a resumed run
sees the batches that an unbroken one would have seen.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lowrank_exp.data.augment import crop_and_flip, cut_out_, draw_augmentation, draw_cutout, normalise
from lowrank_exp.data.streamed import StreamedImages
from lowrank_exp.data.views import ImageView

Batch = tuple[Tensor, Tensor]


class EpochBatches(Sampler):
    """Yields `(epoch, positions)` for every batch of one epoch; positions is int64 `(B,)`.

    Lightning calls `set_epoch` before every epoch; a loop of your own calls
    `loader.sampler.set_epoch(epoch)`, otherwise every pass is epoch 0.

    Args:
        count: number of images.
        batch_size: at least 1.
        seed: with the epoch decides the order; at least 0. Not used unless `shuffle`.
        shuffle: a new order every epoch. The last, incomplete batch is kept; but when shuffling (training)
            it is dropped where it would hold a single image and `batch_size` is larger: batch norm cannot
            train on one.

    Several processes share every batch out after `share_out`: each has a sampler of its own, equal but for the rank.

    Raises:
        ValueError: batch size or seed out of range, or a shuffled epoch without any batch.

    >>> [positions.tolist() for _, positions in EpochBatches(5, batch_size=2)]
    [[0, 1], [2, 3], [4]]
    >>> len(EpochBatches(5, batch_size=2, shuffle=True))
    2
    """

    def __init__(self, count: int, batch_size: int, seed: int = 0, shuffle: bool = False) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: at least 1 is needed")
        if seed < 0:
            raise ValueError(f"seed={seed}: a whole number of at least 0 is needed")
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0
        self.rank, self.ranks = 0, 1
        single = count % batch_size == 1 and batch_size > 1
        self._used = count - 1 if shuffle and single else count
        if shuffle and self._used < 1:
            raise ValueError(f"{count} training images make no batch of {batch_size}: add images or set batch_size=1")

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0, that the next pass is of."""
        self.epoch = epoch

    def share_out(self, rank: int, ranks: int) -> None:
        """From now on give the part of process `rank` of `ranks`: pieces of every batch, as equal as can be.

        A piece of fewer than two images, where the batch has two, is filled up with other images of the batch: batch
        norm cannot train on one. `shares` says how many of a part are its own.

        >>> batches = EpochBatches(5, batch_size=4)
        >>> batches.share_out(1, 2)
        >>> [positions.tolist() for _, positions in batches], list(batches.shares)
        ([[2, 3], [4]], [(2, 4), (0, 1)])
        """
        self.rank, self.ranks = rank, ranks

    @property
    def shares(self) -> Iterator[tuple[int, int]]:
        """Of every batch of an epoch: how many images are this process's own, and how many it has in all processes."""
        for start in range(0, self._used, self.batch_size):
            whole = min(self.batch_size, self._used - start)
            yield whole // self.ranks + (self.rank < whole % self.ranks), whole

    def _part(self, positions_B: Tensor) -> Tensor:
        pieces = positions_B.tensor_split(self.ranks)
        others = torch.cat([*pieces[: self.rank], *pieces[self.rank + 1 :]])
        lacking = min(2, len(positions_B)) - len(pieces[self.rank])
        return torch.cat([pieces[self.rank], others[: max(0, lacking)]])

    def __len__(self) -> int:
        return -(-self._used // self.batch_size)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        epoch = self.epoch
        order = np.arange(self.count)
        if self.shuffle:
            order = np.random.default_rng((self.seed, epoch, 0)).permutation(self.count)
        for positions_B in torch.from_numpy(order[: self._used]).split(self.batch_size):
            if len(positions_B):
                yield epoch, positions_B if self.ranks == 1 else self._part(positions_B)


class ImageBatches(Dataset):
    """Batches of chosen rows of a uint8 tensor, augmented and normalised.

    Args:
        images: uint8 `(N, C, H, W)`, or images that are decoded when they are asked for.
        labels: int64 `(N,)`.
        rows: int64 `(n,)`: the rows of `images` that belong to this split; positions count in it.
        mean, std: float32 `(C, 1, 1)`, in the scale 0..1.
        crop_padding: see `crop_and_flip`; 0 = no crop.
        flip: mirror with probability one half.
        seed: of the augmentation.
        cutout: side of the square that `cut_out_` zeroes after normalising; 0 = none.
        view: what is seen of an image, in place of the padded crop; None = all of it.
        bgr: the network takes blue, green, red; mean and std are in that order.
        dtype: of the batches.
    """

    def __init__(
        self,
        images: Tensor | StreamedImages,
        labels: Tensor,
        rows: Tensor,
        mean: Tensor,
        std: Tensor,
        crop_padding: int = 0,
        flip: bool = False,
        seed: int = 0,
        cutout: int = 0,
        view: ImageView | None = None,
        bgr: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.images = images
        self.labels = labels
        self.rows = rows
        self.mean = mean
        self.std = std
        self.crop_padding = crop_padding
        self.flip = flip
        self.seed = seed
        self.cutout = cutout
        self.view = view
        self.bgr = bgr
        self.dtype = dtype
        self._drawn: tuple[int, Tensor] | None = None
        self._centres: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        """Number of images (not of batches: the sampler knows those)."""
        return len(self.rows)

    def offsets(self, epoch: int) -> Tensor:
        """The table `(n, 3)` of dy, dx, flip of one epoch, or the view's boxes `(n, V, 5)`; the last one is kept."""
        if self._drawn is None or self._drawn[0] != epoch:
            count = len(self.rows)
            if self.view is not None:
                table = self.view.boxes(count, self.seed, epoch, self.flip)
            else:
                table = draw_augmentation(count, self.seed, epoch, self.crop_padding, self.flip)
            self._drawn = epoch, table
        return self._drawn[1]

    def centres(self, epoch: int) -> Tensor:
        """The table `(n, 2)` of the centres (y, x) of one epoch's cutout; the last one drawn is kept."""
        if self._centres is None or self._centres[0] != epoch:
            height, width = self.images.shape[2:] if self.view is None else self.view.size
            self._centres = epoch, draw_cutout(len(self.rows), self.seed, epoch, height, width)
        return self._centres[1]

    def __getitem__(self, item: tuple[int, Tensor]) -> Batch:
        """Images `(B, C, H, W)`, of ten crops `(B, 10, C, H, W)`, and labels int64 `(B,)` of an item."""
        epoch, positions_B = item
        rows_B = self.rows[positions_B]
        images, labels_B = self.images, self.labels[rows_B]
        if isinstance(images, StreamedImages):
            images, rows_B = images.fetch(rows_B), torch.arange(len(rows_B))
        if self.view is not None:
            images_BCHW = self.view.cut(images, rows_B, self.offsets(epoch)[positions_B])
        elif self.crop_padding or self.flip:
            offsets_B3 = self.offsets(epoch)[positions_B]
            images_BCHW = crop_and_flip(images, rows_B, offsets_B3, self.crop_padding)
        else:
            images_BCHW = images[rows_B]
        if self.bgr:
            images_BCHW = torch.from_numpy(np.ascontiguousarray(images_BCHW.numpy()[..., ::-1, :, :]))
        normalised_BCHW = normalise(images_BCHW, self.mean, self.std)
        if self.cutout:
            cut_out_(normalised_BCHW, self.centres(epoch)[positions_B], self.cutout)
        return normalised_BCHW.to(self.dtype), labels_B


def batch_loader(batches: ImageBatches, sampler: EpochBatches) -> DataLoader:
    """A DataLoader that hands the batches through as they are, in this process; that of streamed images has workers.

    It has a generator of its own: DataLoader draws a number at the start of every pass, by default from
    torch's global generator, which would shift every other draw of the run.
    """
    if isinstance(batches.images, StreamedImages):
        return batches.images.loader(batches, sampler)
    return DataLoader(
        batches,
        sampler=sampler,
        batch_size=None,
        num_workers=0,
        collate_fn=_keep_as_it_is,
        generator=torch.Generator().manual_seed(0),
    )


def _keep_as_it_is(batch: Batch) -> Batch:
    return batch
