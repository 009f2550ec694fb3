"""Sections on the terminal: what its width has room for, and in a line which row costs least at which accuracy."""

from collections.abc import Sequence

import pandas as pd
from rich.console import Console
from rich.table import Table

from lowrank_exp.report.compare import A, B, differing, figures, layers
from lowrank_exp.report.configuration import Configuration
from lowrank_exp.report.distinguish import MARK
from lowrank_exp.report.fitting import fitted, without_constant
from lowrank_exp.report.layers import EXPLAINED as EXPLAINED_LAYERS
from lowrank_exp.report.quantities import SHOWN
from lowrank_exp.report.render import (
    BY_CLASS,
    DEPARTS,
    NUMBER,
    ORIGIN,
    TIMED_BY,
    WARNED,
    Section,
    class_text,
    comparison_text,
    figures_text,
    formatted,
    origin,
)
from lowrank_exp.report.verdict import told, verdict

QUANTITIES = (
    *("accuracy_dense", "accuracy", "accuracy_change", "macs_ratio", "weights_ratio"),
    *("latency_ms", "latency_ms_speedup"),
)
KEPT = (NUMBER, "configuration", SHOWN["accuracy"].header, SHOWN["accuracy_change"].header)
# What finds no room on a narrow terminal, the first first.
SPARE = (
    *(SHOWN["weights_ratio"].header, MARK, SHOWN["accuracy_dense"].header, SHOWN["latency_ms"].header, "n"),
    *(DEPARTS, TIMED_BY, SHOWN["macs_ratio"].header, SHOWN["latency_ms_speedup"].header, NUMBER),
)
WORDS = ("column", "unit", "status", "phase", "figure", MARK, TIMED_BY, DEPARTS, *ORIGIN)  # to the left
WRAPPING = (A, B, DEPARTS, "difference", TIMED_BY, "timed_by", "device", "status", "decomposition", "why", MARK)


def terminal(sections: Sequence[Section], console: Console) -> None:
    """Print the main columns of every section, its comparison and its lines; `console` must find no markup in them."""
    for section in sections:
        print_table(console, formatted(section.frame, QUANTITIES), section.title, SPARE)
        if best := told(verdict(section.frame)):
            console.print(f"best {best}", style="bold")
        console.print(section.convention, style="dim")
        if section.comparison is not None and len(section.comparison):
            print_table(console, comparison_text(section.comparison), "beside the published values")
            console.print("\n".join(section.source), style="dim")
        if len(own := figures_text(section.frame)):
            print_table(console, own, "figures of single phases")
        for title, frame in section.classes:
            print_table(console, class_text(frame), title)
        if section.classes:
            console.print(BY_CLASS, style="dim")
        for title, text in section.layers:
            print_table(console, text, title)
        if section.layers:
            console.print(EXPLAINED_LAYERS, style="dim")
        if len(origin(section.frame)):
            measured = origin(section.frame).drop(columns=["machine"])
            print_table(console, measured, "where it was measured", ("hash", "seeds", "date", "threads"))
            machines = ", ".join(dict.fromkeys(filter(None, section.frame["machine"])))
            console.print(f"machine: {machines}", style="dim")
        for note in section.notes:
            console.print(note, style=colour_of(note), soft_wrap=True)


def show_comparison(
    rows: Sequence[Configuration], frame: pd.DataFrame, places: tuple[int, int], console: Console
) -> None:
    """Print two rows of `frame`, `table` of `rows`, side by side."""
    one, other = (rows[place] for place in places)
    for letter, row in ((A, one), (B, other)):
        console.print(f"{letter}: {row.label} ({row.hash})", style="bold")
    for lines, title, nothing in (
        (figures(frame, places), "figures", "neither has been measured"),
        (differing(one, other), "configuration", "their configurations are the same but for seeds"),
        (
            layers(one, other),
            "layers that differ, of the first finished seed of each",
            "no layers that differ are known",
        ),
    ):
        if len(lines):
            left = () if title == "figures" else (A, B)
            print_table(console, lines, title, whole=True, left=left)
        else:
            console.print(f"\n{nothing}")


def print_table(
    console: Console,
    text: pd.DataFrame,
    title: str,
    spare: Sequence[str] = (),
    *,
    whole: bool = False,
    left: Sequence[str] = WORDS,
) -> None:
    """Print a table of texts under its title: without the columns that say the same of all rows, which a line says, and
    without those that are `spare` and find no room, which another line names.

    `whole`: with all columns that find room; `left`: those of words.
    """
    first = next(name for name in text.columns if name != NUMBER)
    accuracy = SHOWN["accuracy"].header
    measured = list(text[accuracy] != "") if accuracy in text else None
    text, same = (text, "") if whole else without_constant(text, (first, *KEPT), measured)
    text, left_out = fitted(text, console.width, (first, *WRAPPING), spare)
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for name in text.columns:
        justify = "left" if name in (first, *left) else "right"
        table.add_column(name.replace(" ", "\n"), justify=justify, overflow="fold", no_wrap=True)
    for row in text.itertuples(index=False):
        table.add_row(*map(str, row), style=colour_of(getattr(row, "status", "")))
    console.print()
    console.print(title, style="italic")
    console.print(table)
    if same:
        console.print(f"all rows: {same}", style="dim")
    if left_out:
        console.print(f"no room here, but in the files: {', '.join(left_out)}", style="dim")


def colour_of(text: str) -> str:
    """The colour of a status or of a note."""
    red, yellow = ("failed", "interrupted", "cannot be read"), ("missing", "missed", "warning")
    ends = (WARNED, "seeds")
    return "red" if text.startswith(red) else "yellow" if text.startswith(yellow) or text.endswith(ends) else ""
