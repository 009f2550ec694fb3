"""The tables of conf/table, and their rows as the command line composes them."""

import functools

from omegaconf import DictConfig

from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.command_line.tables import Row, Table, read_table, table_names, table_path
from lowrank_exp.report.published import Published, published
from support.composed import composed, flattened

TABLES: dict[str, Table] = {name: read_table(table_path(name, [CONF])) for name in table_names([CONF])}
PUBLISHED: dict[str, Published] = {name: one for name, table in TABLES.items() if (one := published(table)) is not None}


def rows_of(table: str) -> list[str]:
    """Its rows as `<table>/<row>`, in order."""
    return [f"{table}/{row}" for row in TABLES[table].rows]


def row_of(row: str) -> Row:
    """What the file says of `<table>/<row>`."""
    table, _, name = row.partition("/")
    return TABLES[table].rows[name]


@functools.cache
def configured(row: str, *overrides: str) -> DictConfig:
    """The configuration of `<table>/<row>`, as phases get it."""
    return flattened(composed(f"experiment={row.partition('/')[0]}", f"row={row}", *overrides))
