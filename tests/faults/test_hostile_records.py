"""Records of results that cannot be are a line with the file's name; names that are commands elsewhere are shown."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lowrank_exp.files.results import LayerResult, Result
from lowrank_exp.job.store_command import main as store
from lowrank_exp.report.cli import main
from support.synthetic_jobs import make_job

NAN, INF = float("nan"), float("inf")


def deep(record: dict) -> bytes:
    return b'{"a":' * 100_000 + b"1" + b"}" * 100_000


PHASE: dict[str, list[Any]] = {  # values that a field of a phase cannot have
    "accuracy": [1e308, -1, NAN, INF, [1], "abc", True, {"a": 1}, 1.0000001],
    "macs": [NAN, -INF, -1, "1e6", [], 10**400],
    "loss": ["low", -0.5, {}],
    "values": [None, [], {"own": "x"}, {"own": NAN}],
    "class_accuracy": [None, {"a": 2}, {"a": "b"}, [0.5]],
    "warnings": ["one", [1], None],
    "history": [None, "x", [1]],
    "name": [None, 5, ["a"]],
}
TOP: dict[str, list[Any]] = {  # and of a result
    "seed": [None, "0", 1.5, [0], NAN],
    "method": [5, None, ["decompose"]],
    "status": ["fine", None, 0, ["ok"]],
    "phases": [None, {}, [None], ["x"], 3],
    "layers": [None, [{}], [{"name": 3}], [{"name": "a", "rank": "x"}]],
    "environment": [None, [], "here"],
    "config": [None, [], 1],
    "choices": [{"rank": 3}, None, []],
    "fingerprint": [None, 7],
    "surprise": [1],
}
FILES: dict[str, Callable[[dict], bytes]] = {
    "empty": lambda record: b"",
    "cut": lambda record: json.dumps(record).encode()[:-100],
    "not UTF-8": lambda record: json.dumps(record).encode().replace(b"decompose", b"\xff\xfe"),
    "UTF-16": lambda record: json.dumps(record).encode("utf-16"),
    "zeros": lambda record: b"\0" * 4096,
    "deep": deep,
    "deep lists": lambda record: json.dumps(record | {"error": None}).encode()[:-1] + b',"x":' + b"[" * 10**5,
    "a list": lambda record: json.dumps([record]).encode(),
    "a number": lambda record: b"1",
    "a text": lambda record: b'"result"',
    "null": lambda record: b"null",
    "two": lambda record: 2 * json.dumps(record).encode(),
    "a huge number": lambda record: b'{"seed": ' + b"9" * 10**6 + b"}",
    "a huge text": lambda record: json.dumps(record | {"seed": "x" * 10**6}).encode(),
    "a huge key": lambda record: json.dumps(record | {"\x1b[31m" * 10**5: 1}).encode(),
    "too large": lambda record: b" " * (2**26 + 1),
}


def hostile(record: dict) -> dict[str, bytes]:
    """Files that are no results, by what is wrong with them."""
    found = {name: make(record) for name, make in FILES.items()}
    for field, values in TOP.items():
        found |= {f"{field} {number}": written(record | {field: value}) for number, value in enumerate(values)}
    for field, values in PHASE.items():
        for number, value in enumerate(values):
            first, last = record["phases"]
            found[f"phase {field} {number}"] = written(record | {"phases": [first, last | {field: value}]})
    return found


def written(record: dict) -> bytes:
    return json.dumps(record).encode()


def test_records_that_cannot_be_are_a_line_each_and_the_report_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    good = tmp_path / "runs/good/result.json"
    make_job(row="the good one").write(good)
    record = json.loads(good.read_text())
    del record["digest"]
    files = hostile(record)
    assert len(files) > 60
    for number, content in enumerate(files.values()):
        path = tmp_path / f"runs/n{number:03}/result.json"
        path.parent.mkdir()
        path.write_bytes(content)
    assert main([str(tmp_path / "runs"), "--html", str(tmp_path / "page.html")]) == 1
    said = capfd.readouterr()
    assert said.err == ""
    assert "\x1b" not in said.out
    assert len(said.out) < 60_000
    markdown, page = (tmp_path / "runs/report/results.md").read_text(), (tmp_path / "page.html").read_text()
    shown = re.sub(r"\s", "", said.out)
    for number, name in enumerate(files):
        path = f"runs/n{number:03}/result.json"
        assert f"{path}" in shown, name
        assert path in page, name
        assert path in markdown.replace("\\", ""), name
    assert len(re.findall(r"cannotberead:", shown)) == len(files)
    assert "the good one" in said.out
    assert main([str(tmp_path / "runs"), "--compare", "the good one", "the good one"]) == 0
    assert "Traceback" not in capfd.readouterr().err


NAMES = (
    "[/x] [bold]b[/bold] :bomb:",
    "\x1b[31mred\x1b]0;title\x07",
    "=cmd|'/c calc'!A1",
    "+1+1",
    "-2+3",
    "@SUM(1)",
    "$\\frac{$",
    "$x$ \\input{y}",
    "[click](http://u) ![i](j)",
    "<script>alert(1)</script><img src=x onerror=y>",
    "seen\rhidden",
    "one\n# two",
    "\u202egpj.exe\u2066",
    "a\x00b\x9bc\u2028d",
    "a\ud800b",
    "</title><style>*{display:none}</style>",
    "'\"><b>",
    "javascript:alert(1)",
    "${jndi:x} {{7*7}} {% raw %}",
    "../../etc/passwd",
    "größe 日本語 🙂",
)
CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202a-\u202e\u2066-\u2069]")


@pytest.mark.slow
def test_names_are_shown_side_by_side_in_pages_and_in_lists(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    runs = tmp_path / "outputs" / "runs"
    for number, name in enumerate(NAMES):
        made: Result = make_job(row=name, k=name, warnings=(name,))
        phases = [replace(phase, class_accuracy={name: 0.5}) for phase in made.phases]
        layers = [LayerResult(name, name, 3, 10, 5, 10, 5, reason=name)]
        replace(made, phases=phases, layers=layers, method=name).write(runs / f"n{number}" / "result.json")
    assert main([str(runs), "--html", str(tmp_path / "page.html"), "--layers", "--classes"]) == 0
    for number in range(1, len(NAMES)):
        assert main(["--compare", str(runs / "n0"), str(runs / f"n{number}")]) == 0
    for command in ("list", "verify"):
        (tmp_path / "outputs/store/a\x1b[31mb-0123456789abcdef").mkdir(parents=True, exist_ok=True)
        (tmp_path / "outputs/store/[red]c\r-0123456789abcdef").mkdir(parents=True, exist_ok=True)
        store([command, "--store", str(tmp_path / "outputs/store")])
    said = capfd.readouterr()
    assert CONTROLS.search(said.out + said.err) is None
    assert "[/x] [bold]b[/bold] :bomb:" in said.out
    assert "[red]c" in said.out
    page = (tmp_path / "page.html").read_text()
    assert re.search(r"<script>alert|<img src=x|</title><style>\*", page.partition("<body")[2]) is None
    assert re.search(r'href="(?!https?:|#|data:)', page) is None
    for table in (runs / "report").glob("*.csv"):
        assert re.search(r"(^|,)\"?[=@+](?![\d.]+(,|$))", table.read_text(), re.MULTILINE) is None
