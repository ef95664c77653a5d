"""The fast bilateral solver on any Gaussian kernel: docs/algorithm.md, eq. 34 and 35."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from crfrnn.arrays import Array, check_finite, check_result, float_array, image_array
from crfrnn.crf import Bilateral, Exact, Features, Lattice
from crfrnn.kernels.build import check_specification, kernel_of_rows
from crfrnn.kernels.features import Guide, feature_rows
from crfrnn.kernels.lattice import PermutohedralLattice
from crfrnn.kernels.native import NativeKernel
from crfrnn.numbers import finite_number, proper_fraction, whole_number

ROUNDS = 10
"""Of scaling the kernel so that its rows sum to 1; each halves what is missing."""
NEAR = Bilateral(4.0, 4.0)


def bilateral_solver(
    target: ArrayLike,
    confidence: ArrayLike,
    image: ArrayLike,
    features: Features = NEAR,
    filter: Lattice | Exact | None = None,
    *,
    smoothness: float = 128.0,
    iterations: int = 25,
    tolerance: float = 1e-5,
    threads: int | None = None,
) -> Array:
    """Values that are near the target where it is certain, and smooth along the image's edges everywhere.

    They minimise Σ_i c_i (x_i - t_i)² + λ/2 Σ_ij Ŵ_ij (x_i - x_j)², where Ŵ is the kernel scaled so that its rows and
    columns sum to 1. What has no confidence is filled in from what has, across any distance within a region. Solved by
    conjugate gradients, each iteration two filters of the target (one with `Exact()`).

    Args:
        target: t, (*spatial) or (C, *spatial): depth, a mask, probabilities, a flow.
        confidence: c, (*spatial) of at least 0, with some above 0.
        image: (*spatial, K), or (*spatial,) if grey.
        features: `Bilateral`, with θ_α in pixels and θ_β in levels of the image; the default suits levels 0-255.
        filter: `Lattice()`, which None is too, or `Exact()`, over all pairs of pixels.
        smoothness: λ, above 0.
        iterations: Most iterations.
        tolerance: End where the residual is below this share of the right-hand side.
        threads: None is `default_threads()`.
    Returns: x, in the shape of the target and within the range of its values with confidence; float64 if the target
        is, otherwise float32, whose rounding can show where λ is more than about 10⁶ times the mean confidence around.
    Raises:
        TypeError: if an array holds anything but real numbers, or features or filter are none of the above.
        ValueError: if shapes do not fit, values are not finite, or there is no confidence.
        MemoryError: if there is not enough memory.
    References: Barron & Poole 2016, "The fast bilateral solver"; the grid of that paper is a lattice or an exact sum
        here, and the unknowns are those of pixels.
    """
    given = float_array(target, "target")
    weights = _confidence(confidence, given)
    levels = image_array(image, weights.shape)
    strength = finite_number(smoothness, "smoothness")
    if not 0 < strength <= float(np.finfo(given.dtype).max):
        raise ValueError(f"smoothness={smoothness!r} must be above 0, and a number that {given.dtype} can hold")
    most, error = whole_number(iterations, "iterations"), proper_fraction(tolerance, "tolerance")
    check_specification(features, filter)
    rows = feature_rows(features, Guide(weights.shape, levels), given.dtype)
    kernel = kernel_of_rows(rows, filter or Lattice(), threads)
    c = weights.reshape(-1, 1)
    t = given.reshape(-1, len(c)).T
    with np.errstate(over="ignore", invalid="ignore"):
        start = _mean_around(kernel, t, c)
        x = _solved(_system(kernel, strength, c), c * t, start, strength + c, most, error)
    check_result(x, "values", "target, confidence or smoothness")
    certain = t[c[:, 0] > 0]  # the minimum lies between what is certain; rounding, or too few iterations, may not
    solved: Array = np.array(x.clip(certain.min(axis=0), certain.max(axis=0)).T, order="C").reshape(given.shape)
    return solved


def _confidence(confidence: ArrayLike, target: Array) -> Array:
    weights = float_array(confidence, "confidence", target.dtype)
    if target.size == 0 or weights.ndim == 0 or weights.shape not in (target.shape, target.shape[1:]):
        raise ValueError(
            f"target has shape {target.shape} and confidence {weights.shape}; expected the same (*spatial), or a "
            "target with its channels first"
        )
    check_finite(target, "target")
    check_finite(weights, "confidence", confidence)
    if weights.min() < 0 or weights.max() == 0:
        raise ValueError(
            f"confidence ranges from {weights.min()} to {weights.max()}; expected at least 0, and above 0 somewhere"
        )
    return weights


def _symmetric(kernel: NativeKernel, values: Array) -> Array:
    """½ (K + Kᵀ) v; of our kernels only lattices are not symmetric."""
    filtered = kernel.filter_rows(values, False)
    if isinstance(kernel, PermutohedralLattice):
        filtered += kernel.filter_rows(values, True)
        filtered *= 0.5
    return filtered


def _mean_around(kernel: NativeKernel, target: Array, confidence: Array) -> Array:
    """Weighted means of the target, where to begin; their own mean where nothing certain is near."""
    near = _symmetric(kernel, np.concatenate([confidence * target, confidence], axis=1))
    mean = (confidence * target).sum(axis=0) / confidence.sum()
    there = near[:, -1:] > np.finfo(near.dtype).tiny
    return np.where(there, near[:, :-1] / np.where(there, near[:, -1:], 1), mean).astype(target.dtype)


def _system(kernel: NativeKernel, smoothness: float, confidence: Array) -> Callable[[Array], Array]:
    """A x = λ (diag(Ŵ 1) - Ŵ) x + c x, with Ŵ = D ½ (K + Kᵀ) D (docs/algorithm.md, eq. 34 and 35)."""
    scale = np.ones_like(confidence)
    for _ in range(ROUNDS):
        scale = np.sqrt(scale / _symmetric(kernel, scale))
    rows = scale * _symmetric(kernel, scale)
    strength = confidence.dtype.type(smoothness)

    def system(x: Array) -> Array:
        # What all values share is smooth and stays so. Rounding would add to it, and little confidence not correct it.
        apart = x - _mean(x)
        roughness = rows * apart - scale * _symmetric(kernel, scale * apart)
        return strength * (roughness - _mean(roughness)) + confidence * x

    return system


def _solved(
    system: Callable[[Array], Array], right: Array, x: Array, diagonal: Array, iterations: int, tolerance: float
) -> Array:
    """A x = b for each column by conjugate gradients.

    The residual that they carry along leaves the true one behind by roundings. Where only the true one is still large,
    they begin again from it, as long as that halves it.
    """
    enough = tolerance**2 * _products(right, right)
    before = np.full_like(enough, np.inf)
    while iterations:
        residual = right - system(x)
        size = _products(residual, residual)
        if (size <= enough).all() or not (size < before / 4).any():
            break
        before = size
        x, iterations = _descended(system, residual, x, diagonal, iterations, enough)
    return x


def _descended(
    system: Callable[[Array], Array], residual: Array, x: Array, diagonal: Array, iterations: int, enough: Array
) -> tuple[Array, int]:
    """x after conjugate gradients preconditioned by about the diagonal of A, and the iterations that are left."""
    direction = scaled = residual / diagonal
    before = _products(residual, scaled)
    while iterations and not (_products(residual, residual) <= enough).all():
        image = system(direction)
        step = _quotient(before, _products(direction, image)).astype(x.dtype)
        x = x + step * direction
        residual = residual - step * image
        scaled = residual / diagonal
        after = _products(residual, scaled)
        direction = scaled + _quotient(after, before).astype(x.dtype) * direction
        before = after
        iterations -= 1
    return x, iterations


def _mean(values: Array) -> Array:
    mean: Array = values.mean(axis=0, dtype=np.float64).astype(values.dtype)
    return mean


def _products(a: Array, b: Array) -> Array:
    products: Array = np.einsum("ij,ij->j", a, b, dtype=np.float64)
    return products


def _quotient(a: Array, b: Array) -> Array:
    """a / b, 0 where b is: of a column that is solved."""
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)
