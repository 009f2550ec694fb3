"""A table, `conf/table/<name>.yaml`: what its rows share, and of each what it chooses, sets, and was published.

    title: ...       of the table in its paper
    source:          paper (authors, place, year), title, url
    columns:         column: quantity, unit, convention, layers, flops_per_mac, see `report/published.py`
    defaults:        what every row starts from; its keys are those of a row
    seeds: [0, 1]    swept by `lowrank-exp experiment=<name>` (default: 0, 1, 2, unless a row or defaults set one) ...
    sweep:           ... with all rows and, where there is more, these: key or group: [values]; of a search
                     (choose: {sweeper: optuna}) also an interval: ["interval(0.2,0.8)"]
    rows:
      <row>:
        like: ...    another row, which this one starts from; in defaults: another table, whose they start from
        choose:      group: option
        set:         values, as any other file of the configuration nests them
        smoke:       values that `scale=smoke` sets on top
        published:   column: value, as printed; null: not printed
    notes, errata:   lists of sentences for the report

No Hydra here: `lowrank-exp` makes options of tables in `table_options.py`, `lowrank-report` reads what is published.
"""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.command_line.keys.kinds import (
    Context,
    Record,
    Single,
    anything,
    many,
    named,
    number,
    or_null,
    text,
    unknown,
    whole,
)

FOLDER = "table"  # in a folder of configuration
SEEDS = (0, 1, 2)  # of a table that does not say: means have a spread, and differences can be tested
NAME = re.compile(r"[\w.-]+")  # what Hydra's grammar takes as one word

_settings = Single("a mapping", "{rank: {macs: 0.5}}", lambda value: isinstance(value, Mapping))
_SHARED = {"like": text, "choose": named(text, "group"), "set": _settings, "smoke": _settings}
_ROW = {**_SHARED, "published": named(or_null(number(-1e18, 1e18)), "column")}
_COLUMN = {"quantity": text, "unit": text, "convention": text, "layers": text, "flops_per_mac": number(1, 2)}
_TABLE = {
    "title": text,
    "source": Record({"paper": text, "title": text, "url": text}, optional=("title", "url")),
    "columns": named(Record(_COLUMN, optional=("convention", "layers", "flops_per_mac")), "column"),
    "defaults": Record(_SHARED, optional=tuple(_SHARED)),
    "seeds": many(whole(0, 2**32 - 1)),
    "sweep": named(many(anything), "key"),
    "rows": named(Record(_ROW, optional=tuple(_ROW)), "row"),
    "notes": many(text),
    "errata": many(text),
}


@dataclass(frozen=True)
class Row:
    """One row, with what it takes over from the row that it is like; `own`: keys and groups that it names itself."""

    choose: Mapping[str, str] = field(default_factory=dict)
    set: Mapping[str, Any] = field(default_factory=dict)
    smoke: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)
    own: Sequence[str] = field(default=(), compare=False)


@dataclass(frozen=True)
class Table:
    """One table. `columns` are as written; `sweep` holds the values of every other key that is swept."""

    path: Path
    title: str
    source: Mapping[str, str]
    columns: Mapping[str, Mapping[str, Any]]
    defaults: Row
    seeds: Sequence[int]
    sweep: Mapping[str, Sequence[Any]]
    rows: Mapping[str, Row]
    notes: Sequence[str]
    errata: Sequence[str]

    @property
    def name(self) -> str:
        """What `experiment=` names it by."""
        return self.path.stem

    @property
    def axes(self) -> dict[str, Sequence[Any]]:
        """What is swept, by key: rows as `<table>/<row>`, seeds, other keys."""
        rows = {"row": [f"{self.name}/{row}" for row in self.rows]} if self.rows else {}
        return {**rows, **self.sweep, **({"seed": self.seeds} if self.seeds else {})}

    @property
    def smoke_axes(self) -> dict[str, Sequence[Any]]:
        """What `scale=smoke` sweeps: all rows, each with the first seed and the first value of whatever else is swept;
        without rows, all values with the first seed.
        """
        every = self.axes
        return {
            key: values if key == "row" or (key != "seed" and not self.rows) else values[:1]
            for key, values in every.items()
        }


def searched(values: Sequence[Any]) -> bool:
    """Whether what a table sweeps is an interval, in which a search chooses.

    >>> searched(["tag(log,interval(1e-3,1))"]), searched([0.3, 0.5])
    (True, False)
    """
    return any(isinstance(value, str) and "interval(" in value for value in values)


def table_path(name: str, folders: Iterable[Path]) -> Path | None:
    """The file of a table in the first of some folders of configuration that has it; no name is taken for a path."""
    return next((Path(one) / FOLDER / f"{name}.yaml" for one in folders if name in table_names([one])), None)


def table_names(folders: Iterable[Path]) -> list[str]:
    """The tables of some folders of configuration, sorted."""
    return sorted({path.stem for folder in folders for path in (Path(folder) / FOLDER).glob("*.yaml")})


