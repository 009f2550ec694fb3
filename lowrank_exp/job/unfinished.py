"""A job that does not end well: where it was, and what is recorded of it."""

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lowrank_exp.files.results import PRUNED, VOID, Result
from lowrank_exp.job.signals import Interrupted, signal_in
from lowrank_exp.machine.environment import describe_environment
from lowrank_exp.phases.phase import Phase
from lowrank_exp.phases.train import Train


class Place:
    """Where a job is, in words."""

    def __init__(self) -> None:
        self._phase: str | None = None
        self._epochs: int | None = None  # of the phase; None where it has none, or does not say how many
        self._finished = 0

    def phase(self, name: str, phase: Phase) -> None:
        """A phase begins."""
        self._phase, self._finished = name, 0
        self._epochs = phase.recipe.epochs if isinstance(phase, Train) else None

    def epoch(self) -> None:
        """An epoch of the phase has ended."""
        self._finished += 1

    def last(self) -> None:
        """The last phase has ended."""
        self._phase = ""

    def __str__(self) -> str:
        if not self._phase:
            return "before the first phase" if self._phase is None else "after the last phase"
        if self._epochs and self._finished >= self._epochs:
            return f"in {self._phase}, after its last epoch"
        if self._epochs:
            return f"in {self._phase}, epoch {self._finished + 1} of {self._epochs}"
        return f"in {self._phase}, epoch {self._finished + 1}" if self._finished else f"in {self._phase}"


def record_end(
    error: BaseException, path: Path, identity: Mapping[str, Any], device: str, place: Place, say: Callable[[str], None]
) -> Interrupted | None:
    """Write a result for what has just ended a job; a complete one that lies there is left.

    Returns the signal, if one came: also where a library has made its own exception of it.
    """
    signal = signal_in(error)
    if signal is not None:
        signal.place = str(place)
    try:
        if signal is not None:
            _write(path, "interrupted", identity, device, str(signal))
        elif _write(path, "failed", identity, device, traceback.format_exc()):
            say(f"failed: {type(error).__name__}, recorded in {path}")
        else:
            say(f"failed: {type(error).__name__}, the earlier, complete result is left as it was in {path}")
    except OSError as problem:
        say(f"that this job did not end well cannot be recorded: {problem}")
    return signal


def record_void(
    error: Exception, path: Path, identity: Mapping[str, Any], device: str, say: Callable[[str], None]
) -> Result:
    """Write a result for a control that cannot be made of its row, with the reason."""
    say(f"control {identity['control']['name']} is void: {error}")
    result = Result(VOID, **identity, environment=describe_environment(device), error=str(error))
    result.write(path)
    return result


def record_pruned(
    why: object, path: Path, identity: Mapping[str, Any], device: str, place: Place, say: Callable[[str], None]
) -> Result:
    """Write a result for a job that the search which chose it ends early; a complete one that lies there is left."""
    say(f"pruned {place}: {why}")
    _write(path, PRUNED, identity, device, str(why))
    return Result(PRUNED, **identity, error=str(why))


def _write(path: Path, status: str, identity: Mapping[str, Any], device: str, error: str) -> bool:
    try:
        if Result.read(path).complete:
            return False
    except (ValueError, OSError):
        pass
    Result(status, **identity, environment=describe_environment(device), error=error).write(path)
    return True
