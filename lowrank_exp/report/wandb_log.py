"""A report as a run of wandb: its rows beside what papers published, the fronts as charts, the networks to take.

Charts and tables are wandb's own, so they can be filtered and zoomed there. The networks are those of the verdict, one
artifact per configuration with the files of all its seeds; each names the runs that made them, whose ids in wandb are
the fingerprints of the jobs. No torch here.
"""

import contextlib
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lowrank_exp.files.exported import exported_files
from lowrank_exp.files.results import RESULT, Result, digest
from lowrank_exp.files.wandb_run import MODES, PROJECT, open_run
from lowrank_exp.files.whole import find_difference
from lowrank_exp.report.command_of import command_of
from lowrank_exp.report.configuration import Configuration
from lowrank_exp.report.front import on_front
from lowrank_exp.report.names import LONGEST_FILE_NAME
from lowrank_exp.report.published import Published
from lowrank_exp.report.quantities import derived
from lowrank_exp.report.render import Section
from lowrank_exp.report.verdict import BY, Pick, told, verdict, way_of_most
from lowrank_exp.text.plain_text import as_file_name

KIND = "report"  # wandb's type of the run
NETWORK, PLAN = "model.pt", "plan.yaml"
COSTS = {"macs_ratio": "MACs that remain", "latency_ms": "ms of one forward pass"}  # a chart each, by what is measured
ROOM = 2**16  # bytes
LONGEST = 100  # characters of an artifact's name; wandb takes 128


def log_report(
    folder: Path, sections: Sequence[Section], rows: Sequence[Configuration], papers: Sequence[Published]
) -> list[str]:
    """Log a comparison as one run below `folder`, offline unless `WANDB_MODE` says otherwise.

    `WANDB_PROJECT` and `WANDB_ENTITY` have wandb's own meaning. The same comparison is the same run: an earlier one
    there is replaced.

    Args:
        folder: where the files of the report lie.
        sections: their frames have the published values, and are of `rows` by their indices.
        rows: all configurations.
        papers: what was published.

    Returns:
        Lines on where the run is, and on files that it lacks.

    Raises:
        ValueError: a mode that is not known, what wandb says went wrong, or a full disk.
    """
    mode = os.environ.get("WANDB_MODE") or MODES[0]
    if mode not in MODES:
        raise ValueError(f"WANDB_MODE={mode} is not known: {', '.join(MODES[:-1])} or {MODES[-1]}")
    try:
        import wandb
    except ImportError as error:
        raise ValueError(f"--wandb needs a package: pip install wandb ({error})") from error

    jobs = [job for row in rows for job in (*row.finished, *row.failed)]
    identity = digest(sorted({f"{job.experiment} {job.row} {job.fingerprint}" for job in jobs}))[:16]
    titles = [section.title for section in sections]
    run = None
    try:
        run = open_run(
            folder,
            f"{KIND}-{identity}",
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            entity=os.environ.get("WANDB_ENTITY"),
            mode=mode,
            name=f"{KIND} {', '.join(titles)}"[:LONGEST],
            kind=KIND,
            tags=[title[:64] for title in titles],
            config={"experiments": titles, "runs": sorted({job.fingerprint for job in jobs})},
        )
        lines = [line for section in sections for line in _log_section(run, wandb, section, rows, papers)]
        directory, url = Path(run.dir).parent, run.url
        run.finish()
        wandb.teardown()  # its own process has written all then
    except Exception as error:  # of wandb's many kinds
        if run is not None:
            with contextlib.suppress(Exception):
                run.finish(exit_code=1)
        raise ValueError(f"wandb: {' '.join(str(error).split())}") from error
    if shutil.disk_usage(folder).free < ROOM:  # wandb itself says nothing
        raise ValueError(
            f"wandb: {folder} has no room left, and files of the run may be cut: make room, and report again"
        )
    if mode == MODES[0]:
        lines.append(f"{directory}: send it by wandb sync {directory}")
    elif url:
        lines.append(url)
    return lines


def _log_section(
    run: Any, wandb: Any, section: Section, rows: Sequence[Configuration], papers: Sequence[Published]
) -> list[str]:
    """The tables, charts and networks of one experiment; lines on files that are not there."""
    frame, title, key = section.frame, section.title, _key(section.title)
    run.log({f"{key}/rows": _as_table(wandb, frame.dropna(axis="columns", how="all"))})
    if section.comparison is not None and len(section.comparison):
        run.log({f"{key}/published": _as_table(wandb, section.comparison)})
    paper = next((paper for paper in papers if paper.name == title), None)
    for cost, words in COSTS.items():
        if len(points := front_points(frame, paper, cost)):
            named = points.rename(columns={"cost": words})
            chart = wandb.plot.scatter(
                _as_table(wandb, named), words, "accuracy %", title=f"{title}: accuracy, {words}"
            )
            run.log({f"{key}/front_{cost}": chart})
    picks = verdict(frame)
    run.summary[f"{key}/best"] = told(picks)
    lines = []
    chosen: dict[int, list[Pick]] = {}
    for pick in picks:
        if pick.place is not None:
            chosen.setdefault(pick.place, []).append(pick)
    for place, mine in chosen.items():
        lines += _log_networks(run, wandb, rows[int(str(frame.index[place]))], mine)
    return lines


