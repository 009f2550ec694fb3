"""Configurations -> one DataFrame: a row each, mean and spread over seeds, where it was measured."""

import math
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lowrank_exp.files.results import FIGURELESS, Result
from lowrank_exp.report.configuration import Configuration, leaves
from lowrank_exp.report.distinguish import with_distinguished
from lowrank_exp.report.labels import differing_keys
from lowrank_exp.report.quantities import SHOWN, VALUES, measured, measured_over
from lowrank_exp.report.timed_by import timed_by

AVERAGED = (
    *SHOWN,
    *("macs_dense", "weights_dense", "parameters_dense", "parameters_ratio", "bytes_dense", "bytes_ratio"),
    *("latency_ms_dense", "latency_ms_ratio", "val_accuracy", "top5_dense"),
)
MIXED = "its seeds ran on different machines, devices or numbers of threads: latency and seconds are left out"
ERROR = re.compile(r"[\w.]*(Error|Exception|Interrupt|Exit)\b")  # of a traceback, the line that says what it was
OTHERWISE_TIMED = "its seeds were timed in different ways, latency is left out"


def table(
    rows: Sequence[Configuration],
    phase: str | None = None,
    more: Sequence[str] = (),
    layers: Sequence[str] = (),
) -> pd.DataFrame:
    """One row per configuration; numbers in the units of files, under `NAME_mean` and `NAME_std` (ddof 1).

    `phase` names the phase that counts as the compressed network, default the last one; `more` names quantities
    beyond `AVERAGED`, and `layers` the layers (names or `re:` patterns) that some of them count alone, see
    `measured_over`. A mean is empty where any seed lacks the number, a standard deviation where there are fewer than
    two seeds. Then what `with_distinguished` says. Raises ValueError if no job has the phase.
    """
    known = {item.name: None for row in rows for job in row.finished for item in job.phases}
    if phase is not None and phase not in known:
        raise ValueError(f"no job has a phase named {phase!r}; there are {', '.join(known) or 'none'}")
    own = [
        f"{VALUES}.{figure}.{item.name}"
        for row in rows
        for job in row.finished
        for item in job.phases
        for figure in item.values
    ]
    names = list(dict.fromkeys([*AVERAGED, *more, *(f"accuracy.{name}" for name in known), *own]))
    frame = pd.DataFrame([_record(row, names, phase, layers) for row in rows])
    unmeasured = [name for name in ("top5", "top5_dense") if frame[f"{name}_mean"].isna().all()]
    return with_distinguished(frame.drop(columns=[f"{name}_{part}" for name in unmeasured for part in ("mean", "std")]))


def notes(rows: Sequence[Configuration]) -> list[str]:
    """What a reader must know of single rows: failures, missing seeds, what was left out."""
    lines = []
    for row in rows:
        void = [(job.status, reason(job.error)) for job in row.failed if job.status in FIGURELESS]
        lines += [f"{status}: {row.label}: {why}" for status, why in dict.fromkeys(void)]
        failed = [job for job in row.failed if job.status not in FIGURELESS]
        lines += [f"{job.status}: {row.label}, seed {job.seed}: {reason(job.error)}" for job in failed]
        for job in row.finished:
            mark = "missed" if job.status == "missed" else "warning"
            lines += [f"{mark}: {row.label}, seed {job.seed}: {warning}" for warning in job.told()]
        if row.missing:
            which = "" if row.missing == ("any",) else f", seed {', '.join(map(str, row.missing))}"
            lines.append(f"missing: {row.label}{which}: no result.json (not run yet, or still running)")
        if _mixed(row):
            lines.append(f"{row.label}: {MIXED}")
        elif len(ways := _ways(row)) > 1:
            lines.append(f"{row.label}: {OTHERWISE_TIMED}: {'; '.join(ways)}")
    return [*lines, *_notes_on_departures(rows), *_notes_on_dense(rows)]


def _notes_on_departures(rows: Sequence[Configuration]) -> list[str]:
    """The rows that have run otherwise than their table states, a line for every way."""
    labels: dict[str, list[str]] = {}
    for row in rows:
        if row.departures:
            labels.setdefault(" ".join(row.departures), []).append(row.label)
    return [
        f"not as the table states ({how}), and not compared with what was published: {', '.join(found)}"
        for how, found in labels.items()
    ]


def _notes_on_dense(rows: Sequence[Configuration]) -> list[str]:
    """The rows whose dense network was not measured, and why, a line for every reason."""
    labels: dict[str, dict[str, None]] = {}
    for row in rows:
        for job in row.finished:
            if why := _why_no_dense(job):
                labels.setdefault(why, {})[row.label] = None
    return [f"{why}: {', '.join(found)}" for why, found in labels.items()]


