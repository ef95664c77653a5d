"""Masks among label images: two levels that tell a foreground from what is not, or grey levels between them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.arrays import Shape
from crfrnn.files.classes import VOID
from crfrnn.unary import LARGEST_ID, SEVERAL_LEVELS, is_soft, mask_levels


@dataclass(frozen=True)
class Mask:
    """The two levels of a mask, such as 0 and 255."""

    background: int = 0
    foreground: int = 255

    @property
    def levels(self) -> NDArray[Any]:
        """The level of labels 0 and 1, in the smallest type that holds them."""
        return np.array([self.background, self.foreground], np.min_scalar_type(self.foreground))


def mask_of(present: NDArray[Any], indexed: bool, picture: bool) -> Mask | None:
    """The mask that a label image of these levels is, by `mask_levels`, or None.

    It is none if it has a palette, in which 255 is void, or holds 0 and 1, which are labels of two classes.

    Args:
        present: The levels that occur, in ascending order.
        indexed: Whether the image has a palette.
        picture: Whether the image is a picture, which is written in the levels it was read in, and not an array.
    """
    levels = [int(level) for level in present]
    found = None if indexed or levels == [0, 1] else mask_levels(levels, picture)
    return None if found is None else Mask(*found)


def refuse_soft_mask(path: Path, labels: NDArray[Any], present: NDArray[Any]) -> None:
    """Raise a ValueError if grey levels seem to be those of a soft mask or a trimap, not class ids.

    A picture (H, W) of 8 bits is one if it has three levels or more, some of them above ids of classes.

    Args:
        present: The levels that occur, in ascending order.
    """
    levels = present[present != VOID]
    if len(present) < 3 or present[0] < 0:
        return
    ids = labels.dtype != np.uint8 or labels.ndim > 2 or int(levels[-1]) <= LARGEST_ID
    if ids and (present[-1] < SEVERAL_LEVELS or not is_soft(labels)):
        return
    raise ValueError(
        f"{path} has {len(present)} grey levels from {present[0]} to {present[-1]}: if it is a soft mask, which gives "
        "the probability of the foreground, give --input probabilities; if the levels are class ids, give "
        f"--num-classes, at least {int(levels[-1]) + 1}"
    )


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
