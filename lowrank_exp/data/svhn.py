"""SVHN, the house numbers seen from the street, as torchvision stores and downloads them."""

from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from lowrank_exp.checks import boolean
from lowrank_exp.data.images import LabelledImages
from lowrank_exp.data.module import ImageData
from lowrank_exp.data.torchvision_files import name_damage, read_once
from lowrank_exp.files.data_folders import SETS, set_folder


@final
class SVHN(ImageData):
    """Street View House Numbers, cropped digits: 73,257 training and 26,032 test images, RGB 32x32, 10 classes.

    The label is the digit in the middle of the image (in the files 10 stands for the digit 0). The extra set has
    531,131 images more, easier ones; papers train on both (604,388 images, 1.7 GiB in memory, twice that while they
    are read).

    Args:
        root: the data set lies in its folder `SVHN`, as `train_32x32.mat`, `test_32x32.mat`, `extra_32x32.mat`.
        download: fetch the files that are missing.
        extra: train on the extra set too; the validation images are then cut from both together.
        common: arguments of `ImageData`.

    Source: Netzer, Wang, Coates, Bissacco, Wu and Ng 2011, "Reading Digits in Natural Images with Unsupervised
    Feature Learning".
    """

    def __init__(self, root: str | None = "data", download: bool = False, extra: bool = False, **common: Any) -> None:
        super().__init__(**common)
        boolean("extra", extra, f"data.extra={extra!r}: true or false is needed")
        self.root = root
        self.download = download
        self.extra = extra

    def _load(self) -> LabelledImages:
        folder = set_folder("SVHN", self.root, SETS["SVHN"], self.download)
        decisive = "SVHN with extra" if self.extra else "SVHN"
        return read_once(lambda: self._read(folder), self.cache_dir, decisive, folder)

    def _read(self, folder: Path) -> LabelledImages:
        train = self._split("train", folder)
        if self.extra:
            train = tuple(np.concatenate(pair) for pair in zip(train, self._split("extra", folder), strict=True))
        test = self._split("test", folder)
        parts = [torch.from_numpy(np.ascontiguousarray(array)) for array in (*train, *test)]
        with name_damage("SVHN", folder, self.download):
            return LabelledImages(*parts, classes=tuple("0123456789"))

    def _split(self, split: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 `(N, 3, 32, 32)` and labels int64 `(N,)` of one of torchvision's splits."""
        from torchvision import datasets  # slow to import, and of no use to the other data sets

        with name_damage(f"SVHN: {split}_32x32.mat", folder, self.download):
            source = datasets.SVHN(folder, split=split, download=self.download)
            return source.data, source.labels
