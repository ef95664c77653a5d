"""pydensecrf's matrix types, which are NumPy arrays here: what users compute with them are plain arrays and numbers."""

# ruff: noqa: N802
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn.arrays import float_array

Float32 = NDArray[np.float32]


class _Axes(type):
    """The type of a name for float32 arrays of so many axes."""

    axes: int

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, np.ndarray) and (instance.dtype, instance.ndim) == (np.float32, cls.axes)


class VectorXf(metaclass=_Axes):
    """The name of float32 arrays with one axis; `VectorXf()` is an empty one."""

    axes = 1

    def __new__(cls) -> Float32:  # type: ignore[misc]
        return np.zeros(0, np.float32)


class MatrixXf(metaclass=_Axes):
    """The name of float32 arrays with two axes, such as inference returns; `MatrixXf()` is an empty one."""

    axes = 2

    def __new__(cls) -> Float32:  # type: ignore[misc]
        return np.zeros((0, 0), np.float32)


def vectorXf(arr: ArrayLike) -> Float32:
    """A float32 copy of a vector of any real numbers.

    Raises:
        TypeError: if arr does not hold real numbers.
        ValueError: if it is not a vector.
    """
    return _copy(arr, 1)


def matrixXf(arr: ArrayLike) -> Float32:
    """A float32 copy of a matrix of any real numbers.

    Raises:
        TypeError: if arr does not hold real numbers.
        ValueError: if it is not a matrix.
    """
    return _copy(arr, 2)


def _copy(arr: ArrayLike, axes: int) -> Float32:
    given = np.array(float_array(arr, "arr", np.float32), np.float32)
    if given.ndim != axes:
        raise ValueError(f"arr has shape {given.shape}; expected {axes} {'axis' if axes == 1 else 'axes'}")
    return given
