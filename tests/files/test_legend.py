"""Overlays: the photo tinted, the legend naming what occurs."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from crfrnn.files.classes import class_set
from crfrnn.files.legend import LINE_HEIGHT, OPACITY, Key, draw_legend, highest_within, key_of
from crfrnn.files.lettering import shown_text
from crfrnn.pictures import LONGEST_SIDE, reduced_overlay

VOC = class_set("voc")


def colours(picture: Image.Image | np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in np.asarray(picture).reshape(-1, 3).tolist()}


def test_the_photo_is_tinted(rng) -> None:
    photo = rng.integers(0, 256, (40, 500, 3), dtype=np.uint8)
    labels = np.full((40, 500), 15)
    drawn = np.asarray(reduced_overlay(photo, labels, VOC))
    assert drawn.shape == (40 + LINE_HEIGHT, 500, 3)
    expected = (1 - OPACITY) * photo + OPACITY * VOC.palette[15].astype(float)
    np.testing.assert_allclose(drawn[:40], expected, atol=0.51)


def test_the_legend_names_what_occurs() -> None:
    labels = np.array([[0, 8], [15, 255]])
    legend = np.asarray(reduced_overlay(np.zeros((2, 2, 3), np.uint8), labels, VOC))[2:]
    assert {(0, 0, 0), (64, 0, 0), (192, 128, 128), (224, 224, 192)} <= colours(legend)
    assert (128, 0, 0) not in colours(legend)
    assert colours(draw_legend(key_of(VOC, [8]), 400)) != colours(draw_legend(key_of(VOC, []), 400))


def test_the_legend_takes_as_many_lines_as_it_needs() -> None:
    everything = list(range(21))
    wide, narrow = draw_legend(key_of(VOC, everything), 5000), draw_legend(key_of(VOC, everything), 400)
    assert wide.size == (5000, LINE_HEIGHT)
    assert narrow.width == 400
    assert narrow.height >= 5 * LINE_HEIGHT
    assert colours(wide) >= {tuple(colour) for colour in VOC.palette.tolist()} <= colours(narrow)


@pytest.mark.parametrize("name", ["potted plant", "W" * 60])
def test_names_of_up_to_60_letters_are_never_cut(name: str) -> None:
    """A tiny photo gets a legend wider than itself, with nothing but paper at its borders."""
    legend = np.asarray(reduced_overlay(np.zeros((5, 4, 3), np.uint8), np.zeros((5, 4), int), [name]))[5:]
    assert shown_text(name) == name
    assert legend.shape[1] > 100
    for border in (legend[:, 0], legend[:, -1], legend[0], legend[-1]):
        assert (border == 255).all()


def test_longer_names_end_in_an_ellipsis() -> None:
    long = draw_legend(Key(("W" * 20_000,), VOC.palette[:1]), 4)
    assert long.width < 1300
    assert shown_text("W" * 61) == "W" * 59 + "…"
    np.testing.assert_array_equal(long, draw_legend(Key(("W" * 59 + "…",), VOC.palette[:1]), 4))


def test_names_are_on_one_line() -> None:
    names = ("traffic\nlight", "stop\t sign\r\n")
    drawn, expected = (draw_legend(Key(each, VOC.palette[:2]), 4) for each in (names, ("traffic light", "stop sign")))
    np.testing.assert_array_equal(drawn, expected)


def test_large_photos_are_shown_smaller(rng) -> None:
    labels = np.zeros((8, 2 * LONGEST_SIDE), np.uint8)
    labels[:, LONGEST_SIDE:] = 3
    drawn = np.asarray(reduced_overlay(np.zeros((*labels.shape, 3), np.uint8), labels, VOC))
    assert drawn.shape == (4 + LINE_HEIGHT, LONGEST_SIDE, 3)
    assert colours(drawn[:4, : LONGEST_SIDE // 2]) == {(0, 0, 0)}
    assert len(colours(drawn[:4, LONGEST_SIDE // 2 :])) == 1


@pytest.mark.parametrize("reach", [0, 1, 2, 5, 40])
@pytest.mark.parametrize("shape", [(30, 23), (1, 50), (50, 1), (1, 1)])
def test_the_highest_of_a_window(rng, shape: tuple[int, int], reach: int) -> None:
    values = rng.integers(-5, 1000, shape).astype(np.int32)
    filtered = Image.fromarray(values).filter(ImageFilter.MaxFilter(2 * reach + 1))
    np.testing.assert_array_equal(highest_within(values, reach), filtered)
