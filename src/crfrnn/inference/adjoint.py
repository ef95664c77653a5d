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
"""The most products with kernels and their transposes for a system."""
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
    scale = where(scale > 0, scale, 1.0)
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
        step = where(active, size / where(active, curvature, 1.0), 0.0)
        solution = solution + times(direction, step)
        residual = residual - times(along, step)
        preconditioned = jacobian(residual)
        previous, size = size, dot(residual, preconditioned)
        active = active & (size > target)
        share = where(active, size / where(active, previous, 1.0), 0.0)
        tangent = residual + times(tangent, share)
        direction = preconditioned + times(direction, share)
    if (size > target).any():
        warn_unsolved()
    return times(solution, scale)


def richardson(product: Callable[[Any], Any], right: Any, damping: float, arithmetic: Arithmetic) -> Any:
    """w = right + A w, by w ← (1 - damping) (right + A w) + damping w, which converges where mean field does."""
    solution = right
    for _ in range(ADJOINT_ITERATIONS):
        change = (1 - damping) * (right + product(solution) - solution)
        solution = solution + change
        if not (arithmetic.largest(change) > arithmetic.tolerance * arithmetic.largest(solution)).any():
            return solution
    warn_unsolved()
    return solution


def warn_unsolved() -> None:
    warnings.warn(
        f"the equation of the implicit gradient was not solved within {ADJOINT_ITERATIONS} iterations, and the "
        "gradient is as far as they came: weaken the weights, add damping if there is any, or use gradient='unrolled'",
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
