"""Everything that the page shows, as one plain record: what scripts of the page read, and anybody else may."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from lowrank_exp.files.results import FIGURELESS, Result
from lowrank_exp.report.configuration import Configuration, leaves
from lowrank_exp.report.distinguish import CHANGE, OTHERS
from lowrank_exp.report.expected import same_row
from lowrank_exp.report.front import on_front
from lowrank_exp.report.html.cells import cells_of, other_columns, quantity_columns, time_columns
from lowrank_exp.report.html.classes import class_record
from lowrank_exp.report.html.jobs import job_record
from lowrank_exp.report.html.pool import Pool, short
from lowrank_exp.report.html.times import Times, times_of
from lowrank_exp.report.labels import show
from lowrank_exp.report.palette import COLORS, heading
from lowrank_exp.report.published import Published
from lowrank_exp.report.quantities import derived
from lowrank_exp.report.render import Section
from lowrank_exp.report.table import reason
from lowrank_exp.report.verdict import CHOSEN, verdict

SIZES = {"macs": "MACs", "weights": "weights", "bytes": "file size"}


def document(
    sections: Sequence[Section],
    rows: Sequence[Configuration],
    frame: pd.DataFrame,
    papers: Sequence[Published],
    results: Sequence[Result],
    phase: str | None = None,
) -> dict[str, Any]:
    """The data of the page: plain mappings, lists, texts and numbers.

    Args:
        sections: of the experiments, for their notes and sources.
        rows: the configurations.
        frame: `table` of these rows, a row each in this order.
        papers: what was published.
        results: all that was found, also of jobs that were timed in several ways.
        phase: the one that counts as the compressed network; None: the last.
    """
    pool, times = Pool(), times_of(results, phase)
    frame = frame.reset_index(drop=True)
    columns = [*quantity_columns(frame), *time_columns(times), *other_columns(frame)]
    keys = [column["key"] for column in columns]
    flat = _without_repeats([{key: show(value) for key, value in leaves(row.config or {}).items()} for row in rows])
    shared = _shared(flat)
    records = []
    for place, (row, record) in enumerate(zip(rows, frame.to_dict("records"), strict=True)):
        own = {key: value for key, value in flat[place].items() if key not in shared}
        absent = [key for key in shared if key not in flat[place]]
        records.append(
            _row_record(row, record, pool, phase)
            | {"cells": cells_of(row, record, times, keys), "config": own, "absent": absent}
        )
    costs = _costs(times, keys)
    return {
        "colors": COLORS,
        "columns": columns,
        "costs": costs,
        "experiments": [_experiment(one, rows, frame, papers, records, costs, keys) for one in sections],
        "rows": records,
        "shared": shared,
        "pool": pool.values,
    }


def _without_repeats(flat: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Configurations without the keys that say of each what a shorter key says, whose words they end in."""
    keys = {key for one in flat for key in one}
    beginnings = {key: [key[k + 1 :] for k, letter in enumerate(key) if letter == "."] for key in keys}
    repeats = {
        key
        for key, shorter in beginnings.items()
        if any(other in keys and all(key not in one or one[key] == one.get(other) for one in flat) for other in shorter)
    }
    return [{key: value for key, value in one.items() if key not in repeats} for one in flat]


