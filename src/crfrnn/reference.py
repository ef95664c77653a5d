"""Oracles in plain NumPy and float64: slow, short, and written to be checked by reading.

Every fast path of the package is tested against these. Kernels here have the `filter` and `norm` of the fast ones, so
they can also stand in for them where exactness matters more than time. Symbols are those of docs/algorithm.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn.crf import CUTOFF, EPSILON

Array = NDArray[np.float64]
DENSE_LIMIT = 20_000
LABELLINGS_LIMIT = 5_000_000


class Kernel(Protocol):
    """Anything that maps (N, C) values to K values, or to Kᵀ values."""

    num_points: int

    def filter(self, values: Array, transpose: bool = False) -> Array: ...

    def norm(self, mask: ArrayLike | None = None) -> Array:
        """K m at every point, for weights m (N,); None is 1 everywhere."""
        m = np.ones(self.num_points) if mask is None else np.asarray(mask, np.float64).reshape(self.num_points)
        return self.filter(m[:, None])[:, 0]


class MatrixKernel(Kernel):
    """The kernel whose entries are given: `filter(values)` is `matrix @ values`."""

    def __init__(self, matrix: ArrayLike) -> None:
        self.matrix = np.asarray(matrix, np.float64)
        if self.matrix.ndim != 2 or self.matrix.shape[0] != self.matrix.shape[1]:
            raise ValueError(f"matrix has shape {self.matrix.shape}; expected (N, N)")
        self.num_points = len(self.matrix)

    def filter(self, values: Array, transpose: bool = False) -> Array:
        operator = self.matrix.T if transpose else self.matrix
        return operator @ np.asarray(values, np.float64)


class DenseGaussian(MatrixKernel):
    """The exact Gaussian kernel exp(-½ |f_i - f_j|²), as an N×N matrix.

    Args:
        features: (N, d) rows.
    Raises: ValueError: if N is above 20 000 (the matrix would take more than 3 GB).
    """

    def __init__(self, features: ArrayLike) -> None:
        rows = np.asarray(features, np.float64)
        if rows.ndim != 2:
            raise ValueError(f"features have shape {rows.shape}; expected (N, d)")
        if len(rows) > DENSE_LIMIT:
            raise ValueError(
                f"a dense kernel over {len(rows)} points is too large (at most {DENSE_LIMIT}); use PermutohedralLattice"
            )
        square = np.zeros((len(rows), len(rows)))
        for column in rows.T:
            square += (column[:, None] - column[None, :]) ** 2
        super().__init__(np.exp(-0.5 * square))
        self.features = rows


class GridGaussian(Kernel):
    """The exact Gaussian on a regular grid, one axis after the other, cut at ±ceil(4σ), nothing beyond the border.

    Args:
        shape: Points along each axis.
        sigma: Standard deviation along each axis in grid steps, or one for all; 0 leaves an axis unfiltered.
    """

    def __init__(self, shape: Sequence[int], sigma: float | Sequence[float]) -> None:
        self.shape = tuple(shape)
        self.num_points = int(np.prod(self.shape))
        self.sigma = np.broadcast_to(sigma, len(self.shape))
        self.matrices = []
        for length, deviation in zip(self.shape, self.sigma, strict=True):
            step = np.arange(length)
            distance = np.abs(step[:, None] - step[None, :])
            if deviation == 0:
                self.matrices.append(np.eye(length))
            else:
                gaussian = np.exp(-0.5 * (distance / deviation) ** 2)
                self.matrices.append(np.where(distance <= np.ceil(CUTOFF * deviation), gaussian, 0.0))

    def filter(self, values: Array, transpose: bool = False) -> Array:
        """K values; K is symmetric, so `transpose` changes nothing."""
        return self.convolve(values, self.matrices)

    def convolve(self, values: Array, matrices: Sequence[Array]) -> Array:
        grid = np.asarray(values, np.float64).reshape(*self.shape, -1)
        for axis, matrix in enumerate(matrices):
            grid = np.moveaxis(np.tensordot(matrix, grid, axes=(1, axis)), 0, axis)
        return grid.reshape(np.shape(values))


class Lattice(Kernel):
    """The permutohedral lattice of Adams, Baek & Davis 2010, section 3, by its rules and nothing else.

    Simplices are found in the precision of `features` (float32 stays float32), so that points on the border of two
    simplices fall where single-precision implementations put them; values are filtered in float64.

    Args:
        features: (N, d) rows, d ≥ 1.
        batch: (N,) ids; points of different ids never share a vertex.
        neighbour_rounds: How many times to add the neighbours, so far missing, of all vertices present.
    Attributes:
        keys: (M, 1 + d + 1) batch id and coordinates of each vertex.
        vertices: (N, d + 1) vertices of the simplex around each point, by remainder.
        weights: (N, d + 1) barycentric weights.
        neighbours: (d + 1, M, 2) the vertices one step back and one step on along each direction; -1 where missing.
    """

    def __init__(self, features: ArrayLike, batch: ArrayLike | None = None, neighbour_rounds: int = 0) -> None:
        rows = np.asarray(features)
        if rows.dtype != np.float32:
            rows = rows.astype(np.float64)
        if rows.ndim != 2 or rows.shape[1] < 1:
            raise ValueError(f"features have shape {rows.shape}; expected (N, d) with d at least 1")
        self.num_points, self.num_features = rows.shape
        coordinates, self.weights = simplices(rows)
        ids = np.zeros(len(rows), np.int64) if batch is None else np.asarray(batch, np.int64)
        labelled = np.concatenate(
            [np.broadcast_to(ids[:, None, None], (*coordinates.shape[:2], 1)), coordinates], axis=-1
        )
        keys, inverse = np.unique(labelled.reshape(-1, labelled.shape[-1]), axis=0, return_inverse=True)
        self.vertices = inverse.reshape(self.weights.shape)
        self._steps = blur_steps(self.num_features)
        for _ in range(neighbour_rounds):
            around = np.concatenate([keys + sign * step for step in self._steps for sign in (-1, 1)])
            missing = set(map(tuple, around.tolist())) - set(map(tuple, keys.tolist()))
            keys = np.concatenate([keys, np.array(sorted(missing), np.int64).reshape(-1, keys.shape[1])])
        self.keys = keys
        self.num_vertices = len(keys)
        index = {key: vertex for vertex, key in enumerate(map(tuple, keys.tolist()))}
        self.neighbours = np.array(
            [
                [[index.get(tuple(side), -1) for side in (keys + sign * step).tolist()] for sign in (-1, 1)]
                for step in self._steps
            ]
        ).transpose(0, 2, 1)

    def filter(self, values: Array, transpose: bool = False) -> Array:
        """Splat, blur [½ 1 ½] along each direction, slice; the transpose takes the directions in reverse order."""
        given = np.asarray(values, np.float64)
        lattice = self.spread(given.reshape(self.num_points, -1), transpose)
        sliced = np.einsum("nk,nkc->nc", self.weights, lattice[self.vertices])
        scaled: Array = sliced / (1 + 2.0**-self.num_features)
        return scaled.reshape(given.shape)

    def spread(self, channels: Array, transpose: bool = False) -> Array:
        """(M, C) values of the vertices: splat and blur of (N, C) values."""
        # One row beyond the vertices stays 0: the value of every missing neighbour, whose number is -1.
        lattice = np.zeros((self.num_vertices + 1, channels.shape[1]))
        for vertex, weight in zip(self.vertices.T, self.weights.T, strict=True):
            np.add.at(lattice, vertex, weight[:, None] * channels)
        for neighbours in self.neighbours[::-1] if transpose else self.neighbours:
            lattice[:-1] += 0.5 * (lattice[neighbours[:, 0]] + lattice[neighbours[:, 1]])
        return lattice[:-1]


def blur_steps(d: int) -> NDArray[np.int64]:
    """(d+1, 1+d+1) steps between neighbours: batch id unchanged, -1 in every coordinate but +d in the direction's."""
    steps = (d + 1) * np.eye(d + 1, dtype=np.int64) - 1
    return np.concatenate([np.zeros((d + 1, 1), np.int64), -steps], axis=1)


