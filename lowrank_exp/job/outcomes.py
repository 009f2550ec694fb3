"""A phase's outcome, stored under the hash of what decides it.

The key of a phase chains its own configuration and version to the key of the phase before; the first key holds the
network, its weights, the data by content, and the seed. So a sweep of twenty rows trains its dense network once, a
killed run goes on where it was, and a change of anything that decides the numbers starts anew.
"""

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lowrank_exp.files.exclusion import SHARING, hold_lock
from lowrank_exp.files.owner import temporary
from lowrank_exp.files.place import make_folder, place_folder_first, take_away, to_disk
from lowrank_exp.files.results import PhaseResult, digest
from lowrank_exp.files.whole import file_digest, find_difference, sweep_parts, write_whole
from lowrank_exp.job.readable import find_unreadable
from lowrank_exp.job.timer import untimed
from lowrank_exp.rank import Plan

NAMELESS = ("initial", "untrained")  # networks that no phase has left are called so
RECORD, NETWORK, CONFUSION, PLAN = "outcome.json", "network.pt", "confusion.csv", "plan.yaml"
CHECKPOINT = "last.ckpt"
SHARED = ("svd", "times", "scores")  # folders of a store for what phases of all jobs share
PATIENCE = 60  # seconds for which another host may not see a file that is there
UNFIT = set('/\\:*?"<>|')  # for the name of a file, here or on another system


@dataclass(frozen=True)
class Outcome:
    """What is kept of a finished phase beside its network: figures, curve, and where the latency was measured.

    `latency`, `runtime`: see `PhaseResult`; `latency_at`: what decides whether they are measured again. `conditions`:
    threads, machine, device and versions of the process that computed it; `files`: SHA-256 of every file of the phase;
    `svds`: the files of SVDs that it was made with. Outcomes of earlier versions lack some of these.
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
    svds: list[str] | None = None

    def result(self, stored: bool) -> PhaseResult:
        """What stands in a job's result; `stored`: this run did not compute it."""
        same = {item.name: getattr(self, item.name) for item in fields(PhaseResult) if hasattr(self, item.name)}
        same["warnings"] = [*self.warnings, *untimed(self.latency)]
        return PhaseResult(**same, **self.scores, stored=stored)


