"""Couplings between classes, E = M W: what a mean field does with filtered marginals (docs/algorithm.md, eq. 6).

A coupling is a number, a (C,) diagonal or a (C, C) matrix, whichever is the smallest that holds it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.arrays import Array

Matrix = NDArray[np.float64]


def coupling(compatibility: Matrix | None, weight: Matrix) -> Matrix:
    """M W, with as many axes as the larger of the two has: gradients to both can be found from its gradient."""
    if compatibility is None:
        return np.negative(weight)
    if compatibility.ndim == 2 and weight.ndim == 2:
        product: Matrix = compatibility @ weight
        return product
    if compatibility.ndim == 1 and weight.ndim == 2:
        return np.multiply(compatibility[:, None], weight)
    return np.multiply(compatibility, weight)


def fewest_axes(matrix: Matrix) -> Matrix:
    """The same coupling with the fewest axes: the fewer, the faster."""
    if matrix.ndim == 2 and is_diagonal(matrix):
        matrix = matrix.diagonal().copy()
    if matrix.ndim == 1 and (matrix == matrix[0]).all():
        return np.asarray(matrix[0])
    return matrix


def is_diagonal(matrix: Matrix) -> bool:
    """Whether a coupling passes no messages between classes."""
    return matrix.ndim < 2 or bool(np.count_nonzero(matrix) == np.count_nonzero(matrix.diagonal()))


def couple(values: Array, matrix: NDArray[np.floating[Any]]) -> Array:
    """A coupling applied to (N, C) values: E v at every point."""
    coupled: Array = values @ matrix.T if matrix.ndim == 2 else values * matrix
    return coupled


def coupling_gradient(cotangent: Array, received: Array, axes: int) -> Array:
    """The gradient of ⟨cotangent, E v⟩ to a coupling E of so many axes, for what points receive, (N, C) values v."""
    if axes == 2:
        return np.asarray(cotangent.T @ received)
    return np.asarray((cotangent * received).sum(axis=0 if axes else None))


def weight_gradient(gradient: Matrix, compatibility: Matrix | None, weight: Matrix, num_classes: int) -> Matrix:
    """∂W = Mᵀ ∂E, in the shape of the weight."""
    given = np.asarray(-1.0) if compatibility is None else compatibility
    return _factor_gradient(gradient, given, weight, num_classes, lambda other, full: other.T @ full)


def compatibility_gradient(gradient: Matrix, compatibility: Matrix, weight: Matrix, num_classes: int) -> Matrix:
    """One kernel's share of ∂M = Σ ∂E Wᵀ, in the shape of the compatibility."""
    return _factor_gradient(gradient, weight, compatibility, num_classes, lambda other, full: full @ other.T)


def _factor_gradient(
    gradient: Matrix, other: Matrix, factor: Matrix, num_classes: int, product: Callable[[Matrix, Matrix], Matrix]
) -> Matrix:
    """The gradient to one factor of a coupling, in its shape, given the other one. Diagonals need no matrices."""
    if max(gradient.ndim, other.ndim, factor.ndim) == 2:
        return _shaped_like(factor, product(_full(other, num_classes), _full_gradient(gradient, num_classes)))
    of_classes = np.broadcast_to(other * (gradient if gradient.ndim else gradient / num_classes), num_classes)
    return of_classes.copy() if factor.ndim else np.asarray(of_classes.sum())


def _full(matrix: Matrix, num_classes: int) -> Matrix:
    return matrix if matrix.ndim == 2 else np.diag(np.broadcast_to(matrix, num_classes))


def _full_gradient(gradient: Matrix, num_classes: int) -> Matrix:
    """A matrix with this diagonal, or with this trace: all that matters when neither factor is a matrix."""
    return _full(gradient if gradient.ndim else gradient / num_classes, num_classes)


def _shaped_like(parameter: Matrix, full: Matrix) -> Matrix:
    if parameter.ndim == 2:
        return full
    diagonal = full.diagonal()
    return diagonal.copy() if parameter.ndim == 1 else np.asarray(diagonal.sum())
