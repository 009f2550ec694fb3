"""What lies in an image folder: classes, files and a manifest of them; no image is opened."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lowrank_exp.files.data_folders import class_folders, list_visible

# What Pillow may take a file for, whatever its suffix: a PostScript file would be run.
FORMATS = ("JPEG", "PNG", "BMP", "PPM", "WEBP", "TIFF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff")


class ImageFile(NamedTuple):
    """One file: path below the root, number of its class, bytes, time of its last change in ns."""

    path: str
    label: int
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class FolderScan:
    """The files of a data set, by class, then by name."""

    classes: tuple[str, ...]
    train: tuple[ImageFile, ...]
    test: tuple[ImageFile, ...]


def scan_folder(root: Path, test: str = "test") -> FolderScan:
    """List `root/train/<class>/*` and `root/<test>/<class>/*`. Names that begin with a dot are left alone.

    Raises:
        ValueError: a folder is missing or empty, train and test differ in their classes, or something else
            than an image lies among the images.
    """
    classes = class_folders(root, test)
    return FolderScan(classes, tuple(_files(root, "train", classes)), tuple(_files(root, test, classes)))


def _files(root: Path, part: str, classes: tuple[str, ...]) -> Iterator[ImageFile]:
    for label, name in enumerate(classes):
        entries = list_visible(root / part / name)
        if not entries:
            raise ValueError(f"class folder {root / part / name} holds no image: add images or remove the class")
        for entry in entries:
            if not entry.name.lower().endswith(SUFFIXES) or entry.is_dir():
                raise ValueError(
                    f"{entry.path} is not an image file (allowed: {', '.join(SUFFIXES)}): "
                    "move it out of the class folder"
                )
            if not entry.is_file():
                raise ValueError(
                    f"{entry.path} is a link to nowhere or no plain file: put the image there or remove it"
                )
            status = entry.stat()
            yield ImageFile(f"{part}/{name}/{entry.name}", label, status.st_size, status.st_mtime_ns)
