"""The mean field that leaves out work as far as a tolerance allows, in plain NumPy (docs/algorithm.md, section 8).

It works everything out, to show what would have been sent, but sends only what the rules of section 8 let be sent. The
native core bounds from above how far scores can have moved; here it is known which points send what to whom, so fewer
runs are worked out anew. The native core also stops following runs where that does not pay, which is not done here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn.reference import Array, Term, as_matrix, softmax

RUN = 16  # consecutive points that are worked out anew together, or not
ROUNDING = 8 * np.finfo(np.float64).eps  # of a marginal: a smaller change is none


@dataclass(frozen=True)
class Iteration:
    """What was sent in an iteration, and what would have been.

    Attributes:
        marginals: (C, N) q_t, if all points work them out from what was sent before.
        sent: (C, N) what neighbours see of them; 0 for silent classes.
        evaluated: (N,) which points were worked out.
        silent: (C,) which classes are silent.
    """

    marginals: Array
    sent: Array
    evaluated: NDArray[np.bool_]
    silent: NDArray[np.bool_]


def mean_field(
    unary: ArrayLike,
    terms: Sequence[Term],
    *,
    tolerance: float,
    iterations: int = 5,
    compatibility: ArrayLike | None = None,
) -> tuple[Array, list[Iteration]]:
    """Logits a_T (C, N), and every iteration that ran, as `reference.mean_field` without damping.

    Args:
        tolerance: As in `MeanField`, above 0.
    """
    field = _Field(np.asarray(unary, np.float64), terms, compatibility)
    largest_share = share_that_may_be_silent(tolerance, field.weight)
    found = _within(field, tolerance, largest_share, iterations)
    return found or _within(field, 0.0, -1.0, iterations) or (field.unary, [])


def share_that_may_be_silent(tolerance: float, weight: float) -> float:
    """R with R (exp(w R) - 1) = tolerance, at most 1/(4 max(1, w)) (docs/algorithm.md, eq. 17)."""
    low, high = 0.0, 0.25 / max(1.0, weight)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle * np.expm1(weight * middle) <= tolerance else (low, middle)
    return low


def move_that_settles(marginals: Array, step: float) -> Array:
    """δ of each run: by how much its scores may move while no marginal moves by more than the step (eq. 18)."""
    left = 1 - marginals.max(axis=0)
    starts = np.arange(0, left.size, RUN)
    return np.asarray(np.log1p(step / np.maximum(np.maximum.reduceat(left, starts), 1e-300)) / 2)


def decided_marginal(weight: float) -> float:
    """What the largest marginal of a point has to reach so that an iteration at least halves errors there (eq. 36)."""
    return 0.0 if weight <= 1 else float(1 + np.sqrt(1 - 1 / weight)) / 2


def undecided_runs(marginals: Array, weight: float) -> NDArray[np.bool_]:
    """Which runs have a point where an iteration may not halve errors."""
    largest = marginals.max(axis=0)
    return np.minimum.reduceat(largest, np.arange(0, largest.size, RUN)) < decided_marginal(weight)


def senders_of_gradients(marginals: Array, factor: float, tolerance: float) -> NDArray[np.bool_]:
    """Which classes send ∂L/∂a_t to the iteration before (docs/algorithm.md, eq. 21).

    Args:
        marginals: (C, N) q_t.
        factor: f.
    """
    most = marginals.max(axis=1)
    order = _unlikeliest_first(most)
    sends = np.ones(len(most), np.bool_)
    sends[order[np.cumsum(most[order]) <= tolerance / factor]] = False
    sends[order[-1]] = True
    return sends


def _unlikeliest_first(most: Array) -> NDArray[np.intp]:
    """Classes by their largest marginal; of equals the last comes first, as the first of them is the label."""
    return np.lexsort((-np.arange(len(most)), most))


class _Field:
    """What an iteration needs of the model: U, the couplings E_k, and how far messages move scores."""

    def __init__(self, unary: Array, terms: Sequence[Term], compatibility: ArrayLike | None) -> None:
        classes, points = unary.shape
        M = as_matrix(-1.0 if compatibility is None else compatibility, classes)
        self.unary, self.terms = unary, terms
        self.couplings = [M @ as_matrix(term.weight, classes) for term in terms]
        self.reach = [np.abs(coupling).sum(axis=1).max() for coupling in self.couplings]
        row_sums = [term.filter(np.ones((1, points))).max() for term in terms]
        self.weight = float(sum(reach * row_sum for reach, row_sum in zip(self.reach, row_sums, strict=True)))
        apart = all(np.array_equal(coupling, np.diag(np.diag(coupling))) for coupling in self.couplings)
        self.may_be_silent = apart and classes > 2 and self.weight <= 60

    def scores(self, sent: Array, silent: NDArray[np.bool_]) -> Array:
        """a after a message; silent classes receive none."""
        message = sum(
            (coupling @ term.filter(sent) for coupling, term in zip(self.couplings, self.terms, strict=True)),
            np.zeros_like(sent),
        )
        return np.where(silent[:, None], self.unary, self.unary - message)

    def moves(self, change: Array) -> Array:
        """How far a score of each run moves at most if what points send changes by this."""
        largest = np.abs(change).max(axis=0, keepdims=True)
        moved = sum(
            (reach * term.filter(largest)[0] for reach, term in zip(self.reach, self.terms, strict=True)),
            np.zeros(largest.shape[1]),
        )
        return np.asarray(np.maximum.reduceat(moved, np.arange(0, moved.size, RUN)))


def _within(
    field: _Field, tolerance: float, largest_share: float, iterations: int
) -> tuple[Array, list[Iteration]] | None:
    """The mean field; None if the silent classes get more than the largest share."""
    classes, points = field.unary.shape
    step = tolerance / max(1.0, field.weight)
    silent = np.zeros(classes, np.bool_)
    runs = np.arange(points) // RUN
    moved, slack, undecided = np.zeros(runs[-1] + 1), np.zeros(runs[-1] + 1), np.zeros(runs[-1] + 1, np.bool_)
    a, before, done = field.unary, np.zeros_like(field.unary), list[Iteration]()
    for t in range(iterations):
        q = softmax(a)
        if silent.any() and q[silent].sum(axis=0).max() > largest_share:
            return None
        if t <= 1 and field.may_be_silent:
            silent = _falling_silent(q, silent, largest_share)
        senders = np.where(silent[:, None], 0.0, q)
        active = (moved > slack) | undecided if t > 1 and tolerance > 0 else np.ones(len(moved), np.bool_)
        slack[active], moved[active] = move_that_settles(q[~silent], step)[active], 0
        undecided[active] = undecided_runs(q[~silent], field.weight)[active]
        news = np.maximum.reduceat(np.abs(senders - before).max(axis=0), np.arange(0, points, RUN))
        sends = active & (news > np.where(undecided, ROUNDING, step)) if t > 1 and tolerance > 0 else active
        sent = np.where(sends[runs], senders, before)
        done.append(Iteration(q, sent, active[runs], silent))
        a = field.scores(sent, silent)
        moved += field.moves(sent - before)
        before = sent
        if not sends.any():
            break
    if silent.any() and softmax(a)[silent].sum(axis=0).max() > largest_share:
        return None
    return a, done


def _falling_silent(q: Array, silent: NDArray[np.bool_], largest_share: float) -> NDArray[np.bool_]:
    """The silent classes with those that join them: the unlikeliest, while all have the share together (eq. 16)."""
    most = np.where(silent, np.inf, q.max(axis=1))
    share = q[silent].sum(axis=0).max(initial=0)
    together = silent.copy()
    for c in _unlikeliest_first(most)[: np.count_nonzero(~silent) - 1]:
        share += most[c]
        if share > largest_share:
            break
        together[c] = True
    return together
