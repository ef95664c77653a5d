"""The site that `make wasm` builds, served, and what one does on its page In your browser."""

import functools
import importlib.util
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common import action_chains as actions
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.support.ui import WebDriverWait as Wait

from repository import ROOT

SITE = ROOT / "site"
PACKAGE = "browser/crfrnn"
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PHONE = {"width": 390, "height": 844, "pixelRatio": 2, "touch": True}
SCREENSHOTS = ROOT / "out" / "browser"
PATIENCE = 300  # seconds: a guard against what never ends
LOST = 20  # seconds, after which a touch had no effect


class Handler(SimpleHTTPRequestHandler):
    """Files of several folders by the first part of the address."""

    def __init__(self, folders: dict[str, Path], isolated: bool, hidden: str | None, *arguments: Any) -> None:
        self.folders, self.isolated, self.hidden = folders, isolated, hidden
        super().__init__(*arguments)

    def translate_path(self, path: str) -> str:
        first, _, rest = path.split("?")[0].lstrip("/").partition("/")
        if self.hidden and path.lstrip("/").startswith(self.hidden):
            return str(SITE / "nothing")
        return str(self.folders[first] / rest if first in self.folders else SITE / path.split("?")[0].lstrip("/"))

    def end_headers(self) -> None:
        if self.isolated:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Starts a server for the site, and for the cases of the package's tests; returns its address."""
    servers = []
    folder = tmp_path_factory.mktemp("expected")
    expected().write_cases(folder)
    folders = {"expected": folder, "tests": ROOT / "wasm" / "tests"}

    def start(isolated: bool = False, hidden: str | None = None) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, folders, isolated, hidden))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def expected() -> ModuleType:
    """wasm/tests/expected.py."""
    specification = importlib.util.spec_from_file_location("expected", ROOT / "wasm" / "tests" / "expected.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def browse() -> Iterator[Callable[..., Any]]:
    """Opens an address in a browser of its own, on a phone if asked."""
    drivers = []

    def start(address: str, phone: bool = False) -> Any:
        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1300,1000"):
            options.add_argument(argument)
        if phone:
            options.add_experimental_option("mobileEmulation", {"deviceMetrics": PHONE})
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        drivers.append(driver)
        driver.set_script_timeout(PATIENCE)
        driver.get(address)
        return driver

    yield start
    for driver in drivers:
        driver.quit()


def by_id(driver: Any, name: str) -> Any:
    return driver.find_element("id", f"crf-{name}")


def settle(driver: Any) -> None:
    """Waits until all that was asked for is drawn."""
    Wait(driver, PATIENCE).until(
        lambda _: by_id(driver, "app").is_displayed() and by_id(driver, "app").get_attribute("aria-busy") == "false"
    )


def pixels(driver: Any, selector: str = "#crf-canvas") -> bytes:
    """What a canvas shows, as the data of a PNG file."""
    return driver.execute_script("return document.querySelector(arguments[0]).toDataURL()", selector).encode()


def move(driver: Any, name: str, value: float) -> None:
    """Moves a slider, or chooses."""
    script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event(arguments[2]))"
    element = by_id(driver, name)
    driver.execute_script(script, element, value, "change" if element.tag_name == "select" else "input")
    settle(driver)


def stroke(driver: Any, points: list[tuple[float, float]], kind: str = "touch") -> None:
    """Draws a line through points of the canvas, each a share of its width and height."""
    canvas = by_id(driver, "canvas")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    width, height = canvas.size["width"], canvas.size["height"]
    chain = actions.ActionBuilder(driver, mouse=PointerInput(kind, "pen"), duration=20)
    for index, (x, y) in enumerate(points):
        chain.pointer_action.move_to(canvas, round((x - 0.5) * width), round((y - 0.5) * height))
        if index == 0:
            chain.pointer_action.pointer_down()
    chain.pointer_action.pointer_up()
    before = pixels(driver)
    chain.perform()
    Wait(driver, PATIENCE).until(lambda _: pixels(driver) != before)
    settle(driver)


def press(driver: Any, element: Any, happened: Callable[[], bool]) -> None:
    """Presses a button, until that has an effect.

    On a phone a click comes some time after the touch. Of some touches Chromium's emulated phone makes none, where the
    machine is busy: the button gets pointerup and touchend, and no click. Those are done again.
    """
    element.click()
    try:
        Wait(driver, LOST).until(lambda _: happened())
    except TimeoutException:
        element.click()
        Wait(driver, PATIENCE).until(lambda _: happened())
    settle(driver)


def screenshot(driver: Any, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    driver.save_screenshot(str(SCREENSHOTS / f"{name}.png"))