def simplices(features: NDArray[Any]) -> tuple[NDArray[np.int64], Array]:
    """Coordinates (N, d+1, d+1) of the vertices around each point, by remainder, and their weights (N, d+1)."""
    n, d = features.shape
    position = elevate(features)

    # The nearest point of remainder 0: every coordinate a multiple of d+1, and all of them summing to 0.
    scaled = position * position.dtype.type(1 / (d + 1))
    low, high = np.floor(scaled) * (d + 1), np.ceil(scaled) * (d + 1)
    nearest = np.where(high - position < position - low, high, low).astype(np.int64)
    excess = nearest.sum(axis=1) // (d + 1)

    # rank[i] coordinates lie further from `nearest` than coordinate i does; of equals the later one counts as nearer.
    difference = position - nearest.astype(position.dtype)
    rank = np.zeros((n, d + 1), np.int64)
    for i in range(d + 1):
        for j in range(i + 1, d + 1):
            behind = difference[:, i] < difference[:, j]
            rank[:, i] += behind
            rank[:, j] += ~behind

    # Where the sum is not 0, move the coordinates that were rounded the farthest by one multiple of d+1.
    rank += excess[:, None]
    wrap = (rank < 0).astype(np.int64) - (rank > d)
    rank += (d + 1) * wrap
    nearest += (d + 1) * wrap

    difference = (position - nearest.astype(position.dtype)) / (d + 1)
    by_rank = np.zeros((n, d + 1), position.dtype)
    np.put_along_axis(by_rank, rank, difference, axis=1)
    weights = np.empty((n, d + 1))
    weights[:, 0] = 1 + by_rank[:, d] - by_rank[:, 0]
    for remainder in range(1, d + 1):
        weights[:, remainder] = by_rank[:, d - remainder] - by_rank[:, d - remainder + 1]

    step = np.arange(d + 1)[None, :, None]
    canonical = np.where(rank[:, None, :] <= d - step, step, step - (d + 1))
    return nearest[:, None, :] + canonical, weights


