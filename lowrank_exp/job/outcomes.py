"""A phase's outcome, stored under the hash of what decides it.

The key of a phase chains its own configuration and version to the key of the phase before; the first key holds the
network, its weights, the data by content, and the seed. So a sweep of twenty rows trains its dense network once, a
killed run goes on where it was, and a change of anything that decides the numbers starts anew.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lowrank_exp.files.results import PhaseResult, digest
from lowrank_exp.files.whole import file_digest, find_difference, hold_lock, sweep_parts, write_whole
from lowrank_exp.job.readable import find_unreadable
from lowrank_exp.job.timer import untimed
from lowrank_exp.phases.phase import FITTED
from lowrank_exp.rank import Plan

NAMELESS = ("initial", "untrained")  # networks that no phase has left are called so
UNFIT = set('/\\:*?"<>|')  # for the name of a file, here or on another system


@dataclass(frozen=True)
class Outcome:
    """What is kept of a finished phase beside its network: figures, curve, and where the latency was measured.

    `latency`, `runtime`: see `PhaseResult`; `latency_at`: what decides whether they are measured again. `conditions`:
    threads, machine, device and versions of the process that computed it; `files`: SHA-256 of every file of the phase.
    Outcomes of earlier versions lack some of these.
    """

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
    conditions: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    latency: list[dict[str, Any]] = field(default_factory=list)
    runtime: dict[str, Any] = field(default_factory=dict)

    def result(self, stored: bool) -> PhaseResult:
        """What stands in a job's result; `stored`: this run did not compute it."""
        same = {item.name: getattr(self, item.name) for item in fields(PhaseResult) if hasattr(self, item.name)}
        same["warnings"] = [*self.warnings, *untimed(self.latency)]
        return PhaseResult(**same, **self.scores, stored=stored)


class OutcomeStore:
    """Folders `<phase>-<key>`: `network.pt`, `confusion.csv`, `outcome.json` (written last), `plan.yaml` if made."""

    def __init__(self, root: Path, say: Callable[[str], None] = print, exact: Mapping[str, Any] | None = None) -> None:
        """`say` is told of damage, once each; with `exact`, only phases of these conditions are found."""
        self.root, self.say, self.exact = root, say, exact
        self._said: set[str] = set()

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
        """The outcome of a finished phase; None where it has not finished, or its files are damaged, which is told."""
        folder = self.folder(name, key)
        try:
            outcome = _read(folder / "outcome.json")
            if outcome.key != key:
                raise ValueError("outcome.json is of another phase")
            if self.exact is not None and outcome.conditions != self.exact:
                return None
            problem = find_difference(folder, outcome.files) if outcome.files else find_unreadable(folder, "network.pt")
            if problem is not None:
                raise ValueError(problem)
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            line = f"{name} is computed again: in {folder}, {error}"
            if line not in self._said:
                self.say(line)
            self._said.add(line)
            return None
        return outcome

    def plan(self, name: str, key: str) -> Plan | None:
        """The plan that the phase carried out, if it made one."""
        path = self.folder(name, key) / "plan.yaml"
        return Plan.read(path) if path.is_file() else None

    def write(self, outcome: Outcome) -> None:
        """Mark the phase finished. Its files must lie in place already."""
        folder = self.folder(outcome.name, outcome.key)
        files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
        present = sorted(path for path in files if path.name != "outcome.json" and path.suffix != ".ckpt")
        record = json.loads(json.dumps(asdict(outcome) | {"files": {path.name: file_digest(path) for path in present}}))
        with write_whole(folder / "outcome.json") as temporary:
            temporary.write_text(json.dumps({**record, "digest": digest(record)}, indent=1), encoding="utf-8")
        (folder / "last.ckpt").unlink(missing_ok=True)
        shutil.rmtree(folder / FITTED, ignore_errors=True)

    @contextmanager
    def writing(self, name: str, key: str, waiting: Callable[[str], None]) -> Iterator[Path]:
        """The phase's folder, held by one process at a time; the lock dies with the process that holds it."""
        folder = self.folder(name, key)
        folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(
            folder.with_name(f"{folder.name}.lock"),
            lambda: waiting(f"waiting for another job that computes {folder.name}"),
        ):
            sweep_parts(folder)
            yield folder


def check_name(name: object) -> None:
    """Raise ValueError for a phase's name that cannot name its folder, or that means something else."""
    if name in NAMELESS:
        raise ValueError(f"no phase may be called {name!r}: a network that no phase has left is called so; rename it")
    if (
        not isinstance(name, str)
        or not name.strip(". ")
        or len(name.encode()) > 100
        or not name.isprintable()
        or UNFIT & set(name)
    ):
        raise ValueError(
            f"{str(name)[:100]!r} cannot be the name of a phase, whose files bear it: take letters, digits, "
            "dots, dashes and underscores, at most 100"
        )


def _read(path: Path) -> Outcome:
    """Raises ValueError for anything else than what `write` wrote, now or in an earlier version."""
    try:
        record = json.loads(path.read_bytes())
        expected = record.pop("digest", None)
        outcome = Outcome(**record)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path.name} cannot be read ({str(error)[:200]})") from error
    mappings = ("scores", "values", "latency_at", "conditions", "files", "runtime")
    kinds = dict.fromkeys(mappings, dict) | {"history": list, "latency": list}
    wrong = [name for name, kind in kinds.items() if not isinstance(getattr(outcome, name), kind)]
    if wrong or (expected is not None and expected != digest(record)):
        raise ValueError(f"{path.name} has changed since it was written")
    return outcome
