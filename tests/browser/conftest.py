"""One headless Chromium for all tests in a browser, and what they ask of a page."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from support.synthetic_page import write_page

FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--lang=en")


class Browser:
    """A page in a window of a size, with what its console said."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, route: str = "", *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Open a page of the disk as it is seen for the first time in a window of this size; the network is off."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen", "features": [scheme]})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get("about:blank")
        # By the browser itself: what a page clears may reach the next one after that has kept something.
        self.driver.execute_cdp_cmd(
            "Storage.clearDataForOrigin", {"origin": "file://", "storageTypes": "local_storage"}
        )
        self.driver.get_log("browser")
        self.driver.get(f"{page.as_uri()}{route}")
        self.drawn()

    def drawn(self) -> None:
        """Wait until the figures are drawn, which is in the frame after the next."""
        wait = "requestAnimationFrame(() => requestAnimationFrame(() => arguments[0]()))"
        self.driver.execute_async_script(wait)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script in the page returns, after its figures are drawn."""
        found = self.driver.execute_script(script, *arguments)
        self.drawn()
        return found

    def each(self, selector: str, what: str) -> list[Any]:
        """An expression in `one`, of every element that a selector names."""
        return self.run(f"return [...document.querySelectorAll(arguments[0])].map((one) => {what})", selector)

    def texts(self, selector: str) -> list[str]:
        """The texts of elements."""
        return self.each(selector, "one.textContent")

    def press(self, selector: str, text: str) -> None:
        """Click the first of these elements that has the text."""
        find = "[...document.querySelectorAll(arguments[0])].find((one) => one.textContent === arguments[1])"
        self.run(f"{find}.click()", selector, text)
        self.drawn()

    def go(self, route: str) -> None:
        """Change what stands behind the # of the address."""
        self.run("location.hash = arguments[0]", route)
        self.drawn()

    def copied(self, selector: str, text: str) -> str:
        """What a button puts into the clipboard."""
        self.run("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
        self.press(selector, text)
        return self.run("return window.copied")

    def errors(self) -> list[str]:
        """What the console said since the page was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The browser, without a network."""
    options = Options()
    for flag in FLAGS:
        options.add_argument(flag)
    options.binary_location = str(shutil.which("chromium"))
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.execute_cdp_cmd("Network.enable", {})
    conditions = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", conditions)
    yield Browser(driver)
    driver.quit()


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a small made-up comparison."""
    return write_page(tmp_path_factory.mktemp("page"))
