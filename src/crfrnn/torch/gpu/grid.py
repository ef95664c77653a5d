"""The Gaussian between the points of a grid, one axis after the other, cut off at 4σ (docs/algorithm.md, eq. 10)."""

import math
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crfrnn.crf import CUTOFF
from crfrnn.torch.gpu.lattice import constants

NARROW = 1 / 40
"""A deviation at which the tap beside the middle one is exp(-800), 0 in any precision."""


ZEROS = 128
"""On each side of taps: what a program of `triton_steps.convolve` reads beyond them."""


class Taps(NamedTuple):
    """Weights of the neighbours along an axis, symmetric.

    Attributes:
        values: (2·radius + 1,), between `ZEROS` zeros on each side.
        radius: How many taps there are on each side of the middle.
        reach: () int32 on the device, how many on each side of the middle count; None for all.
    """

    values: Tensor
    radius: int
    reach: Tensor | None


class Grid(NamedTuple):
    """The kernel exp(-½ Σ_axis (Δ/σ)²) between the points of each image of a batch, not normalised.

    Attributes:
        shape: Points along each axis.
        taps: Of each axis.
        slopes: Their derivatives to σ, of each axis; None where σ is a number.
    """

    shape: tuple[int, ...]
    taps: tuple[Taps, ...]
    slopes: tuple[Taps | None, ...]

    def filter(
        self, rows: Tensor, before: Tensor | None, after: Tensor | None, transpose: bool, steps: ModuleType
    ) -> Tensor:
        """diag(after) K diag(before) rows; factors (P,), None for ones. K is symmetric."""
        last = len(self.shape) - 1
        for axis, taps in enumerate(self.taps):
            factors = before if axis == 0 else None, after if axis == last else None
            rows = self.along(axis, rows, taps, *factors, steps)
        return rows

    def along(
        self, axis: int, rows: Tensor, taps: Taps, before: Tensor | None, after: Tensor | None, steps: ModuleType
    ) -> Tensor:
        """Rows convolved along one axis, with factors as in `filter`."""
        convolved: Tensor = steps.convolve(
            rows, self.shape[axis], math.prod(self.shape[axis + 1 :]), taps, before, after
        )
        return convolved


def build_grid(
    shape: Sequence[int], sigmas: Sequence[Any], dtype: torch.dtype, device: torch.device, steps: ModuleType
) -> Grid:
    """The Gaussian of deviation σ, in points, along each axis of a grid.

    Args:
        sigmas: Numbers or tensors of one. What is in a tensor says where its Gaussian is cut: steps that keep to the
            device make room for as many taps as the axis has points, others read it and wait.
    """
    taps: list[Taps] = []
    slopes: list[Taps | None] = []
    for length, sigma in zip(shape, sigmas, strict=True):
        if isinstance(sigma, Tensor):
            taps.append(_learned(length, sigma.to(dtype), steps))
            slopes.append(slope(taps[-1], sigma.to(dtype)))
        else:
            numbers = _taps(length, sigma)
            zeros = (0.0,) * ZEROS
            taps.append(Taps(constants(zeros + numbers + zeros, dtype, device), len(numbers) // 2, None))
            slopes.append(None)
    return Grid(tuple(shape), tuple(taps), tuple(slopes))


def _learned(length: int, sigma: Tensor, steps: ModuleType) -> Taps:
    sigma = at_least_narrow(sigma)
    reach = (CUTOFF * sigma.abs()).ceil().clamp(max=length - 1).to(torch.int32).clamp(min=0)
    values = torch.exp(-0.5 * (_offsets(length - 1, sigma) / sigma).square())
    taps: Taps = steps.cut_off(values, reach)
    return taps


def slope(taps: Taps, sigma: Tensor) -> Taps:
    """The derivative of taps to σ (docs/algorithm.md, eq. 24)."""
    offsets = _offsets(len(taps.values) // 2, sigma)
    return taps._replace(values=taps.values * offsets.square() / at_least_narrow(sigma) ** 3)


def at_least_narrow(sigma: Tensor) -> Tensor:
    """A σ of which no power is 0: below it all taps but the middle one are 0 anyhow, and so are their slopes."""
    return sigma.clamp(min=NARROW)


def _offsets(radius: int, like: Tensor) -> Tensor:
    return torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)


@lru_cache
def _taps(length: int, sigma: float) -> tuple[float, ...]:
    radius = min(math.ceil(CUTOFF * sigma), length - 1)
    narrowest = max(sigma, NARROW)
    return tuple(math.exp(-0.5 * k * k / (narrowest * narrowest)) for k in range(-radius, radius + 1))
