"""Errors that were reached, kept on disk: they are measured once for all jobs and sweeps, and go on after a kill."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from lowrank_exp.decomposition import Rank
from lowrank_exp.files.results import digest
from lowrank_exp.files.whole import write_whole

log = logging.getLogger(__name__)


class ErrorStore:
    """Numbers by rank, of what a key stands for. Without a folder nothing is kept.

    A file is written whole or not at all, and one that is not what was written is made anew, with a warning.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def read(self, key: str) -> dict[str, list[float]]:
        """What is known, by `of_rank`."""
        if self.folder is None:
            return {}
        path = self.folder / f"{key}.json"
        try:
            record = json.loads(path.read_bytes())
            if digest(record["errors"]) != record["digest"]:
                raise ValueError("its digest is another one")
            return record["errors"]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.warning("%s is damaged and is made anew (%s: %.200s)", path, type(error).__name__, error)
            return {}

    def write(self, key: str, errors: Mapping[str, list[float]]) -> None:
        """Keep what is known in the place of what was."""
        if self.folder is not None:
            with write_whole(self.folder / f"{key}.json", durable=False) as temporary:
                temporary.write_text(json.dumps({"errors": errors, "digest": digest(errors)}), encoding="utf-8")


def of_rank(rank: Rank) -> str:
    """A rank as it stands in files.

    >>> of_rank(3), of_rank((3, 4))
    ('3', '3 4')
    """
    return " ".join(map(str, rank)) if isinstance(rank, tuple) else str(rank)
