"""The file of the page: whole or not at all, and nothing in it that is not its own."""

import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest

from lowrank_exp.report.cli import main
from lowrank_exp.report.html.write import as_json, page


def test_nothing_in_the_data_is_markup() -> None:
    hostile = "</script><script>alert(1)</script><!-- & \u2028 \ud800"
    text = as_json({hostile: hostile})
    assert not re.search("[<>&\u2028\ud800]", text)
    whole = page({"a": hostile})
    assert whole.count("<script") == whole.count("</script>") == 2
    assert "alert(1)\\u003c/script\\u003e" in whole


def test_the_page_refers_to_nothing_outside_it() -> None:
    whole = page({})
    assert "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:" in whole
    assert "{{" not in whole
    assert re.findall(r"https?://[^\s\"']+", whole) == ["http://www.w3.org/2000/svg"]  # the name of SVG
    assert not re.search(
        r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|Function|fetch|import)\b\(?", whole
    )
    assert not re.search(r"@import|url\(|transition|animation|@keyframes", whole)


def test_no_part_of_the_page_is_longer_than_a_file_may_be() -> None:
    folder = files("lowrank_exp.report.html") / "page"
    parts = {part.name: part.read_text(encoding="utf-8") for part in folder.iterdir()}
    assert {"page.html", "page.css", "page.js"} <= parts.keys()
    assert all(text.count("\n") < 400 for text in parts.values())
    assert "</script" not in "".join(text for name, text in parts.items() if name.endswith(".js"))


def test_a_file_that_cannot_be_written_makes_status_3_and_leaves_what_was_there(
    runs: Callable, job: Callable, conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = runs(job())
    assert main([str(folder), "--html", "/dev/null/r.html"], conf=conf) == 3
    assert "--out DIR, and a file, --html FILE" in capsys.readouterr().err
    (tmp_path / "taken.html").mkdir()
    (tmp_path / "taken.html" / "kept").write_text("")
    assert main([str(folder), "--html", str(tmp_path / "taken.html")], conf=conf) == 3
    assert [path.name for path in (tmp_path / "taken.html").iterdir()] == ["kept"]
    assert not list(tmp_path.glob(".*part"))
    assert main([str(folder), "--html", str(tmp_path / "new" / "r.html")], conf=conf) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "new" / "r.html")


def test_equal_results_give_equal_bytes(runs: Callable, job: Callable, conf: Path, tmp_path: Path) -> None:
    folder = runs(job())
    for name in ("a.html", "b.html"):
        assert main([str(folder), "--html", str(tmp_path / name)], conf=conf) == 0
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
