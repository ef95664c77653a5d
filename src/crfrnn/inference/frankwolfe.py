"""Regularised Frank-Wolfe on a dense CRF, forward and backward (docs/algorithm.md, eq. 28-31).

`steps` is the iteration; values are (N, C). Kernels filter natively where they are ours; the rest is NumPy. All terms
are `PairwiseTerm`.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crfrnn.arrays import Array, check_result
from crfrnn.crf import FrankWolfe
from crfrnn.inference.activity import Activity, complete_activity
from crfrnn.inference.adjoint import array_arithmetic, check_converged, conjugate_gradients
from crfrnn.inference.coupling import couple
from crfrnn.inference.meanfield import softmax
from crfrnn.inference.regularization import SMALLEST_PROBABILITY, Regularizer, logarithm, regularizer_of, total
from crfrnn.inference.term_gradients import no_gradient, summed, term_gradient
from crfrnn.kernels.native import Output, Storage, TermGradient

Coupling = NDArray[np.floating[Any]]


class State(NamedTuple):
    """Marginals q and their message S q."""

    marginals: Array
    message: Array


class Step(NamedTuple):
    """An iteration: from where and to where, the message S p of where it aimed, and how far it went.

    Attributes:
        size: α.
        curvature: That of the bound which gave α, where its minimum was below 1; None where α depends on nothing.
        distance: The largest |p - q|.
    """

    start: State
    end: State
    target_message: Array
    size: float
    curvature: float | None
    distance: float


class Unrolled(NamedTuple):
    """What `vjp` needs to go back through the iterations."""

    unary: Array
    steps: list[Step]
    marginals: Array


class FixedPoint(NamedTuple):
    """What `vjp` needs of the fixed point: marginals, and the scores U - S q that they answer to."""

    marginals: Array
    scores: Array


def forward(
    solver: FrankWolfe,
    unary: Array,
    pairwise: Sequence[Any],
    couplings: Sequence[Coupling],
    output: Output,
    keep: Storage | None,
    threads: int | None,
) -> tuple[Array, Any]:
    """As in `solver.Solver`. What is kept has the precision of the scores."""
    U = np.ascontiguousarray(unary.T)
    unrolled = keep is not None and solver.gradient == "unrolled"
    taken: list[Step] = []
    with np.errstate(over="ignore", invalid="ignore"):
        end = begin = start(U, pairwise, couplings, threads)
        for step in steps(solver, U, begin, pairwise, couplings, threads):
            end = step.end
            if unrolled:
                taken.append(step)
    check_result(end.marginals, "scores")
    kept: Unrolled | FixedPoint | None = None
    if unrolled:
        kept = Unrolled(U, taken, end.marginals)
    elif keep is not None:
        kept = FixedPoint(end.marginals, U - end.message)
        p, _ = regularizer_of(solver).nearest(kept.scores)
        check_converged(float(np.abs(p - end.marginals).max()), solver)
    return _result(end.marginals, output), kept


def observed(
    solver: FrankWolfe,
    unary: Array,
    pairwise: Sequence[Any],
    couplings: Sequence[Coupling],
    output: Output,
    threads: int | None,
) -> tuple[Array, Activity]:
    """As in `solver.observed`: it leaves nothing out, but may end early."""
    U = np.ascontiguousarray(unary.T)
    iterations = 0
    with np.errstate(over="ignore", invalid="ignore"):
        end = start(U, pairwise, couplings, threads)
        for step in steps(solver, U, end, pairwise, couplings, threads):
            end = step.end
            iterations += 1
    check_result(end.marginals, "scores")
    return _result(end.marginals, output), complete_activity(iterations, *unary.shape)


def vjp(
    solver: FrankWolfe,
    cotangent: Array,
    kept: Unrolled | FixedPoint,
    pairwise: Sequence[Any],
    couplings: Sequence[Coupling],
    threads: int | None,
    guide: bool = False,
) -> tuple[Array, list[Array], list[TermGradient | None]]:
    """As in `solver.Solver`."""
    q = kept.marginals
    to_marginals = np.where(q > SMALLEST_PROBABILITY, cotangent.T / np.maximum(q, SMALLEST_PROBABILITY), 0).astype(
        q.dtype, copy=False
    )
    symmetric = Symmetric(
        pairwise,
        couplings,
        threads,
        gradients=[np.zeros(matrix.shape, q.dtype) for matrix in couplings],
        to_terms=[no_gradient(term) for term in pairwise] if guide else [],
    )
    regularizer = regularizer_of(solver)
    if isinstance(kept, FixedPoint):
        to_unary = _implicit(kept, to_marginals, symmetric, regularizer)
    else:
        to_unary = _unrolled(kept, to_marginals, symmetric, regularizer)
    return np.array(to_unary.T, order="C"), symmetric.gradients, symmetric.to_terms


def kept_rows(solver: FrankWolfe) -> int:
    """As `solver.Solver` tells."""
    return 2 if solver.gradient == "implicit" else 3 * solver.iterations + 2


def steps(
    solver: FrankWolfe,
    unary: Array,
    begin: State,
    pairwise: Sequence[Any],
    couplings: Sequence[Coupling],
    threads: int | None = None,
) -> Iterator[Step]:
    """The iterations one by one (docs/algorithm.md, eq. 29 and 30); unary (N, C)."""
    regularizer, symmetric = regularizer_of(solver), Symmetric(pairwise, couplings, threads)
    state = begin
    for iteration in range(solver.iterations):
        q, message = state
        p, scores = regularizer.nearest(unary - message)
        target_message = symmetric.message(p)
        direction = p - q
        size, curvature = 1.0, None
        if solver.step == "open-loop":
            size = 2 / (iteration + 2)
        elif (quadratic := total(direction * (target_message - message))) > 0:
            gap = regularizer.gap(q, p, regularizer.descent(q, p, scores))
            size, curvature = _line_search(gap, quadratic, 0.5 * solver.strength * total(direction * direction))
        end = State(p, target_message)
        if size < 1:
            end = State(q + size * direction, message + size * (target_message - message))
        distance = float(np.abs(direction).max())
        yield Step(state, end, target_message, size, curvature, distance)
        if distance <= solver.tolerance:
            return
        state = end


class Symmetric:
    """S = ½ Σ_k (E_k N_k + E_kᵀ N_kᵀ), of which the energy of marginals is ½ ⟨q, S q⟩ (docs/algorithm.md, eq. 29).

    Attributes:
        gradients: To the couplings, in their shapes, so far; empty where they are not wanted.
        to_terms: Those to the terms, likewise.
    """

    def __init__(
        self,
        pairwise: Sequence[Any],
        couplings: Sequence[Coupling],
        threads: int | None = None,
        gradients: Sequence[Array] = (),
        to_terms: Sequence[TermGradient | None] = (),
    ) -> None:
        self.terms = list(zip(pairwise, couplings, strict=True))
        self.threads = threads
        self.gradients = list(gradients)
        self.to_terms = list(to_terms)

    def message(self, values: Array) -> Array:
        """S values."""
        return self._message(values, None)

    def adjoint(self, cotangent: Array, values: Array) -> Array:
        """S cotangent, and the gradients of ⟨cotangent, S values⟩ to couplings and terms added to those so far."""
        return self._message(cotangent, values)

    def _message(self, values: Array, beside: Array | None) -> Array:
        result = np.zeros_like(values)
        for index, (term, coupling) in enumerate(self.terms):
            E = np.asarray(coupling, values.dtype)
            received = term.filter_rows(values, False, self.threads)
            if term.symmetric:
                returned = received
                result += couple(received, 0.5 * (E + E.T))
            else:
                returned = term.filter_rows(values, True, self.threads)
                result += 0.5 * (couple(received, E) + couple(returned, E.T))
            if beside is not None:
                both = _outer(returned, beside, E.ndim) + _outer(beside, received, E.ndim)
                self.gradients[index] += 0.5 * both
                if self.to_terms:
                    for sent, back in ((beside, couple(values, E.T)), (couple(values, E), beside)):
                        found = term_gradient(term, 0.5 * sent, back)
                        self.to_terms[index] = summed(self.to_terms[index], found)
        return result


def start(unary: Array, pairwise: Sequence[Any], couplings: Sequence[Coupling], threads: int | None = None) -> State:
    """That before the first iteration: the marginals of the scores alone; unary (N, C)."""
    q = softmax(unary, axis=1)
    return State(q, Symmetric(pairwise, couplings, threads).message(q))


def _line_search(gap: float, quadratic: float, strong: float) -> tuple[float, float | None]:
    """α and, where the minimum lies below 1, the curvature there (docs/algorithm.md, eq. 30).

    Where the quadratic term is at most 0, α is 1, as the gap is at least `strong`.

    Args:
        strong: ½ λ |p - q|², by which r curves at least.
    """
    slope, curvature = gap + strong, quadratic + 2 * strong
    return (1.0, None) if curvature <= slope else (slope / curvature, curvature)


def _unrolled(kept: Unrolled, to_marginals: Array, symmetric: Symmetric, regularizer: Regularizer) -> Array:
    """The gradient to the unary, back through every iteration; those to q and to S q are carried on."""
    strength = regularizer.strength
    to_unary, to_message = np.zeros_like(to_marginals), np.zeros_like(to_marginals)
    for index in reversed(range(len(kept.steps))):
        (q, message), _, target_message, size, curvature, _ = kept.steps[index]
        p, scores = regularizer.nearest(kept.unary - message)
        direction, bend = p - q, target_message - message
        to_p, to_target = size * to_marginals, size * to_message
        to_size = 0.0 if curvature is None else total(to_marginals * direction) + total(to_message * bend)
        to_marginals, to_message = (1 - size) * to_marginals, (1 - size) * to_message
        if curvature is not None:
            to_slope, to_curvature = to_size / curvature, -to_size * size / curvature
            pull = (strength * (to_slope + 2 * to_curvature)) * direction + to_curvature * bend
            to_p += pull
            to_marginals -= pull + to_slope * regularizer.descent(q, p, scores)
            to_target += to_curvature * direction
            to_message -= to_curvature * direction
            to_unary += to_slope * direction
            to_message -= to_slope * direction
        if index + 1 < len(kept.steps) or curvature is not None:  # else nothing came back to the message
            to_p += symmetric.adjoint(to_target, p)
        to_scores = regularizer.jacobian(p, to_p)
        to_unary += to_scores
        to_message -= to_scores
    first = softmax(kept.unary, axis=1)
    to_marginals = to_marginals + symmetric.adjoint(to_message, first)
    to_unary += first * (to_marginals - (to_marginals * first).sum(axis=1, keepdims=True))
    return to_unary


def _implicit(kept: FixedPoint, to_marginals: Array, symmetric: Symmetric, regularizer: Regularizer) -> Array:
    """The gradient to the unary at the fixed point q = p(U - S q) (docs/algorithm.md, eq. 31)."""
    p, _ = regularizer.nearest(kept.scores)
    direct = regularizer.jacobian(p, to_marginals)
    to_unary: Array = direct + conjugate_gradients(
        symmetric.message,
        lambda values: regularizer.jacobian(p, values),
        -symmetric.message(direct),
        array_arithmetic(direct.dtype),
    )
    symmetric.adjoint(-to_unary, kept.marginals)
    return to_unary


def _outer(left: Array, right: Array, axes: int) -> Array:
    """Σ left rightᵀ over the points, as the gradient of a coupling with this many axes."""
    if axes == 2:
        matrix: Array = left.T @ right
        return matrix
    found: Array = np.asarray(np.sum(left * right, axis=0 if axes else None, dtype=np.float64), left.dtype)
    return found


def _result(q: Array, output: Output) -> Array:
    result: Array = q if output == "probabilities" else logarithm(q)
    return q.argmax(axis=1).astype(np.int32) if output == "labels" else np.array(result.T, order="C")
