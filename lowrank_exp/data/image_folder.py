"""Images in class folders, the layout that most data sets can be brought to."""

from pathlib import Path
from typing import Any, final

import torch

from lowrank_exp.data.cache import manifest_key, read_cache, write_cache
from lowrank_exp.data.decode import decode_images
from lowrank_exp.data.images import LabelledImages
from lowrank_exp.data.module import ImageData
from lowrank_exp.data.scan import FolderScan, ImageFile, layout, scan_folder


@final
class ImageFolder(ImageData):
    """`root/train/<class>/<image>` and `root/<test_folder>/<class>/<image>`; classes in alphabetical order.

    Decoded once (see `decode.py`) and cached under `cache_dir` as long as no file changes its path, length or
    modification time.

    Args:
        root: the folder; None raises in `setup`.
        test_folder: name of the folder of test images in `root`; that of the training images is `train`.
        name: what the data set is called where it is missing; None where any images will do.
        common: arguments of `ImageData`.
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

    def _load(self) -> LabelledImages:
        if self.root is None:
            images = "the image folder" if self.name is None else f"the folder of {self.name}"
            raise ValueError(f"data.root is not set: give {images}, data.root=<folder>; {layout(self.test_folder)}")
        root = Path(self.root).expanduser()
        if self.name is not None and not root.is_dir():
            raise ValueError(
                f"{self.name} is not in {root} (looked for {root.absolute()}): give its folder, data.root=<folder>; "
                f"{layout(self.test_folder)}"
            )
        scan = scan_folder(root, self.test_folder)
        files = scan.train + scan.test
        key = manifest_key(
            f"folder {self.image_size} {scan.classes}",
            ((file.path, file.size, file.mtime_ns) for file in files),
        )
        images = read_cache(self.cache_dir, key)
        if images is None:
            images = self._decode(root, scan)
            write_cache(self.cache_dir, key, images)
        return images

    def _decode(self, root: Path, scan: FolderScan) -> LabelledImages:
        paths = [root / file.path for file in scan.train + scan.test]
        pixels = decode_images(paths, self.image_size, self.memory_limit, self.progress)
        count = len(scan.train)
        return LabelledImages(pixels[:count], _labels(scan.train), pixels[count:], _labels(scan.test), scan.classes)


def _labels(files: tuple[ImageFile, ...]) -> torch.Tensor:
    return torch.tensor([file.label for file in files], dtype=torch.int64)
