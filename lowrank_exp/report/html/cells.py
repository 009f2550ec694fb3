"""The table of the page: which columns it has, and the cells of every row, numbers as they are in files."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from lowrank_exp.report.configuration import Configuration
from lowrank_exp.report.html.pool import short
from lowrank_exp.report.html.times import Times
from lowrank_exp.report.labels import show
from lowrank_exp.report.quantities import SHOWN, Quantity
from lowrank_exp.report.render import VALIDATION
from lowrank_exp.report.searches import FRONT
from lowrank_exp.report.table import mean_and_spread

AT_FIRST = ("accuracy", "accuracy_change", "macs_ratio", "weights_ratio")  # columns shown before any is chosen
MORE = {"bytes_ratio": Quantity("file ratio", 1, ".3f")}
LATENCIES = ("latency_ms", "latency_ms_speedup")  # of which the page has columns of its own, by what has timed them


def quantity_columns(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Columns of measured quantities that any row has, as they are headed and shown elsewhere."""
    known = {**SHOWN, **MORE}
    names = [name for name in known if name not in LATENCIES and f"{name}_mean" in frame]
    return [_column(name, known[name]) for name in names if frame[f"{name}_mean"].notna().any()]


def time_columns(times: Times) -> list[dict[str, Any]]:
    """Two columns for every way of timing: milliseconds, and how many times as fast as the dense network."""
    found = []
    quantities = {"ms": Quantity("ms", 1, ".3f"), "speedup": Quantity("speed-up", 1, ".2f")}
    for number, (way, timed) in enumerate(times.items()):
        known = quantities if any(dense is not None for _, dense in timed.values()) else ("ms",)
        for name, quantity in ((name, quantities[name]) for name in known):
            found.append(_column(f"{name}:{number}", quantity) | {"way": way, "shown": number == 0})
    return found


def other_columns(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """On which front of a search a row is, what papers published beside ours, and the keys of the configuration in
    which rows differ; the latter are hidden at first."""
    searched: list[dict[str, Any]] = []
    if FRONT in frame and (frame[FRONT] != "").any():
        searched = [_column("val_accuracy", VALIDATION), {"key": FRONT, "head": "front of the search", "text": True}]
        searched = [column | {"shown": True} for column in searched]
    paper = [str(name) for name in frame if str(name).startswith("paper.")]
    keys = [str(name) for name in frame if str(name).startswith("config.")]
    config = [{"key": name, "head": name.removeprefix("config."), "text": True} for name in keys]
    numbers = [_column(name, Quantity(name, 1, "+.2f" if name.endswith("difference") else ".4g")) for name in paper]
    return [*searched, *numbers, *config]


def cells_of(row: Configuration, record: Mapping[Hashable, Any], times: Times, keys: Sequence[str]) -> list[Any]:
    """The cells of a row, which `table` has a record of: of a number `[mean, std]` or null, of a word its text."""
    timed = _timed(row, times)
    return [timed[key] if key in timed else _cell(record, key) for key in keys]


def _cell(record: Mapping[Hashable, Any], key: str) -> Any:
    if f"{key}_mean" in record:
        return _pair(record[f"{key}_mean"], record[f"{key}_std"])
    value = record[key]
    if key == FRONT:
        return value or None
    if key.startswith("config."):
        return None if isinstance(value, float) and math.isnan(value) else show(value)
    return _pair(value, math.nan)


def _timed(row: Configuration, times: Times) -> Mapping[str, Any]:
    """Its cells of time: means over the seeds, null where any of them was not timed in that way."""
    cells: dict[str, Any] = {}
    for number, way in enumerate(times.values()):
        pairs = [way.get(job.fingerprint, (math.nan, None)) for job in row.finished]
        speedups = [dense / now if dense and now else math.nan for now, dense in pairs]
        for name, values in (("ms", [now for now, _ in pairs]), ("speedup", speedups)):
            (mean,), (std,) = mean_and_spread([values]) if values else ([math.nan], [math.nan])
            cells[f"{name}:{number}"] = _pair(mean, std)
    return cells


def _pair(mean: Any, std: Any) -> list[Any] | None:
    return None if short(mean) is None else [short(mean), short(std)] if short(std) is not None else [short(mean)]


def _column(key: str, quantity: Quantity) -> dict[str, Any]:
    sign, digits = quantity.form.startswith("+"), quantity.form.strip("+.fg")
    kind = {"significant": int(digits)} if quantity.form.endswith("g") else {"digits": int(digits)}
    return {
        "key": key,
        "head": quantity.header,
        **({"factor": quantity.factor} if quantity.factor != 1 else {}),
        **({"sign": True} if sign else {}),
        **kind,
        "shown": key in AT_FIRST,
    }
