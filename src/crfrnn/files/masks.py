"""Masks among label images: two levels that tell a foreground from what is not, or grey levels between them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.arrays import Shape
from crfrnn.files.classes import VOID

LARGEST_ID = 100
"""Grey levels above this, without a palette and without a number of classes, are taken to be no class ids."""
SEVERAL_LEVELS = 8
BETWEEN = 0.4
SMALL_STEP = 0.25
"""A picture of this many levels is smooth if this share of its edges is next to another one, and their median is at
most this share of all levels."""


@dataclass(frozen=True)
class Mask:
    """The two levels of a mask, such as 0 and 255."""

    background: int = 0
    foreground: int = 255

    @property
    def levels(self) -> NDArray[Any]:
        """The level of labels 0 and 1, in the smallest type that holds them."""
        return np.array([self.background, self.foreground], np.min_scalar_type(self.foreground))


def mask_of(present: NDArray[Any], indexed: bool) -> Mask | None:
    """The mask that a label image of these levels is, or None.

    It is one if the levels are 0 and another above 1, 255 alone, or two of which the higher is no class id. In an image
    with a palette, 255 is void, and so it is beside any other level than 0.

    Args:
        present: The levels that occur, in ascending order.
        indexed: Whether the image has a palette.
    """
    levels = [int(level) for level in present]
    if indexed or len(levels) > 2 or levels[0] < 0 or levels in ([0], [0, 1]):
        return None
    if levels == [VOID]:
        return Mask()
    if len(levels) == 2 and (levels[0] == 0 or (levels[1] > LARGEST_ID and levels[1] != VOID)):
        return Mask(*levels)
    return None


def refuse_soft_mask(path: Path, labels: NDArray[Any], present: NDArray[Any]) -> None:
    """Raise a ValueError if grey levels (H, W) seem to be those of a soft mask or a trimap, not class ids.

    Args:
        present: The levels that occur, in ascending order.
    """
    levels = present[present != VOID]
    if len(present) < 3 or labels.dtype != np.uint8:
        return
    if int(levels[-1]) <= LARGEST_ID and not (len(levels) >= SEVERAL_LEVELS and _is_smooth(labels)):
        return
    raise ValueError(
        f"{path} has {len(present)} grey levels from {present[0]} to {present[-1]}: if it is a soft mask, which gives "
        "the probability of the foreground, give --input probabilities; if the levels are class ids, give "
        f"--num-classes, at least {int(levels[-1]) + 1}"
    )


def _is_smooth(levels: NDArray[np.uint8]) -> bool:
    """Whether levels (H, W) go up and down in ramps, unlike those of regions and unlike ids at random."""
    steps = np.abs(np.diff(levels.astype(np.int16), axis=1))
    edges = steps > 0
    before, both = int(edges[:, :-1].sum()), int((edges[:, :-1] & edges[:, 1:]).sum())
    if both <= BETWEEN * max(before, 1):
        return False
    return bool(np.median(steps[edges]) <= SMALL_STEP * float(levels.max()))


@dataclass(frozen=True)
class Foreground:
    """A mask that is not in memory, as labels 0 and 1: `foreground[window]` reads a part of it.

    Attributes:
        stored: Its levels: anything that has a shape and gives arrays when sliced.
        level: That of the foreground.
    """

    stored: Any
    level: int
    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> Shape:
        return tuple(self.stored.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, window: Any) -> NDArray[np.uint8]:
        labels: NDArray[np.uint8] = (np.asarray(self.stored[window]) == self.level).astype(np.uint8)
        return labels
