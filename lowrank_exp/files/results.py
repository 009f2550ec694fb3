"""What a job leaves behind: `result.json` and the fingerprint that names its folder. No torch here.

Accuracies are fractions, MACs are multiply-accumulates of one image (convolutions and linear layers), weights
are the entries of convolution and linear weights, latencies are milliseconds.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lowrank_exp.files.records import UNWRITTEN, check_record, read_json
from lowrank_exp.files.whole import write_whole
from lowrank_exp.text.plain_text import shortened

RESULT = "result.json"
COMPLETE = ("ok", "missed")  # all phases have ended; missed: a target was not met, or a file not exported
VOID, PRUNED = "void", "pruned"
FIGURELESS = (VOID, PRUNED)  # nothing is wrong, and there are no figures
STATUSES = (*COMPLETE, *FIGURELESS, "interrupted", "failed")

# What does not decide a number: top-level keys first, then dotted ones.
EXCLUDED = (
    "hydra",
    "logger",
    "paths",
    "progress",
    "verbose",
    "debug",
    "device",
    "threads",
    "force_threads",
    "store",
    "sweeper",
    "latency",
    "losses",
    "export",
    "dry_run",
    "launcher",
    "stop_after",
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
    figures must know, a sentence each; `missed`: a target was not met. `conditions`: threads, machine, device and
    versions of the process that computed it, which `seconds` are of; `stored`: another run had done so before.

    `latency_ms`: median milliseconds of one forward pass at the first batch size; `latency`: of every batch size a
    mapping of `batch_size`, `median_ms`, `minimum_ms`, `spread` (interquartile range / median), `passes`,
    `busy_beside` (the share of the machine that others took meanwhile), and what else is of this size alone, such as
    the `memory_format`, or the `error` in the place of times. `runtime`: what executed the passes: its `name`,
    version, threads, precision, instruction set ... `history`: of every epoch a mapping of losses, accuracies, learning
    rate and seconds.
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
    conditions: dict = field(default_factory=dict)
    stored: bool = False
    latency: list[dict] = field(default_factory=list)
    runtime: dict = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)


@dataclass(frozen=True)
class LayerResult:
    """One layer before and after. No `decomposition` and `rank`: it was left alone, and `reason` says why.

    `weight_error`, `response_error`: of the decomposition, relative and squared, the latter on training images;
    `accuracy_alone`: on validation images, with this layer alone decomposed. `full_rank`: the highest rank that the
    decomposition takes; `spectrum`: of every matrix that a rank cuts some singular values relative to the largest, as
    pairs of their number, from 1, and their value. `bytes_before`, `bytes_after`: of the weights in a file, as the plan
    has counted them. None: not measured.
    """

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
    weight_error: float | None = None
    response_error: float | None = None
    accuracy_alone: float | None = None
    full_rank: int | list | None = None
    spectrum: list | None = None
    bytes_before: float | None = None
    bytes_after: float | None = None


@dataclass(frozen=True)
class Result:
    """One job that has ended. `environment` holds versions, device, threads, commit, machine and date.

    `status`: `ok`; `missed`: all phases have ended, but a target was not met or a file not exported; `void`: a control
    that cannot be made of this row, as `error` says; `pruned`: ended early by the search that chose it, as `error`
    says; `interrupted`, by a signal; `failed`. `control`: empty, or the `name` of the control that it is and, as `of`,
    the fingerprint of the row that it controls. `warnings`: of the job
    as a whole; `files`: SHA-256 of the files beside it; `skipped`: phases that had nothing to do in this network, and
    their keys. `config` holds what the phases use, `choices` the chosen options by group.

    `exports`: of every exported network a mapping of its `format`, `files`, `opset`, `bytes`, `subnormals` (weights set
    to zero), and how it compares with the network on so many `images` (`of` validation or test): the largest
    `difference` of outputs relative to the largest output, and the share of `equal_predictions`; or the `error`.
    `dense`: the dense network, which all figures are compared with: its costs, and the rest where the phase of that
    name, or `initial`, a measurement before the first phase, has measured it; else `warnings` say why not. None: a
    result of a version before this was recorded.
    `departures`: the overrides by which it is another job than its table states; None: of an earlier version.
    `folder` is where it was read from, and `intact` whether the file there is the one that was written; neither is
    written.
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
    warnings: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)
    exports: list[dict] = field(default_factory=list)
    control: dict[str, str] = field(default_factory=dict)
    dense: PhaseResult | None = None
    departures: list[str] | None = None
    folder: Path | None = field(default=None, compare=False)
    intact: bool = field(default=True, compare=False)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            got = shortened(repr(self.status), 60)
            raise ValueError(f"the status of a result is one of {', '.join(STATUSES)}, got {got}")

    @property
    def complete(self) -> bool:
        """Whether all of its phases have ended."""
        return self.status in COMPLETE

    def told(self) -> list[str]:
        """The warnings of all phases, each after the name of its phase, those of the job, and of what it exported."""
        of_phases = [f"{phase.name}: {warning}" for phase in self.phases for warning in phase.warnings]
        return [*of_phases, *self.warnings, *self.not_exported]

    @property
    def not_exported(self) -> list[str]:
        """A sentence on every file that could not be exported."""
        return [f"export={one.get('format')}: {one['error']}" for one in self.exports if "error" in one]

    def beside_dense(self) -> dict[str, float]:
        """What remains of the dense network's costs, `macs_ratio` and `weights_ratio`, and `accuracy_change`.

        Of the last phase, as fractions; what was not measured of either network is left out.

        >>> phases = [PhaseResult("train", 0.75, macs=100), PhaseResult("finetune", 0.5, macs=25)]
        >>> Result("ok", "0" * 16, None, None, 0, "decompose", {}, phases, dense=phases[0]).beside_dense()
        {'macs_ratio': 0.25, 'accuracy_change': -0.25}
        """
        if self.dense is None or not self.phases:
            return {}
        last, found = self.phases[-1], {}
        for cost in ("macs", "weights"):
            before, now = getattr(self.dense, cost), getattr(last, cost)
            found |= {f"{cost}_ratio": now / before} if before and now is not None else {}
        if self.dense.accuracy is not None and last.accuracy is not None:
            found["accuracy_change"] = last.accuracy - self.dense.accuracy
        return found

    def write(self, path: str | Path) -> None:
        """Write the whole file or nothing. Numbers that JSON lacks (NaN, infinities) are written as null.

        Raises ValueError if the configuration or environment holds something that is not plain data.
        """
        path = Path(path)
        record = {name: value for name, value in asdict(self).items() if name not in UNWRITTEN}
        record = json.loads(json.dumps(_to_plain(record, str(path)), allow_nan=False))
        text = json.dumps(record | {"digest": digest(record)}, indent=1, ensure_ascii=False)
        # A file's name that is not UTF-8 has halves of surrogate pairs, which no file of text can hold.
        text = re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text)
        with write_whole(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: str | Path) -> "Result":
        """Read what `write` wrote, now or in an earlier version: a field that the file lacks takes its default.

        A file that holds something else than was written, and could have been, is read, too: it is not `intact`.

        Raises ValueError naming the file: no JSON, a field without a default missing, a field unknown, of another type
        or out of range.
        """
        path = Path(path)
        record = read_json(path)
        written = record.pop("digest", None) if isinstance(record, dict) else None
        intact = written is None or written == digest(record)  # earlier versions wrote none
        record = check_record(cls, record, str(path), "")
        nested = {"phases": PhaseResult, "layers": LayerResult}
        for name, kind in nested.items():
            items = enumerate(record.get(name, []))
            record[name] = [kind(**check_record(kind, item, str(path), f"{name}[{number}]")) for number, item in items]
        if record.get("dense") is not None:
            record["dense"] = PhaseResult(**check_record(PhaseResult, record["dense"], str(path), "dense"))
        try:
            return cls(**record, folder=path.parent, intact=intact)
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


def seedless(config: Mapping) -> dict:
    """`config` without its seed and without every nested key named `seed`.

    >>> seedless({"seed": 1, "data": {"seed": 1, "size": 32}})
    {'data': {'size': 32}}
    """
    return {
        key: seedless(value) if isinstance(value, Mapping) else value for key, value in config.items() if key != "seed"
    }


def _without(value: object, names: list[str]) -> object:
    if not names or not isinstance(value, Mapping):
        return value
    return {key: item for key, item in value.items() if key not in names}


def _to_plain(value: Any, where: str) -> Any:
    """`value` with NaN and infinities as None and tuples as lists; `where` names the place in an error."""
    if isinstance(value, Mapping):
        return {key: _to_plain(item, f"{where}: {key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item, where) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(f"{where}: only plain data can be written as JSON, got {type(value).__name__}")
