"""The regularisers of Frank-Wolfe on the simplices of all points, values (N, C) (docs/algorithm.md, eq. 28-30)."""

from typing import Any, Protocol

import numpy as np

from crfrnn.arrays import Array
from crfrnn.crf import FrankWolfe

SMALLEST_PROBABILITY = 1e-20
"""What a probability counts as at least where its logarithm is taken."""


NEAR = 0.5
"""Relative difference of probabilities below which that of their logarithms is worked out from it."""


class Regularizer(Protocol):
    """λ r, with the strength λ in it."""

    strength: float

    def __init__(self, strength: float) -> None: ...

    def value(self, q: Array) -> float:
        """λ r(q)."""
        ...

    def nearest(self, scores: Array) -> tuple[Array, Array]:
        """The marginals p with the least λ r(p) - ⟨scores, p⟩, and scores less a number at each point.

        These are λ ∇r(p) where p > 0, and at most that elsewhere.
        """
        ...

    def jacobian(self, p: Array, values: Array) -> Array:
        """J values: J is the derivative of p to the scores, symmetric at each point."""
        ...

    def descent(self, q: Array, p: Array, scores: Array) -> Array:
        """scores - λ ∇r(q), of p and scores from `nearest`; exact to the last digits of p - q where q is near p."""
        ...

    def gap(self, q: Array, p: Array, descent: Array) -> float:
        """By how much λ r - ⟨scores, ·⟩ is lower at p than at q; at least ½ λ |p - q|²."""
        ...


class Entropic:
    """λ Σ q log q: p is a softmax."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def value(self, q: Array) -> float:
        return self.strength * total(q * logarithm(q))

    def nearest(self, scores: Array) -> tuple[Array, Array]:
        log_p = (scores - scores.max(axis=1, keepdims=True)) / self.strength
        p = np.exp(log_p)
        sums = p.sum(axis=1, keepdims=True)
        p /= sums
        log_p -= np.log(sums)
        log_p *= self.strength
        return p, log_p

    def jacobian(self, p: Array, values: Array) -> Array:
        centred: Array = p * (values - (values * p).sum(axis=1, keepdims=True)) / self.strength
        return centred

    def descent(self, q: Array, p: Array, scores: Array) -> Array:
        growth = np.clip((p - q) / np.maximum(q, SMALLEST_PROBABILITY), -NEAR, NEAR)
        near = self.strength * np.log1p(growth)
        return np.where(np.abs(growth) < NEAR, near, scores - self.strength * logarithm(q))

    def gap(self, q: Array, p: Array, descent: Array) -> float:
        return total(self.strength * (p - q) - q * descent)


class Euclidean:
    """½ λ Σ q²: p is the nearest point of the simplex, in which classes can have probability 0."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def value(self, q: Array) -> float:
        return 0.5 * self.strength * total(q * q)

    def nearest(self, scores: Array) -> tuple[Array, Array]:
        given = scores / self.strength
        given -= given.max(axis=1, keepdims=True)
        threshold = _threshold(given)
        given -= threshold
        return np.maximum(given, 0), given * self.strength

    def jacobian(self, p: Array, values: Array) -> Array:
        support = p > 0
        mean = (values * support).sum(axis=1, keepdims=True) / support.sum(axis=1, keepdims=True)
        centred: Array = support * (values - mean.astype(values.dtype)) / self.strength
        return centred

    def descent(self, q: Array, p: Array, scores: Array) -> Array:
        return np.where(p > 0, self.strength * (p - q), scores - self.strength * q)

    def gap(self, q: Array, p: Array, descent: Array) -> float:
        return total((p - q) * (descent - 0.5 * self.strength * (p - q)))


REGULARIZERS: dict[str, type[Any]] = {"entropic": Entropic, "euclidean": Euclidean}


def regularizer_of(solver: FrankWolfe) -> Regularizer:
    regularizer: Regularizer = REGULARIZERS[solver.regularization](solver.strength)
    return regularizer


def logarithm(q: Array) -> Array:
    """log max(q, 1e-20)."""
    found: Array = np.log(np.maximum(q, SMALLEST_PROBABILITY))
    return found


def total(values: Array) -> float:
    """The sum, in float64."""
    return float(np.sum(values, dtype=np.float64))


def _threshold(scores: Array) -> Array:
    """τ (N, 1) with Σ max(scores - τ, 0) = 1 at each point, for scores whose largest is 0 (Michelot 1986).

    τ of any classes that contain those above it is too low, so that leaving out those below it ends at τ.
    """
    support = scores > -1
    while True:
        threshold = ((scores * support).sum(axis=1, keepdims=True) - 1) / support.sum(axis=1, keepdims=True)
        fewer = support & (scores > threshold)
        if (fewer == support).all():
            found: Array = threshold.astype(scores.dtype)
            return found
        support = fewer
