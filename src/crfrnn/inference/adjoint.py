"""Linear systems that implicit differentiation solves, for arrays and tensors alike (docs/algorithm.md, eq. 31).

A batch of tensors is solved image by image, side by side: what one image takes has no effect on another.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

ADJOINT_TOLERANCES = {4: 1e-5, 8: 1e-10}
"""The error at which a system counts as solved, relative to its right-hand side, by bytes of a number."""
ADJOINT_ITERATIONS = 200
"""The most products for a system, each as costly as an iteration."""
NEGLIGIBLE = 1e-30
"""A right-hand side without a larger entry stays as it is: float32 does not hold the inverse of the smallest."""
CONVERGED = 0.01
"""How far marginals may still move by an iteration, at any point, to count as a fixed point."""


class ConvergenceWarning(RuntimeWarning):
    """A gradient was asked for at a fixed point, and iterations ended elsewhere."""


class Arithmetic(NamedTuple):
    """What arrays and tensors spell differently; a number for an image is 0-d, or (B, 1, …).

    Attributes:
        dot: ⟨a, b⟩ of each image.
        largest: The largest |a| of each image.
        where: `numpy.where` or `torch.where`.
        times: Values multiplied by a number for each image, in the dtype of the values.
        tolerance: That of `ADJOINT_TOLERANCES`.
    """

    dot: Callable[[Any, Any], Any]
    largest: Callable[[Any], Any]
    where: Callable[[Any, Any, Any], Any]
    times: Callable[[Any, Any], Any]
    tolerance: float


def array_arithmetic(dtype: np.dtype[Any]) -> Arithmetic:
    """That of the arrays of one image."""
    return Arithmetic(
        dot=lambda a, b: np.sum(a * b, dtype=np.float64),
        largest=lambda a: np.abs(a).max(),
        where=np.where,
        times=lambda values, factor: values * dtype.type(factor),
        tolerance=ADJOINT_TOLERANCES[dtype.itemsize],
    )


def conjugate_gradients(
    product: Callable[[Any], Any], jacobian: Callable[[Any], Any], right: Any, arithmetic: Arithmetic
) -> Any:
    """z = J w, where w + S z = right, for symmetric J ≥ 0 and S: conjugate gradients on J⁺ + S, preconditioned by J.

    An image whose J⁺ + S turns out not to be positive, so that its marginals are no minimum, keeps the z that it has
    then, with a warning.

    Args:
        product: v ↦ S v.
        jacobian: v ↦ J v.
    """
    dot, largest, where, times, tolerance = arithmetic
    scale = largest(right)  # squares of small gradients would be 0
    scale = where(scale > NEGLIGIBLE, scale, 1.0)
    residual = times(right, 1 / scale)
    direction = preconditioned = jacobian(residual)
    tangent, solution = residual, 0 * residual
    size = dot(residual, preconditioned)
    target = tolerance**2 * size
    active = size > target
    for _ in range(ADJOINT_ITERATIONS):
        if not active.any():
            break
        along = tangent + product(direction)
        curvature = dot(direction, along)
        active = active & (curvature > 0)
        step = _ratio(size, curvature, active, where)
        solution = solution + times(direction, step)
        residual = residual - times(along, step)
        preconditioned = jacobian(residual)
        previous, size = size, dot(residual, preconditioned)
        active = active & (size > target)
        share = _ratio(size, previous, active, where)
        tangent = residual + times(tangent, share)
        direction = preconditioned + times(direction, share)
    if (size > target).any():
        warn_unsolved()
    return times(solution, scale)


def biconjugate_gradients(product: Callable[[Any], Any], right: Any, arithmetic: Arithmetic) -> Any:
    """w, where A w = right, for any A: stabilised biconjugate gradients (van der Vorst 1992) from w = right.

    Args:
        product: v ↦ A v.
    """
    dot, largest, where, times, tolerance = arithmetic
    scale = largest(right)
    scale = where(scale > NEGLIGIBLE, scale, 1.0)
    solution = times(right, 1 / scale)
    residual = shadow = direction = solution - product(solution)
    size = dot(shadow, residual)
    active = largest(residual) > tolerance
    for _ in range(ADJOINT_ITERATIONS // 2):
        if not active.any():
            break
        along = product(direction)
        first = _ratio(size, dot(shadow, along), active, where)
        half = residual - times(along, first)
        turned = product(half)
        second = _ratio(dot(turned, half), dot(turned, turned), active, where)
        solution = solution + times(direction, first) + times(half, second)
        residual = where(active, half - times(turned, second), residual)
        previous, size = size, dot(shadow, residual)
        active = active & (largest(residual) > tolerance) & (second != 0)
        share = _ratio(size * first, previous * second, active, where)
        direction = residual + times(direction - times(along, second), share)
    if (largest(residual) > tolerance).any():
        warn_unsolved()
    return times(solution, scale)


def _ratio(numerator: Any, denominator: Any, active: Any, where: Callable[[Any, Any, Any], Any]) -> Any:
    """That of the images that are still active; 0 for others, and where it is not defined."""
    there = active & (denominator != 0)
    return where(there, numerator / where(there, denominator, 1.0), 0.0)


def warn_unsolved() -> None:
    warnings.warn(
        f"the equation of the implicit gradient was not solved with {ADJOINT_ITERATIONS} products or fewer, and the "
        "gradient is what they gave: weaken the weights, or use gradient='unrolled'",
        ConvergenceWarning,
        stacklevel=2,
    )


def check_converged(residual: float, solver: Any) -> None:
    """Warn if an iteration would still move a marginal by more than `CONVERGED`, or than the solver's tolerance."""
    if residual > max(CONVERGED, solver.tolerance):
        warnings.warn(
            f"{type(solver).__name__} had not converged: after {solver.iterations} iterations another one would move "
            f"a marginal by {residual:.2g}, so that the implicit gradient is that of no fixed point; raise iterations, "
            "or use gradient='unrolled'",
            ConvergenceWarning,
            stacklevel=2,
        )