class OutcomeStore:
    """Folders `<phase>-<key>` of finished phases: `network.pt`, `confusion.csv`, `outcome.json`, `plan.yaml` if made.

    A folder gets its name with all of its files in it, and the first one stays. What an unfinished phase must not lose
    lies in `<phase>-<key>.work`.
    """

    def __init__(self, root: Path, say: Callable[[str], None] = print, exact: Mapping[str, Any] | None = None) -> None:
        """`say` is told of damage, once each; with `exact`, only phases of these conditions are found."""
        self.root, self.say, self.exact = root, say, exact
        self._said: set[str] = set()

    def folder(self, name: str, key: str) -> Path:
        """Where the outcome of a phase lies, or will lie."""
        return self.root / f"{name}-{key[:16]}"

    def work(self, name: str, key: str) -> Path:
        """Where checkpoints and the like of a phase lie as long as it has not finished."""
        return self.root / f"{name}-{key[:16]}.work"

    def network(self, name: str, key: str) -> Path:
        """The file of the network after the phase."""
        return self.folder(name, key) / NETWORK

    def confusion(self, name: str, key: str) -> Path:
        """The file of what the network took for what; outcomes of earlier versions have none."""
        return self.folder(name, key) / CONFUSION

    def read(self, name: str, key: str) -> Outcome | None:
        """The outcome of a finished phase; None where it has not finished, or its files are damaged, which is told."""
        folder = self.folder(name, key)
        try:
            outcome = read_outcome(folder)
            if outcome.key != key:
                raise ValueError("outcome.json is of another phase")
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            line = f"{name} is computed again: in {folder}, {error}"
            if line not in self._said:
                self.say(line)
            self._said.add(line)
            return None
        return outcome if self.exact in (None, outcome.conditions) else None

    def take_over(self, name: str, key: str) -> Outcome | None:
        """`read`; what a finished phase kept while it ran goes: its process may have died before."""
        if (outcome := self.read(name, key)) is not None:
            shutil.rmtree(self.work(name, key), ignore_errors=True)
        return outcome

    def read_late(self, name: str, key: str) -> Outcome | None:
        """`read`, again and again for as long as what another host has just published may not be seen here."""
        deadline = time.monotonic() + (PATIENCE if SHARING.of(self.root) and self.exact is None else 0)
        while (outcome := self.read(name, key)) is None and time.monotonic() < deadline:
            time.sleep(1)
        return outcome

    def plan(self, name: str, key: str) -> Plan | None:
        """The plan that the phase carried out, if it made one."""
        path = self.folder(name, key) / PLAN
        return Plan.read(path) if path.is_file() else None

    def lock(self, name: str, key: str) -> Path:
        """What stands for computing the phase, see `files.exclusion`."""
        return self.root / f"{self.folder(name, key).name}.lock"

    @contextmanager
    def writing(self, name: str, key: str, waiting: Callable[[str], None]) -> Iterator[Path]:
        """The folder for what the phase must not lose, held by one process at a time as far as the system allows."""
        folder, work = self.folder(name, key), self.work(name, key)
        with hold_lock(self.lock(name, key), lambda: waiting(f"waiting for another job that computes {folder.name}")):
            sweep_parts(*folders_in(self.root))
            if (folder / CHECKPOINT).exists() and not work.exists():
                os.rename(folder, work)  # an earlier version kept it there
            make_folder(work)
            sweep_parts(work)
            try:
                yield work
            finally:
                with contextlib.suppress(OSError):
                    work.rmdir()  # if nothing is in it

    @contextmanager
    def making(self, name: str, key: str) -> Iterator[Path]:
        """A folder of this process alone for the files of a finished phase, which `publish` puts into its place."""
        folder = temporary(self.folder(name, key))
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, outcome: Outcome, made: Path) -> tuple[Outcome, bool]:
        """Mark the phase finished, with the files in the folder `made` and what its folder for work keeps.

        Returns the outcome, or what another process has published before, and whether it is that.
        """
        folder, work = (of(outcome.name, outcome.key) for of in (self.folder, self.work))
        for path in work.iterdir() if work.is_dir() else ():
            if path.is_file() and path.suffix != ".ckpt" and not path.name.startswith("."):
                shutil.copy2(path, made / path.name)
                to_disk(made / path.name)
        present = sorted(path for path in made.iterdir() if path.is_file())
        outcome = replace(outcome, files={path.name: file_digest(path) for path in present})
        record = json.loads(json.dumps(asdict(outcome)))
        with write_whole(made / RECORD) as part:
            part.write_text(json.dumps({**record, "digest": digest(record)}, indent=1), encoding="utf-8")
        while not place_folder_first(made, folder):
            if (other := self.read_late(outcome.name, outcome.key)) is not None:
                shutil.rmtree(work, ignore_errors=True)
                return other, True
            if (damaged := take_away(folder)) is not None:
                shutil.rmtree(damaged, ignore_errors=True)
        to_disk(self.root)
        shutil.rmtree(work, ignore_errors=True)
        return outcome, False


def folders_in(store: Path) -> list[Path]:
    """A store and the folders in it that hold files of no single phase."""
    return [store, *(inner for name in SHARED for inner in (store / name).glob("**/"))]


def read_outcome(folder: Path) -> Outcome:
    """The outcome in a folder of the store.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it, or a file of it, is not what was written.
        OSError: it cannot be read.
    """
    for again in (True, True, False):
        try:
            outcome = _read(folder / RECORD)
            problem = find_difference(folder, outcome.files) if outcome.files else find_unreadable(folder, NETWORK)
        except OSError as error:
            if error.errno != errno.ESTALE or not again:  # another host has just put it there
                raise
        else:
            break
    if problem is not None:
        raise ValueError(problem)
    return outcome


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
