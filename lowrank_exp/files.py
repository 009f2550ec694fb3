"""Files that are there whole or not at all, and locks that die with the process that holds them."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes the place of `path` when the block ends well.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "note.txt"
    >>> with written_whole(target) as temporary:
    ...     _ = temporary.write_text("all of it")
    >>> target.read_text()
    'all of it'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def copy_whole(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Copy a file so that `target` is there whole or not at all."""
    with written_whole(target) as temporary:
        shutil.copyfile(source, temporary)


@contextmanager
def held(lock: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a file lock; `waiting` is called once if another process has it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    guard = FileLock(lock)
    try:
        guard.acquire(timeout=0.2)
    except Timeout:
        waiting()
        guard.acquire()
    try:
        yield
    finally:
        guard.release()
