"""Names of anybody's making are text in the page, whatever they hold."""

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.synthetic_page import whole_job, write_page

pytestmark = pytest.mark.browser

HOSTILE = [
    "<script>window.hit = 1</script>",
    "<img src=x onerror='window.hit = 2'>",
    "=cmd|' /C calc'!A1",
    "long " + "x" * 195,
    "עברית שלום",
    "</script><b>bold</b>",
    "&lt;i&gt; ${window.hit = 3} {{ data }}",
    "javascript:window.hit=4",
]


def write_hostile(folder: Path) -> Path:
    """A job for each name, which has it wherever a name can stand."""
    for number, name in enumerate(HOSTILE):
        made = whole_job(name, "uniform", 0.3 + number / 20, 0.8 + number / 100, 3.0, 0)
        phases = [
            replace(one, name=f"{name} {k}", class_accuracy={name: 0.5, "b": 0.4}, warnings=[name])
            for k, one in enumerate(made.phases)
        ]
        layers = [replace(layer, name=name, reason=name, decomposition=name) for layer in made.layers]
        place = dict.fromkeys(("machine", "device", "commit", "date"), name)
        choices = dict.fromkeys(("method", "decomposition", "rank", "model", "data"), name)
        config = made.config | {"own": name, name: name}
        made = replace(
            made,
            phases=phases,
            dense=phases[0],
            layers=layers,
            environment=place,
            choices=choices,
            config=config,
            experiment="own",
        )
        made.write(folder / str(number) / "result.json")
    error = f"Traceback\nValueError: {HOSTILE[0]}"
    whole = whole_job(HOSTILE[0], "energy", 0.9, 0.5, 3.0, 1)
    replace(whole, status="failed", phases=[], error=error, experiment="own").write(folder / "failed" / "result.json")
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("hostile"), write_hostile)


def test_hostile_names_are_shown_as_text(browser: Any, page: Path) -> None:
    browser.open(page)
    shown = browser.each(".runs .name > :first-child", "one.title || one.textContent")
    for name in HOSTILE:
        assert any(text.startswith(name) for text in shown), name
    assert max(browser.each(".runs .name > a", "one.textContent.length")) == 120
    label = browser.run("return DATA.rows.map((row) => row.label)")
    for k in range(len(HOSTILE)):
        browser.go(f"#run={k}")
        (title,) = browser.texts("h1")
        assert label[k] in (title, f"{title[:-1]}{label[k][219:]}")
    browser.go("#compare=0,1")
    assert browser.run("return window.hit === undefined") is True
    assert browser.each("main script, main img, main i, main td b", "one.outerHTML") == []
    assert len(browser.texts("script")) == 2
    assert browser.errors() == []


@pytest.mark.parametrize("route", ["", "#run=3", "#compare=3,4"])
def test_long_names_break_nothing(browser: Any, page: Path, route: str) -> None:
    browser.open(page, route, width=400)
    wide = browser.each("main *", "one.closest('.wide, details') ? 0 : one.getBoundingClientRect().right")
    assert 380 < max(wide) <= 400
    assert browser.run("return document.documentElement.scrollWidth") == 400


def test_right_to_left_names_keep_their_direction(browser: Any, page: Path) -> None:
    browser.open(page)
    found = browser.each(".runs a", "[one.textContent.slice(0, 5), getComputedStyle(one).direction]")
    assert [way for text, way in found if text == "עברית"] == ["rtl"]
    assert {way for text, way in found if text != "עברית"} == {"ltr"}
    assert browser.each(".runs", "getComputedStyle(one).direction") == ["ltr"]


def test_no_cell_that_is_copied_is_a_formula(browser: Any, page: Path) -> None:
    browser.open(page)
    names = [line[0] for line in csv.reader(io.StringIO(browser.copied("#table .copy", "CSV")))]
    assert any(name.startswith("'=cmd") for name in names)
    assert not any(name.startswith("=") for name in names)
    markdown = browser.copied("#table .copy", "Markdown")
    assert "&lt;script>window.hit = 1&lt;/script>" in markdown
    assert "<" not in markdown
    latex = browser.copied("#table .copy", "LaTeX")
    assert r"\&lt;i\&gt; \$\{window.hit = 3\} \{\{ data \}\}" in latex
