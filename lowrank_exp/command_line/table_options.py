"""Tables as options of Hydra's groups: `experiment=<table>` and `row=<table>/<row>`, of every folder that is searched.

A file is read when one of its options is asked for; nothing has to be known of the others.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from lowrank_exp.command_line.mistakes import no_such_option
from lowrank_exp.command_line.tables import FOLDER, Row, Table, overlay, read_table, table_names, table_path

EXPERIMENT, ROW, SCALE, SMOKE = "experiment", "row", "scale", "smoke"
NO_CHOICE = ("hydra", EXPERIMENT, ROW, SCALE, "recipe", FOLDER)  # groups that no row chooses from


def offer_tables() -> None:
    """Let Hydra find the tables in the folders of configuration that it searches, those of `--config-dir` too."""
    Plugins.instance()  # has registered Hydra's own sources by then
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource


class FileConfigSource(file_config_source.FileConfigSource):
    """A folder of configuration whose `table/<name>.yaml` are further options.

    Named as Hydra's own, which it stands for: a worker of a sweep registers that one again, and takes no other name.

    `experiment/<table>` has the table's defaults and its sweep, `row/<table>/<row>` what the row chooses and sets; they
    take `scale/<table>/smoke` and `scale/<table>/<row>/smoke`, the smoke settings, with `scale=smoke`.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        if (found := self._table_and_row(config_path)) is None:
            return super().load_config(config_path)
        page = OmegaConf.create(_PAGES[config_path.partition("/")[0]](*found))
        return ConfigResult(self.provider, self.full_path(), page, {"package": "_global_"})

    def is_config(self, config_path: str) -> bool:
        return super().is_config(config_path) or self._table_and_row(config_path) is not None

    def is_group(self, config_path: str) -> bool:
        if config_path in (EXPERIMENT, ROW):  # known by the names of files, of which none is read
            return super().is_group(config_path) or bool(table_names([Path(self.path)]))
        return super().is_group(config_path) or bool(self._options(config_path))

    def list(self, config_path: str, results_filter: ObjectType | None) -> Sequence[str]:
        found = super().list(config_path, results_filter) if super().is_group(config_path) else []
        if results_filter != ObjectType.GROUP:
            found += self._options(config_path)
        if results_filter != ObjectType.CONFIG and config_path == "":
            found += [group for group in (EXPERIMENT, ROW) if self.is_group(group)]
        return sorted(set(found))

    def _options(self, group: str) -> Sequence[str]:
        """What tables add to a group."""
        names = table_names([Path(self.path)]) if group in (EXPERIMENT, ROW) else []
        if group == ROW:
            return [f"{name}/{row}" for name in names if (table := self._table(name)) for row in table.rows]
        table = self._table(group.removeprefix(f"{ROW}/")) if group.startswith(f"{ROW}/") else None
        return names if table is None else [*table.rows]

    def _table_and_row(self, config_path: str) -> tuple[Table, str] | None:
        """The table, and the row or "", that an option is of; None: it is of no table."""
        group, _, rest = config_path.removesuffix(".yaml").partition("/")
        if group not in _PAGES or (group == SCALE and not rest.endswith(f"/{SMOKE}")):
            return None
        name, _, row = rest.removesuffix(f"/{SMOKE}" if group == SCALE else "").partition("/")
        table = self._table(name)
        if table is None or (row not in table.rows if row else group == ROW) or (row and group == EXPERIMENT):
            return None
        return table, row

    def _table(self, name: str) -> Table | None:
        path = table_path(name, [Path(self.path)])
        return None if path is None else read_table(path)


def _experiment(table: Table, row: str) -> dict[str, Any]:
    """The table's defaults, and its sweep for Hydra's sweeper."""
    params = {key: ",".join(_as_override(value) for value in values) for key, values in table.axes.items()}
    sweep = {"hydra": {"mode": "MULTIRUN", "sweeper": {"params": params}}}
    smoke = {f"optional /{SCALE}/{table.name}": f"${{{SCALE}}}"}
    choices = _choices(table, "defaults", table.defaults)
    return {"defaults": ["_self_", smoke, *choices]} | overlay(table.defaults.set, sweep)


def _of_row(table: Table, row: str) -> dict[str, Any]:
    """What the row chooses and sets, then, with `scale=smoke`, the smoke settings."""
    one = table.rows[row]
    smoke = {f"optional /{SCALE}/{table.name}/{row}": f"${{{SCALE}}}"}
    return {"defaults": ["_self_", smoke, *_choices(table, f"rows.{row}", one)], **one.set}


def _smoke(table: Table, row: str) -> dict[str, Any]:
    if row:
        return overlay(table.defaults.smoke, table.rows[row].smoke)
    params = {key: ",".join(map(_as_override, values)) for key, values in table.smoke_axes.items()}
    return overlay(table.defaults.smoke, {"hydra": {"sweeper": {"params": params}}})


_PAGES = {EXPERIMENT: _experiment, ROW: _of_row, SCALE: _smoke}


def _choices(table: Table, where: str, row: Row) -> list[dict[str, str]]:
    """The options that a row chooses, as Hydra's list of defaults has them.

    Raises:
        ValueError: there is no such group or option; the message names the file, the row and the group.
    """
    loader = GlobalHydra.instance().config_loader()
    for group, option in row.choose.items():
        name = f"{group.partition('@')[0]}/{option}"
        options = loader.get_group_options(name.rpartition("/")[0])
        if name.rpartition("/")[2] not in options:
            groups = ", ".join(one for one in loader.list_groups("") if one not in NO_CHOICE)
            told = no_such_option(name, options) if options else f"there is no such group. Groups are: {groups}"
            raise ValueError(f"{table.path}: {where}.choose.{group} is {option}: {told}")
    return [{f"override /{group}": option} for group, option in row.choose.items()]


def _as_override(value: Any) -> str:
    """A value as the command line takes it.

    >>> [_as_override(value) for value in (None, True, 0.5, "energy")]
    ['null', 'true', '0.5', 'energy']
    """
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
