"""Published values (`conf/paper/*.yaml`) and their difference from ours."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from lowrank_exp.report.configuration import Configuration
from lowrank_exp.report.expected import same_row
from lowrank_exp.report.quantities import AFTER, COMPARABLE, COSTS, OF_LAYERS, VALUES, comparable, naming, over

# From the units of files to those of a paper.
UNITS = {
    **{"%": 100.0, "points": 100.0, "fraction": 1.0, "times": 1.0, "count": 1.0, "ms": 1.0, "s": 1.0},
    **{"thousand": 1e-3, "million": 1e-6, "billion": 1e-9},
}
FIELDS = {"paper", "title", "url", "table", "experiment", "columns", "rows", "notes", "errata"}


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
class Paper:
    """One published table. `rows` maps the names of rows to the printed values by column."""

    name: str
    paper: str
    title: str
    url: str
    table: str
    experiment: str
    columns: Mapping[str, Column]
    rows: Mapping[str, Mapping[str, float]]
    notes: tuple[str, ...]
    errata: tuple[str, ...]

    def published(self, row: str | None) -> dict[str, float]:
        """The printed values of a row in the units of files, by quantity; empty if there is no such row."""
        printed = next((values for name, values in self.rows.items() if same_row(name, row)), {})
        return {self.columns[k].ours: value / self.columns[k].factor for k, value in printed.items()}

    def missing(self, rows: Sequence[Configuration]) -> list[Configuration]:
        """The published rows that are not among `rows`."""
        ours = [row.row for row in rows if row.experiment == self.experiment and row.row]
        return [
            Configuration(name, self.experiment, name, missing=("any",))
            for name in self.rows
            if not any(same_row(name, other) for other in ours)
        ]


def read_paper(path: Path) -> Paper:
    """Read one file of published values. Raises ValueError naming the file and what is wrong in it."""
    try:
        page = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if (
        not isinstance(page, dict)
        or page.keys() - FIELDS
        or not page.keys() >= {"paper", "experiment", "columns", "rows"}
    ):
        raise ValueError(
            f"{path}: a paper has paper, experiment, columns and rows, and may have title, url, table, notes "
            f"and errata; got {', '.join(map(str, page)) if isinstance(page, dict) else page!r}"
        )
    columns = {str(name): _column(path, name, spec) for name, spec in page["columns"].items()}
    rows = {}
    for name, values in page["rows"].items():
        unknown = [key for key in values if key not in columns]
        if unknown:
            raise ValueError(f"{path}: row {name} has {', '.join(unknown)}, the columns are {', '.join(columns)}")
        rows[str(name)] = {key: float(value) for key, value in values.items() if value is not None}
    texts = {key: str(page.get(key) or "") for key in ("paper", "title", "url", "table", "experiment")}
    lists = {key: tuple(map(str, page.get(key) or ())) for key in ("notes", "errata")}
    return Paper(name=path.stem, columns=columns, rows=rows, **texts, **lists)


def find_paper(name: str, conf: Path) -> Paper:
    """The paper of that name in `conf/paper`, or the file of that name; ValueError if there is neither."""
    path = next((p for p in (conf / "paper" / f"{name}.yaml", Path(name)) if p.is_file()), None)
    if path is None:
        known = ", ".join(sorted(p.stem for p in (conf / "paper").glob("*.yaml"))) or "none"
        raise ValueError(f"no paper and no file is named {name!r}; {conf / 'paper'} has {known}")
    return read_paper(path)


def papers_of(experiments: Sequence[str | None], conf: Path) -> list[Paper]:
    """The papers in `conf/paper` that belong to one of the experiments."""
    papers = [read_paper(path) for path in sorted((conf / "paper").glob("*.yaml"))]
    return [paper for paper in papers if paper.experiment in experiments]


def compared(paper: Paper, frame: pd.DataFrame) -> pd.DataFrame:
    """One line per printed value, in the paper's units: paper, ours, std, n, difference (ours - paper).

    Ours is NaN where there is no result.
    """
    lines = []
    for _, row in frame[frame["experiment"] == paper.experiment].iterrows():
        printed = next((values for name, values in paper.rows.items() if same_row(name, row["row"])), {})
        for name, value in printed.items():
            column = paper.columns[name]
            mean = row.get(f"{column.ours}_mean", math.nan) * column.factor
            std = row.get(f"{column.ours}_std", math.nan) * column.factor
            lines.append((row["configuration"], name, column.unit, value, mean, std, row["n"], mean - value))
    columns = ["configuration", "column", "unit", "paper", "ours", "std", "n", "difference"]
    return pd.DataFrame(lines, columns=columns)


def _column(path: Path, name: str, spec: object) -> Column:
    where = f"{path}: column {name}"
    known = {"quantity", "unit", "convention", "layers", "flops_per_mac"}
    if not isinstance(spec, dict) or spec.keys() - known or not spec.keys() >= {"quantity", "unit"}:
        raise ValueError(
            f"{where} needs quantity and unit, and may have convention, layers and flops_per_mac; got {spec!r}"
        )
    if not comparable(spec["quantity"]):
        after = " or ".join(f"{name}.PHASE" for name in (*AFTER, f"{VALUES}.NAME"))
        raise ValueError(f"{where}: quantity {spec['quantity']!r} is none of {', '.join(COMPARABLE)}, nor {after}")
    if spec["unit"] not in UNITS:
        raise ValueError(f"{where}: unit {spec['unit']!r} is none of {', '.join(UNITS)}")
    per_mac = float(spec.get("flops_per_mac", 1))
    if per_mac != 1 and spec["quantity"] not in ("macs", "macs_dense"):
        raise ValueError(f"{where}: flops_per_mac is for macs and macs_dense only, {COSTS[0]}_ratio has no unit")
    layers = spec.get("layers")
    if layers is not None:
        if spec["quantity"] not in OF_LAYERS:
            raise ValueError(f"{where}: layers is for {', '.join(OF_LAYERS)}, not for {spec['quantity']}")
        try:
            naming(layers)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    factor = UNITS[spec["unit"]] * per_mac
    return Column(spec["quantity"], spec["unit"], factor, str(spec.get("convention") or ""), layers)
