"""The page as a user has it in a browser: what one can do there, and what one sees."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

PATIENCE = 300.0
"""Seconds after which something is taken not to happen any more; no test asserts how fast it is."""


def waited(happened: Callable[[], Any], what: str) -> Any:
    """What a condition gives once it holds."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            found = happened()
        except StaleElementReferenceException:
            found = None
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited in vain for {what}")


class PageInBrowser:
    """A window with the page.

    Args:
        results: How many results have been shown in all windows.
    """

    def __init__(self, driver: webdriver.Chrome, handle: str, results: Callable[[], int]) -> None:
        self.driver, self.handle, self.results = driver, handle, results

    @classmethod
    def of(cls, driver: webdriver.Chrome, address: str, results: Callable[[], int]) -> PageInBrowser:
        """The page in a new window."""
        driver.switch_to.new_window("window")
        driver.set_window_size(1400, 1150)
        driver.get(address)
        page = cls(driver, driver.current_window_handle, results)
        waited(lambda: page.all("[data-example]"), "the page")
        return page

    def all(self, selector: str) -> list[WebElement]:
        """The elements of a selector of CSS."""
        if self.driver.current_window_handle != self.handle:
            self.driver.switch_to.window(self.handle)
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        """The first element of a selector, once it is there."""
        return waited(lambda: self.all(selector), selector)[0]

    def click(self, selector: str) -> None:
        element = self.one(selector)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def click_text(self, selector: str, text: str) -> None:
        """Click the element of a selector that shows this text."""
        waited(lambda: [each for each in self.all(selector) if each.text.strip() == text], text)[0].click()

    def choose(self, dropdown: str, text: str) -> None:
        """Choose from a dropdown of Gradio."""
        self.click(f"#{dropdown} input")
        self.click_text(f"#{dropdown} [role=option]", text)

    @property
    def times(self) -> str:
        """The line with the times."""
        return self.one("#times").text

    @property
    def legend(self) -> dict[str, float]:
        """The share of each class in the legend."""
        rows = [each.text.rsplit(None, 1) for each in self.all("#legend .class")]
        return {name: float(share.rstrip("%")) / 100 for name, share in rows}

    @property
    def sources(self) -> list[str]:
        """The addresses of the pictures before and after."""
        found = [each.get_attribute("src") for each in self.all("#slider img")]
        return [each for each in found if each and each.startswith("data:image/")]

    @property
    def pictures(self) -> list[np.ndarray]:
        """The pictures before and after."""
        contents = [base64.b64decode(each.partition(",")[2]) for each in self.sources]
        return [np.asarray(Image.open(io.BytesIO(each)).convert("RGB")).astype(int) for each in contents]

    def after(self, act: Callable[[], object]) -> str:
        """The line with the times once the result of something done is shown; it may be the same line as before."""
        before = self.results()
        act()
        waited(lambda: self.results() > before, "a result")
        return self.times

    def example(self, name: str) -> str:
        return self.after(lambda: self.click(f"[data-example={name}]"))

    def send(self, picker: str, path: Path) -> None:
        """Choose a file for a picker."""
        self.one(f"#{picker}-picker input[type=file]").send_keys(str(path))

    def upload(self, path: Path) -> str:
        return self.after(lambda: self.send("photo", path))

    def load_scores(self, path: Path) -> str:
        if not [each for each in self.all("#scores-picker") if each.is_displayed()]:
            self.click("#own-scores button")
        return self.after(lambda: self.send("scores", path))

    def push(self, slider: str, key: str = Keys.END) -> None:
        """Move a slider by a key."""
        self.one(f"#{slider} input[type=range]").send_keys(key)

    def tab(self, name: str) -> None:
        self.click_text("button[role=tab]", name)

    def draw(self, class_name: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Draw a scribble between two places, from (0, 0) at the top left to (1, 1) at the bottom right."""
        self.one(f"#scribbles select option[value='{self.class_id(class_name)}']").click()
        canvas = self.one("#scribbles canvas")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
        size = canvas.size

        def offset(place: tuple[float, float]) -> tuple[int, int]:
            return round((place[0] - 0.5) * size["width"]), round((place[1] - 0.5) * size["height"])

        chain = ActionChains(self.driver, duration=60)
        chain.move_to_element_with_offset(canvas, *offset(start)).click_and_hold()
        chain.move_to_element_with_offset(canvas, *offset(end)).release().perform()

    def class_id(self, name: str) -> str:
        options = self.all("#scribbles select option")
        return next(each.get_attribute("value") for each in options if each.get_attribute("textContent") == name)

    def note(self, picker: str) -> str:
        """What is said about the file of a picker, once the server has said it."""

        def said() -> str | None:
            words = self.one(f"#{picker}-picker .note").text
            return None if words.startswith(("sending", "opening")) else words

        return waited(said, "a note")

    def refused(self, picker: str, path: Path) -> str:
        """What is said about a file that is not taken."""
        self.after(lambda: self.send(picker, path))
        return self.note(picker)

    def labels(self) -> np.ndarray:
        """The labels that are downloaded."""
        downloads: Path = self.driver.downloads
        known = set(downloads.iterdir())
        self.click("#save")
        # The browser reserves the name with an empty file before it puts the whole one there.
        path = waited(
            lambda: next((each for each in set(downloads.glob("*.png")) - known if each.stat().st_size), None),
            "the file",
        )
        with Image.open(path) as picture:
            labels = np.asarray(picture)
        path.unlink()
        return labels

    def close(self) -> None:
        if self.handle in self.driver.window_handles:
            self.driver.switch_to.window(self.handle)
            self.driver.close()
            self.driver.switch_to.window(self.driver.window_handles[0])
