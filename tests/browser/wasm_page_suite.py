"""The CRF in a real browser: the npm package's numbers, and docs/browser.md as readers use it.

`make browser` runs this, after `make wasm`. It needs Debian's chromium and chromium-driver, selenium, the package and
the site that holds it.
"""

import functools
import importlib.util
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import crfrnn
from crfrnn.demo import read_example
from crfrnn.files.resize import resize_scores
from repository import ROOT

webdriver: Any = pytest.importorskip("selenium.webdriver", reason="needs the browser extra")
actions: Any = pytest.importorskip("selenium.webdriver.common.action_chains")
PointerInput: Any = pytest.importorskip("selenium.webdriver.common.actions.pointer_input").PointerInput
Wait: Any = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait

SITE = ROOT / "site"
PACKAGE = "browser/crfrnn"
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PHONE = {"width": 390, "height": 844, "pixelRatio": 2, "touch": True}
SCREENSHOTS = ROOT / "out" / "browser"
MOST = 2e-5  # of float32, as in tests/support/tolerances.py
MOST_LABELS = 1e-4
PATIENCE = 300  # seconds: a guard against what never ends
pytestmark = [
    pytest.mark.skipif(
        not (BROWSER and DRIVER), reason="needs chromium and chromedriver (apt-get install chromium-driver)"
    ),
    pytest.mark.skipif(
        not (SITE / PACKAGE / "index.js").is_file(), reason="the site has no WebAssembly: make wasm builds it"
    ),
]


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
    chain.perform()
    settle(driver)


