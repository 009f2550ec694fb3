"""`lowrank-report`: results below some folders -> tables and figures, beside what papers published."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from rich.console import Console

from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.files.gather import gather
from lowrank_exp.files.results import FIGURELESS, RESULT, Result, digest
from lowrank_exp.files.searches import searches_beside
from lowrank_exp.files.whole import write_whole
from lowrank_exp.machine.garbage import seldom_collecting
from lowrank_exp.report import figure, render
from lowrank_exp.report.classes import all_classes, class_notes, class_table, drawable, shown
from lowrank_exp.report.compare import find
from lowrank_exp.report.configuration import Configuration, beside_their_rows, configurations
from lowrank_exp.report.confusion_figure import confusion_figure
from lowrank_exp.report.departures import with_departures
from lowrank_exp.report.expected import unclear, with_missing
from lowrank_exp.report.html.document import document
from lowrank_exp.report.html.write import write_page
from lowrank_exp.report.layers import all_layers, layer_notes, layer_table
from lowrank_exp.report.layers import shown as layers_shown
from lowrank_exp.report.names import file_name, with_plain_names
from lowrank_exp.report.published import Published, compared, find_table, published, tables_of
from lowrank_exp.report.searches import search_notes, with_front
from lowrank_exp.report.table import notes, table, with_differing
from lowrank_exp.report.terminal import show_comparison, terminal
from lowrank_exp.report.wandb_log import log_report
from lowrank_exp.text.plain_text import as_cell, plain, plain_lines, shortened
from lowrank_exp.text.printing import print_safely

COMPLETE, INCOMPLETE, UNUSABLE, UNWRITABLE = 0, 1, 2, 3
PLACES = "give a folder that can be written to, --out DIR, and a file, --html FILE"
WIDTH = 110  # columns of what is not printed on a terminal
LONGEST_LINE = 400  # characters on a file that cannot be read


def main(argv: list[str] | None = None, *, conf: Path = CONF) -> int:
    """Report what lies below the folders, and give the exit status.

    0: complete; 1: a row failed, is missing or missed a target, or a file cannot be read; 2: nothing to report, or an
    argument is wrong; 3: the files of the report cannot be written.

    `argv` as on the command line (`lowrank-report --help`); `conf` is where tables are looked up first.
    """
    arguments = _parser().parse_args(argv)
    print_safely()
    try:
        return _report(arguments, conf)
    except ValueError as error:
        print(f"lowrank-report: {plain_lines(str(error))}", file=sys.stderr)
        return UNUSABLE
    except OSError as error:
        print(f"lowrank-report: {plain(str(error))}: {PLACES}", file=sys.stderr)
        return UNWRITABLE


def named_path(text: str) -> Path:
    """The path that an argument names; an empty one would be the working folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError(
            "an empty path names nothing: give a folder or a file, the working folder is ."
        )
    return Path(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lowrank-report",
        description="Gather every result.json below the folders into one table: a row per configuration, "
        "mean and standard deviation over its seeds, beside what its table (conf/table) published. Exit status: 0 "
        "if all rows are there, 1 if one failed, is missing or missed a target, or a file cannot be read, 2 if there "
        "is nothing to report or an argument is wrong, 3 if the report's files cannot be written.",
    )
    add = parser.add_argument
    add("folders", nargs="*", type=named_path, metavar="FOLDER", help="where jobs lie, such as outputs")
    add("--paper", metavar="NAME|FILE", help="compare with this table only, even without a result")
    add("--config-dir", type=named_path, metavar="DIR", help="tables of your own: DIR/table/NAME.yaml")
    add("--out", type=named_path, metavar="DIR", help="where files go (default: report in the first folder)")
    add("--phase", metavar="NAME", help="the phase to report (default: each method's last one)")
    add("--classes", action="store_true", help="also accuracy by class, and confusion matrices as figures")
    add("--layers", action="store_true", help="also what every layer lost by its decomposition, the most first")
    add(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="only show two rows side by side: names or hashes among what lies in the folders, or folders themselves",
    )
    add("--html", type=named_path, metavar="FILE", help="also one page for a browser, with everything in it")
    add(
        "--wandb",
        action="store_true",
        help="also a run in wandb: the rows beside the published values, the fronts as charts, the best networks with "
        "plan and exported files. Offline, in the project lowrank_exp, where WANDB_MODE and WANDB_PROJECT say no other",
    )
    add("--sort", metavar="COLUMN", help="sort rows by this column of the CSV, smallest first")
    return parser


