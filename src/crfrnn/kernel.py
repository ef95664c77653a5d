"""What the Gaussian kernels of the native core have in common."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from crfrnn.arrays import Array, mask_array, point_array
from crfrnn.threads import thread_count


class NativeKernel:
    """A linear map between values at N points, computed natively: the mean field runs it inside its fused loop.

    Attributes:
        num_points: N.
        dtype: float32 or float64.
    """

    num_points: int
    dtype: np.dtype[Any]
    _native: Any
    _threads: int | None

    def filter(self, values: ArrayLike, transpose: bool = False, threads: int | None = None) -> Array:
        """Σ_j k(i, j) v_j at every point i.

        Args:
            values: (N,) or (N, channels).
            transpose: Apply the exact transpose. A lattice is not quite symmetric; the other kernels are.
        Returns: An array of the shape of values, of the kernel's dtype.
        """
        given = point_array(values, "values", self.num_points, self.dtype)
        filtered: Array = self._native.filter(
            given.reshape(self.num_points, -1), transpose, thread_count(self._threads if threads is None else threads)
        )
        return filtered.reshape(given.shape)

    def norm(self, mask: ArrayLike | None = None, threads: int | None = None) -> Array:
        """Σ_j k(i, j) m_j at every point i, (N,).

        Args:
            mask: (N,) weights m ≥ 0; None is 1 everywhere.
        """
        weights = np.ones(self.num_points) if mask is None else mask_array(mask, (self.num_points,))
        return self.filter(weights, threads=threads)
