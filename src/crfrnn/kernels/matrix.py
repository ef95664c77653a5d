"""A kernel given by its matrix: all pairs of few points, or the edges of a graph."""

from typing import Any

import numpy as np

from crfrnn.arrays import Array, Shape, check_finite, is_tensor, plain_array, real_shape


class MatrixKernel:
    """K v is the product of a matrix with values, in the time that its library takes.

    Args:
        matrix: (N, N) real numbers: an array, a sparse matrix or array of SciPy, such as the graph of neighbours that
            scikit-learn makes, or a tensor of torch, dense or sparse. K[i, j] is what point i receives from point j; it
            need not be symmetric.
    Raises:
        TypeError: if it does not hold real numbers.
        ValueError: if it is not square or not finite.
    """

    def __init__(self, matrix: Any) -> None:
        matrix = of_scipy(matrix)
        self._matrix: Any = matrix.tocsr() if is_sparse(matrix) else plain_array(matrix, "the matrix of a kernel")
        shape = self._matrix.shape
        if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
            raise ValueError(f"the matrix of a kernel has shape {shape}; expected (points, points)")
        if self._matrix.dtype.kind not in "biuf":
            raise TypeError(f"the matrix of a kernel must hold real numbers, got dtype {self._matrix.dtype}")
        entries: Any = self._matrix.data if is_sparse(matrix) else self._matrix
        check_finite(entries, "the matrix of a kernel")
        self.num_points = int(shape[0])
        self._of_dtype: dict[np.dtype[Any], Any] = {}

    def filter(self, values: Array, transpose: bool = False) -> Array:
        """K values, or Kᵀ values, (N, channels), in the precision of the values."""
        values = np.asarray(values)
        kind = np.dtype(np.float64 if values.dtype == np.float64 else np.float32)
        if kind not in self._of_dtype:
            self._of_dtype[kind] = self._matrix.astype(kind)
        matrix = self._of_dtype[kind]
        product: Array = np.asarray((matrix.T if transpose else matrix) @ values)
        return product


def is_sparse(value: Any) -> bool:
    """Whether this is a sparse matrix or array of SciPy, which need not be installed."""
    return hasattr(value, "tocsr") and hasattr(value, "shape")


def of_scipy(value: Any) -> Any:
    """A sparse tensor of torch as a sparse matrix of SciPy; anything else as it is.

    Raises: ImportError: if SciPy is missing.
    """
    if not (is_tensor(value) and value.ndim == 2 and str(value.layout) != "torch.strided"):
        return value
    try:
        from scipy.sparse import coo_matrix  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError(
            "a sparse tensor as a kernel needs SciPy, which is not installed: pip install scipy"
        ) from error
    entries = value.detach().cpu().to_sparse_coo().coalesce()
    return coo_matrix((entries.values().numpy(), entries.indices().numpy()), tuple(entries.shape))


def matrix_kernel(value: Any, points: int | None = None, name: str = "a kernel") -> MatrixKernel | None:
    """The kernel of a matrix (N, N); None for anything else.

    Args:
        points: N, which the matrix must have; None takes any square matrix.
        name: What the user calls it, for messages.
    """
    value = of_scipy(value)
    if is_sparse(value):
        shape: Shape = tuple(value.shape)
        if points is not None and shape != (points, points):
            raise ValueError(f"{name} is a sparse matrix of shape {shape}; expected ({points}, {points})")
        return MatrixKernel(value)
    if hasattr(value, "filter"):
        return None
    shape = real_shape(value, name)
    square = len(shape) == 2 and shape[0] == shape[1]
    return MatrixKernel(value) if square and points in (None, shape[0]) else None
