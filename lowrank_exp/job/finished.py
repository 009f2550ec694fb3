"""Whether a job has ended before, with what decides its numbers now and with the files that it wrote."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrank_exp.files.exported import exported_files
from lowrank_exp.files.results import RESULT, Result
from lowrank_exp.files.whole import find_difference
from lowrank_exp.job.readable import find_unreadable

MODEL, PLAN = "model.pt", "plan.yaml"


def read_finished(
    folder: Path,
    fingerprint: str,
    steps: Sequence[tuple[str, str]],
    exact: Mapping[str, Any] | None,
    say: Callable[[str], None],
) -> Result | None:
    """The result in a job's folder, if all phases ended with these keys and its files are whole; else why not is told.

    Args:
        folder: of the job.
        fingerprint: of its configuration now.
        steps: name and key of every phase, in order.
        exact: conditions under which all phases must have been computed; None: any.
        say: is told of damage.
    """
    path = folder / RESULT
    if not path.is_file():
        return None
    try:
        result = Result.read(path)
        if not result.complete or result.fingerprint != fingerprint or not result.phases:
            return None
        if not _same(result, steps) or any(exact not in (None, phase.conditions) for phase in result.phases):
            return None
        exported = exported_files(result.exports)  # which can be made again
        files = {name: digest for name, digest in result.files.items() if name not in exported}
        problem = find_difference(folder, files) if files else find_unreadable(folder, MODEL)
        problem = problem if result.intact else f"{RESULT} has changed since it was written"
    except (ValueError, OSError) as error:
        problem = str(error)
    if problem is None:
        return result
    say(f"running again: in {folder}, {problem}")
    return None


def _same(result: Result, steps: Sequence[tuple[str, str]]) -> bool:
    """Whether the phases are these. Results of earlier versions do not tell which ones had nothing to do."""
    stored = [(phase.name, phase.key) for phase in result.phases]
    if stored != [step for step in steps if step in stored]:
        return False
    return len(stored) == len(steps) or not result.files or dict(steps) == dict(stored) | result.skipped