def screenshot(driver: Any, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    driver.save_screenshot(str(SCREENSHOTS / f"{name}.png"))


def changed_by_the_crf(name: str, **values: Any) -> str:
    """The share of pixels that the CRF changes on an example photo, as the page words it."""
    scores = expected().photo_and_scores(name, *read_example(name).shape[:2])[1]
    after = crfrnn.refine(scores, read_example(name), return_labels=True, **values)
    return f"the CRF changed {100 * (after != scores.argmax(axis=0)).mean():.1f} % of the pixels"


CASES = """
const [address, threads, done] = arguments;
(async () => {
  const { createCrf } = await import("/browser/crfrnn/index.js");
  const { readCase, readCases, difference } = await import("/tests/cases.js");
  const read = async (name) => (await fetch(`/expected/${name}`)).arrayBuffer();
  const crfs = await Promise.all(threads.map((count) => createCrf({ threads: count })));
  const found = [];
  for (const each of await readCases(read)) {
    const { image, scores, expected } = await readCase(read, each);
    const results = [];
    for (const crf of crfs) results.push((await crf.refine(scores, image, each.parameters, each.output)).values);
    const isSame = results.every((values) => values.every((value, i) => value === results[0][i]));
    found.push({ name: each.name, output: each.output, isSame, ...difference(results[0], expected) });
  }
  return { found, threads: crfs.map((crf) => crf.threads) };
})().then(done, (error) => done({ error: String(error.stack ?? error) }));
"""


@pytest.mark.parametrize("threads", [[1], [1, 2, 3]], ids=["one", "several"])
def test_numbers_are_those_of_python(serve: Callable[..., str], browse: Callable[..., Any], threads: list[int]) -> None:
    """In a worker, and with threads where the page is cross-origin isolated: these have the same bits."""
    driver = browse(f"{serve(isolated=len(threads) > 1)}/404.html")
    result = driver.execute_async_script(CASES, "", threads)
    assert "error" not in result, result["error"]
    assert result["threads"] == threads
    assert len(result["found"]) >= 20
    for case in result["found"]:
        assert case["isSame"], case
        assert case["share"] <= MOST_LABELS if case["output"] == "labels" else case["largest"] <= MOST, case


DROP = """
fetch("/browser/coffee.png").then((response) => response.blob()).then((blob) => {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([blob], "coffee.png"));
  const event = new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true });
  document.querySelector("#crf-canvas").dispatchEvent(event);
});
"""
FAILURES = """
const [done] = arguments;
(async () => {
  const { createCrf } = await import("/browser/crfrnn/index.js");
  const crf = await createCrf();
  const points = 12 * 8;
  const image = (channels) => ({ width: 12, height: 8, data: new Uint8Array(channels * points) });
  const failures = [];
  const attempt = (promise) => promise.then(
    () => failures.push("nothing"),
    (error) => failures.push(`${error instanceof RangeError} ${error.message}`),
  );
  await attempt(crf.refine(new Float32Array(points + 1), image(3)));
  await attempt(crf.refine(new Float32Array(2 * points), image(20)));
  const { values } = await crf.refine(new Float32Array(2 * points), image(3), {}, "labels");
  failures.push(String(values));
  const late = attempt(crf.refine(new Float32Array(2 * points), image(3)));
  crf.close();
  await late;
  return failures;
})().then(done, (error) => done([String(error)]));
"""


def test_errors_come_out_of_the_worker(serve: Callable[..., str], browse: Callable[..., Any]) -> None:
    """Those of the core too; the worker works on, until it is closed."""
    driver = browse(f"{serve()}/404.html")
    shape, features, labels, closed = driver.execute_async_script(FAILURES)
    assert shape.startswith("true scores hold 97 numbers")
    assert features.startswith("true a permutohedral lattice takes 1 to 16 features, not 22")
    assert labels == ",".join(["0"] * 96)
    assert closed == "false this CRF has been closed: make another one with createCrf()"


def test_from_the_disk_the_page_asks_for_a_server(browse: Callable[..., Any]) -> None:
    driver = browse((SITE / "browser.html").as_uri())
    assert "open this page through a server" in by_id(driver, "message").text


def test_an_example_and_sliders(serve: Callable[..., str], browse: Callable[..., Any]) -> None:
    """The first example is refined as Python refines it, and again for each slider."""
    driver = browse(f"{serve()}/browser.html")
    settle(driver)
    assert changed_by_the_crf("chelsea") in by_id(driver, "times").text
    assert "451×300 pixels and 21 classes" in by_id(driver, "times").text
    assert "1 thread" in by_id(driver, "times").text
    screenshot(driver, "example")
    for name, value in (("theta_beta", 30), ("theta_alpha", 120), ("theta_gamma", 8), ("bilateral_weight", 6)):
        before = pixels(driver)
        move(driver, name, value)
        assert pixels(driver) != before
    move(driver, "preset", "deeplab")
    assert changed_by_the_crf("chelsea", parameters=crfrnn.PRESETS["deeplab"]) in by_id(driver, "times").text
    move(driver, "iterations", 2)
    values = {"parameters": crfrnn.PRESETS["deeplab"], "iterations": 2}
    assert changed_by_the_crf("chelsea", **values) in by_id(driver, "times").text
    assert "2 iterations" in by_id(driver, "times").text


def test_views_and_steps(serve: Callable[..., str], browse: Callable[..., Any]) -> None:
    """Each view is another picture; the steps are drawn, for each iteration and class."""
    driver = browse(f"{serve()}/browser.html")
    settle(driver)
    views = []
    for button in driver.find_elements("css selector", "#crf-views button"):
        button.click()
        views.append(pixels(driver))
    assert len(set(views)) == 4
    driver.find_element("css selector", "#crf-steps summary").click()
    Wait(driver, PATIENCE).until(lambda _: len(driver.find_elements("css selector", "#crf-pictures canvas")) == 9)
    settle(driver)
    names = ["before", "splat", "blur", "bilateral", "spatial", "weighted", "coupled", "logits", "after"]
    steps = [pixels(driver, f"#crf-step-{name} canvas") for name in names]
    assert len(set(steps)) == len(names)
    screenshot(driver, "steps")
    move(driver, "iteration", 2)
    later = [pixels(driver, f"#crf-step-{name} canvas") for name in names]
    assert later[0] == steps[-1]  # what an iteration ends with, the next one begins with
    move(driver, "class", 0)
    assert pixels(driver, "#crf-step-after canvas") != later[-1]


def test_strokes_on_a_photo_of_a_phone(serve: Callable[..., str], browse: Callable[..., Any], tmp_path: Path) -> None:
    """A file, strokes of three classes with a finger; nothing is wider than the screen, nothing goes anywhere."""
    driver = browse(f"{serve()}/browser.html", phone=True)
    settle(driver)
    driver.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    by_id(driver, "file").send_keys(str(ROOT / "src" / "crfrnn" / "data" / "examples" / "coffee.png"))
    Wait(driver, PATIENCE).until(lambda _: "Draw on the photo" in by_id(driver, "message").text)
    settle(driver)
    plain = pixels(driver)
    stroke(driver, [(0.3, 0.55), (0.4, 0.65), (0.55, 0.75)])
    driver.find_element("css selector", "#crf-classes button").click()
    stroke(driver, [(0.05, 0.1), (0.05, 0.9)])
    two = pixels(driver)
    by_id(driver, "add").click()
    settle(driver)
    stroke(driver, [(0.45, 0.3), (0.55, 0.35)])
    assert "600×400 pixels and 3 classes" in by_id(driver, "times").text
    assert len({plain, two, pixels(driver)}) == 3
    assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    screenshot(driver, "phone")
    by_id(driver, "clear").click()
    settle(driver)
    assert pixels(driver) == plain
    addresses = driver.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert {address.split("/")[2] for address in addresses if address.startswith("http")} == {
        driver.current_url.split("/")[2]
    }


def test_strokes_take_the_place_of_scores(serve: Callable[..., str], browse: Callable[..., Any]) -> None:
    """On an example too, as Python has it."""
    driver = browse(f"{serve()}/browser.html")
    settle(driver)
    before = pixels(driver)
    driver.find_element("css selector", "#crf-classes button").click()  # the background
    stroke(driver, [(0.3, 0.5), (0.7, 0.5)], kind="mouse")
    assert pixels(driver) != before
    by_id(driver, "erase").click()
    stroke(driver, [(0.3, 0.5), (0.7, 0.5)], kind="mouse")
    assert pixels(driver) == before


def test_files_that_are_no_photos(serve: Callable[..., str], browse: Callable[..., Any], tmp_path: Path) -> None:
    """They are told by name, and the page works on."""
    driver = browse(f"{serve()}/browser.html")
    settle(driver)
    before = pixels(driver)
    hostile = {
        "notes.txt": b"no photo",
        "empty.png": b"",
        "broken.png": (ROOT / "src/crfrnn/data/examples/chelsea.png").read_bytes()[:100],
    }
    for name, content in hostile.items():
        (tmp_path / name).write_bytes(content)
        by_id(driver, "file").send_keys(str(tmp_path / name))
        Wait(driver, PATIENCE).until(lambda _, name=name: f"{name} is not a photo" in by_id(driver, "message").text)
        settle(driver)
        assert pixels(driver) == before
    driver.find_elements("css selector", "#crf-photos button")[1].click()
    Wait(driver, PATIENCE).until(lambda _: "512×512" in by_id(driver, "times").text)
    settle(driver)
    assert changed_by_the_crf("astronaut") in by_id(driver, "times").text
    assert by_id(driver, "message").text == ""
    driver.execute_script(DROP)
    Wait(driver, PATIENCE).until(lambda _: "Draw on the photo" in by_id(driver, "message").text)
    settle(driver)
    assert driver.execute_script("return document.querySelector('#crf-canvas').width") == 600


def test_the_same_file_again(serve: Callable[..., str], browse: Callable[..., Any]) -> None:
    """After an example; and of two photos that are chosen at once, the last one is shown."""
    driver = browse(f"{serve()}/browser.html")
    settle(driver)
    width = "return document.querySelector('#crf-canvas').width"
    for _ in range(2):
        by_id(driver, "file").send_keys(str(ROOT / "src/crfrnn/data/examples/coffee.png"))
        Wait(driver, PATIENCE).until(lambda _: "Draw on the photo" in by_id(driver, "message").text)
        settle(driver)
        assert driver.execute_script(width) == 600
        driver.execute_script(
            "for (const button of [...document.querySelectorAll('#crf-photos button')].reverse()) button.click()"
        )
        Wait(driver, PATIENCE).until(lambda _: "451×300" in by_id(driver, "times").text)
        settle(driver)
        assert changed_by_the_crf("chelsea") in by_id(driver, "times").text


def test_without_the_module_the_page_says_so(serve: Callable[..., str], browse: Callable[..., Any]) -> None:
    driver = browse(f"{serve(hidden=PACKAGE)}/browser.html")
    Wait(driver, PATIENCE).until(lambda _: "make wasm" in by_id(driver, "message").text)
    assert not by_id(driver, "app").is_displayed()


def test_pixels_and_scores_of_examples_are_those_of_python(
    serve: Callable[..., str], browse: Callable[..., Any]
) -> None:
    """A canvas leaves the photo as it is, and scores are stretched as `resize_scores` does it."""
    driver = browse(f"{serve()}/404.html")
    script = """
    const done = arguments[0];
    import("/browser/photos.js").then(async ({ openExample, readExamples }) => {
      const { image, scores } = await openExample((await readExamples()).photos[0]);
      const points = image.width * image.height;
      done([Array.from(image.data), Array.from(scores.subarray(8 * points, 9 * points))]);
    });
    """
    data, scores = driver.execute_async_script(script)
    photo = read_example("chelsea")
    np.testing.assert_array_equal(np.reshape(data, (*photo.shape[:2], 4))[:, :, :3], photo)
    with np.load(ROOT / "src/crfrnn/data/examples/chelsea_logits33.npz") as archive:
        stretched = resize_scores(archive["logits"][8:9].astype(np.float32), photo.shape[:2], square=True)
    np.testing.assert_allclose(scores, stretched.ravel(), atol=2e-5)
