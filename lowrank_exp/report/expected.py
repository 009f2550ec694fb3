"""Which jobs a table should have: its rows and what else it sweeps, with its seeds."""

import itertools
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from lowrank_exp.command_line.tables import Table, searched
from lowrank_exp.files.results import EXCLUDED
from lowrank_exp.report.configuration import Configuration, leaves
from lowrank_exp.report.labels import label, parts_of_values

SMOKE = "scale=smoke"  # among the departures of a row
_MISSING = object()


def with_missing(rows: Sequence[Configuration], table: Table) -> list[Configuration]:
    """`rows` in the order of the table, with the seeds and rows that it lists and no result covers."""
    rows = list(rows)
    lacking: dict[int, list[int | str]] = {}
    order: dict[int, int] = {}
    ours = [(index, row) for index, row in enumerate(rows) if row.experiment == table.name and not row.control]
    full = [(index, row) for index, row in ours if SMOKE not in row.departures]
    every = table.smoke_axes if ours and not full else table.axes
    seeds = tuple(every.get("seed", ("any",)))
    axes = {
        _key(key): values for key, values in every.items() if key != "seed" and _recorded(key) and not searched(values)
    }
    ours = full or ours
    keys = {key for _, row in ours for key in leaves(row.config or {})}
    for number, values in enumerate(itertools.product(*axes.values())):
        wanted = dict(zip(axes, values, strict=True))
        found = [
            index for index, row in ours if all(_has(row, key, value) is not False for key, value in wanted.items())
        ]
        have = {job.seed for index in found for job in (*rows[index].finished, *rows[index].failed)}
        absent = [seed for seed in seeds if (seed not in have if seed != "any" else not have)]
        if absent and not found:
            rows.append(_absent_row(table.name, wanted, axes, keys))
            found = [len(rows) - 1]
        for index in found:
            order.setdefault(index, number)
        if absent:
            known = lacking.setdefault(found[0], [])
            known += [seed for seed in absent if seed not in known]
    marked = [replace(row, missing=(*row.missing, *lacking.get(index, ()))) for index, row in enumerate(rows)]
    last = max(order.values(), default=0) + 1
    return [marked[index] for index in sorted(range(len(rows)), key=lambda index: order.get(index, last))]


def unclear(rows: Sequence[Configuration], table: Table) -> list[str]:
    """A note on every swept key that results do not record, and on every choice that one of them does not tell."""
    ours = [row for row in rows if row.config and row.experiment == table.name and not row.control]
    notes = []
    for key, values in table.axes.items():
        if not _recorded(key):
            notes.append(f"{table.name}: {key} is not recorded in a configuration, its values are not checked")
            continue
        listed = ", ".join(map(_text, values))
        untold = [row.label for row in ours if _has(row, _key(key), values[0]) is None]
        notes += [f"{table.name}: cannot tell which {key} ({listed}) {one} is, it counts for all" for one in untold]
    return notes


def same_row(name: object, other: object) -> bool:
    """Whether two names of a row agree; folders (`table1/svd`) do not count, None and NaN are not names.

    >>> same_row("table1/svd", "svd"), same_row(None, "svd")
    (True, False)
    """
    short = [text.rsplit("/", 1)[-1] if isinstance(text, str) else None for text in (name, other)]
    return short[0] == short[1]


def _absent_row(
    experiment: str, wanted: Mapping[str, Any], axes: Mapping[str, Sequence[Any]], keys: Set[str]
) -> Configuration:
    name = wanted["row"].rpartition("/")[2] if "row" in wanted else None
    others = label(parts_of_values({key: value for key, value in wanted.items() if key != "row"}, axes, keys))
    return Configuration(" ".join(filter(None, (name, others))) or experiment, experiment, name)


def _key(key: str) -> str:
    return key.lstrip("+~")


def _recorded(key: str) -> bool:
    return key == "row" or not (_key(key) in EXCLUDED or "@" in key)


def _has(row: Configuration, key: str, value: Any) -> bool | None:
    """Whether a configuration has that value under a key, or that option of a group; None: it cannot be told."""
    if key == "row":
        return same_row(row.row, value)
    if key == "seed":
        return True
    if key in row.choices:
        return row.choices[key] == _text(value)
    node: Any = row.config
    for part in key.replace("/", ".").split("."):
        node = node.get(part, _MISSING) if isinstance(node, Mapping) else _MISSING
    if isinstance(node, Mapping):  # a group, in a result of an earlier version, which has no choices
        return None
    return node == value and isinstance(node, bool) == isinstance(value, bool)


def _text(value: Any) -> str:
    return "null" if value is None else str(value)
