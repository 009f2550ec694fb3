"""The page of a run and two runs side by side, in a browser; every link and button; keyboard, print, sizes, colours."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.browser

ROUTES = ("", "#run=0", "#compare=0,1")
# Texts of figures that cover each other, by the rectangles that they take.
OVERLAPS = """
const found = [];
const beside = (a, b) => a.left >= b.right - 1 || b.left >= a.right - 1;
const apart = (a, b) => beside(a, b) || a.top >= b.bottom - 3 || b.top >= a.bottom - 3;
for (const svg of document.querySelectorAll("svg")) {
  const boxes = [...svg.querySelectorAll("text")].map((one) => [one.textContent, one.getBoundingClientRect()]);
  boxes.forEach(([one, a], i) => boxes.slice(i + 1).forEach(([other, b]) => apart(a, b) || found.push([one, other])));
}
return found;
"""


def picture(browser: Any) -> np.ndarray:
    """The whole page as it is seen, `(H, W, 3)`."""
    height = browser.run("return document.documentElement.scrollHeight")
    width = browser.run("return innerWidth")
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.drawn()
    return np.asarray(Image.open(io.BytesIO(browser.driver.get_screenshot_as_png())).convert("RGB"), dtype=int)


def test_a_run_shows_phases_layers_curves_classes_and_how_to_repeat_it(browser: Any, page: Path) -> None:
    browser.open(page, "#run=0")
    assert browser.texts("h1") == ["svd"]
    assert browser.texts("h2") == ["Phases", "Layers", "Curves", "Classes", "Repeat it"]
    assert browser.texts(".tile b") == ["89.80 ± 0.14 %", "500 k", "100 k", "500 kB", "3 ms", "16 ms"]
    assert browser.texts(".layers tbody tr")[0].startswith("conv1900 k → 450 k50.0 %4 of 8")
    assert browser.texts(".layers .why") == ["chosen by uniform", "left alone by a rule"]
    assert [name for name in browser.each("svg[role=img]", "one.getAttribute('aria-label')") if "MACs" not in name] == [
        *(
            "accuracy after every phase",
            "conv1: rank 4 of 8",
            "loss by epoch",
            "accuracy, % by epoch",
            "learning rate by epoch",
        ),
        *("change of accuracy by class", "difference of the confusion matrices"),
    ]
    cut = browser.each(".small .cut", "Number(one.getAttribute('x1'))")
    (low, high) = (float(x) for x in (30, 202))  # of the axis, from rank 1 to 8
    assert cut == [pytest.approx(low + 3.5 / 7 * (high - low))]
    assert browser.each(".even", "one") == []  # at full rank, which is the end of the axis
    epochs = "svg[aria-label$='by epoch'] .tick[text-anchor=middle]"
    assert set(browser.texts(epochs)) == {"1", "2", "3", "4", "5"}
    assert browser.texts(".told li")[-1] == "2 more of dog taken for ship"
    assert browser.texts(".command pre") == ["lowrank-exp hydra.mode=RUN experiment=table1 row=table1/svd seed=0"]
    assert browser.each("dl:not(.config) dt", "[one.textContent, one.nextSibling.textContent]")[:3] == [
        ["seed", "0 (of 0, 1)"],
        ["commit", "0123456789abcdef"],
        ["date", "2026-11-20T10:00:00"],
    ]
    assert browser.errors() == []


def test_a_spectrum_shows_the_rank_at_which_factors_cost_as_much_as_the_layer(browser: Any, page: Path) -> None:
    browser.open(page, "#run=4")  # rank 4 at 0.6 of the MACs: all of them at 6.7
    places = browser.each(".small .even", "[Number(one.getAttribute('x1')), one.textContent]")
    assert places == [[pytest.approx(30 + (4 / 0.6 - 1) / 7 * 172), "as many MACs as the layer itself: rank 6.7"]]


def test_another_seed_of_a_run_is_chosen(browser: Any, page: Path) -> None:
    browser.open(page, "#run=0")
    browser.press(".choice button", "1")
    assert browser.run("return location.hash") == "#run=0&seed=1"
    assert browser.texts(".command pre") == ["lowrank-exp hydra.mode=RUN experiment=table1 row=table1/svd seed=1"]
    browser.go("#run=3&seed=2")
    assert browser.texts("pre.trouble") == ["RuntimeError: no memory for conv_1"]
    assert browser.errors() == []


def test_two_runs_differ_in_configuration_figures_and_layers(browser: Any, page: Path) -> None:
    browser.open(page)
    for number in (0, 1):
        browser.run("document.querySelectorAll('.runs tbody input')[arguments[0]].click()", number)
    browser.press("button", "Compare these two")
    assert browser.run("return location.hash") == "#compare=0%2C1"
    assert browser.texts("h1") == ["Two runs side by side"]

    def lines(section: int) -> list[list[str]]:
        selector = f"section:nth-of-type({section}) tbody tr"
        return browser.each(selector, "[...one.children].map((cell) => cell.textContent)")

    figures = {head: rest for head, *rest in lines(1)}
    assert figures["accuracy %"] == ["89.80 ± 0.14", "89.40 ± 0.14", "−0.40"]
    assert figures["MACs ratio"] == ["0.500", "0.300", "−0.200"]
    assert {head: rest for head, *rest in lines(2)} == {
        "rank._target_": [f"lowrank_exp.rank.policies.{name}.{name}" for name in ("uniform", "energy")],
        "rank.macs": ["0.5", "0.3"],
    }
    layers = {head: rest for head, *rest in lines(3)}
    assert layers["conv1"] == [
        *("900 k → 450 k", "50.0 %", "4 of 8", "spatial_svd"),
        *("900 k → 270 k", "30.0 %", "4 of 8", "spatial_svd"),
    ]
    assert browser.texts("tr.alike th") == ["fc"]
    browser.press("button", "swap")
    assert browser.texts("table a") == ["energy", "svd"]
    assert browser.errors() == []


def test_every_link_and_button_works(browser: Any, page: Path) -> None:
    browser.open(page)
    links = browser.each("a", "one.getAttribute('href')")
    assert len(links) > 10
    for route in dict.fromkeys([*links, "#compare=0,1", "#run=99", "#compare=0,2", "#e=7", "#run=constructor"]):
        assert route.startswith("#")
        browser.go(route)
        assert len(browser.texts("h1")) == 1, route
        pressed = browser.run(  # some buttons draw the page anew, so each is looked up when its turn comes
            "let k = 0; for (let one; (one = document.querySelectorAll('button')[k]); k += 1) one.click(); return k"
        )
        assert pressed >= 2
        assert browser.errors() == [], route
    assert browser.run("return performance.getEntriesByType('resource').map((one) => one.name)") == []


def test_keys_reach_and_open_a_point(browser: Any, page: Path) -> None:
    browser.open(page)
    browser.run("document.querySelector('#front .point').focus()")
    assert browser.run("return document.querySelector('.tip').hidden") is False
    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    browser.drawn()
    assert browser.run("return location.hash") == "#run=4"
    assert browser.texts("h1") == ["poor"]
    assert browser.run("return document.activeElement.id") == "main"
    browser.driver.back()
    browser.drawn()
    assert browser.texts("h2") == ["What accuracy costs", "All runs", "How to read it"]


def test_nothing_overlaps_and_no_page_is_wider_than_its_window(browser: Any, page: Path) -> None:
    for width in (1200, 400):
        browser.open(page, width=width)
        for route in ROUTES:
            browser.go(route or "#")
            assert browser.run(OVERLAPS) == [], (route, width)
            assert browser.run("return document.documentElement.scrollWidth") == width, route
    assert browser.errors() == []


def test_pages_are_drawn_in_light_and_dark(browser: Any, page: Path) -> None:
    for route, width, dark in (("", 1200, False), ("#run=0", 400, False), ("#compare=0,1", 400, True), ("", 400, True)):
        browser.open(page, route, width=width, dark=dark)
        shown = picture(browser)[::2, ::2]
        ground = shown[-1, 0]
        assert bool(ground.mean() < 60) is dark
        inked = (np.abs(shown - ground).sum(2) > 60).mean()
        assert 0.02 < inked < 0.5, (route, width, inked)
        assert len(np.unique(shown @ [1, 256, 65536])) > 50, (route, width)


def test_light_and_dark_are_switched_by_a_button(browser: Any, page: Path) -> None:
    browser.open(page)
    ground = "return getComputedStyle(document.body).backgroundColor"
    seen = [browser.run(ground)]
    for _ in range(2):
        browser.run("document.getElementById('theme').click()")
        seen.append(browser.run(ground))
    assert seen == ["rgb(255, 255, 255)", "rgb(20, 23, 27)", "rgb(255, 255, 255)"]


def test_a_chosen_theme_stays_when_the_page_is_loaded_again(browser: Any, page: Path) -> None:
    browser.open(page)
    browser.run("document.getElementById('theme').click()")
    browser.driver.refresh()
    browser.drawn()
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
    assert browser.texts("#theme") == ["light"]
    browser.open(page)  # as another reader
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.errors() == []


def test_print_is_light_and_without_buttons(browser: Any, page: Path) -> None:
    browser.open(page, dark=True)
    browser.run("document.getElementById('theme').click(); document.getElementById('theme').click()")
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.drawn()
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.each("button:not(th button)", "Boolean(one.offsetParent)").count(True) == 0
    assert browser.run("return document.querySelector('.runs').offsetHeight > 100") is True
