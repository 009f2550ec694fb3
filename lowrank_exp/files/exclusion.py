"""One process at a time: by a lock that dies with its process, or by a lease where several hosts share the folder."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from lowrank_exp.files.lease import Heart, Lease
from lowrank_exp.files.place import make_folder
from lowrank_exp.files.shared_folder import FolderTrial, is_shared, try_folder

SHORTLY = 0.2  # seconds that nobody is told of waiting
LONGEST = 2.0  # seconds between two looks at a lease


@dataclass
class Sharing:
    """How this process excludes others.

    Attributes:
        shared: whether other hosts write to the folders, too; None: as their file systems say.
        silent: seconds after which a lease that is not renewed counts as given up.
    """

    shared: bool | None = None
    silent: float = 120.0

    def of(self, folder: Path) -> bool:
        """Whether leases are used in a folder."""
        return is_shared(folder) if self.shared is None else self.shared


SHARING = Sharing()
_TOLD: set[Path] = set()


def share(shared: bool | None, silent: float) -> None:
    """Set how this process excludes others, see `Sharing`."""
    SHARING.shared, SHARING.silent = shared, silent


def tell_of_sharing(folder: Path) -> FolderTrial | None:
    """What the file system of a folder does for hosts that share it, once a process; None: told, or not shared."""
    if not SHARING.of(folder) or folder in _TOLD:
        return None
    _TOLD.add(folder)
    return try_folder(folder)


@contextmanager
def hold_lock(lock: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold what a path stands for, `<name>.lock`; `waiting` is called once if another process has it."""
    make_folder(lock.parent)
    if SHARING.of(lock.parent):
        lease = Lease(_lease_path(lock), SHARING.silent)
        _wait_for(lease, waiting)
        heart = Heart(lease)
        try:
            yield
        finally:
            heart.stop()
            lease.release()
        return
    guard = FileLock(lock)
    try:
        guard.acquire(timeout=SHORTLY)
    except Timeout:
        waiting()
        guard.acquire()
    try:
        yield
    finally:
        guard.release()


def is_held(lock: Path) -> bool:
    """Whether another process holds what a path stands for now; not, where that cannot be seen."""
    try:
        if (lease := _lease_path(lock)).exists() and Lease(lease, SHARING.silent).is_held():
            return True
        if SHARING.of(lock.parent) or not lock.exists():
            return False
        guard = FileLock(lock)
        guard.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:
        return False
    guard.release()
    return False


def _wait_for(lease: Lease, waiting: Callable[[], None]) -> None:
    pause, told = SHORTLY / 4, False
    while not lease.take():
        if not told and pause > SHORTLY:
            waiting()
            told = True
        time.sleep(pause)
        pause = min(2 * pause, LONGEST)


def _lease_path(lock: Path) -> Path:
    return lock.with_name(f"{lock.name.removesuffix('.lock')}.lease")
