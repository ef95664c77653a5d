"""Photos with labels before and after, whole and close up."""

import numpy as np
import pytest

from crfrnn.files.classes import class_set
from crfrnn.files.comparison import Box, close_row, close_up, close_ups, visible_classes, whole_row
from crfrnn.files.legend import full_palette

H, W = 60, 100
CLASSES = class_set("voc")


def square(top, left, side, label=15):
    labels = np.zeros((H, W), np.uint8)
    labels[top : top + side, left : left + side] = label
    return labels


def test_the_close_up_is_where_borders_moved():
    """Not where more pixels changed, but far from any border."""
    before = square(5, 30, 50)
    after = before.copy()
    after[25:33, 50:58] = 0  # 64 pixels in the middle
    after[35:50, 80:82] = 15  # 30 at the right side
    box = close_up(before, after)
    assert (box.width, box.height) == (28, 17)
    assert (box.of(after)[:, -(box.left + box.width - 80) :] == 15).sum() == 30
    assert abs(box.top + box.height / 2 - 42.5) < 2


def test_several_close_ups_are_apart_and_only_where_something_moved():
    before = square(5, 5, 20)
    before[35:55, 70:90] = 8
    after = before.copy()
    after[5:10, 3:5] = 15  # 10 pixels
    after[40:50, 90:93] = 8  # 30 pixels
    first, second = close_ups(before, after, 5)
    for box, moved in ((first, 30), (second, 10)):
        assert (box.of(before) != box.of(after)).sum() == moved
    assert first.left >= second.left + second.width
    assert close_ups(before, after, 1) == [close_up(before, after)] == [first]
    assert close_ups(before, after, 0) == close_ups(before, before, 5) == []


def test_no_change_has_a_close_up_inside_the_photo():
    for shape in ((H, W), (1, 1), (3, 200), (200, 3)):
        labels = np.zeros(shape, np.uint8)
        box = close_up(labels, labels)
        assert box.of(labels).shape == (box.height, box.width)
        assert min(box.width, box.height) >= 1


def test_classes_that_can_be_seen():
    labels = square(5, 5, 20, 15)
    labels[0, :5] = 3  # five pixels of 6000
    assert visible_classes(labels, square(0, 0, 30, 8)) == [8, 15]
    assert visible_classes(np.zeros((H, W), np.uint8)) == []


@pytest.mark.parametrize("width", [100, 333])
def test_rows(rng, width):
    photo = rng.integers(100, 156, (H, W, 3), np.uint8)
    before, after = square(20, 50, 20), square(20, 48, 20)
    box = Box(40, 15, 28, 17)
    whole = whole_row(photo, (before, after), full_palette(CLASSES), width, [box])
    assert [cell.size for cell in whole] == [(width, round(0.6 * width))] * 3
    near = [np.asarray(cell) for cell in close_row(photo, (before, after), full_palette(CLASSES), width, box)]
    assert {cell.shape for cell in near} == {(round(width * 17 / 28), width, 3)}
    person = CLASSES.palette[15]
    for cell, left in zip(near[1:], (50, 48), strict=True):
        contour = (cell == person).all(axis=-1)
        rows, columns = np.nonzero(contour)
        scale = width / box.width
        vertical = columns[(rows > 0.7 * cell.shape[0])]
        assert abs(vertical.mean() - scale * (left - box.left)) < scale
        assert (cell[~contour] != person).any(axis=-1).all()
    far = slice(None), slice(0, round(6 * width / box.width))
    np.testing.assert_array_equal(near[1][far], near[0][far])  # the background is as it is
