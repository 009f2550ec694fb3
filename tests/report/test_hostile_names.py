"""Names are shown, never obeyed: in the terminal, Markdown, LaTeX, CSV, figures and names of files."""

import csv
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lowrank_exp.files import confusion
from lowrank_exp.files.results import LayerResult, Result
from lowrank_exp.report.cli import main
from lowrank_exp.report.escapes import latex_escaped, markdown_escaped, markdown_item

HOSTILE = {
    "rich markup": "[/nosuch] [bold]x[/bold] :bomb:",
    "escapes": "\x1b[31mred\x1b]0;title\x07",
    "carriage return": "seen\rhidden",
    "newline": "one\n# two",
    "controls": "a\x00b\x08c\x7fd\x9be\u2028f",
    "directions": "txt\u202egpj.exe\u2066",
    "lone surrogate": "a\ud800b",
    "link": "X9[click](http://u) ![i](j)",
    "html": "<script>alert(1)</script><img src=x>",
    "pipe and backticks": "a|b `c` ~~d~~ *e* __f__",
    "formula": '=HYPERLINK("u")',
    "formula of a sign": "@SUM(1)",
    "mathtext": "$\\frac{$ and $x$",
    "latex": "\\input{x} % $a$ {b} ~^ & # \\end{document}",
    "hidden label": "_hidden",
    "long": "very long " * 300,
    "path": "../../etc/passwd",
    "wide": "日本語 größe 🙂",
}


EVERY = list(HOSTILE.values())


def named(job: Callable, name: str, classes: list[str]) -> Result:
    """A job that has the name everywhere a name can stand."""
    place = dict.fromkeys(("machine", "device", "commit", "date"), name)
    made = job(row=name, environment=place, warnings=(name,), k=name)
    phases = [
        replace(phase, name=f"{name} {n}", class_accuracy=dict.fromkeys(classes, 0.5), values={"own": 1.0})
        for n, phase in enumerate(made.phases)
    ]
    layers = [LayerResult(name, name, 3, 10, 5, 10, 5, reason=name)]
    return replace(made, experiment=classes[0], method=name, phases=phases, layers=layers)


def write(folder: Path, *jobs: Result) -> Path:
    for number, job in enumerate(jobs):
        job.write(folder / str(number) / "result.json")
    return folder


@pytest.mark.parametrize("names", [EVERY[:9], EVERY[9:]])
def test_a_report_obeys_nothing(
    job: Callable, conf: Path, tmp_path: Path, capfd: pytest.CaptureFixture, names: list[str]
) -> None:
    made = [named(job, name, names) for name in names]
    folder = write(tmp_path / "runs", *made, replace(job(row="plain"), experiment="other"))
    for phase in made[-1].phases:
        counts = confusion.path_in(folder / str(len(made) - 1), phase.name)
        confusion.write(counts, names, np.eye(len(names), dtype=int))
    assert main([str(folder), "--classes"], conf=conf) == 0
    said = capfd.readouterr()
    assert said.err == ""
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202a-\u202e\u2066-\u2069]", said.out)
    report = folder / "report"
    assert all(path.parent == report and re.fullmatch(r"[\w.=-]{1,120}", path.name) for path in report.iterdir())
    assert {path.suffix for path in report.iterdir()} == {".csv", ".md", ".tex", ".png", ".pdf"}
    for table in report.glob("*.csv"):
        cells = [cell for line in csv.reader(io.StringIO(table.read_text())) for cell in line]
        assert not [cell for cell in cells if re.match(r"[=@+\t\r]|-(?![\d.]+(e-?\d+)?$)", cell)]
    markdown = (report / "results.md").read_text()
    assert not re.search(r"(?<!\\)\[|<[a-z/]|(?<!\\)`|(?<![:\\]):(?=//)", markdown)
    widths = {line.count("|") - line.count("\\|") for line in markdown.splitlines() if line.startswith("|")}
    assert 0 not in widths
    latex = "\n".join(line for line in (report / "results.tex").read_text().splitlines() if not line.startswith("%"))
    assert "\\input" not in latex
    assert latex.count("\\end{document}") == 0
    assert not re.search(r"\\\\\s*[\[*]", latex)


def test_names_stay_readable(job: Callable, conf: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    made = [job(row=name, seed=seed) for seed, name in enumerate(("[/nosuch]", ":bomb:", "-x", "日本語", "a\x1b[31mb"))]
    assert main([str(write(tmp_path / "runs", *made))], conf=conf) == 0
    printed = capfd.readouterr().out
    assert all(name in printed for name in ("[/nosuch]", ":bomb:", "日本語", "a\\x1b[31mb"))
    rows = (tmp_path / "runs" / "report" / "results.csv").read_text()
    assert "\n'-x," in rows
    assert "\\[/nosuch\\]" in (tmp_path / "runs" / "report" / "results.md").read_text()


def test_files_of_names_that_differ_in_what_no_file_name_has(job: Callable, conf: Path, tmp_path: Path) -> None:
    made = [replace(job(row="r", seed=seed), experiment=name) for seed, name in enumerate(("a/b", "a b", "a_b"))]
    folder = write(tmp_path / "runs", *made)
    assert main([str(folder)], conf=conf) == 0
    assert len({path.name for path in (folder / "report").glob("tradeoff-a_b*.png")}) == 3


def test_odd_environments_and_configurations_are_read(job: Callable, conf: Path, tmp_path: Path) -> None:
    odd = {"machine": ["a"], "device": {"b": None}, "threads": "many", "commit": 5, "date": None, "latency": [1]}
    made = job(environment=odd, method={"dense": ["x"]}, latency="soon", decomposition=[], rank=None)
    folder = write(tmp_path / "runs", made, replace(made, config={}, environment={}, fingerprint="f" * 16))
    assert main([str(folder)], conf=conf) == 0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("svd_energy 2 x 3", "svd_energy 2 x 3"),
        ("_a_ b_", r"\_a\_ b\_"),
        ("a*b*[c]|`d`", r"a\*b\*\[c\]\|\`d\`"),
        ("<b>&amp;&", "&lt;b>&amp;amp;&"),
        ("see http://u and www.v", r"see http\://u and www\.v"),
        ("back\\slash $x$", r"back\\slash \$x\$"),
    ],
)
def test_markdown(text: str, shown: str) -> None:
    assert markdown_escaped(text) == shown


def test_an_item_begins_no_other_block() -> None:
    assert [markdown_item(text) for text in ("# a", "- b", "12. c", "> d", "1 e")] == [
        r"- \# a",
        r"- \- b",
        r"- 12\. c",
        r"- \> d",
        "- 1 e",
    ]


def test_latex_arguments_behind_a_line_break_or_an_item() -> None:
    assert latex_escaped("[/x] *y* <z> |") == r"{[}/x{]} {*}y{*} \textless{}z\textgreater{} \textbar{}"
