"""Images that are decoded when a batch asks for them: for data that are larger than memory.

They stand where a uint8 tensor would. What a batch holds follows from seed, epoch and image alone, so it does not
depend on how many processes decode, and is bit for bit what the same images in memory give.

Shapes: N images, B of them in a batch, C channels, H height, W width.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lowrank_exp.data.adapt import Shape, adapt_images
from lowrank_exp.data.decode import ColourAmongGreyError, Stored, read_image
from lowrank_exp.data.decode_cache import DecodeCache


class StreamedImages:
    """Files of images, decoded by whoever asks for their rows.

    Args:
        root: the folder that the paths are below.
        paths: of the files, in the order of the rows.
        stored: what each becomes.
        cache: of decoded images, or None.
        first: number in the cache of the first row here.
        workers: processes that decode ahead; 0 = in the process that asks.
        prefetch: batches that each of them has ready or in work.
        shape: (C, H, W) that rows are brought to after they were read from file or cache; None = as stored.
    """

    def __init__(
        self,
        root: Path,
        paths: Sequence[str] | np.ndarray,
        stored: Stored,
        cache: DecodeCache | None = None,
        first: int = 0,
        workers: int = 0,
        prefetch: int = 2,
        shape: Shape | None = None,
    ) -> None:
        self.root = root
        # One array of bytes: a million strings would be copied into every process, page by page, as they are counted.
        self.paths = paths if isinstance(paths, np.ndarray) else np.array([os.fsencode(path) for path in paths])
        self.stored = stored
        self.cache = cache
        self.first = first
        self.workers = workers
        self.prefetch = prefetch
        self.shape = torch.Size((len(self.paths), *(stored.shape if shape is None else shape)))

    def __len__(self) -> int:
        return len(self.paths)

    def adapt_to(self, shape: Shape) -> "StreamedImages":
        """The same images, brought to `shape` (C, H, W) by `adapt_images` after they are read."""
        return StreamedImages(
            self.root, self.paths, self.stored, self.cache, self.first, self.workers, self.prefetch, shape
        )

    def fetch(self, rows: Tensor) -> Tensor:
        """uint8 `(B, C, H, W)` of int64 rows `(B,)`.

        Raises:
            ValueError: a file cannot be decoded or is not like the others; it is named.
        """
        images_BCHW = np.empty((len(rows), *self.stored.shape), dtype=np.uint8)
        for image_CHW, row in zip(images_BCHW, rows.tolist(), strict=True):
            cached = None if self.cache is None else self.cache.read(self.first + row)
            image_CHW[:] = self._read_decoded(row) if cached is None else cached.reshape(image_CHW.shape)
        return adapt_images(torch.from_numpy(images_BCHW), tuple(self.shape[1:]))

    def _read_decoded(self, row: int) -> np.ndarray:
        path = self.root / os.fsdecode(self.paths[row])
        try:
            image_CHW = np.ascontiguousarray(read_image(path, self.stored))
        except ColourAmongGreyError:
            raise ValueError(
                f"{path} is in colour and {self.stored.first} is grey: set data.channels=3, and all are read as RGB"
            ) from None
        if self.cache is not None:
            self.cache.write(self.first + row, image_CHW.reshape(-1))
        return image_CHW

    def loader(self, batches: Dataset, sampler: Sampler) -> DataLoader:
        """A loader whose items are those of `batches`, made by `workers` processes that live as long as it does.

        Every process computes on one thread, as torch's workers do.
        """
        workers = min(self.workers, len(sampler))
        parallel = {"prefetch_factor": self.prefetch, "persistent_workers": True} if workers else {}
        return _StreamedLoader(
            _ErrorsAsItems(batches),
            sampler=sampler,
            batch_size=None,
            num_workers=workers,
            collate_fn=_keep_as_it_is,
            generator=torch.Generator().manual_seed(0),  # its own, as in `batch_loader`
            **parallel,
        )


@dataclass(frozen=True, eq=False)
class StreamedSource:
    """Training and test images that stay in their files: what `LabelledImages` is for images in memory.

    Args:
        train_images, test_images: the files.
        train_labels, test_labels: int64 `(N,)`.
        classes: name of every class, in the order of the labels.
        names: what messages and reports call the classes; the same where empty. They do not take part in the digest.
        sizes: bytes of every file, training images first.
    """

    train_images: StreamedImages
    train_labels: Tensor
    test_images: StreamedImages
    test_labels: Tensor
    classes: tuple[str, ...]
    sizes: np.ndarray
    names: tuple[str, ...] = ()

    @property
    def image_shape(self) -> Shape:
        """(C, H, W) of every image."""
        return self.train_images.stored.shape

    @property
    def digest(self) -> str:
        """SHA-256 (64 hex digits) over class names, paths below the root and bytes of every file, and what it becomes.

        Contents are not read, which would take hours: a file that is exchanged for one of equal length is not noticed.
        The same images in memory have another digest, which is of their pixels.
        """
        stored = self.train_images.stored
        sha = hashlib.sha256(json.dumps(["streamed", self.classes, stored.shape, stored.fit]).encode())
        for images, labels in ((self.train_images, self.train_labels), (self.test_images, self.test_labels)):
            sha.update(f"{len(images)} images".encode())
            sha.update(b"\0".join(images.paths.tolist()))
            sha.update(labels.numpy())
        sha.update(self.sizes)
        return sha.hexdigest()


class _ErrorsAsItems(Dataset):
    """Hands a user's mistake to the process that asks, which raises it: a worker would wrap it into its traceback."""

    def __init__(self, batches: Dataset) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, item: Any) -> Any:
        try:
            return self.batches[item]
        except ValueError as error:
            return error


class _StreamedLoader(DataLoader):
    def __iter__(self) -> Iterator[Any]:
        for batch in super().__iter__():
            if isinstance(batch, ValueError):
                raise batch
            yield batch


def _keep_as_it_is(batch: Any) -> Any:
    return batch
