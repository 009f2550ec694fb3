"""Rows that have run otherwise than their table states: they are marked, and not compared with the paper."""

from collections.abc import Sequence
from dataclasses import replace

from lowrank_exp.command_line.tables import Row, Table
from lowrank_exp.report.configuration import Configuration
from lowrank_exp.report.expected import SMOKE

CHOSEN = ("data", "model")  # groups by which results that do not record their departures are known


def with_departures(rows: Sequence[Configuration], table: Table) -> list[Configuration]:
    """`rows`, each of the table's with what of it is not as the table states."""
    return [replace(row, departures=_departures(row, table)) if row.experiment == table.name else row for row in rows]


def _departures(row: Configuration, table: Table) -> tuple[str, ...]:
    jobs = (*row.finished, *row.failed)
    found: dict[str, None] = {}
    for job in jobs:
        own = table.rows.get(row.row or "", Row())
        chosen = {**table.defaults.choose, **own.choose}
        others = [group for group in CHOSEN if job.choices.get(group, chosen.get(group)) != chosen.get(group)]
        known = [*([SMOKE] if job.choices.get("scale") == "smoke" else [])]
        known += [f"{group}={job.choices[group]}" for group in others if group in chosen]
        found |= dict.fromkeys(known if job.departures is None else job.departures)
    unlisted = [job.seed for job in jobs if table.seeds and job.seed not in table.seeds]
    return (*found, *(f"seed={seed}" for seed in unlisted))
