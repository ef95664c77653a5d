"""`crfrnn web` in a real browser: `make browser`. The truth is what the package's own functions return."""

import io
import json
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser_page import PATIENCE, PageInBrowser, waited
from PIL import Image, ImageOps
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

import crfrnn
from crfrnn.demo import read_example
from crfrnn.segment import segment
from crfrnn.web import desk as desks
from crfrnn.web import uploads
from crfrnn.web.visits import Visits

pytest_plugins = ["browser_fixtures"]
Opened = Callable[[], PageInBrowser]


def bomb(width: int, height: int) -> bytes:
    """The header of a PNG of this size, and few pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def jpeg() -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(read_example("chelsea")).save(encoded, "JPEG")
    return encoded.getvalue()


def test_an_example_a_network_and_its_crf(opened: Opened, screenshot: Callable[[str], None]) -> None:
    page = opened()
    times = page.example("chelsea")
    assert "network" in times
    assert "451×300 pixels, 21 classes" in times
    truth = segment(read_example("chelsea"))
    seen = np.bincount(truth.labels.ravel(), minlength=21) / truth.labels.size
    names = [truth.classes.names[label] for label in np.flatnonzero(seen >= 0.002)]
    assert set(names) <= set(page.legend)
    for name in names:
        assert abs(page.legend[name] - seen[truth.classes.names.index(name)]) < 0.001
    np.testing.assert_array_equal(page.labels(), truth.labels)
    before, after = page.pictures
    assert before.shape == after.shape == (300, 451, 3)
    screenshot("web")


def test_without_a_photo_the_page_asks_for_one(opened: Opened) -> None:
    page = opened()
    page.click_text("#source label", "scribbles alone")
    waited(lambda: "choose a photo" in page.note("photo"), "a note")
    page.click("#save")
    waited(lambda: "choose a photo" in page.times, "words in the place of the times")
    assert not [each for each in page.all(".error") if each.is_displayed()]
    assert "draw scribbles" in page.example("chelsea")


def test_sliders_change_the_picture(opened: Opened) -> None:
    page = opened()
    page.example("chelsea")
    _, after = page.sources
    assert "0 iterations" in page.after(lambda: page.push("iterations", Keys.HOME))
    assert "0.0% of pixels changed" in page.times  # without iterations the CRF returns what it was given
    waited(lambda: page.sources[1] != after, "the picture to change")
    np.testing.assert_array_equal(*page.pictures)
    page.after(lambda: page.choose("start", "crfrnn"))
    photo = read_example("chelsea")
    scores = scores_of(photo)
    _, activity = crfrnn.refine(scores, photo, "crfrnn", return_activity=True)
    assert f"{activity.iterations} iterations" in page.times  # it ends before the tenth if nothing moves
    page.after(lambda: page.push("theta_beta"))
    most = float(page.one("#theta_beta input[type=range]").get_attribute("max") or "nan")
    truth = crfrnn.refine(scores, photo, "crfrnn", theta_beta=most).argmax(axis=0)
    labels = page.labels()
    assert labels.shape == photo.shape[:2]
    assert np.mean(labels == truth) > 0.999


class Held:
    """The CRF, which computes nothing until it is let go; the first time it may fail then."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.asked, self.free, self.failure = threading.Event(), threading.Event(), failure

    def __call__(self, *arguments: Any) -> desks.Refined:
        self.asked.set()
        assert self.free.wait(PATIENCE)
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        return REFINED(*arguments)


REFINED = desks.refined


