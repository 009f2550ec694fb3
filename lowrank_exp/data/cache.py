"""Decoded images on disk, so that a data set is decoded once per machine and not once per start.

A cache file is named by a hash of the manifest (path below the root, bytes and modification time of every
file) and holds the digest of its content. Whatever is missing, half written or damaged is decoded again.
Files of data that have changed since are never read again; delete the folder to be rid of them.
"""

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path

import torch

from lowrank_exp.data.images import LabelledImages
from lowrank_exp.files.whole import open_told, write_whole

CACHE_VERSION = 1

log = logging.getLogger(__name__)


def manifest_key(name: str, entries: Iterable[tuple[str, int, int]]) -> str:
    """32 hex digits over a name and (path, bytes, mtime in ns) of every file, in order.

    >>> manifest_key("mnist", [("a", 1, 2)]) == manifest_key("mnist", [("a", 1, 3)])
    False
    """
    sha = hashlib.sha256(f"{CACHE_VERSION}\0{name}\0".encode())
    for path, size, mtime_ns in entries:
        sha.update(f"{path}\0{size}\0{mtime_ns}\0".encode("utf-8", "surrogateescape"))
    return sha.hexdigest()[:32]


def read_cache(cache_dir: str | None, key: str) -> LabelledImages | None:
    """The images stored under `key`, or None. A damaged file counts as missing, with a warning."""
    if cache_dir is None:
        return None
    path = cache_path(cache_dir, key)
    if not path.is_file():
        return None
    try:
        stored = torch.load(path, weights_only=True)
        digest = stored.pop("digest")
        images = LabelledImages(**{**stored, "classes": tuple(stored["classes"])})
        if images.digest == digest:
            return images
        reason = "its content does not have the stored digest"
    except Exception as error:  # a damaged file makes torch.load raise almost anything
        reason = f"{type(error).__name__}: {error}"
    log.warning("%s is damaged and is made anew (%s)", path, reason)
    return None


def write_cache(cache_dir: str | None, key: str, images: LabelledImages) -> None:
    """Store the images under `key`, whole or not at all. A folder that takes no file is only a warning."""
    if cache_dir is None:
        return
    path = cache_path(cache_dir, key)
    content = {
        "train_images": images.train_images,
        "train_labels": images.train_labels,
        "test_images": images.test_images,
        "test_labels": images.test_labels,
        "classes": list(images.classes),
        "digest": images.digest,
    }
    try:
        with write_whole(path) as temporary, open_told(temporary) as file:
            torch.save(content, file)
    except OSError as error:
        log.warning("decoded images could not be cached in %s (%s): the next start decodes again", cache_dir, error)


def cache_path(cache_dir: str, key: str) -> Path:
    """The file that holds what is stored under `key`."""
    return Path(cache_dir).expanduser() / f"{key}.pt"