def front_points(frame: pd.DataFrame, paper: Published | None, cost: str) -> pd.DataFrame:
    """What a chart of accuracy against a cost shows: `configuration`, `kind`, `cost`, `accuracy %`, `on the front`.

    The kind is `ours`, `control`, `dense`, of every dense network once, or `published`.
    """
    columns = ["configuration", "kind", "cost", "accuracy %", "on the front"]
    dense = {"macs_ratio": "macs_ratio", "latency_ms": "latency_ms_dense"}[cost]
    known = frame[frame[f"{cost}_mean"].notna() & frame["accuracy_mean"].notna()]
    if cost == "latency_ms":  # times of one way alone can be compared
        known = known[known["timed_by"] == way_of_most(frame)]
    points = [
        (row["configuration"], "control" if row["control"] else "ours", row[f"{cost}_mean"], 100 * row["accuracy_mean"])
        for _, row in known.iterrows()
    ]
    fronts = on_front([point[2] for point in points], [point[3] for point in points])
    lines = [(*point, "yes" if front else "no") for point, front in zip(points, fronts, strict=True)]
    if lines:
        costs = [1.0] * len(known) if cost == dense else known[f"{dense}_mean"].tolist()
        pairs = dict.fromkeys(zip(costs, known["accuracy_dense_mean"], strict=True))
        lines += [("dense", "dense", of, 100 * accuracy, "") for of, accuracy in pairs if not math.isnan(of + accuracy)]
    published = {} if paper is None else {name: derived(paper.of_row(name)) for name in paper.rows}
    for name, values in published.items():
        if cost in values and "accuracy" in values:
            lines.append((f"{name}, published", "published", values[cost], 100 * values["accuracy"], ""))
    return pd.DataFrame(lines, columns=columns)


def _key(title: str) -> str:
    """An experiment's name as keys of wandb begin, of which it makes names of files."""
    name = as_file_name(title).encode()[:LONGEST_FILE_NAME].decode(errors="ignore")
    return name if name == title else f"{name}-{digest(title)[:6]}"


def _as_table(wandb: Any, frame: pd.DataFrame) -> Any:
    """A frame as a table of wandb's: numbers, texts, and nothing for what was not measured."""
    cells = [[_as_cell(value) for value in row] for row in frame.itertuples(index=False)]
    return wandb.Table(columns=[str(name) for name in frame.columns], data=cells, allow_mixed_types=True)


def _as_cell(value: Any) -> Any:
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return None if math.isnan(value) else value
    return None if value is None or value is pd.NA else value.item() if hasattr(value, "item") else str(value)


def _log_networks(run: Any, wandb: Any, row: Configuration, picks: Sequence[Pick]) -> Iterator[str]:
    """An artifact with the networks of a configuration, seed by seed; lines on files that are not there."""
    means = [f"within {pick.points:g} points {BY[pick.cost]}: {pick.text}" for pick in picks]
    artifact = wandb.Artifact(
        artifact_name(row),
        "model",
        description=row.label,
        metadata={
            "configuration": row.label,
            "experiment": row.experiment,
            "row": row.row,
            "hash": row.hash,
            "chosen": means,
            "runs": {str(job.seed): job.fingerprint for job in row.finished},
            "commands": {str(job.seed): command_of(job) for job in row.finished},
            "accuracy": {str(job.seed): job.phases[-1].accuracy for job in row.finished},
            "macs": {str(job.seed): job.phases[-1].macs for job in row.finished},
        },
    )
    for job in row.finished:
        for name, problem in files_of(job).items():
            if problem is None and job.folder is not None:
                artifact.add_file(str(job.folder / name), f"seed{job.seed}/{name}")
            else:
                yield f"not in the artifact {artifact.name}: {problem} ({job.folder})"
    run.log_artifact(artifact)


def artifact_name(row: Configuration) -> str:
    """What the networks of a configuration are called in wandb, which takes letters, digits and `-_.` alone."""
    words = re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(filter(None, (row.experiment, row.label)))).strip("-")
    return f"{words[:LONGEST] or 'networks'}-{row.hash[:6]}"


def files_of(job: Result) -> Mapping[str, str | None]:
    """The files of a job that go along, by name; None: it is as it was written, else what is wrong with it."""
    wanted = [NETWORK, *([PLAN] if PLAN in job.files else []), *exported_files(job.exports)]
    found: dict[str, str | None] = {RESULT: None if job.intact else f"{RESULT} has changed since it was written"}
    for name in wanted:
        if name not in job.files:
            found[name] = f"{name} was not recorded"
        else:
            found[name] = find_difference(job.folder or Path(), {name: job.files[name]})
    return found
