"""Which jobs an experiment should have: the grid that its file hands to Hydra's sweeper."""

import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from lowrank_exp.files.results import EXCLUDED
from lowrank_exp.report.configuration import Configuration, choice, leaves

_MISSING = object()


@dataclass(frozen=True)
class Grid:
    """The swept keys of one experiment with their values as text, and why other keys are not checked."""

    experiment: str
    axes: dict[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()


def grid(experiment: str, conf: Path) -> Grid | None:
    """The grid in `hydra.sweeper.params` of an experiment's file; None if there is no such file.

    Only plain comma lists are read (`seed: 0,1,2`); a key with anything else (`range(0,3)`, `glob(*)`,
    brackets, quotes) or one that a result does not record is left out of the grid, and a note says so.
    """
    found = {path.stem: path for path in (conf / "experiment").glob("*.yaml")}
    if experiment not in found:
        return None
    page = yaml.safe_load(found[experiment].read_text(encoding="utf-8")) or {}
    params = (((page.get("hydra") or {}).get("sweeper") or {}).get("params")) or {}
    axes, notes = {}, []
    for key, value in params.items():
        name = str(key).lstrip("+~")
        text = str(value) if value is not None else "null"
        if not re.fullmatch(r"[\w\s./:+-]+(,[\w\s./:+-]+)*", text):
            notes.append(f"{experiment}: {key}={text} is not a plain list, its values are not checked")
        elif (name in EXCLUDED and not _names_row(name)) or "@" in name:
            notes.append(f"{experiment}: {key} is not recorded in a configuration, its values are not checked")
        else:
            axes[name] = tuple(part.strip() for part in text.split(","))
    return Grid(experiment, axes, tuple(notes))


def with_missing(rows: Sequence[Configuration], grid: Grid, conf: Path) -> list[Configuration]:
    """`rows` in the order of the grid, with the seeds and rows that it lists and no result covers."""
    rows = list(rows)
    lacking: dict[int, list[int | str]] = {}
    order: dict[int, int] = {}
    seeds = tuple(_value(text) for text in grid.axes.get("seed", ())) or ("any",)
    axes = {key: values for key, values in grid.axes.items() if key != "seed"}
    ours = [(index, row) for index, row in enumerate(rows) if row.experiment == grid.experiment]
    chosen = {index: {key: _chosen(row, key, axes[key], conf) for key in axes} for index, row in ours}
    for number, values in enumerate(itertools.product(*axes.values())):
        wanted = dict(zip(axes, values, strict=True))
        found = [
            index
            for index, row in ours
            if all(_fits(row, key, text, chosen[index][key]) for key, text in wanted.items())
        ]
        have = {job.seed for index in found for job in (*rows[index].finished, *rows[index].failed)}
        absent = [seed for seed in seeds if (seed not in have if seed != "any" else not have)]
        if absent and not found:
            rows.append(_absent_row(grid.experiment, wanted))
            found = [len(rows) - 1]
        for index in found:
            order.setdefault(index, number)
        if absent:
            known = lacking.setdefault(found[0], [])
            known += [seed for seed in absent if seed not in known]
    marked = [replace(row, missing=(*row.missing, *lacking.get(index, ()))) for index, row in enumerate(rows)]
    last = max(order.values(), default=0) + 1
    return [marked[index] for index in sorted(range(len(rows)), key=lambda index: order.get(index, last))]


def unclear(rows: Sequence[Configuration], grid: Grid, conf: Path) -> list[str]:
    """A note on every swept group whose choice a configuration does not tell; it restricts nothing."""
    return [
        f"{grid.experiment}: cannot tell which {key} ({', '.join(values)}) {row.label} is, it counts for all"
        for key, values in grid.axes.items()
        for row in rows
        if row.config and row.experiment == grid.experiment and _chosen(row, key, values, conf) is None
    ]


def same_row(name: object, other: object) -> bool:
    """Whether two names of a row agree; folders (`table1/svd`) do not count, None and NaN are not names.

    >>> same_row("table1/svd", "svd"), same_row(None, "svd")
    (True, False)
    """
    short = [text.rsplit("/", 1)[-1] if isinstance(text, str) else None for text in (name, other)]
    return short[0] == short[1]


def _absent_row(experiment: str, wanted: Mapping[str, str]) -> Configuration:
    row = next((text for key, text in wanted.items() if _names_row(key) and text != "null"), None)
    others = [f"{key}={text}" for key, text in wanted.items() if not _names_row(key)]
    label = " ".join([*([row] if row else []), *others]) or experiment
    return Configuration(label, experiment, row)


def _names_row(key: str) -> bool:
    return key == "row" or key.startswith("row/")


def _fits(row: Configuration, key: str, text: str, chosen: str | None) -> bool:
    if _names_row(key):
        return same_row(row.row, None if text == "null" else text)
    return chosen in (None, text)


def _chosen(row: Configuration, key: str, values: Sequence[str], conf: Path) -> str | None:
    """Which of `values` the configuration has under `key`; "": another one; None: it cannot be told."""
    if _names_row(key) or key == "seed":
        return ""
    value: object = row.config
    for part in key.replace("/", ".").split("."):
        value = value.get(part, _MISSING) if isinstance(value, Mapping) else _MISSING
    if key == "method":
        names = {job.method for job in (*row.finished, *row.failed)}
        if names & set(values):
            return names.pop()
    if not isinstance(value, Mapping):
        return next((text for text in values if _same(value, _value(text))), "")
    return choice(value) if choice(value) in values else _nearest(value, key, values, conf)


def _nearest(group: Mapping, key: str, values: Sequence[str], conf: Path) -> str | None:
    """The option whose file agrees best with a group; None if two agree equally well or a file is missing."""
    have = leaves(group)
    misses = {}
    for text in values:
        path = conf / key / f"{text}.yaml"
        if not path.is_file():
            return None
        page = _leaves_of(path, path.stat().st_mtime_ns)
        fixed = {k: v for k, v in page.items() if v is not None and k != "defaults" and "${" not in str(v)}
        if _same(have.get("_target_"), fixed.get("_target_")):
            misses[text] = sum(not _same(have.get(k, _MISSING), v) for k, v in fixed.items())
    best = [text for text, count in misses.items() if count == min(misses.values())]
    return "" if not best else best[0] if len(best) == 1 else None


@functools.cache
def _leaves_of(path: Path, changed: int) -> dict[str, object]:
    """What a file sets, by dotted keys; read once for all rows, unless it has `changed`."""
    return leaves(yaml.safe_load(path.read_text(encoding="utf-8")) or {})


def _value(text: str) -> object:
    value = yaml.safe_load(text)
    try:
        return float(value) if isinstance(value, str) else value  # YAML 1.1 reads 1e-3 as a string
    except ValueError:
        return value


def _same(a: object, b: object) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)
