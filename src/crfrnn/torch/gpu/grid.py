"""The Gaussian between the points of a grid, one axis after the other, cut off at 4σ (docs/algorithm.md, eq. 10)."""

import math
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from crfrnn.crf import CUTOFF
from crfrnn.torch.gpu.lattice import constants


class Grid(NamedTuple):
    """The kernel exp(-½ Σ_axis (Δ/σ)²) between the points of each image of a batch, not normalised.

    Attributes:
        shape: Points along each axis.
        taps: (2·radius + 1,) of each axis.
    """

    shape: tuple[int, ...]
    taps: tuple[Tensor, ...]

    def filter(
        self, rows: Tensor, before: Tensor | None, after: Tensor | None, transpose: bool, steps: ModuleType
    ) -> Tensor:
        """diag(after) K diag(before) rows; factors (P,), None for ones. K is symmetric."""
        last = len(self.shape) - 1
        for axis, (length, taps) in enumerate(zip(self.shape, self.taps, strict=True)):
            inside = math.prod(self.shape[axis + 1 :])
            factors = before if axis == 0 else None, after if axis == last else None
            rows = steps.convolve(rows, length, inside, taps, *factors)
        return rows


def build_grid(shape: Sequence[int], sigmas: Sequence[float], dtype: torch.dtype, device: torch.device) -> Grid:
    """The Gaussian of deviation σ, in points, along each axis of a grid."""
    taps = (constants(_taps(length, sigma), dtype, device) for length, sigma in zip(shape, sigmas, strict=True))
    return Grid(tuple(shape), tuple(taps))


@lru_cache
def _taps(length: int, sigma: float) -> tuple[float, ...]:
    radius = min(math.ceil(CUTOFF * sigma), length - 1)
    return tuple(math.exp(-0.5 * k * k / (sigma * sigma)) for k in range(-radius, radius + 1))
