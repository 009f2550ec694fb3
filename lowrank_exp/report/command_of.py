"""The command that repeats a job: what was typed, as the job's folder recalls it."""

import shlex
from pathlib import Path

import yaml

from lowrank_exp.files.results import Result
from lowrank_exp.files.yaml_file import yaml_content
from lowrank_exp.text.plain_text import plain

OVERRIDES = Path(".hydra", "overrides.yaml")  # Hydra's own note in a job's folder
LONGEST_FILE = 2**20  # bytes
PROGRAM = "lowrank-exp"
ALONE = "hydra.mode=RUN"  # one job, also of an experiment that carries its own sweep


def command_of(result: Result) -> str:
    """The command of a job, quoted for a shell; without the note in its folder, by experiment, row, seed and what
    departs from them. Empty where neither is known.

    >>> command_of(Result("ok", "0" * 16, "oneshot", "svd 1", 2, "decompose", {}, departures=["scale=smoke"]))
    "lowrank-exp hydra.mode=RUN experiment=oneshot 'row=oneshot/svd 1' seed=2 scale=smoke"
    """
    words = _typed(result.folder)
    if words is None and result.experiment:
        row = [f"row={result.experiment}/{result.row}"] if result.row else []
        words = [f"experiment={result.experiment}", *row, f"seed={result.seed}", *(result.departures or [])]
    if words is None:
        return ""
    alone = [ALONE] if any(word.startswith("experiment=") for word in words) and ALONE not in words else []
    return shlex.join([PROGRAM, *alone, *map(plain, words)])


def _typed(folder: Path | None) -> list[str] | None:
    """The overrides of a job; None where there is no note of them, or one that is not Hydra's."""
    path = None if folder is None else folder / OVERRIDES
    try:
        if path is None or not path.is_file() or path.stat().st_size > LONGEST_FILE:
            return None
        words = yaml_content(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return words if isinstance(words, list) and all(isinstance(word, str) for word in words) else None
