"""Regularised Frank-Wolfe in plain NumPy on dense matrices, by its definitions (docs/algorithm.md, section 11).

It shares no formula with `inference/frankwolfe.py` but those of the definitions: gaps are differences of objectives,
projections are found by sorting, gradients at a fixed point by a direct solver.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from crfrnn.crf import FrankWolfe
from crfrnn.reference import Array, Term, as_matrix, softmax

TINY = 1e-300


def symmetric_operator(terms: Sequence[Term], compatibility: ArrayLike | None, classes: int, points: int) -> Array:
    """S (CN, CN) for values (C, N) in a row (docs/algorithm.md, eq. 29)."""
    M = as_matrix(-1.0 if compatibility is None else compatibility, classes)
    operator = np.zeros((classes * points, classes * points))
    for term in terms:
        N = term.filter(np.eye(points)).T
        operator += np.kron(M @ as_matrix(term.weight, classes), N)
    symmetric: Array = 0.5 * (operator + operator.T)
    return symmetric


def objective(q: Array, unary: Array, operator: Array, solver: FrankWolfe) -> float:
    """F(q) = R(q) + λ r(q) (docs/algorithm.md, eq. 28)."""
    flat = q.ravel()
    return float(0.5 * flat @ operator @ flat - (unary * q).sum()) + regularizer(q, solver)


def regularizer(q: Array, solver: FrankWolfe) -> float:
    """λ r(q)."""
    entries = q * np.log(np.maximum(q, TINY)) if solver.regularization == "entropic" else 0.5 * q * q
    return float(solver.strength * entries.sum())


def nearest(scores: Array, solver: FrankWolfe) -> Array:
    """The p that minimises λ r(p) - ⟨scores, p⟩."""
    scaled = scores / solver.strength
    if solver.regularization == "entropic":
        return softmax(scaled)
    p = np.zeros_like(scaled)
    for point, column in enumerate(scaled.T):
        ordered = np.sort(column)[::-1]
        thresholds = (np.cumsum(ordered) - 1) / np.arange(1, len(column) + 1)
        p[:, point] = np.maximum(column - thresholds[np.nonzero(ordered > thresholds)[0][-1]], 0)
    return p


def frank_wolfe(unary: ArrayLike, operator: Array, solver: FrankWolfe) -> list[Array]:
    """The marginals (C, N) before the first iteration and after each one."""
    U = np.asarray(unary, np.float64)
    q = softmax(U)
    found = [q]
    for iteration in range(solver.iterations):
        scores = U - (operator @ q.ravel()).reshape(U.shape)
        p = nearest(scores, solver)
        d = p - q
        size = 2 / (iteration + 2)
        if solver.step == "line-search":
            strong = 0.5 * solver.strength * (d * d).sum()
            gap = (scores * d).sum() - regularizer(p, solver) + regularizer(q, solver)
            slope = max(gap, strong) + strong  # the gap is at least that, but for rounding where d is nearly 0
            curvature = d.ravel() @ operator @ d.ravel() + 2 * strong
            size = 1.0 if curvature <= slope else slope / curvature
        q = q + size * d
        found.append(q)
        if np.abs(d).max() <= solver.tolerance:
            break
    return found


def jacobian(p: Array, solver: FrankWolfe) -> Array:
    """J (CN, CN): the derivative of `nearest` to the scores, where it is p."""
    classes, points = p.shape
    derivative = np.zeros((classes, points, classes, points))
    for point, column in enumerate(p.T):
        weights = column if solver.regularization == "entropic" else (column > 0).astype(float)
        block = np.diag(weights) - np.outer(weights, weights) / weights.sum()
        derivative[:, point, :, point] = block / solver.strength
    return derivative.reshape(classes * points, -1)


def gradient_at_fixed_point(cotangent: Array, q: Array, operator: Array, solver: FrankWolfe) -> Array:
    """The gradient of ⟨cotangent, q⟩ to the unary, (C, N), at a fixed point (docs/algorithm.md, eq. 31)."""
    J = jacobian(q, solver)
    solution = np.linalg.solve(np.eye(q.size) + operator @ J, cotangent.ravel())
    gradient: Array = (J @ solution).reshape(q.shape)
    return gradient
