"""Pictures beyond Pillow's limit, which is a setting of the whole process that nobody here touches."""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crfrnn
from crfrnn.files.opening import opened_picture
from crfrnn.files.photos import read_labels, read_photo
from errors import raises_saying

LIMIT = 50


@pytest.fixture
def picture(tmp_path, monkeypatch, rng):
    """A function that saves a picture of 20×10 pixels, which is four times Pillow's limit."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", LIMIT)
    pixels = rng.integers(0, 256, (10, 20, 3), dtype=np.uint8)

    def save(suffix):
        path = tmp_path / f"photo.{suffix}"
        Image.fromarray(pixels).save(path, **({"lossless": True} if suffix == "webp" else {}))
        return path, pixels

    return save


@pytest.mark.parametrize("suffix", ["tif", "webp"])
def test_formats_whose_decoders_have_a_limit(picture, suffix):
    path, _ = picture(suffix)
    with raises_saying(ValueError, f"photo.{suffix}", "more pixels than Pillow opens", "PNG"):
        read_photo(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_pictures_of_any_size(picture, suffix):
    path, pixels = picture(suffix)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_photo(path)
    assert found.shape == pixels.shape
    if suffix != "jpg":
        np.testing.assert_array_equal(found, pixels)
    assert Image.MAX_IMAGE_PIXELS == LIMIT


def test_the_limit_does_not_change_for_other_threads(picture):
    path, _ = picture("png")
    seen, ended = set(), threading.Event()

    def watch():
        while not ended.is_set():
            seen.add(Image.MAX_IMAGE_PIXELS)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_photo, [path] * 50))
    ended.set()
    watcher.join()
    assert seen == {LIMIT}
    assert not any("MAX_IMAGE_PIXELS" in each.read_text("utf-8") for each in Path(crfrnn.__file__).parent.rglob("*.py"))


def test_memory_is_the_limit(picture, monkeypatch):
    path, _ = picture("png")
    monkeypatch.setattr(crfrnn.memory, "available_memory", lambda: 100)
    for read in (read_photo, read_labels):
        with raises_saying(MemoryError, "photo.png", "20×10 pixels", "smaller image"):
            read(path)


def test_other_formats_are_left_to_pillow(tmp_path):
    pixels = np.arange(60, dtype=np.uint8).reshape(6, 10)
    Image.fromarray(pixels).save(tmp_path / "map.pgm")
    with opened_picture(tmp_path / "map.pgm") as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0", b"BM", b"no picture"])
def test_damaged_files(tmp_path, content):
    (tmp_path / "photo.png").write_bytes(content)
    with raises_saying(ValueError, "cannot read", "photo.png"):
        read_photo(tmp_path / "photo.png")
