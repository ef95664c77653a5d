"""A photo with its labels before and after: whole, and close up where borders have moved, with contours.

Labels of a photo are 8-bit class ids (H, W); 255 is void.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from crfrnn.files.classes import ClassSet
from crfrnn.files.legend import full_palette, tinted_photo

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
TINT = 0.35

Labels = NDArray[np.uint8]


class Box(NamedTuple):
    """A part of a photo, in pixels."""

    left: int
    top: int
    width: int
    height: int

    def of(self, array: NDArray[np.uint8]) -> NDArray[np.uint8]:
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
    height, width = before.shape
    wide = max(1, round(CLOSE_UP * width))
    high = max(1, min(height, round(SHAPE * wide)))
    reach = max(1, round(REACH * max(before.shape)))
    near = Image.fromarray(_borders(before)).filter(ImageFilter.MaxFilter(2 * reach + 1))
    moved = (before != after) & (np.asarray(near) > 0)
    sums = np.zeros((height + 1, width + 1), np.int64)
    sums[1:, 1:] = moved.cumsum(axis=0).cumsum(axis=1)
    counts = sums[high:, wide:] - sums[:-high, wide:] - sums[high:, :-wide] + sums[:-high, :-wide]
    best = np.argwhere(counts == counts.max())
    top, left = np.median(best, axis=0).round().astype(int)  # what changed is in its middle
    return Box(int(left), int(top), wide, high)


def whole_row(
    photo: NDArray[np.uint8], before: Labels, after: Labels, classes: ClassSet, width: int, box: Box
) -> list[Image.Image]:
    """Photo, and the photo tinted by the labels before and after, `width` wide; a frame shows where the close-up is."""
    cells = [Image.fromarray(photo)]
    cells += [tinted_photo(photo, labels, classes, max(photo.shape)) for labels in (before, after)]
    scale = width / photo.shape[1]
    cells = [cell.resize((width, round(scale * photo.shape[0])), Image.Resampling.LANCZOS) for cell in cells]
    corners = (box.left, box.top, box.left + box.width, box.top + box.height)
    for cell in cells:
        ImageDraw.Draw(cell).rectangle([round(scale * at) for at in corners], outline=FRAME, width=FRAME_WIDTH)
    return cells


def close_row(
    photo: NDArray[np.uint8], before: Labels, after: Labels, classes: ClassSet, width: int, box: Box
) -> list[Image.Image]:
    """The same part of the photo three times, `width` wide: as it is, with contours before, and with those after."""
    size = (width, round(width * box.height / box.width))
    near = np.asarray(Image.fromarray(box.of(photo)).resize(size, Image.Resampling.BICUBIC))
    palette = full_palette(classes)
    cells = [Image.fromarray(near)]
    for labels in (before, after):
        ids = _enlarged(box.of(labels), size)
        tint = np.where(ids[..., np.newaxis] > 0, (1 - TINT) * near + TINT * palette[ids], near)
        line = np.asarray(Image.fromarray(_borders(ids)).filter(ImageFilter.MaxFilter(CONTOUR_WIDTH))) > 0
        inside = np.asarray(Image.fromarray(ids).filter(ImageFilter.MaxFilter(2 * CONTOUR_WIDTH + 1)))
        cells.append(Image.fromarray(np.where(line[..., np.newaxis], palette[inside], tint).astype(np.uint8)))
    return cells


def _borders(labels: Labels) -> NDArray[np.uint8]:
    """255 at pixels whose right or lower neighbour has another label, else 0."""
    found = np.zeros(labels.shape, bool)
    found[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    found[:-1] |= labels[:-1] != labels[1:]
    return np.where(found, 255, 0).astype(np.uint8)


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
