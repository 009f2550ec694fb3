"""Decode image files: one by one, or all of them into one uint8 tensor on all cores.

Shapes: N images, C channels, H height, W width.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import Progress
from torch import Tensor

from lowrank_exp.data.adapt import Shape
from lowrank_exp.data.images import check_memory
from lowrank_exp.data.scan import FORMATS
from lowrank_exp.data.square import cut_centre_square

GREY_MODES = ("1", "L", "LA", "La")
# More than 8 bits a channel: Pillow's conversion to 8 bits would cut the values off at 255.
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
# Files per task: large enough that the pool's own work does not count.
CHUNK = 256


@dataclass(frozen=True)
class Stored:
    """What every file becomes: its shape, and how it gets there.

    Args:
        shape: (C, H, W); C = 1 for grey images.
        fit: `exact`, every file has that size; `stretch`, it is resized (bilinear, antialiased, aspect ratio not kept);
            `square`, the centre square (see `square.py`).
        first: the file that gave the size, for messages.
    """

    shape: Shape
    fit: str
    first: Path


class ColourAmongGreyError(Exception):
    """A colour image turned up after only grey ones."""


def find_stored_shape(
    first: Path, image_size: tuple[int, int] | None, resize_short: int | None, channels: int | None = None
) -> Stored:
    """What files become, by the header of the first one and the settings; `channels` None: by that file too.

    Raises:
        ValueError: the file cannot be read.
    """
    mode, (width, height) = _read_header(first)
    if channels is None:
        channels = 1 if mode in GREY_MODES else 3
    if resize_short is not None:
        return Stored((channels, resize_short, resize_short), "square", first)
    if image_size is not None:
        return Stored((channels, *image_size), "stretch", first)
    return Stored((channels, height, width), "exact", first)


def decode_images(
    paths: Sequence[Path],
    image_size: tuple[int, int] | None,
    memory_limit: int,
    progress: bool = False,
    resize_short: int | None = None,
) -> Tensor:
    """Decode files to uint8 `(N, C, H, W)`: grey (C = 1) when all are, RGB (C = 3) when any is in colour.

    Alpha channels are dropped and orientation tags ignored, as torchvision's `ImageFolder` does.

    Args:
        paths: at least one file.
        image_size: (H, W) that images of another size are resized to (bilinear, antialiased, aspect ratio not kept);
            None where all files have one size.
        memory_limit: bytes that the result may take.
        progress: show a progress bar.
        resize_short: side of the centre square that is taken instead, after the shorter side was resized to it.

    Raises:
        ValueError: a file cannot be decoded (named), sizes differ without `image_size` and `resize_short` (two files
            named), a file has more than 8 bits per channel, or the result would not fit into `memory_limit`.
    """
    try:
        return _decode(paths, find_stored_shape(paths[0], image_size, resize_short), memory_limit, progress)
    except ColourAmongGreyError:  # all are decoded again, as RGB
        return _decode(paths, find_stored_shape(paths[0], image_size, resize_short, channels=3), memory_limit, progress)


def _decode(paths: Sequence[Path], stored: Stored, memory_limit: int, progress: bool) -> Tensor:
    check_memory(len(paths), stored.shape, memory_limit)
    images_NCHW = np.empty((len(paths), *stored.shape), dtype=np.uint8)

    def decode_chunk(start: int) -> int:
        chunk = paths[start : start + CHUNK]
        for row, path in enumerate(chunk, start):
            images_NCHW[row] = read_image(path, stored)
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


def _read_header(path: Path) -> tuple[str, tuple[int, int]]:
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.mode, image.size
    except Exception as error:
        raise _explain_undecodable(path, error) from error


def read_image(path: Path, stored: Stored) -> np.ndarray:
    """One file as uint8 `(C, H, W)`.

    Raises:
        ValueError: it cannot be decoded, has another size than `exact` allows, or more than 8 bits per channel.
        ColourAmongGreyError: it is in colour and C = 1.
    """
    channels, height, width = stored.shape
    try:
        with Image.open(path, formats=FORMATS) as image:
            mode, size = image.mode, image.size
            pixels = image.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # a damaged file makes Pillow raise almost anything
        raise _explain_undecodable(path, error) from error
    if mode in DEEP_MODES:
        raise ValueError(f"{path} has more than 8 bits per channel (mode {mode}): convert it to an 8-bit image")
    if channels == 1 and mode not in GREY_MODES:
        raise ColourAmongGreyError(path)
    if stored.fit == "square":
        pixels = cut_centre_square(pixels, height)
    elif size != (width, height):
        if stored.fit == "exact":
            raise ValueError(
                f"{stored.first} is {width}x{height} and {path} is {size[0]}x{size[1]} (width x height): "
                "set data.image_size, to which all images are then resized, or data.resize_short, which keeps their "
                "aspect ratio"
            )
        pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(pixels).reshape(height, width, channels).transpose(2, 0, 1)


def _explain_undecodable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be decoded ({type(error).__name__}: {error}): replace or remove it")
