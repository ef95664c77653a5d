"""The CRF in a real browser: the npm package's numbers, and docs/browser.md as readers use it.

`make browser` runs this, after `make wasm`. It needs Debian's chromium and chromium-driver, selenium, the package and
the site that holds it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from site_fixtures import (
    BROWSER,
    DRIVER,
    PACKAGE,
    PATIENCE,
    SITE,
    Wait,
    by_id,
    expected,
    move,
    pixels,
    press,
    screenshot,
    settle,
    stroke,
)

import crfrnn
from crfrnn.demo import read_example
from crfrnn.files.resize import resize_scores
from repository import ROOT

pytest_plugins = ["site_fixtures"]
MOST = 2e-5  # of float32, as in tests/support/tolerances.py
MOST_LABELS = 1e-4
pytestmark = [
    pytest.mark.skipif(
        not (BROWSER and DRIVER), reason="needs chromium and chromedriver (apt-get install chromium-driver)"
    ),
    pytest.mark.skipif(
        not (SITE / PACKAGE / "index.js").is_file(), reason="the site has no WebAssembly: make wasm builds it"
    ),
]


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
    classes = driver.find_elements("css selector", "#crf-classes button")
    press(driver, classes[0], lambda: classes[0].get_attribute("aria-checked") == "true")
    stroke(driver, [(0.05, 0.1), (0.05, 0.9)])
    two = pixels(driver)
    added = len(classes) + 1
    press(
        driver,
        by_id(driver, "add"),
        lambda: len(driver.find_elements("css selector", "#crf-classes button")) == added,
    )
    stroke(driver, [(0.45, 0.3), (0.55, 0.35)])
    assert "600×400 pixels and 3 classes" in by_id(driver, "times").text
    assert len({plain, two, pixels(driver)}) == 3
    assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    screenshot(driver, "phone")
    press(driver, by_id(driver, "clear"), lambda: pixels(driver) == plain)
    addresses = driver.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert {address.split("/")[2] for address in addresses if address.startswith("http")} == {
        driver.current_url.split("/")[2]
    }


def test_strokes_take_the_place_of_scores(serve: Callable[..., str], browse: Callable[..., Any]) -> None:
    """On an example too, as Python has it."""
    driver = browse(f"{serve()}/browser.html")
    settle(driver)
    before = pixels(driver)
    background = driver.find_element("css selector", "#crf-classes button")
    press(driver, background, lambda: background.get_attribute("aria-checked") == "true")
    stroke(driver, [(0.3, 0.5), (0.7, 0.5)], kind="mouse")
    assert pixels(driver) != before
    press(driver, by_id(driver, "erase"), lambda: by_id(driver, "erase").get_attribute("aria-pressed") == "true")
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
