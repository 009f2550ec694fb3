"""ImageNet (ILSVRC-2012), from its official archives or already unpacked.

1.28 million training and 50,000 validation photographs in 1000 classes. Its own test images have no labels: the
validation images are for testing here, and a part of the training images for validation.
"""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

from lowrank_exp.data.image_folder import ClassFolders
from lowrank_exp.data.scan import FolderScan, scan_folder
from lowrank_exp.files.data_folders import ARCHIVES, IMAGENET, SOURCE, imagenet_folder, lies_packed
from lowrank_exp.files.exclusion import hold_lock

# Where torchvision keeps what it read in the development kit.
META = "meta.bin"

log = logging.getLogger(__name__)


@final
class ImageNet(ClassFolders):
    """`root/train/<wnid>/<image>` and `root/val/<wnid>/<image>`; a wnid is the number of a class in WordNet.

    Where these folders are not there, but the archives are, torchvision unpacks them into `root` (it checks their
    sums first, and needs as much space again). A folder appears when it is complete, so a job that is killed while it
    unpacks starts anew. A part of the classes, linked into a folder of their own, will do as well.

    Classes are called by their synonyms, where the development kit (or torchvision's `meta.bin`) lies in `root`, else
    by their wnids; their order is that of the wnids, as torchvision's weights have it.

    Args:
        root: the folder; None raises in `setup`.
        common: arguments of `ClassFolders` and `ImageData`.
    """

    test_folder = "val"

    def __init__(self, root: str | None = "data/imagenet", **common: Any) -> None:
        super().__init__(**common)
        self.root = root

    def _scan(self) -> tuple[Path, FolderScan, tuple[str, ...]]:
        root = self._folder()
        scan = scan_folder(root, self.test_folder)
        return root, scan, class_names(root, scan.classes)

    def _folder(self) -> Path:
        root = imagenet_folder(self.root)
        unpack_archives(root)
        return root


def unpack_archives(root: Path) -> None:
    """Unpack the archives in `root` into the folders that are missing there: `train`, `val`.

    Raises:
        ValueError: an archive is damaged, or the validation images come without the development kit, which alone
            knows their classes.
    """
    if not any(lies_packed(root, part) for part in ("train", "val")):
        return
    with hold_lock(root / ".unpack.lock", lambda: log.warning("waiting for another job that unpacks %s", IMAGENET)):
        from torchvision.datasets import imagenet  # slow to import, and only for this

        if lies_packed(root, "train"):
            _unpack(root, "train", imagenet.parse_train_archive)
        if lies_packed(root, "val"):
            if not (root / META).is_file() and not (root / ARCHIVES["devkit"]).is_file():
                raise ValueError(
                    f"{root / ARCHIVES['val']} says nothing of the classes of its images: put {ARCHIVES['devkit']} "
                    f"from {SOURCE} beside it"
                )
            wnids = _read_meta(root)[1]
            _unpack(root, "val", lambda root, folder: imagenet.parse_val_archive(root, wnids=wnids, folder=folder))


def _unpack(root: Path, part: str, unpack: Callable[..., None]) -> None:
    unfinished = root / f".{part}.part"
    shutil.rmtree(unfinished, ignore_errors=True)
    log.warning("unpacking %s into %s: this takes a while", root / ARCHIVES[part], root / part)
    try:
        unpack(root, folder=unfinished.name)
    except RuntimeError as error:
        raise ValueError(
            f"{root / ARCHIVES[part]} is damaged or not the one of {IMAGENET} ({error}): fetch it again from {SOURCE}"
        ) from error
    os.replace(unfinished, root / part)


def class_names(root: Path, wnids: tuple[str, ...]) -> tuple[str, ...]:
    """The synonyms of every class, from the development kit; those that two classes share have the wnid added.

    Returns:
        Nothing where the kit is not there, cannot be read, or does not know a class: their wnids are their names then.
    """
    if not (root / META).is_file() and not (root / ARCHIVES["devkit"]).is_file():
        return ()
    try:
        synonyms = _read_meta(root)[0]
    except Exception as error:  # names are not worth a job: a read-only folder, a damaged kit
        log.warning("classes are called by their wnids, the development kit in %s cannot be read (%s)", root, error)
        return ()
    if any(wnid not in synonyms for wnid in wnids):
        return ()
    names = [", ".join(synonyms[wnid]) for wnid in wnids]
    return tuple(f"{name} ({wnid})" if names.count(name) > 1 else name for name, wnid in zip(names, wnids, strict=True))


def _read_meta(root: Path) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Synonyms by wnid, and the wnid of every validation image in order."""
    from torchvision.datasets import imagenet

    if not (root / META).is_file():
        imagenet.parse_devkit_archive(root)
    return imagenet.load_meta_file(root)
