"""Images in class folders, the layout that most data sets can be brought to."""

from pathlib import Path
from typing import Any, final

import torch

from lowrank_exp.data.cache import manifest_key, read_cache, write_cache
from lowrank_exp.data.decode import decode_images
from lowrank_exp.data.images import LabelledImages
from lowrank_exp.data.module import ImageData
from lowrank_exp.data.scan import LAYOUT, FolderScan, ImageFile, scan_folder


@final
class ImageFolder(ImageData):
    """`root/train/<class>/<image>` and `root/test/<class>/<image>`; classes in alphabetical order.

    Decoded once (see `decode.py`) and cached under `cache_dir` as long as no file changes its path, length or
    modification time.

    Args:
        root: the folder; None raises in `setup`.
        common: arguments of `ImageData`.
    """

    def __init__(self, root: str | None = None, **common: Any) -> None:
        super().__init__(**common)
        self.root = root

    def _load(self) -> LabelledImages:
        if self.root is None:
            raise ValueError(f"data.root is not set: give the image folder, data.root=<folder>; {LAYOUT}")
        root = Path(self.root).expanduser()
        scan = scan_folder(root)
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
