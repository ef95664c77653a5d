"""The page, served as `crfrnn web` serves it, and a browser that looks at it."""

import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path

import pytest
import uvicorn
from browser_page import PageInBrowser, waited
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from crfrnn.models import Model, load_model
from crfrnn.web.notices import told
from crfrnn.web.page import Page
from crfrnn.web.server import LOCAL, guarded
from crfrnn.web.visits import Visits

PROGRAMS = {"chromium": ("chromium", "chromium-browser", "google-chrome"), "chromium-driver": ("chromedriver",)}
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # which root cannot have
    "--disable-dev-shm-usage",  # small in containers
    "--disable-gpu",
    "--window-size=1400,1150",
    "--disable-background-networking",
)


def program(package: str) -> str:
    """The path of a browser or its driver; the whole run ends with advice if there is none."""
    found = next(filter(None, map(shutil.which, PROGRAMS[package])), None)
    if found is None:
        pytest.exit(
            f"the browser tests need {PROGRAMS[package][0]}, which is not installed: "
            "apt-get install chromium chromium-driver (Debian; elsewhere Chromium or Chrome, and its chromedriver)",
            returncode=3,
        )
    return found


@pytest.fixture(scope="session")
def outside() -> Iterator[list[object]]:
    """Addresses beyond this machine that the process connected to, or asked the name of."""
    found: list[object] = []
    connect, resolve = socket.socket.connect, socket.getaddrinfo
    local = (*LOCAL, "", None, "0.0.0.0")

    def connecting(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX and address[0] not in local:
            found.append(address)
            raise OSError("tests stay on this machine")
        return connect(self, address)

    def resolving(host: object, *arguments: object, **options: object) -> object:
        if host not in local:
            found.append(host)
            raise OSError("tests stay on this machine")
        return resolve(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connecting)
        patch.setattr(socket, "getaddrinfo", resolving)
        yield found


class ObservedPage(Page):
    """A page that knows how many results its browsers have shown: what is `watched` is asked for after that."""

    results = 0

    @wraps(Page.watched)
    async def watched(self, *arguments: object) -> object:
        try:
            return await super().watched(*arguments)
        finally:
            self.results += 1


@pytest.fixture(scope="session")
def model() -> Model:
    return load_model()


@pytest.fixture(scope="session")
def visits() -> Visits:
    return Visits()


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Where everything of this process goes that is written to a temporary folder."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", name)
        patch.setenv("GRADIO_TEMP_DIR", str(Path(name, "gradio")))
        yield Path(name)


@pytest.fixture(scope="session")
def served(model: Model, visits: Visits) -> ObservedPage:
    return ObservedPage(model, visits)


@pytest.fixture(scope="session")
def address(served: ObservedPage, folder: Path, outside: list[object]) -> Iterator[str]:
    """The page's address."""
    listener = socket.create_server(("127.0.0.1", 0))
    application = guarded(served.blocks, LOCAL)
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listener],))
    with told():
        thread.start()
        waited(lambda: server.started, "the server")
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = program("chromium")
    for each in OPTIONS:
        options.add_argument(each)
    downloads = tmp_path_factory.mktemp("downloads")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(program("chromium-driver")))
    driver.downloads = downloads
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: webdriver.Chrome, address: str, served: ObservedPage) -> Iterator[Callable[[], PageInBrowser]]:
    """Opens the page in a new window; all are closed after the test."""
    pages = []

    def page() -> PageInBrowser:
        pages.append(PageInBrowser.of(browser, address, lambda: served.results))
        return pages[-1]

    yield page
    for each in pages:
        each.close()


@pytest.fixture
def screenshot(browser: webdriver.Chrome) -> Callable[[str], None]:
    """Takes a picture of the window for the documentation, if the environment says where to: SCREENSHOTS=docs."""
    from PIL import Image

    def take(name: str) -> None:
        target = os.environ.get("SCREENSHOTS")
        if target:
            picture = Path(target, f"{name}.png")
            browser.save_screenshot(str(picture))
            with Image.open(picture) as shown:
                shown.convert("RGB").save(picture.with_suffix(".jpg"), quality=82, optimize=True)
            picture.unlink()

    return take
