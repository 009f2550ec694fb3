"""What a job leaves behind: `result.json` and the fingerprint that names its folder. No torch here.

Accuracies are fractions, MACs are multiply-accumulates of one image (convolutions and linear layers), weights
are the entries of convolution and linear weights, latencies are milliseconds.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path

from lowrank_exp.files import written_whole

RESULT = "result.json"
COMPLETE = ("ok", "missed")  # all phases have ended; missed: a target was not met
STATUSES = (*COMPLETE, "interrupted", "failed")

# What does not decide a number: top-level keys first, then dotted ones.
EXCLUDED = (
    "hydra",
    "logger",
    "paths",
    "progress",
    "debug",
    "device",
    "threads",
    "latency",
    "dry_run",
    "tags",
    "notes",
    "name",
    "data.cache_dir",
    "data.progress",
    "data.download",
    "data.memory_limit",
    "data.workers",
    "data.num_workers",
    "data.pin_memory",
    "data.persistent_workers",
    "data.prefetch_factor",
    "data.prefetch",
    "data.in_memory",
    "data.cache_limit",
)


@dataclass(frozen=True)
class PhaseResult:
    """The network after one phase. None: not measured; `bytes`: of its file; `key`: the hash of the stored outcome.

    `class_accuracy`: of every class by name, in the order of the labels; None for a class without test images, and
    empty where it was not measured. `values`: figures of the phase's own, by name. `warnings`: what a reader of the
    figures must know, a sentence each; `missed`: a target was not met.
    """

    name: str
    accuracy: float | None = None
    val_accuracy: float | None = None
    loss: float | None = None
    top5: float | None = None
    macs: float | None = None
    weights: float | None = None
    parameters: float | None = None
    bytes: float | None = None
    latency_ms: float | None = None
    seconds: float | None = None
    key: str = ""
    class_accuracy: dict[str, float | None] = field(default_factory=dict)
    values: dict[str, float | None] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    missed: bool = False


@dataclass(frozen=True)
class LayerResult:
    """One layer before and after. No `decomposition` and `rank`: it was left alone, and `reason` says why."""

    name: str
    decomposition: str | None = None
    rank: int | list | None = None
    macs_before: float | None = None
    macs_after: float | None = None
    weights_before: float | None = None
    weights_after: float | None = None
    channels_before: int | None = None
    channels_after: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Result:
    """One job that has ended. `environment` holds versions, device, threads, commit, machine and date.

    `status`: `ok`; `missed`: all phases have ended, but a target was not met; `interrupted`: by a signal; `failed`.
    `folder` is where it was read from; it is not written.
    """

    status: str
    fingerprint: str
    experiment: str | None
    row: str | None
    seed: int
    method: str
    config: dict
    phases: list[PhaseResult] = field(default_factory=list)
    layers: list[LayerResult] = field(default_factory=list)
    environment: dict = field(default_factory=dict)
    error: str | None = None
    folder: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"the status of a result is one of {', '.join(STATUSES)}, got {self.status!r}")

    @property
    def complete(self) -> bool:
        """Whether all of its phases have ended."""
        return self.status in COMPLETE

    def told(self) -> list[str]:
        """The warnings of all phases, each after the name of its phase."""
        return [f"{phase.name}: {warning}" for phase in self.phases for warning in phase.warnings]

    def write(self, path: str | Path) -> None:
        """Write the whole file or nothing. Numbers that JSON lacks (NaN, infinities) are written as null.

        Raises ValueError if the configuration or environment holds something that is not plain data.
        """
        path = Path(path)
        record = {name: value for name, value in asdict(self).items() if name != "folder"}
        text = json.dumps(_plain(record, str(path)), indent=1, ensure_ascii=False, allow_nan=False)
        with written_whole(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: str | Path) -> "Result":
        """Read what `write` wrote, now or in an earlier version: a field that the file lacks takes its default.

        Raises ValueError naming the file: no JSON, a field without a default missing, a field unknown.
        """
        path = Path(path)
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not JSON ({error}); delete it and run its job again") from error
        _check(cls, record, path, "the result")
        nested = {"phases": PhaseResult, "layers": LayerResult}
        for name, kind in nested.items():
            items = record.get(name, [])
            if not isinstance(items, list):
                raise ValueError(f"{path}: {name} must be a list, got {type(items).__name__}")
            for number, item in enumerate(items):
                _check(kind, item, path, f"{name}[{number}]")
            record[name] = [kind(**item) for item in items]
        for name in ("config", "environment"):
            if not isinstance(record.get(name, {}), dict):
                raise ValueError(f"{path}: {name} must be a mapping, got {type(record[name]).__name__}")
        try:
            return cls(**record, folder=path.parent)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def digest(obj: object) -> str:
    """SHA-256, 64 hex characters, of the canonical JSON of `obj`: keys sorted, no spaces, ASCII.

    Raises ValueError for anything that is not a mapping, list, tuple, string, number, bool or None.

    >>> digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    True
    """
    try:
        text = json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    except TypeError as error:
        raise ValueError(
            f"only plain data has a digest (mappings with keys of one type, lists, strings, numbers): {error}"
        ) from error
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def fingerprint(config: Mapping) -> str:
    """The first 16 hex characters of the digest of a resolved configuration without the keys in `EXCLUDED`.

    >>> fingerprint({"seed": 1, "device": "cpu"}) == fingerprint({"device": "cuda", "seed": 1})
    True
    """
    return digest(deciding(config))[:16]


def deciding(config: Mapping) -> dict:
    """A copy of `config` without what does not decide numbers, see `EXCLUDED`.

    >>> deciding({"seed": 1, "device": "cpu", "data": {"size": 32, "progress": True}})
    {'seed': 1, 'data': {'size': 32}}
    """
    return {
        key: _without(value, [name.split(".", 1)[1] for name in EXCLUDED if name.startswith(f"{key}.")])
        for key, value in config.items()
        if key not in EXCLUDED
    }


def gather(folders: Sequence[str | Path]) -> list[Result]:
    """Every `result.json` below the folders, each file once, sorted by path.

    Raises ValueError for a folder that does not exist and for a file that cannot be read.
    """
    found = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder; give one that holds jobs, such as outputs")
        found |= {path.resolve(): path for path in folder.rglob(RESULT)}
    return [Result.read(path) for path in sorted(found.values())]


def _without(value: object, names: list[str]) -> object:
    if not names or not isinstance(value, Mapping):
        return value
    return {key: item for key, item in value.items() if key not in names}


def _plain(value: object, where: str) -> object:
    """`value` with NaN and infinities as None and tuples as lists; `where` names the place in an error."""
    if isinstance(value, Mapping):
        return {key: _plain(item, f"{where}: {key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, where) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(f"{where}: only plain data can be written as JSON, got {type(value).__name__}")


def _check(kind: type, record: object, path: Path, where: str) -> None:
    if not isinstance(record, dict):
        raise ValueError(f"{path}: {where} must be a mapping, got {type(record).__name__}")
    written = [item for item in fields(kind) if item.name != "folder"]
    lacking = sorted({item.name for item in written if _required(item)} - record.keys())
    unknown = sorted(record.keys() - {item.name for item in written})
    if lacking or unknown:
        problem = f"lacks {', '.join(lacking)}" if lacking else f"has unknown fields {', '.join(unknown)}"
        raise ValueError(f"{path}: {where} {problem}; it was written by another version, run its job again")


def _required(item: Field) -> bool:
    return item.default is MISSING and item.default_factory is MISSING
