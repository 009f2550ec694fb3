"""Published values, in a table's file beside our rows, and their difference from ours.

columns:
  <column>:
    quantity        what of ours it compares with: accuracy, error, top5, top5_error (each also _dense; accuracy and
                    top5 also _change), macs, weights, parameters, bytes, latency_ms (each also _dense, _ratio =
                    compressed / dense, _reduction = 1 - ratio, _speedup = 1 / ratio), seconds; accuracy.PHASE,
                    top5.PHASE and seconds.PHASE, after or of that phase alone; values.NAME.PHASE
    unit            %, points, fraction, times, count, thousand, million, billion, MiB (of bytes), ms, s
    convention      how the paper counts, in words
    layers          the layers of the dense network that macs* and weights* count, by name or re: pattern, such as
                    're:conv.*' for the convolutions (default: all); others are left out of both sides
    flops_per_mac   2 where the paper counts a multiply-accumulate as two (for macs and macs_dense; default 1)
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lowrank_exp.command_line.tables import Table, read_table, table_names, table_path
from lowrank_exp.report.expected import same_row
from lowrank_exp.report.quantities import AFTER, COMPARABLE, COSTS, OF_LAYERS, VALUES, comparable, naming, over

# From the units of files to those of a paper.
UNITS = {
    **{"%": 100.0, "points": 100.0, "fraction": 1.0, "times": 1.0, "count": 1.0, "ms": 1.0, "s": 1.0},
    **{"thousand": 1e-3, "million": 1e-6, "billion": 1e-9, "MiB": 2**-20},
}


@dataclass(frozen=True)
class Column:
    """One printed column: the quantity of ours it compares with, and the factor from our unit to its.

    `layers` is the name or `re:` pattern of the layers that it counts; None: the whole network.
    """

    quantity: str
    unit: str
    factor: float
    convention: str
    layers: str | None = None

    @property
    def ours(self) -> str:
        """What the quantity is called in our tables."""
        return over(self.quantity, self.layers)


@dataclass(frozen=True)
class Published:
    """What a table's file prints beside ours: its columns, understood, and the printed values by row and column."""

    table: Table
    columns: Mapping[str, Column]

    @property
    def name(self) -> str:
        """Of the table, and of the experiment whose results are compared with it."""
        return self.table.name

    @property
    def rows(self) -> dict[str, Mapping[str, float]]:
        """The printed values by column, of the rows that have any."""
        return {name: row.published for name, row in self.table.rows.items() if row.published}

    def of_row(self, row: str | None) -> dict[str, float]:
        """The printed values of a row in the units of files, by quantity; empty if there is no such row."""
        printed = next((values for name, values in self.rows.items() if same_row(name, row)), {})
        return {self.columns[k].ours: value / self.columns[k].factor for k, value in printed.items()}


def published(table: Table) -> Published | None:
    """What is published of a table; None: nothing. Raises ValueError naming the file and the column."""
    if not table.columns:
        return None
    return Published(table, {name: _column(table.path, name, spec) for name, spec in table.columns.items()})


def find_table(name: str, folders: Sequence[Path]) -> Table:
    """The table of that name in some folders of configuration, or the file of that name; ValueError for neither."""
    path = table_path(name, folders) or (Path(name) if os.path.isfile(name) else None)
    if path is None:
        raise ValueError(
            f"no table and no file is named {name!r}; there are {', '.join(table_names(folders)) or 'none'}"
        )
    return read_table(path)


def tables_of(experiments: Sequence[str | None], folders: Sequence[Path]) -> list[Table]:
    """The tables that are called as experiments are."""
    paths = [table_path(name, folders) for name in experiments if name]
    return [read_table(path) for path in paths if path is not None]


def compared(paper: Published, frame: pd.DataFrame) -> pd.DataFrame:
    """One line per printed value, in the paper's units: paper, ours, std, n, difference (ours - paper), departures.

    Ours is NaN where there is no result, and the difference where the row has run otherwise than the table states, as
    `departures` says.
    """
    lines = []
    for _, row in frame[(frame["experiment"] == paper.name) & (frame["control"] == "")].iterrows():
        printed = next((values for name, values in paper.rows.items() if same_row(name, row["row"])), {})
        for name, value in printed.items():
            column = paper.columns[name]
            mean, std = (float(row.get(f"{column.ours}_{of}", math.nan)) * column.factor for of in ("mean", "std"))
            other = row["departures"]
            difference = math.nan if other else mean - value
            lines.append((row["configuration"], name, column.unit, value, mean, std, row["n"], difference, other))
    columns = ["configuration", "column", "unit", "paper", "ours", "std", "n", "difference", "departures"]
    return pd.DataFrame(lines, columns=columns)


def _column(path: Path, name: str, spec: Mapping[str, Any]) -> Column:
    where, quantity = f"{path}: columns.{name}", spec["quantity"]
    if not comparable(quantity):
        after = " or ".join(f"{name}.PHASE" for name in (*AFTER, f"{VALUES}.NAME"))
        raise ValueError(f"{where}: quantity {quantity!r} is none of {', '.join(COMPARABLE)}, nor {after}")
    if spec["unit"] not in UNITS:
        raise ValueError(f"{where}: unit {spec['unit']!r} is none of {', '.join(UNITS)}")
    per_mac = float(spec.get("flops_per_mac", 1))
    if per_mac != 1 and quantity not in ("macs", "macs_dense"):
        raise ValueError(f"{where}: flops_per_mac is for macs and macs_dense only, {COSTS[0]}_ratio has no unit")
    layers = spec.get("layers")
    if layers is not None:
        if quantity not in OF_LAYERS:
            raise ValueError(f"{where}: layers is for {', '.join(OF_LAYERS)}, not for {quantity}")
        try:
            naming(layers)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    return Column(quantity, spec["unit"], UNITS[spec["unit"]] * per_mac, spec.get("convention", ""), layers)
