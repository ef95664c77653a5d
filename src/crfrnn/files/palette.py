"""Colours for class ids: the PASCAL VOC palette, and photos painted with it."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

NUM_COLOURS = 256
CLEAR_COLOURS = np.array(
    [
        (240, 190, 40), (40, 130, 240), (0, 180, 130), (150, 90, 240), (230, 90, 60), (220, 80, 170),
        (120, 200, 60), (60, 200, 220), (170, 110, 60), (250, 150, 170), (110, 120, 150), (200, 210, 120),
    ],
    np.uint8,
)  # fmt: skip
"""Bright colours, far from each other and from those of most photos, for the classes that occur in a picture."""


@cache
def voc_palette() -> NDArray[np.uint8]:
    """The 256 colours of PASCAL VOC label images, (256, 3), to be read: class 0 is black, 255 (void) is cream."""
    colours = voc_colours(np.arange(NUM_COLOURS))
    colours.flags.writeable = False
    return colours


def voc_colours(ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    """The colours (n, 3) of class ids (n,), by the rule of PASCAL VOC, which has one for each of 2^24 ids.

    Bits 0, 3, 6, … of an id go to red, 1, 4, 7, … to green, 2, 5, 8, … to blue, the lowest of them to the highest bit.
    """
    colours = np.zeros((len(ids), 3), np.uint8)
    for place in range(8):
        for channel in range(3):
            bit = (ids >> (3 * place + channel)) & 1
            colours[:, channel] |= (bit << (7 - place)).astype(np.uint8)
    return colours


def overlay(photo: NDArray[np.uint8], labels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """An RGB photo (H, W, 3) tinted in the colours of PASCAL VOC; ids beyond the palette start it again."""
    return tinted(photo, labels % NUM_COLOURS, voc_palette(), opacity=0.6)


def tinted(
    photo: NDArray[np.uint8], labels: NDArray[np.integer], palette: NDArray[np.uint8], opacity: float
) -> NDArray[np.uint8]:
    """An RGB photo (H, W, 3) with each pixel mixed with the colour of its class in `palette` (classes, 3).

    Black, the colour of background, darkens the photo.
    """
    mixed: NDArray[np.float32] = (palette * np.float32(opacity))[labels]
    mixed += photo * np.float32(1 - opacity)
    return np.rint(mixed, out=mixed).astype(np.uint8)
