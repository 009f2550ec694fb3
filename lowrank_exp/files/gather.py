"""All results below some folders. No torch here."""

import os
from collections.abc import Sequence
from pathlib import Path

from lowrank_exp.files.results import RESULT, Result


def gather(folders: Sequence[str | Path]) -> tuple[list[Result], list[str]]:
    """Every `result.json` below the folders, each file once, sorted by path; and a line on each that cannot be read.

    Raises ValueError for a folder that does not exist.
    """
    path_of: dict[str, Path] = {}
    results: list[Result] = []
    unread: list[str] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder; give one that holds jobs, such as outputs")
        for inner, folders_below, files in os.walk(folder, onerror=lambda error: unread.append(_describe(error))):
            if RESULT in files or RESULT in folders_below:
                path_of[os.path.realpath(Path(inner, RESULT))] = Path(inner, RESULT)
    for path in sorted(path_of.values()):
        try:
            results.append(Result.read(path))
        except OSError as error:
            unread.append(_describe(error))
        except ValueError as error:
            unread.append(str(error))
    return results, unread


def _describe(error: OSError) -> str:
    return f"{error.filename} cannot be read: {error.strerror}"
