"""Files that are there whole or not at all, and whether they are still what was written."""

import functools
import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lowrank_exp.files.owner import PART, is_gone, temporary
from lowrank_exp.files.place import make_folder, place_first, replace, time_in, to_disk

FORGOTTEN = 86_400  # seconds after which what another host has left half written is nobody's


@contextmanager
def write_whole(path: str | os.PathLike, *, durable: bool = True, first: bool = False) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes the place of `path` when the block ends well.

    first: a file that another process has put there meanwhile stays.

    durable: the content has reached the disk before the name does, so that no power cut leaves an empty file; to be
        left out for many small files that can be made again, and whose damage is found.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "note.txt"
    >>> with write_whole(target) as temporary:
    ...     _ = temporary.write_text("all of it")
    >>> target.read_text()
    'all of it'
    """
    path = Path(path)
    make_folder(path.parent)
    part = temporary(path)
    try:
        yield part
        if durable:
            to_disk(part)
        if first:
            place_first(part, path)
        else:
            replace(part, path)
        if durable:
            to_disk(path.parent)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # a write that failed tells of no file
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def open_told(path: Path) -> Iterator["TellingFile"]:
    """A file to write bytes to, for code that hides what the system says, as `torch.save` does: that is what is raised.

    It writes no path into the file either, as `torch.save` does that is given one.
    """
    with TellingFile(io.FileIO(path, "wb")) as file:
        try:
            yield file
        except Exception as error:
            if file.problem is None:
                raise
            raise file.problem from error


class TellingFile(io.BufferedWriter):
    """A file that keeps the error that its last writing has raised, `problem`."""

    problem: OSError | None = None

    def write(self, data: Any) -> int:
        """As any file does."""
        try:
            return super().write(data)
        except OSError as error:
            self.problem = error
            raise


@contextmanager
def write_whole_together(path: str | os.PathLike) -> Iterator[Path]:
    """The path of `path`'s name in a temporary folder beside it, for files that belong together and name each other.

    When the block ends well all files of that folder take their places beside `path`, that of `path` itself last; where
    there are several, a former `path` is taken away before, so that it never stands beside files that are not its own.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "model.xml"
    >>> with write_whole_together(target) as temporary:
    ...     _ = temporary.write_text("graph"), temporary.with_suffix(".bin").write_text("weights")
    >>> sorted(file.name for file in target.parent.iterdir())
    ['model.bin', 'model.xml']
    """
    path = Path(path)
    folder = temporary(path)
    folder.mkdir(parents=True)
    try:
        yield folder / path.name
        *others, main = sorted(folder.iterdir(), key=lambda file: file.name == path.name)
        for file in (*others, main):
            to_disk(file)
        if others:
            path.unlink(missing_ok=True)
        for file in (*others, main):
            replace(file, path.with_name(file.name))
        to_disk(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def copy_whole(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Copy a file so that `target` is there whole or not at all."""
    with write_whole(target) as temporary:
        shutil.copyfile(source, temporary)


def sweep_parts(*folders: Path) -> None:
    """Remove what processes that are gone have left half written in some folders, see `left_parts`."""
    for part in left_parts(*folders):
        shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)


def left_parts(*folders: Path) -> Iterator[Path]:
    """What is half written in some folders by processes that are gone: those of this host, or silent for a day."""
    now = None
    for part in (part for folder in folders for part in folder.glob(".*.part")):
        if (match := PART.fullmatch(part.name)) is None:
            continue
        gone = is_gone(match[1], int(match[2]))
        if gone is None:
            try:
                written = part.stat().st_mtime
            except OSError:
                continue
            now = time_in(part.parent) if now is None else now
            gone = now - written > FORGOTTEN
        if gone:
            yield part


def file_digest(path: str | os.PathLike) -> str:
    """SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_once(path: Path) -> str:
    """`file_digest`, computed once in a process as long as the file's size, time and place on the disk are the same."""
    stat = path.stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


def find_difference(folder: Path, digests: dict[str, str]) -> str | None:
    """The first of the files below a folder that is not the one that has the digest, with the reason; None: all are.

    >>> find_difference(Path("nowhere"), {"a.txt": "0"})
    'a.txt is missing'
    """
    for name, expected in digests.items():
        try:
            if digest_once(folder / name) != expected:
                return f"{name} has changed since it was written"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror or error})"
    return None


def check_sums(file: str | os.PathLike | object) -> None:
    """Compare what `torch.save` wrote with the check sums in it, which `torch.load` does not look at.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is cut, changed, or another one.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile raises many kinds
        raise ValueError(f"not a whole file of torch ({error})") from error
    if broken is not None:
        raise ValueError(f"its part {broken} has changed since it was written")


@functools.lru_cache(10_000)
def _digest(path: Path, *stat: int) -> str:
    return file_digest(path)
