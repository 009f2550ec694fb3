"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 as torchvision stores and downloads them."""

from abc import ABC
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import torch

from lowrank_exp.data.images import LabelledImages
from lowrank_exp.data.module import ImageData
from lowrank_exp.data.torchvision_files import name_damage, read_once
from lowrank_exp.files.data_folders import SETS, set_folder


class TorchvisionImages(ImageData, ABC):
    """A data set of `torchvision.datasets`, read as a whole and cached under `cache_dir`.

    Args:
        root: the folder that torchvision calls root; a data set has a folder of its own in it.
        download: fetch the data set where it is missing.
        common: arguments of `ImageData`.
    """

    _name: ClassVar[str]

    def __init__(self, root: str | None = "data", download: bool = False, **common: Any) -> None:
        super().__init__(**common)
        self.root = root
        self.download = download

    def _load(self) -> LabelledImages:
        folder = set_folder(self._name, self.root, SETS[self._name], self.download)
        return read_once(lambda: self._read(folder), self.cache_dir, self._name, folder)

    def _read(self, folder: Path) -> LabelledImages:
        from torchvision import datasets  # slow to import, and of no use to the other data sets

        source = getattr(datasets, self._name)
        root = Path(self.root).expanduser()
        with name_damage(f"{self._name} (train)", folder, self.download):
            train = source(root, train=True, download=self.download)
        with name_damage(f"{self._name} (test)", folder, self.download):
            test = source(root, train=False, download=self.download)
        with name_damage(self._name, folder, self.download):
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


@final
class FashionMNIST(TorchvisionImages):
    """Pieces of clothing: 60,000 training and 10,000 test images, grey 28x28, 10 classes."""

    _name = "FashionMNIST"


@final
class CIFAR10(TorchvisionImages):
    """Photographs: 50,000 training and 10,000 test images, RGB 32x32, 10 classes."""

    _name = "CIFAR10"


@final
class CIFAR100(TorchvisionImages):
    """Photographs: 50,000 training and 10,000 test images, RGB 32x32, 100 classes."""

    _name = "CIFAR100"
