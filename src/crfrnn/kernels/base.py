"""What a kernel is to the solvers: a linear map between values at points."""

from typing import Any, Protocol


class PointKernel(Protocol):
    """A linear map between values at N points. Ours run fused in the native core; any other one works, in NumPy.

    A `norm(mask)` of its own, the filtered mask (N,), is used where there is one; otherwise the mask is filtered.
    """

    @property
    def num_points(self) -> int: ...

    def filter(self, values: Any, transpose: bool = False) -> Any:
        """K values for values (N, channels), or Kᵀ values."""
        ...
