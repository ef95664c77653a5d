"""pydensecrf's matrix types. Here they are NumPy arrays under another name, and do whatever arrays do."""

# ruff: noqa: N802
import numpy as np
from numpy.typing import ArrayLike

from crfrnn.arrays import float_array


class VectorXf(np.ndarray[tuple[int], np.dtype[np.float32]]):
    """A float32 vector; `VectorXf()` is empty."""

    def __new__(cls) -> "VectorXf":
        return np.zeros(0, np.float32).view(cls)


class MatrixXf(np.ndarray[tuple[int, int], np.dtype[np.float32]]):
    """A float32 matrix; `MatrixXf()` is empty. What inference returns is one."""

    def __new__(cls) -> "MatrixXf":
        return np.zeros((0, 0), np.float32).view(cls)


def vectorXf(arr: ArrayLike) -> VectorXf:
    """A float32 copy of a vector of any real numbers.

    Raises:
        TypeError: if arr does not hold real numbers.
        ValueError: if it is not a vector.
    """
    return _copy(arr, 1).view(VectorXf)


def matrixXf(arr: ArrayLike) -> MatrixXf:
    """A float32 copy of a matrix of any real numbers.

    Raises:
        TypeError: if arr does not hold real numbers.
        ValueError: if it is not a matrix.
    """
    return _copy(arr, 2).view(MatrixXf)


def _copy(arr: ArrayLike, axes: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    given = np.array(float_array(arr, "arr", np.float32), np.float32)
    if given.ndim != axes:
        raise ValueError(f"arr has shape {given.shape}; expected {axes} {'axis' if axes == 1 else 'axes'}")
    return given
