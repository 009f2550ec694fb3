"""Cells, escapes and widths of the printed tables."""

import math
import re
from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest

from lowrank_exp.files.results import Result
from lowrank_exp.report.configuration import configurations
from lowrank_exp.report.render import (
    APART,
    Section,
    figures_text,
    formatted,
    latency_conditions,
    latex,
    latex_escaped,
    markdown,
    origin,
)
from lowrank_exp.report.table import OTHERWISE_TIMED, notes, table
from lowrank_exp.report.terminal import QUANTITIES


def section(frame: pd.DataFrame, **changes: object) -> Section:
    values = {"comparison": None, "source": [], "conditions": "Latency: somewhere.", "notes": []}
    return Section(**({"title": "table_1 & more", "frame": frame} | values | changes))


def test_cells(job: Callable) -> None:
    jobs = [job(seed=s, dense=0.91, accuracy=a, ratio=0.5) for s, a in ((0, 0.90), (1, 0.92))]
    text = formatted(table(configurations(jobs))).iloc[0].to_dict()
    assert text == {
        "configuration": "decompose",
        "n": "2",
        "dense %": "91.00 ± 0.00",
        "accuracy %": "91.00 ± 1.41",
        "change": "+0.00 ± 1.41 ≈",
        "MACs M": "0.50",
        "MACs ratio": "0.500",
        "weights k": "100.0",
        "weights ratio": "0.500",
        "parameters k": "125.0",
        "file kB": "500.0",
        "latency ms": "3.000 ± 0.000",
        "speed-up": "1.33",
        "seconds": "15",
        "status": "ok",
    }


def test_one_seed_is_shown_without_spread(job: Callable) -> None:
    text = formatted(table(configurations([job(accuracy=0.875, dense=0.9)]))).iloc[0]
    assert (text["accuracy %"], text["change"], text["latency ms"]) == ("87.50", "-2.50", "3.000")


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b & 50 % #1 $x {y}", r"a\_b \& 50 \% \#1 \$x \{y\}"),
        ("~ ^ \\", r"\textasciitilde{} \textasciicircum{} \textbackslash{}"),
        ("-0.29 ± 0.10", r"$-$0.29 $\pm$ 0.10"),
        ("2026-11-20 CR-P", "2026-11-20 CR-P"),
    ],
)
def test_latex_escapes(text: str, escaped: str) -> None:
    assert latex_escaped(text) == escaped


def test_latex_tables_use_booktabs_and_escape_labels(job: Callable) -> None:
    frame = table(configurations([job(row="svd_energy", accuracy=0.8), job(row="50%", epochs=2)]))
    text = latex([section(frame, notes=["failed: a_b\nc"])])
    for part in (
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
        r"svd\_energy & 1 & 90.00 & 80.00 & $-$10.00 &",
        r"50\% &",
    ):
        assert part in text
    assert r"\caption{table\_1 \& more. Accuracy in percent, mean $\pm$" in text
    assert "% failed: a_b\n% c\n" in text
    assert "svd_energy" not in text
    rows = [line for line in text.split(r"\end{tabular}")[0].splitlines() if line.endswith(r"\\")]
    assert [line.replace(r"\&", "").count("&") for line in rows] == [14, 14, 14]


def test_markdown_holds_convention_origin_and_notes(job: Callable) -> None:
    frame = table(configurations([job(row="a|b", accuracy=0.8)]))
    text = markdown([section(frame, notes=["missing: x"])])
    assert "a\\|b" in text
    assert "MACs: 1 multiply-accumulate = 1, convolutions and linear layers only" in text
    assert "Latency: somewhere." in text
    assert "- missing: x" in text
    assert frame["hash"][0] in text
    row = next(line for line in text.splitlines() if line.startswith("| a"))
    assert [cell.strip() for cell in row.replace("\\|", "").split("|")][2:6] == [
        "1",
        "90.00",
        "80.00",
        "-10.00",
    ]


def test_origin_is_short(job: Callable) -> None:
    later = {"date": "2026-11-22T09:00:00", "commit": "0123456789ffffff"}
    shown = origin(table(configurations([job(seed=0), job(seed=1, environment=later)]))).iloc[0]
    assert (shown["commit"], shown["date"], shown["seeds"]) == ("01234567", "2026-11-20 to 2026-11-22", "0 1")


def timed(result: Result, name: str, batch: int = 1, **runtime: object) -> Result:
    """A job whose phases were timed by a runtime."""
    last = replace(
        result.phases[-1], latency=[{"batch_size": batch}], runtime={"name": name, "version": "1.0", **runtime}
    )
    return replace(result, phases=[*result.phases[:-1], last])


