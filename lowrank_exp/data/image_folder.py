"""Images in class folders, the layout that most data sets can be brought to: in memory or streamed from their files."""

import dataclasses
import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from lowrank_exp.checks import one_of, whole
from lowrank_exp.data.cache import manifest_key, read_cache, write_cache
from lowrank_exp.data.decode import decode_images, find_stored_shape
from lowrank_exp.data.decode_cache import DecodeCache
from lowrank_exp.data.images import GIB, LabelledImages
from lowrank_exp.data.module import ImageData
from lowrank_exp.data.scan import FolderScan, ImageFile, scan_folder
from lowrank_exp.data.streamed import StreamedImages, StreamedSource
from lowrank_exp.files.data_folders import class_folders, image_folder
from lowrank_exp.machine.cores import count_cores

IN_MEMORY = ("auto", "always", "never")


class ClassFolders(ImageData, ABC):
    """A data set whose images lie in class folders; a final class gives `_scan`.

    In memory: decoded once (see `decode.py`) and cached under `cache_dir`. Streamed: decoded batch by batch in
    processes of their own (see `streamed.py`), and what was decoded is kept under `cache_dir`, as much as `cache_limit`
    allows. Both caches hold as long as no file changes its path, length or modification time.

    Batches are the same bits either way, but digests are not: that of streamed images is of paths and lengths, not of
    contents.

    Args:
        in_memory: `always`; `never` = streamed; `auto` = streamed where the images need more than `memory_limit`.
        workers: processes that decode streamed images; 0 = none but the one that trains, None = one per core but one.
        prefetch: batches that each of these processes has ready or in work.
        cache_limit: bytes that the decoded images of streamed data may take on disk; None = as many as they need. What
            lies beyond is decoded every time. A disk is never filled to its last GiB.
        common: arguments of `ImageData`.
    """

    test_folder: str  # the folder of test images, beside `train`

    def __init__(
        self,
        in_memory: str = "auto",
        workers: int | None = None,
        prefetch: int = 2,
        cache_limit: int | None = 64 * GIB,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        wrong = f"data.in_memory={in_memory!r} is not known: {', '.join(IN_MEMORY)}"
        one_of("in_memory", in_memory, IN_MEMORY, wrong)
        for name, number, least, null in (
            ("workers", workers, 0, True),
            ("prefetch", prefetch, 1, False),
            ("cache_limit", cache_limit, 0, True),
        ):
            if not null or number is not None:
                allowed = f"a whole number of at least {least}{' or null' if null else ''}"
                whole(name, number, least, f"data.{name}={number!r}: {allowed} is needed")
        self.in_memory = in_memory
        self.workers = workers
        self.prefetch = prefetch
        self.cache_limit = cache_limit

    def count_classes(self) -> int:
        """How many class folders there are; of archives, once they are unpacked.

        Raises:
            ValueError: what is missing where.
        """
        return len(class_folders(self._folder(), self.test_folder))

    @abstractmethod
    def _folder(self) -> Path:
        """The folder with `train` and `test_folder`; raises ValueError where it is missing."""

    @abstractmethod
    def _scan(self) -> tuple[Path, FolderScan, tuple[str, ...]]:
        """The folder, the files below it, and names for the classes (none: as their folders).

        Raises:
            ValueError: what is missing where.
        """

    def _load(self) -> LabelledImages | StreamedSource:
        root, scan, names = self._scan()
        size = self.geometry.size_decoded(self.image_size)
        source = (
            self._load_streamed(root, scan, size)
            if self._streams(root, scan, size)
            else self._load_all(root, scan, size)
        )
        return dataclasses.replace(source, names=names)

    def _streams(self, root: Path, scan: FolderScan, size: tuple[int, int] | None) -> bool:
        if self.in_memory != "auto":
            return self.in_memory == "never"
        channels, *sides = find_stored_shape(root / scan.train[0].path, size, self.geometry.resize_short).shape
        seen = self._network_shape[1:] if self._network_shape is not None else self.image_size
        if seen is not None and not self.geometry.cuts:  # then they are resized, and held at that size too
            sides = max(sides, list(seen), key=math.prod)
        return (len(scan.train) + len(scan.test)) * channels * math.prod(sides) > self.memory_limit

    def _load_all(self, root: Path, scan: FolderScan, size: tuple[int, int] | None) -> LabelledImages:
        key = self._key(scan, size)
        images = read_cache(self.cache_dir, key)
        if images is None:
            paths = [root / file.path for file in scan.train + scan.test]
            pixels = decode_images(paths, size, self.memory_limit, self.progress, self.geometry.resize_short)
            count = len(scan.train)
            images = LabelledImages(
                pixels[:count], _list_labels(scan.train), pixels[count:], _list_labels(scan.test), scan.classes
            )
            write_cache(self.cache_dir, key, images)
        return images

    def _load_streamed(self, root: Path, scan: FolderScan, size: tuple[int, int] | None) -> StreamedSource:
        stored = find_stored_shape(root / scan.train[0].path, size, self.geometry.resize_short, self.channels)
        cache = None
        if self.cache_dir is not None:
            path = Path(self.cache_dir).expanduser() / f"{self._key(scan, size)}-{stored.shape[0]}.rows"
            cache = DecodeCache(path, math.prod(stored.shape), self.cache_limit)
        workers = max(1, count_cores() - 1) if self.workers is None else self.workers
        train, test = (
            StreamedImages(root, [file.path for file in files], stored, cache, first, workers, self.prefetch)
            for files, first in ((scan.train, 0), (scan.test, len(scan.train)))
        )
        lengths = np.array([file.size for file in scan.train + scan.test], dtype=np.int64)
        return StreamedSource(train, _list_labels(scan.train), test, _list_labels(scan.test), scan.classes, lengths)

    def _key(self, scan: FolderScan, size: tuple[int, int] | None) -> str:
        short = self.geometry.resize_short
        becomes = size if short is None else f"square {short}"
        files = ((file.path, file.size, file.mtime_ns) for file in scan.train + scan.test)
        return manifest_key(f"folder {becomes} {scan.classes}", files)


@final
class ImageFolder(ClassFolders):
    """`root/train/<class>/<image>` and `root/<test_folder>/<class>/<image>`; classes in alphabetical order.

    Args:
        root: the folder; None raises in `setup`.
        test_folder: name of the folder of test images in `root`; that of the training images is `train`.
        name: what the data set is called where it is missing; None where any images will do.
        common: arguments of `ClassFolders` and `ImageData`.
    """

    def __init__(
        self, root: str | None = None, test_folder: str = "test", name: str | None = None, **common: Any
    ) -> None:
        super().__init__(**common)
        if not isinstance(test_folder, str) or test_folder in ("", "train"):
            raise ValueError(f"data.test_folder={test_folder!r}: the name of a folder beside 'train' is needed")
        self.root = root
        self.test_folder = test_folder
        self.name = name

    def _scan(self) -> tuple[Path, FolderScan, tuple[str, ...]]:
        root = self._folder()
        return root, scan_folder(root, self.test_folder), ()

    def _folder(self) -> Path:
        return image_folder(self.root, self.test_folder, self.name)


def _list_labels(files: tuple[ImageFile, ...]) -> torch.Tensor:
    return torch.tensor([file.label for file in files], dtype=torch.int64)
