"""The exact Gaussian kernel between the points of a regular grid."""

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from crfrnn import _native
from crfrnn.arrays import Array, float_array, float_dtype, num_points, spatial_shape
from crfrnn.kernels.native import NativeKernel
from crfrnn.memory import require_memory

MAX_AXES = 4
LONGEST_AXIS = 2**28
LARGE_GRID = 2**26
"""Points from which on memory is worth a look."""


class GridGaussian(NativeKernel):
    """Gaussian kernel exp(-½ Σ_axis (Δ/σ)²) on a grid, one axis after the other (docs/algorithm.md, eq. 10).

    It is cut at ±⌈4σ⌉, which leaves out 6e-5 of an axis's mass, and sees nothing beyond the border of the grid. Like a
    lattice it is not normalised.

    Args:
        shape: Points along each of 1 to 4 axes, such as (height, width).
        sigma: Deviation in points: a number, or one for each axis in the order of `shape`. 0 leaves an axis unfiltered.
        dtype: float32 or float64.
        threads: Threads of `filter` unless it is told otherwise; None is `default_threads()`.
    Attributes:
        shape: As given.
        sigma: One deviation for each axis.
        num_points: The product of the shape.
        dtype: As given.
    """

    symmetric: ClassVar[bool] = True

    def __init__(
        self,
        shape: Iterable[int],
        sigma: ArrayLike,
        dtype: DTypeLike = np.float32,
        *,
        threads: int | None = None,
    ) -> None:
        self.shape = spatial_shape(shape, MAX_AXES)
        self.sigma = _axis_sigmas(sigma, len(self.shape))
        self.num_points = num_points(self.shape)
        self.dtype = float_dtype(dtype)
        if max(self.shape) > LONGEST_AXIS:
            raise ValueError(
                f"shape {self.shape} has an axis of more than {LONGEST_AXIS} points; a grid takes no longer one"
            )
        if self.num_points > LARGE_GRID:
            require_memory(
                2 * self.num_points * self.dtype.itemsize, f"a grid of {' × '.join(map(str, self.shape))} points"
            )
        self._threads = threads
        build: Any = _native.GridGaussian64 if self.dtype == np.float64 else _native.GridGaussian32
        self._native: Any = build(self.shape, self.sigma)

    def norm_of(self, mask: Array | None, threads: int | None = None) -> Array:
        """`norm` of a mask that has been checked.

        Without one it costs next to nothing: the sum of a product over axes is the product of the sums.
        """
        if mask is not None:
            return super().norm_of(mask, threads)
        norm: Array = np.ones((), self.dtype)
        for length, sigma in zip(self.shape, self.sigma, strict=True):
            axis = GridGaussian((length,), sigma, self.dtype)
            norm = np.multiply.outer(norm, axis.filter(np.ones(length), threads=1))
        return norm.reshape(-1)


def _axis_sigmas(sigma: ArrayLike, axes: int) -> tuple[float, ...]:
    given = float_array(sigma, "sigma", np.float64)
    if given.ndim > 1 or given.size not in (1, axes):
        raise ValueError(f"sigma={sigma!r} does not fit {axes} axes: give one number or {axes}")
    values = np.broadcast_to(given, axes).tolist()
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise ValueError(f"sigma={sigma!r} must be finite and at least 0")
    return tuple(values)
