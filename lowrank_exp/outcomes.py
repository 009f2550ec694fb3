"""A phase's outcome, stored under the hash of what decides it.

The key of a phase chains its own configuration and version to the key of the phase before; the first key holds the
network, its weights, the data by content, and the seed. So a sweep of twenty rows trains its dense network once, a
killed run goes on where it was, and a change of anything that decides the numbers starts anew.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lowrank_exp.files import held, written_whole
from lowrank_exp.rank import Plan


@dataclass(frozen=True)
class Outcome:
    """What is kept of a finished phase beside its network: figures, curve, and where the latency was measured."""

    name: str
    key: str
    applied: bool
    scores: dict[str, Any]
    macs: int
    weights: int
    parameters: int
    bytes: int
    latency_ms: float | None
    latency_at: dict[str, Any]
    seconds: float
    history: list[dict[str, float]] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    missed: bool = False


class OutcomeStore:
    """Folders `<phase>-<key>`: `network.pt`, `confusion.csv`, `outcome.json` (written last), `plan.yaml` if made."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, name: str, key: str) -> Path:
        """Where the outcome of a phase lies, or will lie."""
        return self.root / f"{name}-{key[:16]}"

    def network(self, name: str, key: str) -> Path:
        """The file of the network after the phase."""
        return self.folder(name, key) / "network.pt"

    def confusion(self, name: str, key: str) -> Path:
        """The file of what the network took for what; outcomes of earlier versions have none."""
        return self.folder(name, key) / "confusion.csv"

    def read(self, name: str, key: str) -> Outcome | None:
        """The outcome of a finished phase; None where it has not finished, or its files are damaged."""
        folder = self.folder(name, key)
        try:
            content = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
            outcome = Outcome(**content)
        except (FileNotFoundError, json.JSONDecodeError, TypeError):
            return None
        return outcome if outcome.key == key and (folder / "network.pt").is_file() else None

    def plan(self, name: str, key: str) -> Plan | None:
        """The plan that the phase carried out, if it made one."""
        path = self.folder(name, key) / "plan.yaml"
        return Plan.read(path) if path.is_file() else None

    def write(self, outcome: Outcome) -> None:
        """Mark the phase finished. Its network must lie in place already."""
        folder = self.folder(outcome.name, outcome.key)
        with written_whole(folder / "outcome.json") as temporary:
            temporary.write_text(json.dumps(asdict(outcome), indent=1), encoding="utf-8")
        (folder / "last.ckpt").unlink(missing_ok=True)

    @contextmanager
    def writing(self, name: str, key: str, waiting: Callable[[str], None]) -> Iterator[Path]:
        """The phase's folder, held by one process at a time; the lock dies with the process that holds it."""
        folder = self.folder(name, key)
        folder.mkdir(parents=True, exist_ok=True)
        with held(
            folder.with_suffix(".lock"),
            lambda: waiting(f"waiting for another job that computes {folder.name}"),
        ):
            yield folder


def stopwatch() -> Callable[[], float]:
    """Seconds since the call."""
    start = time.perf_counter()
    return lambda: time.perf_counter() - start
