"""Configurations -> one DataFrame: a row each, mean and spread over seeds, where it was measured."""

from collections.abc import Sequence

import pandas as pd

from lowrank_exp.report.configuration import Configuration, differences, leaves
from lowrank_exp.report.quantities import SHOWN, VALUES, measured, measured_over

AVERAGED = (
    *SHOWN,
    *("macs_dense", "weights_dense", "parameters_dense", "parameters_ratio", "bytes_dense", "bytes_ratio"),
    *("latency_ms_dense", "latency_ms_ratio", "val_accuracy", "top5_dense"),
)
MIXED = "its seeds ran on different machines, devices or numbers of threads: latency and seconds are left out"


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
    two seeds. Raises ValueError if no job has the phase.
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
    return frame.drop(columns=[f"{name}_{part}" for name in unmeasured for part in ("mean", "std")])


def notes(rows: Sequence[Configuration]) -> list[str]:
    """What a reader must know of single rows: failures, missing seeds, what was left out."""
    lines = []
    for row in rows:
        lines += [f"{job.status}: {row.label}, seed {job.seed}: {last_line(job.error)}" for job in row.failed]
        for job in row.finished:
            mark = "missed" if job.status == "missed" else "warning"
            lines += [f"{mark}: {row.label}, seed {job.seed}: {warning}" for warning in job.told()]
        if row.missing:
            which = "" if row.missing == ("any",) else f", seed {', '.join(map(str, row.missing))}"
            lines.append(f"missing: {row.label}{which}: no result.json (not run yet, or still running)")
        if _mixed(row):
            lines.append(f"{row.label}: {MIXED}")
    return lines


def last_line(error: str | None) -> str:
    """The last line of a traceback that is not empty.

    >>> last_line("Traceback ...\\nValueError: rank 0\\n")
    'ValueError: rank 0'
    """
    lines = (error or "").strip().splitlines()
    return lines[-1].strip() if lines else "no error was recorded"


def _record(row: Configuration, names: Sequence[str], phase: str | None, layers: Sequence[str]) -> dict:
    found = [measured(job, phase) for job in row.finished]
    for values, job in zip(found, row.finished, strict=True):
        for some in layers:
            values |= measured_over(job, some, phase)
    numbers = pd.DataFrame(found, columns=pd.Index(names), dtype=float)
    if _mixed(row):
        numbers[[name for name in names if name.startswith(("latency", "seconds"))]] = float("nan")
    # With skipna a mean over two of three seeds would pass for one over three.
    mean, std = numbers.mean(skipna=False), numbers.std(ddof=1, skipna=False)
    record = {
        "configuration": row.label,
        "experiment": row.experiment,
        "row": row.row,
        "series": row.series,
        "status": row.status,
        "n": len(row.finished),
        "seeds": _joined(job.seed for job in row.finished),
        "failed_seeds": _joined(job.seed for job in row.failed),
        "missing_seeds": _joined(row.missing),
        "missed_seeds": _joined(job.seed for job in row.finished if job.status == "missed"),
        "warnings": "; ".join(f"seed {job.seed}: {line}" for job in row.finished for line in job.told()),
    }
    for name in names:
        record |= {f"{name}_mean": mean[name], f"{name}_std": std[name]}
    jobs = row.finished or row.failed
    record |= {"hash": row.hash, "fingerprints": _joined(job.fingerprint for job in jobs)}
    for name in ("commit", "date", "machine", "device", "threads"):
        record[name] = _joined(job.environment.get(name) for job in jobs)
    record["error"] = "; ".join(f"seed {job.seed}: {last_line(job.error)}" for job in row.failed)
    return record


def with_differing(frame: pd.DataFrame, rows: Sequence[Configuration]) -> pd.DataFrame:
    """`frame` (in the order of `rows`) with a column `config.KEY` for every key that differs."""
    configs = [row.config for row in rows if row.config]
    flat = [leaves(row.config or {}) for row in rows]
    keys = differences(configs) if configs else []
    columns = {f"config.{key}": [leaf.get(key) for leaf in flat] for key in keys}
    return pd.concat([frame, pd.DataFrame(columns, index=frame.index, dtype=object)], axis=1)


def _mixed(row: Configuration) -> bool:
    places = {tuple(str(job.environment.get(k)) for k in ("machine", "device", "threads")) for job in row.finished}
    return len(places) > 1


def _joined(values: object) -> str:
    return " ".join(dict.fromkeys(str(value) for value in values if value is not None))
