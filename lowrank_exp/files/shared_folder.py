"""What a folder allows: whether other hosts may write to it, and what its file system does for them."""

import contextlib
import functools
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from lowrank_exp.files.owner import temporary
from lowrank_exp.files.place import place_folder_first, time_in

if sys.platform != "win32":
    import fcntl

MOUNTS = Path("/proc/self/mountinfo")
OF_ONE_HOST = (
    *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "bcachefs", "tmpfs", "ramfs", "rootfs", "overlay"),
    *("fuse.fuse-overlayfs", "fuseblk", "ntfs3", "vfat", "exfat"),
)


@dataclass(frozen=True)
class FolderTrial:
    """What a folder's file system does, as tried in it.

    Attributes:
        kind: its name, such as nfs4; None where the system does not tell.
        exclusive: of two that make the same file one is told that it is there.
        links: a file may have two names.
        folders: a folder does not take the place of another that is not empty.
        locks: a lock of the system excludes, on one host.
        ahead: seconds by which its clock is ahead of this host's.
    """

    kind: str | None
    exclusive: bool
    links: bool
    folders: bool
    locks: bool
    ahead: float

    def __str__(self) -> str:
        parts = [f"{self.kind or 'unknown'} file system"]
        parts += ["leases exclude" if self.exclusive else "nothing excludes, so that jobs may compute the same twice"]
        parts += ["" if self.links else "hard links are refused", "" if self.folders else "folders replace each other"]
        parts += ["" if self.locks else "locks do not exclude"]
        if abs(self.ahead) > 2:
            parts.append(f"its clock is {abs(self.ahead):.0f} s {'ahead of' if self.ahead > 0 else 'behind'} this one")
        return ", ".join(part for part in parts if part)


def is_shared(folder: Path) -> bool:
    """Whether other hosts may write to a folder, by the kind of its file system; one that is not known may be shared.

    Where the system does not tell kinds (it is not Linux), the folder counts as this host's own.
    """
    kind = kind_of(os.path.realpath(folder))
    return kind is not None and kind not in OF_ONE_HOST


@functools.lru_cache(1000)
def kind_of(path: str) -> str | None:
    """The kind of the file system on which a real path lies, as the system calls it."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    found, longest = None, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        place = before.split()[4].encode("utf-8", "surrogateescape").decode("unicode_escape")  # \040 is a space
        if os.path.commonpath([path, place]) == place and len(place) >= len(longest):
            found, longest = after.split()[0], place
    return found


def try_folder(folder: Path) -> FolderTrial:
    """Try in a folder what leases and publications need; it takes milliseconds, or as long as the server does."""
    one = temporary(folder / "test")
    one.mkdir(parents=True)
    try:
        return FolderTrial(
            kind_of(os.path.realpath(folder)),
            _excludes(one),
            _links(one),
            _keeps_folders(one),
            _locks(one),
            time_in(one) - time.time(),
        )
    finally:
        shutil.rmtree(one, ignore_errors=True)


def _excludes(folder: Path) -> bool:
    for number in range(2):
        try:
            os.close(os.open(folder / "exclusive", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return number == 1
    return False


def _links(folder: Path) -> bool:
    (folder / "named").touch()
    try:
        os.link(folder / "named", folder / "also")
    except OSError:
        return False
    return True


def _keeps_folders(folder: Path) -> bool:
    for name in ("first", "second"):
        (folder / name).mkdir()
        (folder / name / "file").touch()
    return not place_folder_first(folder / "second", folder / "first")


def _locks(folder: Path) -> bool:
    if sys.platform == "win32":
        return True
    with (folder / "lock").open("w") as first, (folder / "lock").open("w") as second:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        with contextlib.suppress(OSError):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
    return True
