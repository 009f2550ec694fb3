"""Printed tables fit their terminal."""

import io
from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console

from lowrank_exp.report.configuration import configurations
from lowrank_exp.report.fitting import fitted, without_constant, wrapped
from lowrank_exp.report.render import Section
from lowrank_exp.report.table import table
from lowrank_exp.report.terminal import terminal


def test_lines_break_between_words_and_long_words_behind_their_parts() -> None:
    cases = [
        ("a bc def", 4, ["a bc", "def"]),
        ("spatial_svd macs=0.5", 20, ["spatial_svd macs=0.5"]),
        ("spatial_svd macs=0.5", 12, ["spatial_svd", "macs=0.5"]),
        ("weights_fine_tuned", 8, ["weights_", "fine_", "tuned"]),
        ("x" * 7, 3, ["xxx", "xxx", "x"]),
        ("日本語", 4, ["日本", "語"]),
        ("日本", 1, ["日", "本"]),
        ("", 5, [""]),
    ]
    for text, width, lines in cases:
        assert wrapped(text, width).split("\n") == lines


def test_columns_that_say_the_same_of_all_rows_are_said_once() -> None:
    frame = pd.DataFrame({"name": ["a", "b"], "n": ["2", "2"], "none": ["", ""], "one": ["", "x"], "x": ["1", "2"]})
    kept, said = without_constant(frame, ["name"])
    assert (list(kept.columns), said) == (["name", "one", "x"], "n 2")
    absent = pd.DataFrame({"name": list("abc"), "n": list("220"), "front": ["yes", "", ""], "ratio": ["1", "1", ""]})
    kept, said = without_constant(absent, ["name"], [True, True, False])
    assert (list(kept.columns), said) == (["name", "n", "front"], "ratio 1")
    assert without_constant(frame.head(1), ["name"])[0].columns.to_list() == list(frame.columns)


def test_what_finds_no_room_is_left_out_in_order_and_named() -> None:
    frame = pd.DataFrame({"name": ["long_name of a row"], "a": ["1234567890"], "b": ["1234567890"]})
    whole, nothing = fitted(frame, 100, ["name"], ["a", "b"])
    assert (whole.to_dict("list"), nothing) == (frame.to_dict("list"), [])
    narrow, left_out = fitted(frame, 25, ["name"], ["a", "b"])
    assert (narrow.to_dict("list"), left_out) == ({"name": ["long_name of\na row"], "b": ["1234567890"]}, ["a"])
    assert fitted(frame, 11, ["name"], ["a", "b"])[1] == ["a", "b"]


@pytest.mark.parametrize("width", [50, 80, 120])
def test_a_section_fits_the_terminal(job: Callable, width: int) -> None:
    jobs = [
        replace(job(row=f"spatial_svd_fine_tuned_{k}", experiment="table1", ratio=0.5 - k / 10, accuracy=0.899))
        for k in range(3)
    ]
    frame = table(configurations(jobs))
    out = io.StringIO()
    console = Console(file=out, width=width, markup=False, emoji=False, highlight=False)
    terminal([Section("table1", frame, None, [], "", ["a note"])], console)
    lines = out.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= width
    head, measured = out.getvalue().split("Accuracy in percent")
    assert "all rows: n 1, dense % 90.00" in head
    assert "status ok" in " ".join(head.split())
    assert "within 0.5 points: by time " in " ".join(head.split())
    names = [f"spatial_svd_fine_tuned_{k}" for k in range(3)]
    joined = "".join(lines).replace(" ", "")
    assert all(name in joined for name in names) or width == 50
    assert ("no room here, but in the files:" in head) is (width < 80)
    assert "timed_by" in measured or "all rows:" in measured


def test_a_speedup_is_shown_where_times_are_known(job: Callable) -> None:
    def printed(*jobs: object) -> str:
        out = io.StringIO()
        console = Console(file=out, width=120, markup=False, emoji=False, highlight=False)
        terminal([Section("t", table(configurations(list(jobs))), None, [], "", [])], console)
        return out.getvalue()

    untimed = [replace(one, phases=[replace(p, latency_ms=None) for p in one.phases]) for one in (job(), job(epochs=2))]
    assert "speed-up" in printed(job(), job(epochs=2))
    assert "speed-up 1.33" in printed(job(), job(epochs=2))
    assert "speed-up" not in printed(*untimed)