def _shared(flat: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Keys and values that all rows have that have run at all."""
    run = [one for one in flat if one]
    if not run:
        return {}
    first, *others = run
    return {key: value for key, value in first.items() if all(one.get(key) == value for one in others)}


def _row_record(row: Configuration, record: Mapping[Hashable, Any], pool: Pool, phase: str | None) -> dict[str, Any]:
    failed = [
        {"seed": job.seed, "status": job.status, "last": reason(job.error)}
        for job in row.failed
        if job.status not in FIGURELESS
    ]
    void = [f"{job.status}: {reason(job.error)}" for job in row.failed if job.status in FIGURELESS]
    return {
        "label": row.label,
        "experiment": row.experiment,
        "row": row.row,
        "series": row.series,
        "policy": row.policy,
        "network": row.network,
        "data": row.data,
        "status": row.status,
        "control": row.control,
        "departures": list(row.departures),
        "n": len(row.finished),
        "failed": failed,
        "void": list(dict.fromkeys(void)),
        "missing": list(row.missing),
        "hash": row.hash,
        "told": record[CHANGE],
        "alike": record[OTHERS],
        "jobs": [job_record(job, pool) for job in (*row.finished, *row.failed)],
        "classes": class_record(row, pool, phase),
    }


def _costs(times: Times, keys: Sequence[str]) -> list[dict[str, Any]]:
    """What accuracy may be drawn against: the columns of the cost itself, and of what remains or how much faster."""
    sizes = [(key, label, key, f"{key}_ratio") for key, label in SIZES.items()]
    timed = [(f"ms:{number}", way, f"ms:{number}", f"speedup:{number}") for number, way in enumerate(times)]
    return [
        {
            "key": key,
            "label": label,
            "absolute": keys.index(now),
            "relative": keys.index(left) if left in keys else None,
        }
        for key, label, now, left in (*sizes, *timed)
        if now in keys
    ]


def _experiment(
    section: Section,
    rows: Sequence[Configuration],
    frame: pd.DataFrame,
    papers: Sequence[Published],
    records: Sequence[Mapping[str, Any]],
    costs: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
) -> dict[str, Any]:
    places = [place for place in range(len(rows)) if (rows[place].experiment or "no experiment") == section.title]
    mine = frame.iloc[places]
    paper = next((one for one in papers if one.name == section.title), None)
    candidates = [place for place in places if not rows[place].control and rows[place].finished]
    picks = verdict(mine)
    return {
        "name": section.title,
        "heading": heading(section.title, mine),
        "rows": places,
        "dense": sorted({round(value, 6) for value in mine["accuracy_dense_mean"].dropna()}),
        "verdict": [_pick(pick, places, records) for pick in picks],
        "chosen": CHOSEN.format(count=f"{len(candidates)} configurations") if picks else "",
        "fronts": {cost["key"]: _front(candidates, records, cost, keys) for cost in costs},
        "published": [] if paper is None else _published(paper, places, rows),
        "source": list(section.source),
        "notes": list(section.notes),
        "convention": section.convention,
    }


def _pick(pick: Any, places: Sequence[int], records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    row = None if pick.place is None else places[pick.place]
    jobs = [] if row is None else records[row]["jobs"]
    known = {name: short(value) if isinstance(value, float) else value for name, value in asdict(pick).items()}
    return known | {"row": row, "text": pick.text, "command": jobs[0]["command"] if jobs else ""}


def _front(
    candidates: Sequence[int], records: Sequence[Mapping[str, Any]], cost: Mapping[str, Any], keys: Sequence[str]
) -> list[int]:
    """The rows on the front of accuracy against a cost."""
    accuracy = keys.index("accuracy") if "accuracy" in keys else None
    if accuracy is None:
        return []

    def value(place: int, column: int) -> float:
        cell = records[place]["cells"][column]
        return math.nan if cell is None else float(cell[0])

    answers = on_front(
        [value(place, cost["absolute"]) for place in candidates], [value(place, accuracy) for place in candidates]
    )
    return [place for place, answer in zip(candidates, answers, strict=True) if answer]


def _published(paper: Published, places: Sequence[int], rows: Sequence[Configuration]) -> list[dict[str, Any]]:
    """The points that a paper prints: accuracy, and what remains of costs; with our row of the same name."""
    found = []
    for name in paper.rows:
        known = derived(paper.of_row(name))
        left = {f"{cost}_ratio": short(known.get(f"{cost}_ratio")) for cost in (*SIZES, "latency_ms")}
        left = {cost: value for cost, value in left.items() if value is not None}
        if "accuracy" in known and left:
            mine = [place for place in places if same_row(rows[place].row, name) and not rows[place].departures]
            found.append(
                {"label": name, "accuracy": short(known["accuracy"]), **left, "row": mine[0] if mine else None}
            )
    return found