def _why_no_dense(job: Result) -> str:
    if job.dense is None:
        return "the dense network was not recorded (results of an earlier version), nothing is compared with it"
    if job.dense.accuracy is None:
        why = "; ".join(job.dense.warnings) or "it gave no numbers"
        return f"the accuracy of the dense network was not measured, as {why}"
    return ""


def reason(error: str | None) -> str:
    """What a traceback ends with, the error and all of its message, in one line.

    >>> reason("Traceback ...\\n  File a.py\\nValueError: rank 0:\\n  allowed is 1\\n")
    'ValueError: rank 0: allowed is 1'
    """
    lines = (error or "").strip().splitlines()
    begin = max((place for place, line in enumerate(lines) if ERROR.match(line)), default=len(lines) - 1)
    return " ".join(line.strip() for line in lines[begin:]) or "no error was recorded"


def _record(row: Configuration, names: Sequence[str], phase: str | None, layers: Sequence[str]) -> dict:
    found = [measured(job, phase) for job in row.finished]
    for values, job in zip(found, row.finished, strict=True):
        for some in layers:
            values |= measured_over(job, some, phase)
    mean, std = mean_and_spread([[values.get(name, math.nan) for values in found] for name in names])
    mixed, ways = _mixed(row), _ways(row, phase)
    left_out = ("latency", "seconds") if mixed else ("latency",) if len(ways) > 1 else ()
    record = {
        "configuration": row.label,
        "experiment": row.experiment,
        "row": row.row,
        "control": row.control,
        "controls": row.controls,
        "series": row.series,
        "policy": row.policy,
        "variant": row.variant,
        "network": row.network,
        "data": row.data,
        "departures": " ".join(row.departures),
        "status": row.status,
        "n": len(row.finished),
        "seeds": _joined(job.seed for job in row.finished),
        "failed_seeds": _joined(job.seed for job in row.failed if job.status not in FIGURELESS),
        "missing_seeds": _joined(row.missing),
        "missed_seeds": _joined(job.seed for job in row.finished if job.status == "missed"),
        "warnings": "; ".join(f"seed {job.seed}: {line}" for job in row.finished for line in job.told()),
    }
    for name, *numbers in zip(names, mean, std, strict=True):
        both = (math.nan, math.nan) if name.startswith(left_out) else numbers
        record[f"{name}_mean"], record[f"{name}_std"] = both
    jobs = row.finished or row.failed
    record["dense_after"] = "; ".join(dict.fromkeys(job.dense.name for job in row.finished if job.dense is not None))
    record |= {"hash": row.hash, "fingerprints": _joined(job.fingerprint for job in jobs)}
    for name in ("commit", "date", "machine", "device", "threads"):
        record[name] = _joined(job.environment.get(name) for job in jobs)
    record["timed_by"] = "; ".join(ways)
    record["error"] = "; ".join(f"seed {job.seed}: {reason(job.error)}" for job in row.failed)
    return record


def mean_and_spread(values_NS: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Means over the seeds, `(N,)`, and standard deviations (ddof 1); NaN where a seed lacks the number."""
    numbers_NS = np.array(values_NS, dtype=float).reshape(len(values_NS), -1)
    N, S = numbers_NS.shape
    nothing_N = np.full(N, math.nan)
    if S == 0:
        return nothing_N, nothing_N
    mean_N = numbers_NS.sum(1) / S
    if S == 1:
        return mean_N, nothing_N
    return mean_N, np.sqrt(((mean_N[:, None] - numbers_NS) ** 2).sum(1) / (S - 1))


def with_differing(frame: pd.DataFrame, rows: Sequence[Configuration]) -> pd.DataFrame:
    """`frame` (in the order of `rows`) with a column `config.KEY` for every key that differs."""
    flat = [leaves(row.config or {}) for row in rows]
    configs = [leaf for row, leaf in zip(rows, flat, strict=True) if row.config]
    keys = differing_keys(configs) if configs else []
    columns = {f"config.{key}": [leaf.get(key) for leaf in flat] for key in keys}
    return pd.concat([frame, pd.DataFrame(columns, index=frame.index, dtype=object)], axis=1)


def _mixed(row: Configuration) -> bool:
    places = {tuple(str(job.environment.get(k)) for k in ("machine", "device", "threads")) for job in row.finished}
    return len(places) > 1


def _ways(row: Configuration, phase: str | None = None) -> list[str]:
    """How the latencies of its seeds were measured, each way once."""
    return list(dict.fromkeys(filter(None, (timed_by(job, phase) for job in row.finished))))


def _joined(values: object) -> str:
    return " ".join(dict.fromkeys(str(value) for value in values if value is not None))
