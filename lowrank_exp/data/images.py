"""The images of one data set, decoded, with their labels: the one record that every source returns.

Shapes: N images, C channels, H height, W width.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

GIB = 2**30


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Training and test images of one data set.

    Args:
        train_images: uint8 `(N, C, H, W)`, C is 1 (grey) or 3 (RGB).
        train_labels: int64 `(N,)`, each in `0 .. len(classes) - 1`.
        test_images: uint8 `(M, C, H, W)`.
        test_labels: int64 `(M,)`.
        classes: name of every class, in the order of the labels.
        names: what messages and reports call the classes; the same where empty. They do not take part in the digest.

    Raises:
        ValueError: a tensor has another type or shape, or a label has no class.

    >>> images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    >>> data = LabelledImages(images, torch.tensor([0, 1]), images, torch.tensor([1, 0]), ("cat", "dog"))
    >>> data.image_shape
    (1, 4, 4)
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for part, images_NCHW, labels_N in self._parts():
            if images_NCHW.dtype != torch.uint8 or images_NCHW.ndim != 4 or images_NCHW.shape[1] not in (1, 3):
                raise ValueError(
                    f"{part} images must be uint8 of shape (N, C, H, W) with C = 1 or 3, "
                    f"got {images_NCHW.dtype} {tuple(images_NCHW.shape)}"
                )
            if labels_N.dtype != torch.int64 or labels_N.shape != images_NCHW.shape[:1]:
                raise ValueError(
                    f"{part} labels must be int64 of shape ({len(images_NCHW)},), one per image, "
                    f"got {labels_N.dtype} {tuple(labels_N.shape)}"
                )
            wrong = labels_N[(labels_N < 0) | (labels_N >= len(self.classes))]
            if len(wrong):
                raise ValueError(
                    f"{part} labels must lie in 0..{len(self.classes) - 1} ({len(self.classes)} classes), "
                    f"got {wrong[0].item()}: correct the labels or name every class"
                )
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise ValueError(
                f"training images are {tuple(self.train_images.shape[1:])} and test images are "
                f"{tuple(self.test_images.shape[1:])} (C, H, W): both must have one shape"
            )

    def _parts(self) -> tuple[tuple[str, Tensor, Tensor], ...]:
        return (
            ("train", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    @cached_property
    def digest(self) -> str:
        """SHA-256 (64 hex digits) over pixels, labels and class names; no path takes part."""
        sha = hashlib.sha256(json.dumps(self.classes).encode())
        for part, images_NCHW, labels_N in self._parts():
            sha.update(f"{part} {tuple(images_NCHW.shape)}".encode())
            sha.update(images_NCHW.contiguous().numpy())
            sha.update(labels_N.contiguous().numpy())
        return sha.hexdigest()


def check_memory(count: int, shape: tuple[int, int, int], limit: int) -> None:
    """Refuse `count` uint8 images of `shape` (C, H, W) when they take more than `limit` bytes.

    Raises:
        ValueError: says what they need and how to raise the limit.

    >>> check_memory(60_000, (3, 32, 32), limit=8 * GIB)
    """
    channels, height, width = shape
    need = count * channels * height * width
    if need > limit:
        raise ValueError(
            f"{count} images of {channels}x{height}x{width} need {need / GIB:.2f} GiB in memory, more than "
            f"data.memory_limit={limit} ({limit / GIB:.2f} GiB): choose a smaller image size, or, "
            f"if the machine has the memory, set data.memory_limit={need}; images in class folders can stay in their "
            "files, data.in_memory=never"
        )
