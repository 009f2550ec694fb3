"""Random pixels with random labels, for trying out configurations and speed; there is nothing to learn in them."""

from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from lowrank_exp.checks import whole
from lowrank_exp.data.images import LabelledImages, check_memory
from lowrank_exp.data.module import ImageData


@final
class FakeData(ImageData):
    """Images of noise: every byte uniform in 0..255; the classes are equally frequent but for one image.

    Nothing is downloaded, decoded or cached. A network stays at chance, 1 / num_classes, on the test images: for
    trying out speed and configurations only.

    Args:
        num_classes: number of classes, at least 2.
        train_images: number of training images, of which `validation` is cut; at least one per class.
        test_images: number of test images, at least 1.
        image_seed: decides pixels and labels; not the experiment's seed, so that all seeds share the images.
        image_size: H = W, or (H, W); None = 32 x 32, resized to what the network declares.
        channels: 1 or 3; None = 3.
        common: other arguments of `ImageData`. `cache_dir` and `progress` are not used.

    Raises:
        ValueError: an argument is out of its range.

    >>> data = FakeData(num_classes=4, train_images=20, test_images=8, image_size=[6, 5], validation=0.2)
    >>> data.setup()
    >>> data.input_shape, data.sizes
    ((3, 6, 5), {'train': 16, 'val': 4, 'test': 8})
    """

    def __init__(
        self,
        num_classes: int = 10,
        train_images: int = 1000,
        test_images: int = 200,
        image_seed: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **common)
        for name, number, least in (
            ("num_classes", num_classes, 2),
            ("train_images", train_images, num_classes),
            ("test_images", test_images, 1),
            ("image_seed", image_seed, 0),
        ):
            whole(name, number, least, f"data.{name}={number!r}: a whole number of at least {least} is needed")
        self.counts = train_images, test_images
        self.image_seed = image_seed

    def _load(self) -> LabelledImages:
        height, width = self.image_size or (32, 32)
        shape = (self.channels or 3, height, width)
        check_memory(sum(self.counts), shape, self.memory_limit)
        classes = tuple(f"class {label}" for label in range(self._declared_classes))
        train, test = (
            _draw_noise(count, shape, len(classes), seed=(self.image_seed, part))
            for part, count in enumerate(self.counts)
        )
        return LabelledImages(*train, *test, classes)


def _draw_noise(count: int, shape: tuple[int, int, int], classes: int, seed: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Images uint8 `(N, C, H, W)` and labels int64 `(N,)`, a function of the arguments only."""
    rng = np.random.default_rng(seed)
    labels_N = rng.permutation(np.arange(count, dtype=np.int64) % classes)
    images_NCHW = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    return torch.from_numpy(images_NCHW), torch.from_numpy(labels_N)
