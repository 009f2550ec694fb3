"""Where data sets lie: what is missing is told before torch is imported.

Each data set looks for its folder by these functions when it is read; `check_folder` does so for a configuration.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SETS = {  # the folders of torchvision's data sets below their root
    "MNIST": "MNIST/raw",
    "FashionMNIST": "FashionMNIST/raw",
    "CIFAR10": "cifar-10-batches-py",
    "CIFAR100": "cifar-100-python",
    "SVHN": "SVHN",
    "Flowers102": "flowers-102",
}
OURS = "lowrank_exp.data."
IMAGENET = "ImageNet (ILSVRC-2012)"
ARCHIVES = {
    "train": "ILSVRC2012_img_train.tar",
    "val": "ILSVRC2012_img_val.tar",
    "devkit": "ILSVRC2012_devkit_t12.tar.gz",
}
SOURCE = "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php"


def check_folder(data: Mapping[str, Any]) -> None:
    """Raise ValueError where the folder of a configuration's data set is missing, or has other things in it.

    Args:
        data: the configuration; data sets of the user's own are not looked at.
    """
    name, root = str(data.get("_target_")).removeprefix(OURS), data.get("root")
    if name in SETS:
        set_folder(name, root, SETS[name], bool(data.get("download")))
    elif name == "ImageFolder":
        test = data.get("test_folder", "test")
        class_folders(image_folder(root, test, data.get("name")), test)
    elif name == "ImageNet":
        imagenet_folder(root)


def set_folder(name: str, root: str | None, folder: str, download: bool) -> Path:
    """The folder of a data set below `data.root`; it need not exist where `download` will make it.

    Args:
        name: what messages call the data set.
        root: `data.root`.
        folder: the data set's own folder below it.
        download: whether torchvision fetches what is missing.

    Raises:
        ValueError: no root is given, or the folder is missing and is not to be fetched.
    """
    if root is None:
        raise ValueError("data.root is not set: give the folder of the data sets, as in data.root=data")
    path = Path(root).expanduser() / folder
    if not download and not path.is_dir():
        raise ValueError(
            f"{name} is not in {path}: set data.root to the folder that holds '{folder}', "
            "or data.download=true to fetch it"
        )
    return path


def image_folder(root: str | None, test_folder: str, name: str | None) -> Path:
    """The folder of images in class folders.

    Args:
        root: `data.root`.
        test_folder: of the test images, beside `train`.
        name: what messages call the data set; None where any images will do.

    Raises:
        ValueError: no root is given, or the named data set is not there.
    """
    if root is None:
        images = "the image folder" if name is None else f"the folder of {name}"
        raise ValueError(f"data.root is not set: give {images}, data.root=<folder>; {layout(test_folder)}")
    path = Path(root).expanduser()
    if name is not None and not path.is_dir():
        raise ValueError(
            f"{name} is not in {path} (looked for {path.absolute()}): give its folder, data.root=<folder>; "
            f"{layout(test_folder)}"
        )
    return path


def imagenet_folder(root: str | None) -> Path:
    """The folder of ImageNet, unpacked or with archives.

    Raises:
        ValueError: no root is given, or neither lies there.
    """
    if root is None:
        raise ValueError(f"data.root is not set: give the folder of {IMAGENET}, data.root=<folder>; {layout('val')}")
    path = Path(root).expanduser()
    if not any((path / part).is_dir() or lies_packed(path, part) for part in ("train", "val")):
        raise ValueError(
            f"{IMAGENET} is not in {path} (looked for {path.absolute()}): give its folder, data.root=<folder>; "
            f"{layout('val')}, or {', '.join(ARCHIVES.values())} from {SOURCE}, which are then unpacked"
        )
    return path


def lies_packed(root: Path, part: str) -> bool:
    """Whether a part of ImageNet is there as an archive alone."""
    return not (root / part).is_dir() and (root / ARCHIVES[part]).is_file()


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


def layout(test: str = "test") -> str:
    """What messages say of the folders."""
    return f"expected <root>/train/<class>/<image> and <root>/{test}/<class>/<image>"


def list_visible(folder: Path) -> list[os.DirEntry]:
    """What lies in a folder and does not begin with a dot, by name."""
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _read_class_names(folder: Path, test: str) -> tuple[str, ...]:
    entries = list_visible(folder)
    strays = [entry.path for entry in entries if not entry.is_dir()]
    if strays:
        raise ValueError(f"{strays[0]} is not a class folder: {layout(test)}; move it away")
    if not entries:
        raise ValueError(f"{folder} holds no class folder: {layout(test)}")
    return tuple(entry.name for entry in entries)
