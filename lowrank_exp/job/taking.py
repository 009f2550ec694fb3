"""How processes that run one sweep share its jobs out: each takes the next one that nobody holds."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lowrank_exp.files.exclusion import is_held
from lowrank_exp.files.place import time_in
from lowrank_exp.files.results import RESULT, Result
from lowrank_exp.text.plain_text import shortened


class HeldError(Exception):
    """A job cannot go on now: another process holds what `lock` stands for."""

    @property
    def lock(self) -> Path:
        """See `files.exclusion`."""
        return self.args[0]


class FailedElsewhereError(Exception):
    """Another process that runs the sweep has run the job, and it failed."""


@dataclass(frozen=True)
class Taking:
    """What a job of a sweep leaves to other processes.

    Attributes:
        began: when the sweep did, on the clock of its folder.
        phases: whether it comes later where another process computes the phase that it would begin with; else it waits.
    """

    began: float
    phases: bool

    @classmethod
    def from_now(cls, folder: Path, phases: bool) -> "Taking":
        """Of a sweep that begins now and writes to this folder."""
        try:
            return cls(time_in(folder), phases)
        except OSError:  # a folder that takes no file: there is nobody to share with
            return cls(math.inf, phases)


_taking: list[Taking] = []  # of this process; none: jobs wait for what others hold


@contextmanager
def taken(taking: Taking) -> Iterator[None]:
    """Within the block jobs do not wait for other processes, but raise `HeldError`."""
    _taking.append(taking)
    try:
        yield
    finally:
        _taking.pop()


def leave_job(folder: Path, lock: Path) -> None:
    """Raise HeldError where another process runs the job in a folder, FailedElsewhereError where that has failed."""
    if not _taking:
        return
    if is_held(lock):
        raise HeldError(lock)
    path = folder / RESULT
    try:
        result = Result.read(path) if path.stat().st_mtime > _taking[-1].began else None
    except (OSError, ValueError):
        return
    if result is not None and result.status == "failed":
        lines = (result.error or "").strip().splitlines()
        raise FailedElsewhereError(f"failed in another process: {shortened(lines[-1] if lines else '', 300)} ({path})")


def leave_phase(lock: Path) -> None:
    """Raise HeldError where another process computes the phase that a job would begin with."""
    if _taking and _taking[-1].phases and is_held(lock):
        raise HeldError(lock)