def elevate(features: NDArray[Any]) -> NDArray[Any]:
    """Put features into the hyperplane Σ = 0 of R^{d+1} (page 5), summing from the last one as pydensecrf does."""
    n, d = features.shape
    position = np.zeros((n, d + 1), features.dtype)
    total = np.zeros(n, features.dtype)
    for i in range(d, 0, -1):
        deviation = float(features.dtype.type(np.sqrt(2 / 3) * (d + 1)))  # rounded here, as the original does
        scale = features.dtype.type(1 / np.sqrt(i * (i + 1)) * deviation)
        column = features[:, i - 1] * scale
        position[:, i] = total - i * column
        total = total + column
    position[:, 0] = total
    return position


def softmax(logits: Array) -> Array:
    """Softmax over the first axis."""
    shifted = np.exp(logits - logits.max(axis=0, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=0, keepdims=True))


def as_matrix(coupling: ArrayLike, classes: int) -> Array:
    """A number, a vector per class or a C×C matrix, as the C×C matrix it stands for."""
    given = np.asarray(coupling, np.float64)
    return given if given.ndim == 2 else np.diag(np.broadcast_to(given, classes))


def normalisation(kernel: Kernel, num_points: int, mode: str, mask: ArrayLike | None = None) -> tuple[Array, Array]:
    """(pre, post) such that N = diag(post) K diag(pre).

    Args:
        mode: "after", "before", "symmetric" or "none" (docs/algorithm.md, section 2).
        mask: (N,) weights of the points; those of weight 0 neither send nor receive.
    """
    m = np.ones(num_points) if mask is None else np.asarray(mask, np.float64).reshape(num_points)
    norm = kernel.norm(m)
    if mode == "after":
        return m, m / (norm + EPSILON)
    if mode == "before":
        return m / (norm + EPSILON), m
    if mode == "symmetric":
        root = m / np.sqrt(norm + EPSILON)
        return root, root
    if mode == "none":
        return m, m
    raise ValueError(f"normalisation {mode!r} is unknown; use 'none', 'before', 'after' or 'symmetric'")


@dataclass(frozen=True)
class Gradients:
    """What `mean_field_vjp` returns; each gradient has the shape of its parameter."""

    unary: Array
    weights: list[Array]
    compatibility: Array


@dataclass(frozen=True)
class Term:
    """One pairwise term of the model: a kernel, its weight (number, vector or matrix) and its normalisation."""

    kernel: Kernel
    weight: ArrayLike = 1.0
    normalization: str = "after"
    mask: ArrayLike | None = None

    def filter(self, values: Array, transpose: bool = False) -> Array:
        """N values for (C, N) values, or Nᵀ values."""
        pre, post = normalisation(self.kernel, values.shape[1], self.normalization, self.mask)
        if transpose:
            return pre * self.kernel.filter((post * values).T, transpose=True).T
        return post * self.kernel.filter((pre * values).T).T


