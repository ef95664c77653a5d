"""A photo with its labels before and after: whole, and close up where borders have moved, with contours.

Labels (H, W) are those of a `Key`, or class ids with a palette. What is black in it, the background, is left as it is
in close-ups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from crfrnn.files.legend import INK, OPACITY, Key, borders, contour, draw_legend, highest_within, tinted_photo
from crfrnn.files.lettering import warn_of_missing_letters
from crfrnn.files.sheet import captioned, sheet

CLOSE_UP = 0.28
"""The width of a close-up as a share of the photo's."""
SHAPE = 0.6
"""Its height as a share of its width."""
REACH = 0.02
"""How far from a border of the labels its changes are its own, as a share of the photo's longer side."""
VISIBLE = 0.002
"""Share of a photo's pixels from which a class can be seen."""
FRAME = (255, 255, 255)
FRAME_WIDTH = 2
CONTOUR_WIDTH = 5
NUMBER_SIZE = 18
TINT = 0.35
CELL_SIDE = 480
"""The longest side of each photo in a comparison, in pixels."""
TITLE_SIZE = 20

Labels = NDArray[np.integer]


class Box(NamedTuple):
    """A part of a photo, in pixels."""

    left: int
    top: int
    width: int
    height: int

    def of(self, array: NDArray[Any]) -> NDArray[Any]:
        """The part of a photo or of labels."""
        return array[self.top : self.top + self.height, self.left : self.left + self.width]


def visible_classes(*labels: Labels) -> list[int]:
    """Classes but the first, the background, that one can see in one of these label images, by id."""
    seen: set[int] = set()
    for each in labels:
        shares = np.bincount(each.ravel(), minlength=256) / each.size
        seen.update(np.flatnonzero(shares >= VISIBLE).tolist())
    return sorted(seen - {0})


def close_up(before: Labels, after: Labels) -> Box:
    """The part of a photo in which borders have moved most: the most pixels that changed near a border before it."""
    return _busiest(_moved(before, after))


def close_ups(before: Labels, after: Labels, most: int) -> list[Box]:
    """At most so many parts in which borders have moved most, apart from each other; fewer if no more have moved."""
    moved, found = _moved(before, after), list[Box]()
    while len(found) < most and moved.any():
        box = _busiest(moved)
        found.append(box)
        # Another part must not overlap: nothing counts whose own part would reach into this one.
        top, left = max(0, box.top - box.height), max(0, box.left - box.width)
        moved[top : box.top + 2 * box.height, left : box.left + 2 * box.width] = False
    return found


def compared(
    photo: NDArray[np.uint8],
    maps: Sequence[Labels],
    titles: Sequence[str],
    key: Key,
    *,
    insets: int,
    opacity: float = OPACITY,
) -> Image.Image:
    """The photo and each of its label maps side by side, below them at most `insets` close-ups, and a legend.

    Args:
        maps: Labels of the key before, after, and others.
        titles: One for the photo and for each of the maps.
    """
    warn_of_missing_letters([*titles, *key.shown])
    longest = max(photo.shape)
    boxes = close_ups(maps[0], maps[1], insets)
    width = max(1, round(CELL_SIDE * photo.shape[1] / longest))
    rows = [whole_row(photo, maps, key.colours, width, boxes, opacity)]
    for box in boxes:
        rows.append(close_row(photo, maps, key.colours, width, box))
    if len(boxes) > 1:
        for number, row in enumerate(rows[1:], start=1):
            _write_number(row[0], (0, 0), number)
    rows[0] = [captioned(cell, title, TITLE_SIZE) for cell, title in zip(rows[0], titles, strict=True)]
    return sheet(rows, draw_legend(key, sum(cell.width for cell in rows[0])))


def whole_row(
    photo: NDArray[np.uint8],
    maps: Sequence[Labels],
    palette: NDArray[np.uint8],
    width: int,
    boxes: Sequence[Box],
    opacity: float = OPACITY,
) -> list[Image.Image]:
    """Photo, and the photo tinted by each of the maps, `width` wide; frames show where the close-ups are."""
    cells = [Image.fromarray(photo)]
    cells += [tinted_photo(photo, labels, palette, None, opacity) for labels in maps]
    scale = width / photo.shape[1]
    size = (width, max(1, round(scale * photo.shape[0])))
    cells = [cell.resize(size, Image.Resampling.LANCZOS) for cell in cells]
    for cell in cells:
        for number, box in enumerate(boxes, start=1):
            corners = [round(scale * at) for at in (box.left, box.top, box.left + box.width, box.top + box.height)]
            ImageDraw.Draw(cell).rectangle(corners, outline=FRAME, width=FRAME_WIDTH)
            if len(boxes) > 1:
                _write_number(cell, (corners[0], corners[1]), number)
    return cells


def close_row(
    photo: NDArray[np.uint8], maps: Sequence[Labels], palette: NDArray[np.uint8], width: int, box: Box
) -> list[Image.Image]:
    """The same part of the photo again and again, `width` wide: as it is, and with the contours of each of the maps."""
    size = (width, max(1, round(width * box.height / box.width)))
    near = np.asarray(Image.fromarray(box.of(photo)).resize(size, Image.Resampling.BICUBIC))
    cells = [Image.fromarray(near)]
    for labels in maps:
        ids = _enlarged(box.of(labels), size)
        painted = palette[ids].any(axis=-1, keepdims=True)
        tint = np.where(painted, (1 - TINT) * near + TINT * palette[ids], near)
        line, inside = contour(ids, CONTOUR_WIDTH)
        cells.append(Image.fromarray(np.where(line[..., np.newaxis], palette[inside], tint).astype(np.uint8)))
    return cells


def _moved(before: Labels, after: Labels) -> NDArray[np.bool_]:
    """The pixels that changed near a border before."""
    reach = max(1, round(REACH * max(before.shape)))
    moved: NDArray[np.bool_] = (before != after) & highest_within(borders(before), reach)
    return moved


def _busiest(moved: NDArray[np.bool_]) -> Box:
    """The part of the size of a close-up with the most of these pixels (H, W)."""
    height, width = moved.shape
    wide = max(1, round(CLOSE_UP * width))
    high = max(1, min(height, round(SHAPE * wide)))
    sums = np.zeros((height + 1, width + 1), np.int64)
    sums[1:, 1:] = moved.cumsum(axis=0).cumsum(axis=1)
    counts = sums[high:, wide:] - sums[:-high, wide:] - sums[high:, :-wide] + sums[:-high, :-wide]
    best = np.argwhere(counts == counts.max())
    top, left = np.median(best, axis=0).round().astype(int)  # what changed is in its middle
    return Box(int(left), int(top), wide, high)


def _write_number(cell: Image.Image, corner: tuple[int, int], number: int) -> None:
    place = (corner[0] + 6, corner[1] + 4)
    font = ImageFont.load_default(NUMBER_SIZE)
    ImageDraw.Draw(cell).text(place, str(number), FRAME, font, stroke_width=2, stroke_fill=INK)


def _enlarged(labels: Labels, size: tuple[int, int]) -> Labels:
    """Labels at a larger size (width, height), with smooth borders between the classes."""
    present = np.unique(labels)
    smooth = ImageFilter.GaussianBlur(size[0] / labels.shape[1])
    shares = []
    for each in present:
        plane = Image.fromarray(np.where(labels == each, 255, 0).astype(np.uint8))
        shares.append(np.asarray(plane.resize(size, Image.Resampling.BICUBIC).filter(smooth)))
    enlarged: Labels = present[np.argmax(shares, axis=0)]
    return enlarged
