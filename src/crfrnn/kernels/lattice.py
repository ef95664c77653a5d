"""The permutohedral lattice: Gaussian filtering of any points in time linear in their number."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn import _native
from crfrnn.arrays import Array, check_finite, float_array, plain_array
from crfrnn.crf import MOST_NEIGHBOUR_ROUNDS
from crfrnn.kernels.native import NativeKernel
from crfrnn.memory import available_memory, lattice_bytes, require_memory
from crfrnn.numbers import whole_number
from crfrnn.threads import thread_count

MAX_FEATURES = 16
MANY_VERTICES = 2**21
"""So many vertices that memory is worth a look before they are built, which takes fractions of a millisecond."""
NO_LIMIT = 2**63 - 1


class PermutohedralLattice(NativeKernel):
    """Approximate Gaussian kernel exp(-½ |f_i - f_j|²) between points with given features (docs/algorithm.md, eq. 9).

    Built once, it filters any values at these points, as often as needed. The filter is not normalised: divide by
    `norm()`, or use it in a `PairwiseTerm`.

    Args:
        features: (N, d) rows, d from 1 to 16, scaled so that the deviation wanted is 1. float64 features make a
            float64 lattice, others a float32 one.
        batch: (N,) integer ids ≥ 0; points of different ids do not see each other. None is one image.
        neighbour_rounds: Rounds of vertices that no point touches added around those touched. One round halves the
            error on rough images at 3 to 5 times the vertices; a second one adds nothing (docs/benchmarks.md).
        threads: Threads of construction, and of `filter` unless it is told otherwise; None is `default_threads()`.
    Attributes:
        num_points: N.
        num_features: d.
        num_vertices: How many lattice vertices the points touch.
        dtype: float32 or float64.
    References: Adams, Baek & Davis 2010, section 3.
    """

    def __init__(
        self,
        features: ArrayLike,
        *,
        batch: ArrayLike | None = None,
        neighbour_rounds: int = 0,
        threads: int | None = None,
    ) -> None:
        rows = float_array(features, "features")
        if rows.ndim != 2 or rows.size == 0:
            raise ValueError(f"features have shape {rows.shape}; expected (points, dimensions), at least one of each")
        if rows.shape[1] > MAX_FEATURES:
            turned = "; points are rows here: transpose them" if rows.shape[0] <= MAX_FEATURES else ""
            raise ValueError(
                f"features have {rows.shape[1]} dimensions, but a lattice takes at most {MAX_FEATURES}: "
                f"reduce them, for example by PCA{turned}"
            )
        check_finite(rows, "features")
        rounds = whole_number(neighbour_rounds, "neighbour_rounds", MOST_NEIGHBOUR_ROUNDS)
        ids = None if batch is None else _batch_ids(batch, len(rows))
        require_memory(
            lattice_bytes(len(rows), rows.shape[1], rows.itemsize, rounds),
            f"a lattice of {len(rows)} points in {rows.shape[1]} dimensions",
        )
        self._build(rows, ids, rounds, threads)

    @classmethod
    def of_rows(cls, rows: Array, neighbour_rounds: int, threads: int | None) -> "PermutohedralLattice":
        """The lattice of features (N, d), which have been checked; its memory has been checked too."""
        lattice = cls.__new__(cls)
        lattice._build(rows, None, neighbour_rounds, threads)
        return lattice

    def _build(self, rows: Array, ids: NDArray[np.int32] | None, rounds: int, threads: int | None) -> None:
        self._threads = threads
        self.num_points, self.num_features = rows.shape
        self.dtype: np.dtype[Any] = rows.dtype
        build: Any = _native.Lattice64 if rows.dtype == np.float64 else _native.Lattice32
        self._native: Any = build(rows, ids, rounds, thread_count(threads), _most_bytes(rows, rounds))
        self.num_vertices: int = self._native.num_vertices

    @property
    def vertices(self) -> NDArray[np.int32]:
        """(N, d+1) ids of the vertices around each point, in simplex order."""
        vertices: NDArray[np.int32] = self._native.vertices()
        return vertices

    @property
    def weights(self) -> Array:
        """(N, d+1) barycentric weights of the points at these vertices: at least 0, rows sum to 1."""
        weights: Array = self._native.weights()
        return weights

    @property
    def neighbours(self) -> NDArray[np.int32]:
        """(d+1, M, 2) ids of each vertex's previous and next one along each direction; -1 where there is none."""
        neighbours: NDArray[np.int32] = self._native.neighbours()
        return neighbours


def _most_bytes(rows: Array, rounds: int) -> int:
    """What building may take. Only counted vertices tell how much it takes, and small lattices need no limit."""
    corners = rows.shape[1] + 1
    most_vertices = len(rows) * corners * (2 * corners + 1) ** rounds
    available = available_memory() if most_vertices > MANY_VERTICES else None
    return NO_LIMIT if available is None else available


def _batch_ids(batch: ArrayLike, num_points: int) -> NDArray[np.int32]:
    ids = plain_array(batch, "batch")
    if ids.dtype.kind not in "iu":
        raise TypeError(f"batch must hold integer ids, got dtype {ids.dtype}")
    if ids.shape != (num_points,):
        raise ValueError(f"batch has shape {ids.shape}, but there are {num_points} points: expected ({num_points},)")
    if ids.min() < 0 or ids.max() > np.iinfo(np.int32).max:
        raise ValueError(f"batch ids range from {ids.min()} to {ids.max()}; they must be at least 0 and below 2³¹")
    return np.require(ids, np.int32, ["C_CONTIGUOUS", "ALIGNED"])