@pytest.mark.parametrize("failure", [None, ValueError("not like this")], ids=["a result", "an error"])
def test_the_last_move_counts(opened: Opened, monkeypatch: pytest.MonkeyPatch, failure: Exception | None) -> None:
    """Whatever was done while the page waited for something else: the picture is that of what the page shows."""
    page = opened()
    page.example("chelsea")
    page.tab("Scribbles")
    waited(lambda: page.one("#scribbles canvas").size["height"] > 100, "the photo to draw on")
    held = Held(failure)
    monkeypatch.setattr(desks, "refined", held)
    page.push("theta_beta", Keys.HOME)
    assert held.asked.wait(PATIENCE)
    page.push("iterations", Keys.HOME)
    page.draw("dog", (0.3, 0.2), (0.6, 0.7))
    page.click_text("#scribbles button", "clear")
    page.draw("sofa", (0.05, 0.1), (0.05, 0.9))
    page.choose("start", "deeplab")
    page.choose("start", "crfrnn")
    page.push("iterations", Keys.HOME)
    page.push("iterations", Keys.ARROW_RIGHT)
    held.free.set()
    waited(lambda: "1 iterations" in page.times, "the last result")
    assert {"cat", "sofa"} <= set(page.legend)
    assert "dog" not in page.legend
    assert page.one("#theta_beta input[type=range]").get_attribute("value") == "3"
    np.testing.assert_array_equal(page.labels(), page.labels())  # the same file may be had again


def test_a_photo_of_ones_own(opened: Opened, tmp_path: Path) -> None:
    """One that its EXIF tag turns, larger than the network sees."""
    photo = Image.fromarray(read_example("astronaut")).resize((900, 700))
    exif = Image.Exif()
    exif[274] = 6
    photo.save(tmp_path / "Zoë's photo.jpg", exif=exif, quality=95)
    page = opened()
    assert "389×500 pixels" in page.upload(tmp_path / "Zoë's photo.jpg")
    with Image.open(tmp_path / "Zoë's photo.jpg") as stored:
        upright = ImageOps.exif_transpose(stored)
    np.testing.assert_array_equal(page.labels(), segment(upright).labels)


def test_wrong_files_are_refused_in_words(opened: Opened, tmp_path: Path) -> None:
    page = opened()
    files = {
        "notes.png": (b"no picture at all", "cannot read notes.png as an image"),
        "cut.jpg": (jpeg()[:3000], "cannot read cut.jpg as an image"),
        "bomb.png": (bomb(60_000, 60_000), "3600 million; a photo may have 50 million"),
        "empty.png": (b"", "empty.png is empty"),
        "program.exe": (b"MZ", "program.exe cannot be taken: photos end in .png, .jpg"),
    }
    for name, (content, words) in files.items():
        (tmp_path / name).write_bytes(content)
        assert words in page.refused("photo", tmp_path / name)
    large = tmp_path / "large.png"
    large.write_bytes(bytes(uploads.MOST_BYTES + 1_000_000))
    page.send("photo", large)
    waited(lambda: "a file may have" in page.one("#photo-picker .note").text, "a note")
    page.example("chelsea")  # and the page still works
    np.save(tmp_path / "other.npy", np.zeros((2, 7, 900), np.float32))
    page.click("#own-scores button")
    assert "scores have shape (2, 7, 900)" in page.refused("scores", tmp_path / "other.npy")
    assert "cat" in page.legend


def scores_of(photo: np.ndarray) -> np.ndarray:
    """The logits of the network alone, up to a constant for each pixel."""
    return np.log(segment(photo, crf=False).probabilities.clip(1e-30))


def test_scores_of_ones_own(opened: Opened, tmp_path: Path, rng: np.random.Generator) -> None:
    photo = read_example("chelsea")
    rows, columns = np.mgrid[:300, :451]
    distance = np.stack([columns - 225, 225 - columns, 0.7 * (150 - rows)]) / 40
    scores = (distance + rng.normal(size=distance.shape)).astype(np.float32)
    np.savez(tmp_path / "scores.npz", logits=scores)
    page = opened()
    page.example("chelsea")
    assert "3 classes" in page.load_scores(tmp_path / "scores.npz")
    truth = crfrnn.refine(scores, photo).argmax(axis=0)  # the model's own CRF is of other classes
    np.testing.assert_array_equal(page.labels(), truth)
    assert set(page.legend) == {"class 0", "class 1", "class 2"}
    before = page.pictures[0]
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=0)
    np.save(tmp_path / "wrong.npy", probabilities)
    assert "probabilities" in page.load_scores(tmp_path / "wrong.npy")  # which it took for logits
    assert np.abs(page.pictures[0] - before).mean() < 1
    assert "21 classes" in page.after(lambda: page.click_text("#source label", "network"))
    assert "cat" in page.legend