def _report(arguments: argparse.Namespace, conf: Path) -> int:
    if arguments.compare and arguments.wandb:
        raise ValueError("--compare only shows two rows, and logs nothing: leave --wandb out")
    with seldom_collecting():
        results, unread = gather(arguments.folders or _compared_folders(arguments.compare))
        results = [with_plain_names(result) for result in results]
    unread = [f"cannot be read: {shortened(plain(line), LONGEST_LINE)}" for line in unread]
    if not results:
        where = ", ".join(map(str, arguments.folders))
        raise ValueError("\n".join([f"no result.json below {where}; run lowrank-exp first", *unread]))
    changed = _tell_changed(results)
    searches, lost = searches_beside(result.folder for result in results if result.folder is not None)
    unread += [f"cannot be read: {shortened(plain(line), LONGEST_LINE)}" for line in lost]
    rows, remarks = configurations(results), {}
    folders = _folders(conf, arguments.config_dir)
    tables = tables_of(list(dict.fromkeys(result.experiment for result in results)), folders)
    compare_with = [find_table(arguments.paper, folders)] if arguments.paper else tables
    for one in {one.name: one for one in (*tables, *compare_with)}.values():
        remarks[one.name] = unclear(rows, one)
        rows = with_missing(with_departures(rows, one), one)
    papers = [paper for paper in map(published, compare_with) if paper is not None]
    names = list(dict.fromkeys(row.experiment for row in rows))
    rows = beside_their_rows(sorted(rows, key=lambda row: names.index(row.experiment)))
    columns = [column for paper in papers for column in paper.columns.values()]
    some = dict.fromkeys(column.layers for column in columns if column.layers)
    frame = with_differing(table(rows, arguments.phase, [column.ours for column in columns], list(some)), rows)
    frame = with_front(frame, rows, searches)
    unsorted = _with_published(frame, papers)
    frame = _sorted(unsorted, arguments.sort)
    if arguments.compare:
        places = tuple(rows.index(find(rows, name)) for name in arguments.compare)
        show_comparison(rows, unsorted, places, _console())
        for line in changed:
            print(line)
        return COMPLETE
    for name in names:
        remarks.setdefault(name, []).extend(search_notes([row for row in rows if row.experiment == name], searches))
    sections = [_section(name, rows, frame, papers, remarks[name]) for name in names]
    files = {}
    if arguments.classes:
        sections = [_with_classes(section, rows, arguments.phase) for section in sections]
        files = _class_files(rows, arguments.phase)
    if arguments.layers:
        sections = [_with_layers(section, rows) for section in sections]
        files |= {"layers.csv": _csv(all_layers(rows))}
    if unread or changed:
        sections[0] = replace(sections[0], notes=[*unread, *changed, *sections[0].notes])
    terminal(sections, _console())
    files = _files(sections, frame, papers) | files
    folder = arguments.out or arguments.folders[0] / "report"
    for path in _written(files, folder):
        print(plain(str(path)))
    if arguments.html is not None:
        write_page(arguments.html, document(sections, rows, unsorted, papers, results, arguments.phase))
        print(plain(str(arguments.html)))
    if arguments.wandb:
        for line in log_report(folder, sections, rows, papers):
            print(plain(line))
    return COMPLETE if not unread and all(row.status in ("ok", *FIGURELESS) for row in rows) else INCOMPLETE


def _tell_changed(results: Sequence[Result]) -> list[str]:
    """A line on every result that is not what its job has written."""
    paths = [
        plain(str(result.folder / RESULT)) for result in results if not result.intact and result.folder is not None
    ]
    return [f"{path} has changed since it was written: the figures are those that stand there now" for path in paths]


def _compared_folders(compare: Sequence[str] | None) -> list[Path]:
    """The folders that are compared themselves. Raises ValueError where no folder is given at all."""
    folders = [Path(name) for name in compare or ()]
    if not folders or not all(folder.is_dir() for folder in folders):
        raise ValueError("no folder is given; name one that holds jobs, such as outputs")
    return folders


def _folders(conf: Path, own: Path | None) -> list[Path]:
    """Where tables are looked for. Raises ValueError where the user's own is not a folder."""
    if own is not None and not own.is_dir():
        raise ValueError(f"--config-dir {own} is not a folder; give the one that lowrank-exp was given")
    return [conf] if own is None else [conf, own]


def _section(
    name: str | None,
    rows: Sequence[Configuration],
    frame: pd.DataFrame,
    papers: Sequence[Published],
    remarks: list[str],
) -> render.Section:
    mine = [row for row in rows if row.experiment == name]
    part = frame[frame["experiment"].isna()] if name is None else frame[frame["experiment"] == name]
    ours = [paper for paper in papers if paper.name == name]
    source = [line for paper in ours for line in _source(paper)]
    return render.Section(
        title=_title(name),
        frame=part,
        comparison=pd.concat([compared(paper, part) for paper in ours]) if ours else None,
        source=source,
        conditions=render.latency_conditions(part),
        notes=[*notes(mine), *remarks],
    )


