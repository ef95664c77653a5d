"""The exact Gaussian kernel between any points: every pair of them, nothing approximated."""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from crfrnn import _native
from crfrnn.arrays import Array, check_finite, float_array
from crfrnn.kernels.native import NativeKernel
from crfrnn.memory import exact_bytes, require_memory


class ExactGaussian(NativeKernel):
    """Gaussian kernel exp(-½ |f_i - f_j|²) between points with given features (docs/algorithm.md, eq. 2).

    The truth that a `PermutohedralLattice` approximates, at O(N²) instead of O(N): for a photo of 500×366 with 21
    classes a filter takes seconds where a lattice takes milliseconds (docs/accuracy.md), and at twice the width and
    height 16 times as long. Memory is O(N). Like a lattice it is not normalised.

    Pairs of groups of points are left out if they are so far apart that all of them add less to a value than rounding
    does (2⁻²⁴ of the largest value sent in float32, 2⁻⁵³ in float64). This saves most of the time if deviations are
    small.

    Args:
        features: (N, d) rows, any d, scaled so that the deviation wanted is 1. float64 features make a float64 kernel,
            others a float32 one: relative error below 1e-5.
        threads: Threads of `filter` unless it is told otherwise; None is `default_threads()`.
    Attributes:
        num_points: N.
        num_features: d.
        dtype: float32 or float64.
    """

    symmetric: ClassVar[bool] = True

    def __init__(self, features: ArrayLike, *, threads: int | None = None) -> None:
        rows = float_array(features, "features")
        if rows.ndim != 2 or rows.size == 0:
            raise ValueError(f"features have shape {rows.shape}; expected (points, dimensions), at least one of each")
        check_finite(rows, "features")
        require_memory(
            exact_bytes(len(rows), rows.shape[1], rows.itemsize),
            f"an exact kernel of {len(rows)} points in {rows.shape[1]} dimensions",
        )
        self._build(rows, threads)

    @classmethod
    def of_rows(cls, rows: Array, threads: int | None) -> "ExactGaussian":
        """The kernel of features (N, d), which have been checked; its memory has been checked too."""
        kernel = cls.__new__(cls)
        kernel._build(rows, threads)
        return kernel

    def _build(self, rows: Array, threads: int | None) -> None:
        self._threads = threads
        self.num_points, self.num_features = rows.shape
        self.dtype: np.dtype[Any] = rows.dtype
        build: Any = _native.ExactGaussian64 if rows.dtype == np.float64 else _native.ExactGaussian32
        self._native: Any = build(rows)
