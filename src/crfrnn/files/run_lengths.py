"""Masks of COCO from what files hold, whoever wrote them: every number is checked before anything is drawn by it.

pycocotools trusts run lengths and polygons, and writes beyond its memory if they do not fit the size that they name. So
run lengths are read here, and it draws polygons only whose corners lie near their photo.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_AROUND = 10
"""How many sizes of its photo a polygon may reach beyond it."""
FEWEST_NUMBERS = 6
"""A polygon has three corners."""


def size_of(segmentation: Any) -> tuple[int, int] | None:
    """The size (H, W) that run lengths name; None for polygons, and for run lengths without one.

    Raises: ValueError: if it is no size.
    """
    if not isinstance(segmentation, dict) or "size" not in segmentation:
        return None
    size = segmentation["size"]
    if not isinstance(size, list) or len(size) != 2 or not all(_is_whole(each) and each > 0 for each in size):
        raise ValueError(f"size={size!r:.80} is no height and width")
    return size[0], size[1]


def mask_of_runs(counts: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (H, W) of run lengths, column by column: of pixels outside, then inside, and so on.

    Args:
        counts: A list of whole numbers, or the text that pycocotools packs them into.
    Raises: ValueError: if they are damaged, or do not add up to the size.
    """
    runs = _unpacked(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(_is_whole(each) and each >= 0 for each in runs):
        raise ValueError("its run lengths are no whole numbers of at least 0")
    if sum(runs) != math.prod(size):
        raise ValueError(f"its run lengths are of {sum(runs)} pixels, but {size[1]}×{size[0]} are {math.prod(size)}")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(inside.reshape(size[::-1]).T)


def checked_polygons(polygons: Any, size: tuple[int, int]) -> list[list[float]]:
    """Polygons [x, y, x, y, …] of a photo (H, W).

    Raises: ValueError: if they are none, or reach far beyond the photo.
    """
    far = (MOST_AROUND + 1) * max(size)
    checked: list[list[float]] = []
    for polygon in polygons:
        if not isinstance(polygon, Sequence) or isinstance(polygon, str) or len(polygon) % 2:
            raise ValueError("its polygons are no lists of x and y in turn")
        if len(polygon) < FEWEST_NUMBERS:
            raise ValueError(f"a polygon of {len(polygon) // 2} corners encloses nothing")
        for number in polygon:
            if isinstance(number, bool) or not isinstance(number, int | float) or not -far < number < far:
                raise ValueError(f"a polygon has a corner at {number!r:.40}, far from a photo of {size[1]}×{size[0]}")
        checked.append([float(number) for number in polygon])
    if not checked:
        raise ValueError("it holds no polygon")
    return checked


def _unpacked(text: str) -> list[int]:
    """Whole numbers of 5 bits a character, the lowest first; from the third on differences to the last but one."""
    runs: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"its packed run lengths hold {character!r} where they cannot")
        number |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:  # there is more of this number
            continue
        if bits & 0x10:  # it is negative
            number -= 1 << shift
        runs.append(number + runs[-2] if len(runs) > 2 else number)
        number = shift = 0
    if shift:
        raise ValueError("its packed run lengths end within a number")
    return runs


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
