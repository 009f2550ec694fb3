"""Decode image files into one uint8 tensor, on all cores.

Shapes: N images, C channels, H height, W width.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import Progress
from torch import Tensor

from lowrank_exp.data.images import check_memory

GREY_MODES = ("1", "L", "LA", "La")
# More than 8 bits a channel: Pillow's conversion to 8 bits would cut the values off at 255.
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
# Files per task: large enough that the pool's own work does not count.
CHUNK = 256


def decode_images(
    paths: Sequence[Path], image_size: tuple[int, int] | None, memory_limit: int, progress: bool = False
) -> Tensor:
    """Decode files to uint8 `(N, C, H, W)`: grey (C = 1) when all are, RGB (C = 3) when any is in colour.

    Alpha channels are dropped and orientation tags ignored, as torchvision's `ImageFolder` does. Images of
    another size than `image_size` are resized (bilinear, antialiased, aspect ratio not kept).

    Args:
        paths: at least one file.
        image_size: (H, W), or None where all files have one size.
        memory_limit: bytes that the result may take.
        progress: show a progress bar.

    Raises:
        ValueError: a file cannot be decoded (named), sizes differ without `image_size` (two files named), a
            file has more than 8 bits per channel, or the result would not fit into `memory_limit`.
    """
    mode, size = _header(paths[0])
    channels = 1 if mode in GREY_MODES else 3
    height, width = image_size if image_size is not None else (size[1], size[0])
    resize = image_size is not None
    try:
        return _decode(paths, (channels, height, width), resize, memory_limit, progress)
    except _ColourAmongGreyError:
        return _decode(paths, (3, height, width), resize, memory_limit, progress)


class _ColourAmongGreyError(Exception):
    """A colour image turned up after only grey ones: all are decoded again, as RGB."""


def _decode(
    paths: Sequence[Path], shape: tuple[int, int, int], resize: bool, memory_limit: int, progress: bool
) -> Tensor:
    check_memory(len(paths), shape, memory_limit)
    images_NCHW = np.empty((len(paths), *shape), dtype=np.uint8)

    def decode_chunk(start: int) -> int:
        chunk = paths[start : start + CHUNK]
        for row, path in enumerate(chunk, start):
            images_NCHW[row] = _read(path, shape, resize, paths[0])
        return len(chunk)

    pool = ThreadPoolExecutor(max_workers=os.cpu_count())
    try:
        with Progress(disable=not progress, transient=True) as bar:
            task = bar.add_task("decoding images", total=len(paths))
            for done in pool.map(decode_chunk, range(0, len(paths), CHUNK)):
                bar.advance(task, done)
    finally:
        pool.shutdown(cancel_futures=True)
    return torch.from_numpy(images_NCHW)


def _header(path: Path) -> tuple[str, tuple[int, int]]:
    try:
        with Image.open(path) as image:
            return image.mode, image.size
    except Exception as error:
        raise _undecodable(path, error) from error


def _read(path: Path, shape: tuple[int, int, int], resize: bool, first: Path) -> np.ndarray:
    channels, height, width = shape
    try:
        with Image.open(path) as image:
            mode, size = image.mode, image.size
            pixels = image.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # a damaged file makes Pillow raise almost anything
        raise _undecodable(path, error) from error
    if mode in DEEP_MODES:
        raise ValueError(f"{path} has more than 8 bits per channel (mode {mode}): convert it to an 8-bit image")
    if channels == 1 and mode not in GREY_MODES:
        raise _ColourAmongGreyError
    if size != (width, height):
        if not resize:
            raise ValueError(
                f"{first} is {width}x{height} and {path} is {size[0]}x{size[1]} (width x height): "
                "set data.image_size, to which all images are then resized"
            )
        pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(pixels).reshape(height, width, channels).transpose(2, 0, 1)


def _undecodable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be decoded ({type(error).__name__}: {error}): replace or remove it")
