"""What lies in an image folder: classes, files and a manifest of them; no image is opened."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

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


def class_folders(root: Path, test: str = "test") -> tuple[str, ...]:
    """The names of `root/train/<class>`; those of `root/<test>/<class>` must be the same.

    Raises:
        ValueError: a folder is missing or empty, or train and test differ in their classes.
    """
    if not root.is_dir():
        raise ValueError(f"data.root={root} is not a folder: {layout(test)}")
    missing = [part for part in ("train", test) if not (root / part).is_dir()]
    if missing:
        listing = ", ".join(sorted(entry.name for entry in os.scandir(root))[:8]) or "nothing"
        raise ValueError(f"data.root={root} has no folder '{missing[0]}': {layout(test)}; it holds {listing}")
    classes = _read_class_names(root / "train", test)
    test_classes = _read_class_names(root / test, test)
    if classes != test_classes:
        only_train = sorted(set(classes) - set(test_classes))
        only_test = sorted(set(test_classes) - set(classes))
        raise ValueError(
            f"the class folders of {root}/train and {root}/{test} differ: only in train {only_train}, "
            f"only in {test} {only_test}; both must have the same classes"
        )
    return classes


def scan_folder(root: Path, test: str = "test") -> FolderScan:
    """List `root/train/<class>/*` and `root/<test>/<class>/*`. Names that begin with a dot are left alone.

    Raises:
        ValueError: a folder is missing or empty, train and test differ in their classes, or something else
            than an image lies among the images.
    """
    classes = class_folders(root, test)
    return FolderScan(classes, tuple(_files(root, "train", classes)), tuple(_files(root, test, classes)))


def layout(test: str = "test") -> str:
    """What messages say of the folders."""
    return f"expected <root>/train/<class>/<image> and <root>/{test}/<class>/<image>"


def _list_visible(folder: Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _read_class_names(folder: Path, test: str) -> tuple[str, ...]:
    entries = _list_visible(folder)
    strays = [entry.path for entry in entries if not entry.is_dir()]
    if strays:
        raise ValueError(f"{strays[0]} is not a class folder: {layout(test)}; move it away")
    if not entries:
        raise ValueError(f"{folder} holds no class folder: {layout(test)}")
    return tuple(entry.name for entry in entries)


def _files(root: Path, part: str, classes: tuple[str, ...]) -> Iterator[ImageFile]:
    for label, name in enumerate(classes):
        entries = _list_visible(root / part / name)
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
