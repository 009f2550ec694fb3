"""The overview in a browser: the answer, the front, and the table."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from lowrank_exp.report.html.write import page as whole_page

pytestmark = pytest.mark.browser

ROWS = ["svd", "energy", "absent", "cheap", "poor"]


def names(browser: Any) -> list[str]:
    return browser.each(".runs tbody .name", "one.firstChild.textContent")


def test_the_answer_stands_on_top_with_its_command(browser: Any, page: Path) -> None:
    browser.open(page)
    assert browser.texts("h1") == ["Take svd: 1.33 times as fast as the dense network, accuracy −0.20 points."]
    assert browser.texts(".pick .label") == [
        "within 0.5 points by time and by MACs; within 1 point by time",
        "within 1 point by MACs",
    ]
    assert browser.texts(".pick pre") == [
        f"lowrank-exp hydra.mode=RUN experiment=table1 row=table1/{row} seed=0" for row in ("svd", "energy")
    ]
    assert browser.errors() == []


def test_the_front_shows_every_run_and_what_is_not_dominated(browser: Any, page: Path) -> None:
    browser.open(page)
    points = browser.each(
        ".point",
        "[one.getAttribute('aria-label').split(':')[0], one.classList.contains('best'),"
        "one.classList.contains('dominated'), one.querySelectorAll('.whisker').length]",
    )
    assert sorted(points) == [
        ["cheap", True, False, 1],
        ["energy", True, False, 1],
        ["poor", False, True, 1],
        ["svd", True, False, 1],
    ]
    assert browser.texts("svg text.dense") == ["dense network 90.00 %"]
    assert browser.run("return document.querySelectorAll('svg path.front').length") == 1
    hollow = browser.each(
        ".published", "[one.getAttribute('aria-label'), getComputedStyle(one.querySelector('.hollow')).fill]"
    )
    assert hollow == [["published: svd", "rgb(255, 255, 255)"], ["published: energy", "rgb(255, 255, 255)"]]


def test_the_front_of_a_search_is_boxed(browser: Any, page: Path, tmp_path: Path) -> None:
    data = json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])
    data["columns"].append({"key": "front", "head": "front of the search", "text": True, "shown": True})
    for number, row in enumerate(data["rows"]):
        row["cells"].append("val_accuracy, macs" if number == 1 else None)
    (tmp_path / "page.html").write_text(whole_page(data))
    browser.open(tmp_path / "page.html")
    assert browser.each(".searched", "one.parentNode.dataset.row") == ["1"]
    assert (
        "Boxed: on the front of a search, which validation images have decided." in browser.texts("#front p.quiet")[0]
    )
    browser.run("document.querySelector('.point[data-row=\\'1\\']').focus()")
    assert "on the front of its search, by validation images: val_accuracy, macs" in browser.texts(".tip")[0]
    browser.open(page)
    assert browser.each(".searched", "one") == []
    assert "Boxed" not in browser.texts("#front p.quiet")[0]


def test_costs_runtimes_and_scales_are_switched(browser: Any, page: Path) -> None:
    browser.open(page)
    seen = [browser.texts("#front svg text.axis")[0]]

    def press(text: str) -> None:
        browser.press("#front button", text)
        seen.append(browser.texts("#front svg text.axis")[0])

    for text in ("weights", "file size", "time", "number", "MACs"):
        press(text)
    assert seen == [
        *("MACs, % of the dense network's", "weights, % of the dense network's", "file size, % of the dense network's"),
        *("time, % of the dense network's", "time of one pass, ms", "MACs, million"),
    ]
    press("time")
    label = "return document.querySelector('.point[data-row=\"0\"]').getAttribute('aria-label')"
    before = browser.run(label)
    browser.run(
        "const list = document.querySelector('#front select'); list.value = list.options[1].value;"
        "list.dispatchEvent(new Event('change'))"
    )
    after = browser.run(label)
    assert (before, after) == (
        "svd: accuracy 89.80 %, time of one pass, ms 3",
        "svd: accuracy 89.80 %, time of one pass, ms 16",
    )
    assert browser.errors() == []


def test_points_and_lines_light_up_together_and_name_the_run(browser: Any, page: Path) -> None:
    browser.open(page)
    lit = "return [...document.querySelectorAll('.lit')].map((one) => [one.tagName, one.dataset.row])"
    point = "const p = document.querySelector('.point[data-row=\"1\"]');"
    assert browser.run(f"{point} p.dispatchEvent(new Event('pointerenter')); {lit}") == [["a", "1"], ["TR", "1"]]
    tip = "document.querySelector('.tip')"
    told = browser.run(f"return [{tip}.hidden, {tip}.firstChild.textContent, {tip}.textContent]")
    assert told[:2] == [False, "energy"]
    assert "accuracy 89.40 % ± 0.14, −0.60 points against dense, 2 seeds" in told[2]
    assert browser.run(f"{point} p.dispatchEvent(new Event('pointerleave')); {lit}") == []
    assert browser.run("return document.querySelector('.tip').hidden") is True
    line = "document.querySelector('.runs tr[data-row=\"3\"]').dispatchEvent(new Event('pointerenter'));"
    assert browser.run(f"{line} {lit}") == [["a", "3"], ["TR", "3"]]


def test_the_table_is_sorted_and_filtered(browser: Any, page: Path) -> None:
    browser.open(page)
    assert names(browser) == ROWS
    press = "document.querySelector('[data-sort=\"{}\"]').click()"
    browser.run(press.format("accuracy"))
    assert names(browser) == ["svd", "energy", "cheap", "poor", "absent"]  # what was not measured stands last
    browser.run(press.format("accuracy"))
    assert names(browser) == ["poor", "cheap", "energy", "svd", "absent"]
    assert browser.run("return document.activeElement.dataset.sort") == "accuracy"
    assert browser.run("return document.querySelector('th[aria-sort=ascending]').textContent") == "accuracy % ↑"
    browser.run(press.format("name"))
    assert names(browser) == sorted(ROWS)
    filter_ = (
        "const box = document.querySelector('input[type=search]'); box.value = arguments[0];"
        "box.dispatchEvent(new Event('input'))"
    )
    browser.run(filter_, "no memory")
    assert names(browser) == ["cheap"]
    assert browser.texts(".count") == ["1 of 5 rows"]
    browser.run(filter_, "UNIFORM channel_svd")
    assert names(browser) == ["poor", "svd"]
    browser.run(filter_, "nothing like this")
    assert names(browser) == []
    assert browser.errors() == []


def test_failed_and_missing_rows_show_their_last_line(browser: Any, page: Path) -> None:
    browser.open(page)
    assert browser.texts(".runs .trouble") == [
        "missing: seed 0, 1 (no result.json)",
        "seed 2 failed: RuntimeError: no memory for conv_1",
    ]
    assert browser.texts(".runs .badge") == ["✓ ok", "✓ ok", "… missing", "✗ failed", "✓ ok"]


def test_columns_are_chosen(browser: Any, page: Path) -> None:
    browser.open(page)
    heads = "return [...document.querySelectorAll('.runs thead button')].map((b) => b.title)"
    first = browser.run(heads)
    assert first == [
        *("configuration", "n", "accuracy %", "change", "MACs ratio", "weights ratio"),
        *("ms (eager 2.15, 1 thread, batch 1)", "speed-up (eager 2.15, 1 thread, batch 1)", "status"),
    ]
    browser.press(".chooser label", "weights ratio")
    browser.press(".chooser label", "seconds")
    assert set(browser.run(heads)) - set(first) == {"seconds"}
    assert set(first) - set(browser.run(heads)) == {"weights ratio"}


def test_the_table_is_copied_as_it_is_shown(browser: Any, page: Path) -> None:
    browser.open(page)
    browser.run("document.querySelector('[data-sort=\"accuracy\"]').click()")

    def copied(kind: str) -> str:
        text = browser.copied("#table .copy", kind)
        assert browser.texts("#said") == [f"table as {kind} copied"]
        return text

    rows = list(csv.reader(io.StringIO(copied("CSV"))))
    assert rows[0][:3] == ["configuration", "n", "accuracy %"]
    assert [row[0] for row in rows[1:]] == ["svd", "energy", "cheap", "poor", "absent"]
    assert rows[1][:4] == ["svd", "2", "89.80 ± 0.14", "-0.20 ± 0.14"]
    assert rows[3][-1] == "failed; seed 2 failed: RuntimeError: no memory for conv_1"
    markdown = copied("Markdown").splitlines()
    assert markdown[1] == "|---|---:|---:|---:|---:|---:|---:|---:|---|"
    assert markdown[2].startswith("| svd | 2 | 89.80 ± 0.14 |")
    latex = copied("LaTeX")
    assert r"svd & 2 & 89.80 $\pm$ 0.14 & $-$0.20 $\pm$ 0.14 &" in latex
    assert r"RuntimeError: no memory for conv\_1 \\" in latex
    assert browser.errors() == []