def read_table(path: Path) -> Table:
    """Read a table.

    Raises:
        ValueError: it is not one; the message names the file, the row and the key.
    """
    return _read(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _read(path: Path, changed: int) -> Table:
    """What the file holds; read once, unless it has `changed`."""
    try:
        page = yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    try:
        return _table(path, page)
    except ValueError as error:
        raise ValueError(error if str(error).startswith(str(path)) else f"{path}: {error}") from error


def _table(path: Path, page: Any) -> Table:
    Record(_TABLE, optional=tuple(_TABLE)).check(page, "", Context())
    if not page.get("rows") and not page.get("sweep"):
        raise ValueError("the table has neither rows nor a sweep: write what its jobs are, such as rows: {first: {}}")
    if own := {"row", "seed"} & set(page.get("sweep", {})):
        raise ValueError(f"sweep.{min(own)} is refused: rows and seeds are swept from rows: and seeds:")
    if empty := [key for key, values in page.get("sweep", {}).items() if not values]:
        raise ValueError(f"sweep.{empty[0]}=[] is refused: a sweep has at least one value. Leave it out, or list some")
    rows: dict[str, Row] = {}
    for name, row in (page.get("rows") or {}).items():
        if not NAME.fullmatch(str(name)):
            raise ValueError(f"rows: {name!r} is refused: allowed are letters, digits, _, - and . in a row's name")
        columns = page.get("columns", {})
        if other := [one for one in row.get("published", {}) if one not in columns]:
            raise ValueError(unknown(f"rows.{name}.published", other[0], columns))
        if (like := row.get("like")) is not None and like not in rows:
            known = ", ".join(rows) or "none"
            raise ValueError(f"rows.{name}.like is {like}, which is not a row before it. Before it are: {known}")
        rows[str(name)] = _row(row, rows.get(like, Row()))
    defaults = _defaults(path, page.get("defaults", {}))
    set_alone = any("seed" in one.set for one in (defaults, *rows.values()))
    return Table(
        path,
        str(page.get("title", "")),
        page.get("source", {}),
        page.get("columns", {}),
        defaults,
        page.get("seeds", [] if set_alone else SEEDS),
        page.get("sweep", {}),
        rows,
        page.get("notes", []),
        page.get("errata", []),
    )


def _defaults(path: Path, defaults: Mapping[str, Any]) -> Row:
    """What all rows start from, with what it takes over from another table, of its own folder or of ours."""
    base = Row()
    if (like := defaults.get("like")) is not None:
        folders = (path.parent.parent, CONF)
        other = table_path(like, folders)
        if other is None or other == path:
            known = ", ".join(name for name in table_names(folders) if name != path.stem)
            raise ValueError(f"defaults.like is {like}, which is not another table. There are: {known}")
        base = read_table(other).defaults
    return _row(defaults, base)


def _row(row: Mapping[str, Any], base: Row) -> Row:
    return Row(
        {**base.choose, **row.get("choose", {})},
        overlay(base.set, row.get("set", {})),
        overlay(base.smoke, row.get("smoke", {})),
        {name: float(value) for name, value in row.get("published", {}).items() if value is not None},
        [*row.get("choose", {}), *_keys(row.get("set", {}))],
    )


def _keys(settings: Mapping[str, Any]) -> list[str]:
    """The dotted keys of nested settings, groups by what is set in them.

    >>> _keys({"rank": {"macs": 0.5, "rules": {}}, "seed": 1})
    ['rank.macs', 'rank.rules', 'seed']
    """
    nested = {key: _keys(value) if isinstance(value, Mapping) else [] for key, value in settings.items()}
    return [name for key, below in nested.items() for name in ([f"{key}.{one}" for one in below] or [key])]


def overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, the second on top of the first.

    >>> overlay({"rank": {"macs": 0.5, "over": "conv"}}, {"rank": {"macs": 0.3}})
    {'rank': {'macs': 0.3, 'over': 'conv'}}
    """
    both = {key: overlay(base[key], over[key]) for key in base if _nested(base, key) and _nested(over, key)}
    return {**base, **over, **both}


def sets(settings: Mapping[str, Any], key: str) -> bool:
    """Whether nested settings have a value at a dotted key, below it or above it.

    >>> sets({"rank": {"macs": 0.5}}, "rank.macs"), sets({"rank": {"macs": 0.5}}, "rank.over")
    (True, False)
    """
    if not isinstance(settings, Mapping):
        return True
    for name, inner in settings.items():
        below = key.startswith(f"{name}.") and sets(inner, key.removeprefix(f"{name}."))
        if below or key == name or name.startswith(f"{key}."):
            return True
    return False


def _nested(settings: Mapping[str, Any], key: str) -> bool:
    return isinstance(settings.get(key), Mapping)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as Hydra reads it (1e-3 is a number, no key stands twice), several times faster."""

    yaml_implicit_resolvers = get_yaml_loader().yaml_implicit_resolvers

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and key.value != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} stands twice", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else "")
        return super().construct_mapping(node, deep=deep)
