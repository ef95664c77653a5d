"""Gradients to what kernels are built from, in plain NumPy (docs/algorithm.md, section 9): dense, slow and readable.

Each is the gradient of ⟨cotangent, K values⟩, with values and cotangent (N, C). `term_gradients` sums them up over the
iterations of a mean field.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from crfrnn.reference import (
    Array,
    DenseGaussian,
    GridGaussian,
    Kernel,
    Lattice,
    Term,
    as_matrix,
    elevate,
    normalisation,
)


class TermGradient(NamedTuple):
    """The gradients to what a term consists of besides its coupling: to its kernel, as `kernel_gradient`, and (N,)."""

    kernel: Array
    pre: Array
    post: Array


def kernel_gradient(kernel: Kernel, values: ArrayLike, cotangent: ArrayLike) -> Array:
    """To the features (N, d) of a lattice or a dense Gaussian, or to the deviations (axes,) of a grid."""
    v, g = np.asarray(values, np.float64), np.asarray(cotangent, np.float64)
    if isinstance(kernel, Lattice):
        return lattice_gradient(kernel, v, g)
    if isinstance(kernel, GridGaussian):
        return grid_gradient(kernel, v, g)
    if isinstance(kernel, DenseGaussian):
        return dense_gradient(kernel, v, g)
    raise TypeError(f"no gradient is known of a {type(kernel).__name__}")


def lattice_gradient(lattice: Lattice, values: Array, cotangent: Array) -> Array:
    """To the features, (N, d), while points stay in their simplices (docs/algorithm.md, eq. 23).

    Weights b are barycentric: with the vertices V of a simplex as columns, V b is the elevated point and Σ b = 1. So
    ∂b/∂f solves this for the elevation of a unit step along each feature, with a sum of 0.
    """
    received, sent = lattice.spread(values), lattice.spread(cotangent, transpose=True)
    to_weights = np.einsum("nkc,nc->nk", received[lattice.vertices], cotangent)
    to_weights += np.einsum("nkc,nc->nk", sent[lattice.vertices], values)
    to_weights /= 1 + 2.0**-lattice.num_features
    corners = lattice.keys[lattice.vertices, 1:].astype(np.float64).transpose(0, 2, 1)
    conditions = np.concatenate([corners, np.ones((len(corners), 1, corners.shape[2]))], axis=1)
    steps = np.zeros((lattice.num_features + 2, lattice.num_features))
    steps[:-1] = elevate(np.eye(lattice.num_features)).T
    return np.asarray(np.einsum("nk,nkf->nf", to_weights, np.linalg.pinv(conditions) @ steps))


def grid_gradient(grid: GridGaussian, values: Array, cotangent: Array) -> Array:
    """To the deviations, (axes,), with the radii held fixed (docs/algorithm.md, eq. 24)."""
    gradient = np.zeros(len(grid.shape))
    for axis, (length, sigma) in enumerate(zip(grid.shape, grid.sigma, strict=True)):
        if sigma > 0:
            step = np.arange(length)
            slopes = grid.matrices[axis] * (step[:, None] - step) ** 2 / sigma**3
            matrices = [*grid.matrices[:axis], slopes, *grid.matrices[axis + 1 :]]
            gradient[axis] = np.vdot(cotangent, grid.convolve(values, matrices))
    return gradient


def dense_gradient(kernel: DenseGaussian, values: Array, cotangent: Array) -> Array:
    """To the features, (N, d) (docs/algorithm.md, eq. 24)."""
    pairs = kernel.matrix * (cotangent @ values.T + values @ cotangent.T)
    return np.asarray(pairs @ kernel.features - pairs.sum(axis=1, keepdims=True) * kernel.features)


def term_gradients(
    cotangent: ArrayLike,
    marginals: Array,
    terms: Sequence[Term],
    *,
    compatibility: ArrayLike | None = None,
    damping: float = 0.0,
) -> list[TermGradient]:
    """Gradients of ⟨cotangent, a_T⟩ to the kernels and factors of all terms (docs/algorithm.md, eq. 22).

    The arguments are those of `reference.mean_field_vjp`. Each term's factors count as independent of its kernel.
    """
    g = np.asarray(cotangent, np.float64)
    classes, points = g.shape
    M = as_matrix(-1.0 if compatibility is None else compatibility, classes)
    none = np.zeros((points, 1))
    found = [[TermGradient(kernel_gradient(term.kernel, none, none), none[:, 0], none[:, 0])] for term in terms]
    for q in marginals[::-1]:
        v = np.zeros_like(g)
        for term, gradients in zip(terms, found, strict=True):
            y = -(1 - damping) * (M @ as_matrix(term.weight, classes)).T @ g
            pre, post = normalisation(term.kernel, points, term.normalization, term.mask)
            forward = term.kernel.filter((pre * q).T).T
            backward = term.kernel.filter((post * y).T, transpose=True).T
            to_kernel = kernel_gradient(term.kernel, (pre * q).T, (post * y).T)
            gradients.append(TermGradient(to_kernel, (backward * q).sum(axis=0), (forward * y).sum(axis=0)))
            v += pre * backward
        g = damping * g + q * (v - (q * v).sum(axis=0))
    return [TermGradient(*(sum(parts) for parts in zip(*each, strict=True))) for each in found]
