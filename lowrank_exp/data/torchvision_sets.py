"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 as torchvision stores and downloads them."""

from abc import ABC
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import torch

from lowrank_exp.data.cache import manifest_key, read_cache, write_cache
from lowrank_exp.data.images import LabelledImages
from lowrank_exp.data.module import ImageData


class TorchvisionImages(ImageData, ABC):
    """A data set of `torchvision.datasets`, read as a whole and cached under `cache_dir`.

    Args:
        root: the folder that torchvision calls root; a data set has a folder of its own in it.
        download: fetch the data set where it is missing.
        common: arguments of `ImageData`.
    """

    _name: ClassVar[str]
    _folder: ClassVar[str]

    def __init__(self, root: str | None = "data", download: bool = False, **common: Any) -> None:
        super().__init__(**common)
        self.root = root
        self.download = download

    def _load(self) -> LabelledImages:
        if self.root is None:
            raise ValueError("data.root is not set: give the folder of the data sets, as in data.root=data")
        folder = Path(self.root).expanduser() / self._folder
        if not self.download and not folder.is_dir():
            raise ValueError(
                f"{self._name} is not in {folder}: set data.root to the folder that holds '{self._folder}', "
                "or data.download=true to fetch it"
            )
        images = read_cache(self.cache_dir, self._key(folder))
        if images is None:
            images = self._read(folder)
            write_cache(self.cache_dir, self._key(folder), images)  # a download has changed the folder, and the key
        return images

    def _key(self, folder: Path) -> str:
        files = sorted(path for path in folder.glob("*") if path.is_file())
        stats = ((path.name, path.stat()) for path in files)
        return manifest_key(self._name, ((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))

    def _read(self, folder: Path) -> LabelledImages:
        from torchvision import datasets  # slow to import, and of no use to the other data sets

        source = getattr(datasets, self._name)
        root = Path(self.root).expanduser()
        try:
            train, test = (source(root, train=train, download=self.download) for train in (True, False))
        except RuntimeError as error:
            if self.download:
                raise
            raise ValueError(
                f"{self._name} in {folder} is incomplete or damaged ({error}): set data.download=true to fetch it again"
            ) from error
        return LabelledImages(
            _pixels(train.data),
            _labels(train.targets),
            _pixels(test.data),
            _labels(test.targets),
            tuple(train.classes),
        )


def _pixels(data: np.ndarray | torch.Tensor) -> torch.Tensor:
    """(N, H, W) grey or (N, H, W, 3) colour to (N, C, H, W)."""
    images = torch.as_tensor(data)
    return images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


def _labels(targets: list[int] | torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(targets, dtype=torch.int64)


@final
class MNIST(TorchvisionImages):
    """Handwritten digits: 60,000 training and 10,000 test images, grey 28x28, 10 classes."""

    _name = "MNIST"
    _folder = "MNIST/raw"


@final
class FashionMNIST(TorchvisionImages):
    """Pieces of clothing: 60,000 training and 10,000 test images, grey 28x28, 10 classes."""

    _name = "FashionMNIST"
    _folder = "FashionMNIST/raw"


@final
class CIFAR10(TorchvisionImages):
    """Photographs: 50,000 training and 10,000 test images, RGB 32x32, 10 classes."""

    _name = "CIFAR10"
    _folder = "cifar-10-batches-py"


@final
class CIFAR100(TorchvisionImages):
    """Photographs: 50,000 training and 10,000 test images, RGB 32x32, 100 classes."""

    _name = "CIFAR100"
    _folder = "cifar-100-python"
