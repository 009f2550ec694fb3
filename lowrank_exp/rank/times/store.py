"""Times on disk: measured once for a machine, a runtime and a layer's shape, and shared by all who ask for them."""

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lowrank_exp.files.results import digest
from lowrank_exp.files.whole import write_whole

log = logging.getLogger(__name__)


class TimeStore:
    """Milliseconds by what they depend on: conditions (machine, runtime, version, threads, batch, precision) and shape.

    A file holds one table: the times of one thing at several ranks. It is written whole as soon as the table is
    measured, so a killed process loses one table at most. A file that is not what was written is measured anew, with a
    warning. Without a folder times are kept in memory.
    """

    def __init__(self, folder: str | os.PathLike | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._memory: dict[str, dict[str, float]] = {}

    def table(
        self, key: Mapping[str, Any], names: Iterable[str], measure: Callable[[list[str]], Mapping[str, float]]
    ) -> dict[str, float]:
        """Times of `names` under `key`; those that are not known are measured, all in one call, and kept.

        Args:
            key: plain values; all that times depend on.
            names: of what is timed: ranks, or plans.
            measure: milliseconds of the names that it is given.
        """
        name = digest(dict(key))[:24]
        known = self._memory.get(name) or self._read(name)
        if missing := [one for one in names if one not in known]:
            known = self._read(name) | known | dict(measure(missing))  # another process may have added some meanwhile
            self._write(name, key, known)
        self._memory[name] = known
        return {one: known[one] for one in names}

    def forget(self, key: Mapping[str, Any]) -> None:
        """Measure the table under `key` anew when it is next asked for."""
        name = digest(dict(key))[:24]
        self._memory.pop(name, None)
        if self.folder is not None:
            (self.folder / f"{name}.json").unlink(missing_ok=True)

    def _read(self, name: str) -> dict[str, float]:
        if self.folder is None:
            return {}
        path = self.folder / f"{name}.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            written = record.pop("digest")
            if written == digest(record):
                return {str(one): float(ms) for one, ms in record["ms"].items()}
            reason = "it has changed since it was written"
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = f"{type(error).__name__}: {error!s:.200}"
        log.warning("%s is damaged, its times are measured anew (%s)", path, reason)
        return {}

    def _write(self, name: str, key: Mapping[str, Any], known: Mapping[str, float]) -> None:
        if self.folder is None:
            return
        record = {"key": dict(key), "ms": dict(known)}
        with write_whole(self.folder / f"{name}.json", durable=False) as temporary:
            temporary.write_text(json.dumps({**record, "digest": digest(record)}), encoding="utf-8")