def test_latency_conditions(job: Callable) -> None:
    frame = table(configurations([job(), job(epochs=2)]))
    assert latency_conditions(frame) == (
        "Latency: median ms of one forward pass. Timed by torch 2.15.0, 2 threads, batch 1. "
        "Jobs: device cpu, threads 2."
    )
    mixed = table(configurations([job(), job(epochs=2, environment={"device": "cuda"})]))
    assert latency_conditions(mixed).endswith("Jobs: device and threads as listed by row.")
    one = timed(job(), "onnxruntime", 8, threads=1)
    assert "Timed by onnxruntime 1.0, 1 thread, batch 8. Jobs" in latency_conditions(table(configurations([one])))


def test_rows_timed_in_different_ways_say_so_each_beside_its_time(job: Callable) -> None:
    ways = {"onnxruntime": {"threads": 1}, "openvino": {"threads": 2}}
    jobs = [timed(job(epochs=number), name, **ways[name]) for number, name in enumerate(ways)]
    frame = table(configurations(jobs))
    told = ["onnxruntime 1.0, 1 thread, batch 1", "openvino 1.0, 2 threads, batch 1"]
    assert list(formatted(frame, QUANTITIES)["timed by"]) == list(origin(frame)["timed_by"]) == told
    assert APART in latency_conditions(frame)
    alike = table(configurations([jobs[0], timed(job(epochs=1), "onnxruntime", threads=1)]))
    assert "timed by" not in formatted(alike)
    assert APART not in latency_conditions(alike)


def test_seeds_timed_in_different_ways_have_no_mean_latency(job: Callable) -> None:
    rows = configurations([timed(job(seed=0), "eager", 1), timed(job(seed=1), "eager", 8)])
    row = table(rows).iloc[0]
    assert math.isnan(row["latency_ms_mean"])
    assert row["seconds_mean"] == 15.0
    assert notes(rows) == [f"decompose: {OTHERWISE_TIMED}: eager 1.0, batch 1; eager 1.0, batch 8"]


def test_one_seed_with_top5_and_the_accuracy_after_every_phase(job: Callable) -> None:
    result = job()
    middle = replace(result.phases[-1], name="factorize", accuracy=0.625, top5=0.75)
    result = replace(result, phases=[result.phases[0], middle, replace(result.phases[-1], top5=0.96875)])
    text = formatted(table(configurations([result])))
    assert text["top-5 %"].tolist() == ["96.88"]
    assert text["factorize %"].tolist() == ["62.50"]
    assert list(text.columns)[2:5] == ["dense %", "factorize %", "accuracy %"]


def test_figures_of_single_phases_have_a_table_of_their_own(job: Callable) -> None:
    def with_figure(seed: int, value: float) -> Result:
        plain = job(seed=seed)
        return replace(plain, phases=[plain.phases[0], replace(plain.phases[1], values={"spearman": value})])

    frame = table(configurations([with_figure(0, 0.5), with_figure(1, 0.75), job(policy="energy")]))
    text = figures_text(frame)
    assert text.to_dict("records") == [
        {
            "configuration": frame["configuration"][0],
            "phase": "finetune",
            "figure": "spearman",
            "value": "0.625 ± 0.1768",
        }
    ]
    assert "| finetune | spearman | 0.625 ± 0.1768 |" in re.sub(" +", " ", markdown([section(frame)]))
    assert r"spearman & 0.625 $\pm$ 0.1768" in latex([section(frame)])
    assert "figures of single phases" not in markdown([section(table(configurations([job()])))])


def test_warnings_mark_the_row_and_stand_below_the_tables(job: Callable) -> None:
    jobs = [job(row="a_b", warnings=("at 10 %",)), job(row="c", status="missed", warnings=("0.9",)), job(row="d")]
    rows = configurations(jobs)
    frame = table(rows)
    assert formatted(frame)["status"].tolist() == ["ok (!)", "missed (!)", "ok"]
    notes = ["warning: a_b, seed 0: finetune: at 10 %", "missed: c, seed 0: finetune: 0.9"]
    assert "\n".join(f"- {note}" for note in notes) in markdown([section(frame, notes=notes)])
    shown = latex([section(frame, notes=[*notes, "missing: x"])])
    assert r"\item warning: a\_b, seed 0: finetune: at 10 \%" in shown
    assert shown.count(r"\item") == 2
    assert shown.endswith("% missing: x\n")
    assert "% warning" not in shown  # once is enough
    assert r"\item" not in latex([section(frame, notes=["missing: x"])])
