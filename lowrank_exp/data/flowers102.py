"""Oxford Flowers-102 as torchvision stores and downloads it: photographs of many sizes, brought to one."""

from pathlib import Path
from typing import Any, final

import torch

from lowrank_exp.data.decode import decode_images
from lowrank_exp.data.images import LabelledImages
from lowrank_exp.data.module import ImageData
from lowrank_exp.data.torchvision_files import name_damage, read_once
from lowrank_exp.files.data_folders import SETS, set_folder

SPLITS = ("train", "val", "test")


@final
class Flowers102(ImageData):
    """Flowers in 102 classes: 2,040 training and 6,149 test photographs, RGB.

    The official splits `train` and `val` (1,020 images each, ten of every class) together are the training images,
    as in papers that report on the test images; `validation` is cut from them as from those of every data set.

    Args:
        root: the data set lies in its folder `flowers-102`: `jpg/image_<number>.jpg`, `imagelabels.mat`,
            `setid.mat`.
        download: fetch the data set where it is missing.
        common: arguments of `ImageData`. One of `image_size`, which does not keep the aspect ratio, and `resize_short`,
            which does, has to be given; where a view cuts, it is `resize_short`.

    Raises:
        ValueError: neither of the two is given.

    Source: Nilsback and Zisserman 2008, "Automated Flower Classification over a Large Number of Classes". Class names
    are torchvision's.
    """

    def __init__(self, root: str | None = "data", download: bool = False, **common: Any) -> None:
        super().__init__(**common)
        cuts, short = self.geometry.cuts, self.geometry.resize_short
        if short is None and (cuts or self.image_size is None):
            raise ValueError(
                "the photographs of Flowers102 differ in size: set data.resize_short, as in data.resize_short=256"
                + ("" if cuts else ", or data.image_size, the size that the network takes")
            )
        self._size = None if short is not None else self.image_size
        self.root = root
        self.download = download

    def _load(self) -> LabelledImages:
        folder = set_folder("Flowers102", self.root, SETS["Flowers102"], self.download)
        decisive = f"Flowers102 {self._size} {self.geometry.resize_short}"
        return read_once(lambda: self._read(folder), self.cache_dir, decisive, folder)

    def _read(self, folder: Path) -> LabelledImages:
        from torchvision.datasets import Flowers102 as Source  # slow to import, and of no use to the other data sets

        with name_damage("Flowers102", folder, self.download):
            # torchvision offers the images one by one; only its own attributes tell of the files.
            train, val, test = (Source(folder.parent, split, download=self.download) for split in SPLITS)
            paths = [*train._image_files, *val._image_files, *test._image_files]
            labels_N = torch.tensor([*train._labels, *val._labels, *test._labels], dtype=torch.int64)
            missing = [path for path in paths if not path.is_file()]
            if missing:
                raise ValueError(f"{len(missing)} of {len(paths)} images are missing, the first is {missing[0]}")
        short = self.geometry.resize_short
        pixels_NCHW = decode_images(paths, self._size, self.memory_limit, self.progress, short)
        count = len(train) + len(val)
        with name_damage("Flowers102", folder, self.download):
            return LabelledImages(
                pixels_NCHW[:count], labels_N[:count], pixels_NCHW[count:], labels_N[count:], tuple(Source.classes)
            )
