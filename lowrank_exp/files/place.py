"""How a file or a folder that is whole gets its name, and what time it is where it lies.

On a network's file system a call that is sent twice may be reported as failed although it was done; whether it was is
seen by what bears the name then.
"""

import contextlib
import errno
import os
from pathlib import Path

from lowrank_exp.files.owner import temporary

REPORTED = (errno.ESTALE, errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY)  # of a call that may have been done
GONE = (errno.ENOENT, errno.ESTALE)
TAKEN = (errno.EEXIST, errno.ENOTEMPTY)
REFUSED = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EMLINK)  # of hard links
STALE = 3  # times that a handle which has become stale is asked for again


def replace(source: Path, target: Path) -> None:
    """Give a file the name `target`, in the place of what bore it."""
    number = os.stat(source).st_ino
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno not in REPORTED or not _bears(target, number):
            raise


def place_first(source: Path, target: Path) -> bool:
    """Give a file the name `target` unless another bears it; returns whether this one does now.

    Where hard links are refused, the last of two that come at the same time has it.
    """
    number = os.stat(source).st_ino
    try:
        os.link(source, target)
    except OSError as error:
        if _bears(target, number):
            return True
        if error.errno == errno.EEXIST:
            return False
        if error.errno not in REFUSED:
            raise
        if os.path.lexists(target):
            return False
        replace(source, target)
    return True


def place_folder_first(source: Path, target: Path) -> bool:
    """Give a folder the name `target` unless one that is not empty bears it; returns whether this one does now."""
    number = os.stat(source).st_ino
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno in REPORTED and _bears(target, number):
            return True
        if error.errno not in TAKEN:
            raise
        return False
    return True


def take_away(path: Path) -> Path | None:
    """Take a file or folder out of its place, to a name that it returns; None: nothing is there, or another was
    quicker."""
    aside = temporary(path)
    try:
        os.rename(path, aside)
    except OSError as error:
        if error.errno not in REPORTED:
            raise
        return aside if os.path.lexists(aside) else None  # nobody else makes that name
    return aside


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless another has; that this host may not see it yet does not matter."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(parents=True, exist_ok=True)


def time_in(folder: Path) -> float:
    """Seconds since 1970 on the clock of the file system, which may differ from this host's."""
    path = temporary(folder / "clock")
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    os.close(handle)
    try:
        touch(path)
        return os.stat(path).st_mtime
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def touch(path: Path) -> None:
    """Make a file's time now, on the clock of the file system."""
    os.utime(path)


def to_disk(path: Path) -> None:
    """Have a file's or a folder's content on the disk, where system and folder allow it."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _bears(path: Path, number: int) -> bool:
    """Whether the file with this inode number is the one at a path."""
    for _ in range(STALE):
        try:
            return os.stat(path).st_ino == number
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return False
