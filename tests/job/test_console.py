"""What a job prints: names are shown, never obeyed."""

import os
import re
from pathlib import Path

import pytest

from lowrank_exp.files.results import LayerResult, PhaseResult, Result
from lowrank_exp.job.console import Console
from lowrank_exp.rank import Plan, PlannedLayer
from lowrank_exp.text.estimate import Estimate
from lowrank_exp.text.terminal import Terminal

NAME = "[/nosuch] :bomb: \x1b[31mred\r\u202e"
SHOWN = "[/nosuch] :bomb: \\x1b[31mred\\r\\u202e"


def result() -> Result:
    phase = PhaseResult(
        NAME, 0.5, macs=10, seconds=1.0, class_accuracy={NAME: 0.25, "cat": 1.0}, values={NAME: 1.0}, warnings=[NAME]
    )
    layers = [LayerResult(NAME, NAME, 3, 10, 5, 10, 5, reason=NAME)]
    place = {"device": NAME, "threads": 1}
    return Result("missed", "0" * 16, None, None, 0, "decompose", {}, [phase], layers, place)


def test_names_of_classes_layers_phases_and_machines(capsys: pytest.CaptureFixture) -> None:
    console = Console(progress=True)
    console.phase(1, 2, NAME)
    console.row(result().phases[0])
    console.result(result(), Path(NAME))
    console.plan(NAME, Plan({NAME: PlannedLayer(3, NAME, NAME, 10, 5, 10, 5)}), {NAME: Plan({})})
    console.reachable(NAME, {NAME: (0.1, 0.2, 0.3)}, "all")
    console.estimates([Estimate(NAME, (("a part", 1.0),))], NAME)
    console.say(f"two\nlines of {NAME}")
    said = capsys.readouterr().out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", said)
    assert f"[1/2] {SHOWN}\n" in said
    assert f"weakest class: {SHOWN}, 25.00%" in said
    assert f"two\nlines of {SHOWN}\n" in said
    rows = [line for line in said.splitlines() if line.lstrip().startswith(SHOWN)]
    assert len(rows) >= 5


def test_a_terminal_whose_reader_has_gone_falls_silent():
    reader, writer = os.pipe()
    with open(writer, "w") as file:
        terminal = Terminal(file=file)
        terminal.print("seen")
        assert os.read(reader, 100) == b"seen\n"
        os.close(reader)
        for _ in range(2):
            terminal.print("not seen any more")
        assert terminal.quiet
        print("nor this, printed by others", file=file, flush=True)