def _with_classes(section: render.Section, rows: Sequence[Configuration], phase: str | None) -> render.Section:
    """The section with a table of accuracies by class for each of its configurations."""
    mine = [row for row in rows if _title(row.experiment) == section.title]
    tables = [(row, class_table(row, phase)) for row in mine]
    lines = [(row, *shown(frame)) for row, frame in tables if len(frame)]
    notes = [*section.notes, *class_notes(mine, phase)]
    return replace(section, classes=[(f"{row.label}: {what}", frame) for row, what, frame in lines], notes=notes)


def _with_layers(section: render.Section, rows: Sequence[Configuration]) -> render.Section:
    """The section with a table of what layers lost for each of its configurations."""
    mine = [row for row in rows if _title(row.experiment) == section.title]
    tables = [(row, layer_table(row)) for row in mine]
    lines = [(row, *layers_shown(frame)) for row, frame in tables if len(frame)]
    notes = [*section.notes, *layer_notes(mine)]
    return replace(section, layers=[(f"{row.label}: {what}", text) for row, what, text in lines], notes=notes)


def _class_files(rows: Sequence[Configuration], phase: str | None) -> dict[str, bytes]:
    """Accuracies by class as CSV, and the confusion matrices of every configuration."""
    files = {"classes.csv": _csv(all_classes(rows, phase))}
    several = len({row.experiment for row in rows}) > 1
    for row in rows:
        if counts := drawable(row, phase):
            seeds = f", sum over {len(row.finished)} seeds" if len(row.finished) > 1 else ""
            title = f"{row.label}\n{row.network} on {row.data}{seeds}"
            drawing = confusion_figure(counts, title)
            text = f"{_title(row.experiment)}-{row.label}" if several else row.label
            name = file_name("confusion", text, row.hash, files, "png")
            files |= {f"{name}.{kind}": figure.drawn(drawing, kind) for kind in ("png", "pdf")}
    return files


def _title(experiment: str | None) -> str:
    return experiment or "no experiment"


def _source(paper: Published) -> list[str]:
    """Where the published values come from and how they count, a line each."""
    table = paper.table
    told = (table.source.get("paper"), table.source.get("title"), table.title, table.source.get("url"))
    columns = [f"{name}: {column.convention}" for name, column in paper.columns.items() if column.convention]
    errata = (f"Erratum: {line}" for line in table.errata)
    return [f"Published: {', '.join(filter(None, told))}", *columns, *table.notes, *errata]


def _with_published(frame: pd.DataFrame, papers: Sequence[Published]) -> pd.DataFrame:
    """`frame` with `paper.COLUMN`, and `.ours` and `.difference` of each, in the paper's units."""
    frame = frame.copy()
    for paper in papers:
        for line in compared(paper, frame).itertuples():
            rows = (frame["experiment"] == paper.name) & (frame["configuration"] == line.configuration)
            for ending, value in (("", line.paper), (".ours", line.ours), (".difference", line.difference)):
                frame.loc[rows, f"paper.{line.column}{ending}"] = value
    return frame


def _sorted(frame: pd.DataFrame, column: str | None) -> pd.DataFrame:
    if column is None:
        return frame
    name = column if column in frame else f"{column}_mean"
    if name not in frame:
        raise ValueError(f"there is no column {column!r} to sort by; there are {', '.join(frame.columns)}")
    mixed = frame[name].dtype == object
    return frame.sort_values(name, kind="stable", key=(lambda values: values.astype(str)) if mixed else None)


def _files(sections: Sequence[render.Section], frame: pd.DataFrame, papers: Sequence[Published]) -> dict[str, bytes]:
    """The CSV, Markdown and LaTeX of everything and a figure per experiment, by name."""
    files = {
        "results.csv": _csv(frame),
        "results.md": render.markdown(sections).encode(),
        "results.tex": render.latex(sections).encode(),
    }
    for section in sections:
        paper = next((paper for paper in papers if paper.name == section.title), None)
        drawing = figure.drawing(section.frame, paper, section.title)
        if drawing is not None:
            alone = len(sections) == 1
            name = "tradeoff" if alone else file_name("tradeoff", section.title, digest(section.title), files, "png")
            files |= {f"{name}.{kind}": figure.drawn(drawing, kind) for kind in ("png", "pdf")}
    return files


def _csv(frame: pd.DataFrame) -> bytes:
    """A CSV of raw numbers, whose texts no spreadsheet takes for formulas."""
    words = {name: frame[name].map(_as_cell) for name in frame if not pd.api.types.is_numeric_dtype(frame[name])}
    return frame.assign(**words).rename(columns=as_cell).to_csv(index=False).encode()


def _as_cell(value: object) -> object:
    return value if value is None or isinstance(value, int | float) else as_cell(str(value))


def _written(files: Mapping[str, bytes], folder: Path) -> list[Path]:
    """Write the files; the paths written."""
    for name, data in files.items():
        with write_whole(folder / name) as temporary:
            temporary.write_bytes(data)
    return [folder / name for name in files]


def _console() -> Console:
    """Of the terminal's width; a file or another program gets lines of 110 columns at least."""
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = max(WIDTH, console.width)
    return console
