"""The front of a search on the terminal: the trials that no other one dominates, each with the command of its job."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from lowrank_exp.files.searches import Search, Trial
from lowrank_exp.text.plain_text import plain_lines
from lowrank_exp.text.terminal import Terminal

HEADERS = {"val_accuracy": "validation %", "latency_ms": "ms", "macs": "MACs", "bytes": "bytes"}


def say(text: str) -> None:
    """One line of news, or several."""
    Terminal().print(plain_lines(text), soft_wrap=True)


def show_front(search: Search, file: Path) -> None:
    """Print the front, its commands, and where the search is written down.

    Raises:
        ValueError: no trial is complete.
    """
    front = search.front
    if not front:
        raise ValueError(f"no trial of the search is complete ({search.counted()}); {file} says why of each")
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("trial", *(HEADERS.get(one, one) for one in search.objectives)):
        table.add_column(name, justify="right")
    for trial in front:
        table.add_row(str(trial.number), *(shown(name, trial.values[name]) for name in search.objectives))
    terminal = Terminal()
    say(f"\n{search.counted()}. The front, which none of them beats in {' and '.join(search.objectives)}")
    terminal.print(table)
    say("\n".join(f"{trial.number}: {command_of(trial)}" for trial in front))
    say(f"{file}\nlowrank-report {shlex.quote(str(file.parent))} marks the front")


def shown(objective: str, value: float) -> str:
    """A value of an objective, as the table has it.

    >>> shown("val_accuracy", 0.98765), shown("macs", 12345.0), shown("latency_ms", 0.12345)
    ('98.77', '12,345', '0.123')
    """
    if objective == "val_accuracy":
        return f"{100 * value:.2f}"
    return f"{value:.3f}" if objective == "latency_ms" else f"{value:,.0f}"


def command_of(trial: Trial) -> str:
    """What runs the job of a trial alone.

    >>> command_of(Trial(0, "complete", ["experiment=digits_search", "rank.macs=0.5"]))
    'lowrank-exp hydra.mode=RUN experiment=digits_search rank.macs=0.5'
    """
    return shlex.join(["lowrank-exp", *alone(trial.overrides), *trial.overrides])


def alone(overrides: Sequence[str]) -> list[str]:
    """What is needed beside them where an experiment carries its own sweep."""
    return ["hydra.mode=RUN"] if any(one.startswith("experiment=") for one in overrides) else []
