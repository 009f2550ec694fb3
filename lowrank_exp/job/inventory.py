"""What lies in a store, which jobs use it, and whether it is whole."""

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lowrank_exp.files.results import RESULT, Result, digest
from lowrank_exp.files.whole import check_sums, left_parts, write_whole
from lowrank_exp.job.outcomes import CHECKPOINT, RECORD, folders_in, read_outcome

PHASES = ".phases.json"  # in a job's folder: the names of its phases in the store
WORK = ".work"
NETWORK, UNFINISHED, SVD, TIMES, SCORES, LEFT = "networks", "checkpoints", "SVDs", "times", "scores", "half written"
KINDS = (NETWORK, UNFINISHED, SVD, TIMES, SCORES, LEFT)


@dataclass(frozen=True)
class Item:
    """A file or a folder of the store. `name`: of a phase, `<phase>-<key>`; empty of anything else."""

    kind: str
    path: Path
    bytes: int
    name: str = ""


@dataclass(frozen=True)
class Uses:
    """Which jobs use which phases, by name; and the jobs of earlier versions that do not tell."""

    jobs: Mapping[str, Sequence[Path]]
    silent: Sequence[Path]
    all: Sequence[Path]


def note_phases(folder: Path, names: Iterable[str]) -> None:
    """Note in a job's folder which phases of the store it uses."""
    with write_whole(folder / PHASES, durable=False) as part:
        part.write_text(json.dumps(sorted(names)), encoding="utf-8")


def list_items(store: Path) -> list[Item]:
    """Everything in a store but its locks, by kind and name."""
    items = [Item(LEFT, path, _size(path)) for path in left_parts(*folders_in(store))]
    for path in sorted(store.iterdir()):
        if path.name.startswith(".") or not path.is_dir():
            continue
        kind = {"svd": SVD, "times": TIMES, "scores": SCORES}.get(path.name)
        if kind is not None:
            items += [Item(kind, file, _size(file)) for file in sorted(path.rglob("*")) if _is_stored(file)]
        elif path.name.endswith(WORK) or ((path / CHECKPOINT).exists() and not (path / RECORD).exists()):
            items.append(Item(UNFINISHED, path, _size(path), path.name.removesuffix(WORK)))
        else:
            items.append(Item(NETWORK, path, _size(path), path.name))
    return sorted(items, key=lambda item: (KINDS.index(item.kind), item.path))


def uses_of(outputs: Sequence[Path], store: Path) -> Uses:
    """Which phases the jobs below some folders use: what they noted, or else what their results tell."""
    jobs: dict[str, list[Path]] = {}
    silent, every = [], []
    for folder in _job_folders(outputs, store):
        every.append(folder)
        names = _noted(folder)
        if names is None:
            silent.append(folder)
        for name in names or ():
            jobs.setdefault(name, []).append(folder)
    return Uses(jobs, silent, every)


def unused(items: Sequence[Item], uses: Uses, is_held: Callable[[str], bool]) -> tuple[list[Item], list[str]]:
    """What no job uses, and a sentence on everything that is kept because that cannot be told.

    Times and scores are always kept: they are measurements, and small.
    """
    kept, found = [], [item for item in items if item.kind == LEFT]
    if uses.silent:
        some = (
            f"{len(uses.silent)} of {len(uses.all)} jobs, such as {uses.silent[0]}, do not tell which phases they use"
        )
        kept.append(f"networks and checkpoints are kept: {some}. Run them to their ends, or delete their folders")
        used = {item.name for item in items if item.name}
    else:
        used = set(uses.jobs)
    found += [item for item in items if item.name and item.name not in used and not is_held(item.name)]
    try:
        svds = {name for item in items if item.kind == NETWORK and item not in found for name in _svds(item.path)}
    except ValueError as error:
        kept.append(f"SVDs are kept: {error}")
    else:
        found += [item for item in items if item.kind == SVD and item.path.name not in svds]
    return found, kept


def find_damage(item: Item) -> str | None:
    """What is wrong with a file or folder of the store; None: nothing."""
    try:
        if item.kind == NETWORK:
            outcome = read_outcome(item.path)
            if item.path.name != f"{outcome.name}-{outcome.key[:16]}":
                return f"its key is that of {outcome.name}-{outcome.key[:16]}"
        elif item.kind == UNFINISHED:
            for path in item.path.rglob("*"):
                if path.suffix in (".ckpt", ".pt"):
                    _check_file(path)
        elif item.kind != LEFT:
            _check_file(item.path)
    except FileNotFoundError as error:
        return f"{Path(error.filename or item.path).name} is missing"
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _check_file(path: Path) -> None:
    """Raise ValueError for a file that is not what was written, as far as it can be told from itself."""
    if path.suffix in (".pt", ".ckpt"):
        try:
            check_sums(path)
        except ValueError as error:
            raise ValueError(f"{path.name} is {error}") from error
    elif path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            if (part := archive.testzip()) is not None:
                raise ValueError(f"its part {part} has changed since it was written")
    elif path.suffix == ".json":
        record = json.loads(path.read_bytes())
        if not isinstance(record, dict):
            raise ValueError("it is not a record")
        if (written := record.pop("digest", None)) is None:
            return
        if written not in (digest(record), digest(record.get("errors"))):
            raise ValueError("it has changed since it was written")
        if "ms" in record and path.stem != digest(record["key"])[:24]:
            raise ValueError("its key is that of another file")


def _noted(folder: Path) -> list[str] | None:
    """The phases that a job uses, `<phase>-<key>`; None where it does not tell."""
    try:
        return list(json.loads((folder / PHASES).read_bytes()))
    except (OSError, ValueError):
        pass
    try:
        result = Result.read(folder / RESULT)
    except (OSError, ValueError):
        return None
    if not result.complete:
        return None
    measured = [phase for phase in (*result.phases, result.dense) if phase is not None and phase.key]
    keys = [(phase.name, phase.key) for phase in measured] + list(result.skipped.items())
    return [f"{name}-{key[:16]}" for name, key in keys]


def _job_folders(outputs: Sequence[Path], store: Path) -> list[Path]:
    found = set()
    for root in outputs:
        for name in (RESULT, PHASES, ".hydra"):
            found |= {path.parent for path in root.rglob(name)}
    return sorted(folder for folder in found if not folder.resolve().is_relative_to(store.resolve()))


def _svds(folder: Path) -> list[str]:
    """The SVDs that a finished phase was made with. Raises ValueError for one that does not tell."""
    try:
        svds = read_outcome(folder).svds
    except OSError as error:
        raise ValueError(f"{folder} cannot be read ({error})") from error
    if svds is None:
        raise ValueError(f"{folder} is of an earlier version, which did not note them")
    return svds


def _is_stored(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.suffix not in (".lock", ".lease")


def _size(path: Path) -> int:
    files: Iterator[Path] = path.rglob("*") if path.is_dir() else iter([path])
    return sum(file.stat().st_size for file in files if file.is_file())