def mean_field(
    unary: ArrayLike,
    terms: Sequence[Term],
    *,
    iterations: int = 5,
    compatibility: ArrayLike | None = None,
    damping: float = 0.0,
    class_threshold: float = 0.0,
) -> tuple[Array, Array]:
    """Logits a_T (C, N) and the marginals q_0 … q_{T-1} (T, C, N) of docs/algorithm.md, section 2.

    Args:
        unary: (C, N) logits, higher is likelier.
        compatibility: C×C matrix or vector of its diagonal; None is Potts, -I.
        class_threshold: Probability below which a class is left out, section 6.
    """
    U = np.asarray(unary, np.float64)
    M = as_matrix(-1.0 if compatibility is None else compatibility, len(U))
    a = U
    marginals = np.zeros((iterations, *U.shape))
    likely = np.arange(len(U))
    for t in range(iterations):
        if class_threshold > 0:
            seen = marginals[t - 1] if t else softmax(U)
            likely = likely[seen[likely].max(axis=1) >= min(class_threshold, seen.max())]
        q = marginals[t]
        q[likely] = softmax(a[likely])
        message = np.zeros_like(U)
        for term in terms:
            message += as_matrix(term.weight, len(U)) @ term.filter(q)
        undamped = U - M @ message
        a, before = undamped.copy(), a
        a[likely] = (1 - damping) * undamped[likely] + damping * before[likely]
    return a, marginals


def mean_field_vjp(
    cotangent: ArrayLike,
    marginals: Array,
    terms: Sequence[Term],
    *,
    compatibility: ArrayLike | None = None,
    damping: float = 0.0,
) -> Gradients:
    """Gradients of ⟨cotangent, a_T⟩ to unary, weights and compatibility (docs/algorithm.md, section 3).

    Args:
        cotangent: (C, N).
        marginals: (T, C, N), as `mean_field` returns them.
    """
    g = np.asarray(cotangent, np.float64)
    classes = len(g)
    M = as_matrix(-1.0 if compatibility is None else compatibility, classes)
    W = [as_matrix(term.weight, classes) for term in terms]
    dW = [np.zeros((classes, classes)) for _ in terms]
    dM = np.zeros((classes, classes))
    dU = np.zeros_like(g)
    for q in marginals[::-1]:
        received = (1 - damping) * g
        dU += received
        v = np.zeros_like(g)
        for k, term in enumerate(terms):
            h = term.filter(received, transpose=True)
            P = h @ q.T
            dW[k] -= M.T @ P
            dM -= P @ W[k].T
            v -= W[k].T @ M.T @ h
        g = damping * g + q * (v - (q * v).sum(axis=0))
    shapes = [np.shape(term.weight) for term in terms]
    return Gradients(
        unary=dU + g,
        weights=[_in_shape(gradient, shape) for gradient, shape in zip(dW, shapes, strict=True)],
        compatibility=_in_shape(dM, (classes, classes) if compatibility is None else np.shape(compatibility)),
    )


def _in_shape(gradient: Array, shape: tuple[int, ...]) -> Array:
    """The gradient to a matrix, turned into that of the number or vector it was made from."""
    if len(shape) == 2:
        return gradient
    diagonal = np.diagonal(gradient).copy()
    return diagonal if shape else np.asarray(diagonal.sum())


def enumerate_marginals(unary: ArrayLike, kernels: Sequence[ArrayLike], couplings: Sequence[ArrayLike]) -> Array:
    """True marginals (C, N) of the dense CRF, by summing over all Cᴺ labellings (docs/algorithm.md, eq. 1).

    p(x) ∝ exp(Σ_i U[x_i, i] - Σ_{i<j} Σ_k E_k[x_i, x_j] K_k[i, j])

    Args:
        unary: (C, N) logits.
        kernels: Symmetric (N, N) matrices.
        couplings: E_k = M W_k, a number, vector or symmetric C×C matrix for each kernel.
    Raises: ValueError: if there are more than 5 million labellings.
    """
    U = np.asarray(unary, np.float64)
    classes, n = U.shape
    if classes**n > LABELLINGS_LIMIT:
        raise ValueError(
            f"{classes} classes on {n} points have {classes**n} labellings; at most {LABELLINGS_LIMIT} are enumerated"
        )
    E = [as_matrix(coupling, classes) for coupling in couplings]
    K = [np.asarray(kernel, np.float64) for kernel in kernels]
    labellings = np.array(list(product(range(classes), repeat=n)))
    score = U[labellings, np.arange(n)].sum(axis=1)
    for i in range(n):
        for j in range(i + 1, n):
            for coupling, kernel in zip(E, K, strict=True):
                score -= coupling[labellings[:, i], labellings[:, j]] * kernel[i, j]
    probability = softmax(score)
    return np.stack([(probability[:, None] * (labellings == label)).sum(axis=0) for label in range(classes)])