def test_scribbles_of_several_classes(opened: Opened, screenshot: Callable[[str], None]) -> None:
    page = opened()
    page.example("chelsea")
    assert "draw scribbles" in page.after(lambda: page.click_text("#source label", "scribbles alone"))
    page.tab("Scribbles")
    waited(lambda: page.one("#scribbles canvas").size["height"] > 100, "the photo to draw on")
    assert "draw scribbles" in page.after(lambda: page.draw("cat", (0.3, 0.2), (0.6, 0.7)))
    assert "2 classes" in page.after(lambda: page.draw("background", (0.95, 0.1), (0.9, 0.6)))
    assert "3 classes" in page.after(lambda: page.draw("sofa", (0.05, 0.1), (0.05, 0.9)))
    screenshot("web-scribbles")
    labels = page.labels()
    names = list(segment(read_example("chelsea")).classes.names)
    assert set(np.unique(labels)) == {names.index(name) for name in ("background", "cat", "sofa")}
    assert names[labels[135, 203]] == "cat"
    assert names[labels[150, 22]] == "sofa"
    assert names[labels[100, 415]] == "background"
    assert "2 classes" in page.after(lambda: page.click_text("#scribbles button", "undo"))


def test_scribbles_correct_a_network(opened: Opened) -> None:
    page = opened()
    page.example("chelsea")
    page.tab("Scribbles")
    waited(lambda: page.one("#scribbles canvas").size["height"] > 100, "the photo to draw on")
    assert page.legend["cat"] > 0.5
    page.after(lambda: page.draw("dog", (0.3, 0.2), (0.6, 0.7)))
    assert page.legend["dog"] > 0.005


def test_energy_and_activity(opened: Opened, screenshot: Callable[[str], None]) -> None:
    page = opened()
    page.example("astronaut")
    assert not [each for each in page.all("#plot img") if each.is_displayed()]
    page.tab("Iterations")
    plot = waited(lambda: page.one("#plot img").get_attribute("src"), "the plot")
    waited(lambda: page.one("#activity img").get_attribute("src"), "the activity")
    screenshot("web-iterations")
    page.after(lambda: page.push("iterations", Keys.HOME))
    waited(lambda: page.one("#plot img").get_attribute("src") != plot, "the plot to change")


def test_two_users_at_once(opened: Opened, visits: Visits) -> None:
    waited(lambda: len(visits) == 0, "others to be forgotten")
    first, second = opened(), opened()
    first.click("[data-example=chelsea]")
    second.click("[data-example=astronaut]")
    waited(lambda: "451×300" in first.times, "the cat")
    waited(lambda: "500×500" in second.times, "the astronaut")
    assert "cat" in first.legend
    assert "person" in second.legend
    sources, times = second.sources, second.times
    first.after(lambda: first.push("iterations", Keys.HOME))
    assert second.sources == sources
    assert second.times == times
    assert len(visits) == 2
    first.close()
    waited(lambda: len(visits) == 1, "the first user to be forgotten")
    second.after(lambda: second.push("iterations", Keys.HOME))


def test_nothing_leaves_and_nothing_stays(
    opened: Opened, browser: webdriver.Chrome, visits: Visits, folder: Path, outside: list[object], address: str
) -> None:
    page = opened()
    page.example("chelsea")
    page.tab("Iterations")
    waited(lambda: page.one("#plot img").get_attribute("src"), "the plot")
    page.labels()
    page.close()
    waited(lambda: len(visits) == 0, "the user to be forgotten")
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    assert outside == []
    events = [json.loads(each["message"])["message"] for each in browser.get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    assert any(each.startswith(address) for each in asked)
    assert [each for each in asked if not each.startswith((address, "data:", "blob:", "chrome:", "about:"))] == []
    errors = [each["message"] for each in browser.get_log("browser") if each["level"] == "SEVERE"]
    assert errors == []
