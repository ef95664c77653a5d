"""What a dense CRF minimises: the energy of a labelling or of marginals, and how far these are from the model."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from crfrnn.arrays import Array, check_result, label_array, num_points, plain_array, score_array
from crfrnn.crf import FrankWolfe, MeanField
from crfrnn.inference import frankwolfe
from crfrnn.inference.coupling import Matrix
from crfrnn.inference.losses import SLACK
from crfrnn.inference.meanfield import message, steps
from crfrnn.inference.regularization import logarithm, regularizer_of, total
from crfrnn.inference.terms import PairwiseTerm, Term, checked_couplings, precision


def energy(
    labels: ArrayLike,
    unary: ArrayLike,
    pairwise: Sequence[Term],
    *,
    compatibility: ArrayLike | None = None,
) -> float:
    """Energy of a labelling, or of the one that marginals round to; lower is likelier (docs/algorithm.md, eq. 1).

    Every unordered pair of points counts once. A point does not count with itself: its share, taken to be the
    Gaussian's value 1 at distance 0, is left out. A lattice's own value there differs. With a Potts model this shifts
    the energy of all labellings equally, so their differences stay right. Regions add theirs (eq. 32).

    Args:
        labels: (*spatial) integers from 0 to C - 1; or marginals or logits (C, *spatial), as a solver returns them,
            which are rounded to the likeliest class of each point.
        unary: Class scores (C, *spatial), higher is likelier.
        compatibility: M, a number, (C,) or (C, C); None is the Potts model, -1.
    """
    scores = score_array(unary, "unary", precision(pairwise))
    couplings, _ = checked_couplings(scores, pairwise, compatibility)
    classes = len(scores)
    given = plain_array(labels, "labels")
    given = label_array(score_array(given, "labels").argmax(axis=0) if given.shape == scores.shape else given)
    if given.shape != scores.shape[1:]:
        raise ValueError(f"labels have shape {given.shape} but the unary has spatial shape {scores.shape[1:]}")
    if given.min() < 0 or given.max() >= classes:
        raise ValueError(
            f"labels range from {given.min()} to {given.max()}, but {classes} classes are 0 to {classes - 1}"
        )
    points = np.arange(given.size)
    chosen = given.reshape(-1)
    one_hot = np.zeros((given.size, classes), scores.dtype)
    one_hot[points, chosen] = 1
    total = -float(scores.reshape(classes, -1)[chosen, points].sum(dtype=np.float64))
    with np.errstate(over="ignore", invalid="ignore"):
        pairs = sum(term.energy(one_hot, matrix) for term, matrix in zip(pairwise, couplings, strict=True))
    return _finite(total + pairs)


def relaxed_energy(
    marginals: ArrayLike,
    unary: ArrayLike,
    pairwise: Sequence[PairwiseTerm],
    *,
    compatibility: ArrayLike | None = None,
) -> float:
    """Energy of marginals: what Frank-Wolfe descends on without its regulariser (docs/algorithm.md, eq. 28).

    That of marginals 0 and 1 is the `energy` of their labels, except that points count with themselves here. With a
    Potts model this shifts the energy of all labellings equally.

    Args:
        marginals: Probabilities (C, *spatial).
        unary: Class scores (C, *spatial), higher is likelier.
        compatibility: M, a number, (C,) or (C, C); None is the Potts model, -1.
    """
    _require_pairs(pairwise, "relaxed_energy")
    q, U, couplings = _beside(marginals, unary, pairwise, compatibility)
    return _relaxed(q, U, message(q, pairwise, couplings))


def kl_divergence(
    marginals: ArrayLike,
    unary: ArrayLike,
    pairwise: Sequence[Term],
    *,
    compatibility: ArrayLike | None = None,
) -> float:
    """Kullback-Leibler divergence of marginals to the CRF, up to its constant log Z (docs/algorithm.md, eq. 7).

    As in pydensecrf, pairwise terms include j = i, and every pair counts from both of its ends, and every group of a
    region from all of its pixels.

    Args:
        marginals: Probabilities (C, *spatial).
        unary: Class scores (C, *spatial), higher is likelier.
        compatibility: M, a number, (C,) or (C, C); None is the Potts model, -1.
    """
    q, U, couplings = _beside(marginals, unary, pairwise, compatibility)
    return divergence(q, U, message(q, pairwise, couplings))


def mean_field_trace(
    unary: ArrayLike,
    pairwise: Sequence[Term],
    *,
    iterations: int = 5,
    compatibility: ArrayLike | None = None,
    damping: float = 0.0,
) -> Iterator[tuple[Array, float]]:
    """The marginals (C, *spatial) before the first iteration and after each one, with their `kl_divergence`.

    Arguments are those of `mean_field`. Values come one by one; nothing of earlier iterations is kept.
    """
    scores = score_array(unary, "unary", precision(pairwise))
    couplings, _ = checked_couplings(scores, pairwise, compatibility)
    solver = MeanField(iterations, damping)

    def trace() -> Iterator[tuple[Array, float]]:
        U = _rows(scores)
        for step in itertools.islice(steps(solver, U, pairwise, couplings), solver.iterations + 1):
            marginals = np.array(step.marginals.T, order="C").reshape(scores.shape)
            yield marginals, divergence(step.marginals, U, step.message)

    return trace()


def frank_wolfe_trace(
    unary: ArrayLike,
    pairwise: Sequence[PairwiseTerm],
    solver: FrankWolfe,
    *,
    compatibility: ArrayLike | None = None,
) -> Iterator[tuple[Array, float]]:
    """The marginals (C, *spatial) before the first iteration and after each one, with their regularised energy.

    That energy is `relaxed_energy` plus λ r (docs/algorithm.md, eq. 28); with a line search it never rises. Values come
    one by one; nothing of earlier iterations is kept.

    Args:
        unary: Class scores (C, *spatial), higher is likelier.
        solver: The iterations end where its tolerance ends them.
        compatibility: M, a number, (C,) or (C, C); None is the Potts model, -1.
    """
    if not isinstance(solver, FrankWolfe):
        raise TypeError(f"solver is a {type(solver).__name__}; expected FrankWolfe(…)")
    scores = score_array(unary, "unary", precision(pairwise))
    _require_pairs(pairwise, "frank_wolfe_trace")
    couplings, _ = checked_couplings(scores, pairwise, compatibility)
    regularizer = regularizer_of(solver)

    def trace() -> Iterator[tuple[Array, float]]:
        U = np.ascontiguousarray(_rows(scores))
        first = frankwolfe.start(U, pairwise, couplings)
        later = (step.end for step in frankwolfe.steps(solver, U, first, pairwise, couplings))
        for state in itertools.chain([first], later):
            marginals = np.array(state.marginals.T, order="C").reshape(scores.shape)
            yield marginals, _relaxed(state.marginals, U, state.message) + regularizer.value(state.marginals)

    return trace()


def divergence(q: Array, unary: Array, received: Array) -> float:
    """D(q) of marginals, logits and the message that the marginals make, of one shape (docs/algorithm.md, eq. 7)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return _finite(total(q * (logarithm(q) - unary + received)))


def _require_pairs(pairwise: Sequence[Term], caller: str) -> None:
    """Raise a TypeError unless all are pairwise: the energy of marginals of other terms, regions, is not quadratic."""
    precision(pairwise)
    for index, term in enumerate(pairwise):
        if not isinstance(term, PairwiseTerm):
            raise TypeError(f"pairwise[{index}] is a {type(term).__name__}, but {caller} takes PairwiseTerm only")


def _relaxed(q: Array, unary: Array, received: Array) -> float:
    """R(q) of marginals, logits and the message that the marginals make, of one shape (docs/algorithm.md, eq. 28)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return _finite(total(q * (0.5 * received - unary)))


def _finite(value: float) -> float:
    """An energy; a ValueError if it is beyond what its precision holds."""
    check_result(np.asarray(value), "energies", "scores, weights or compatibility")
    return value


def _beside(
    marginals: ArrayLike, unary: ArrayLike, pairwise: Sequence[Term], compatibility: ArrayLike | None
) -> tuple[Array, Array, list[Matrix]]:
    """Marginals and logits (N, C), checked, and couplings."""
    dtype = precision(pairwise)
    scores, given = score_array(unary, "unary", dtype), score_array(marginals, "marginals", dtype)
    if given.shape != scores.shape:
        raise ValueError(f"marginals have shape {given.shape} but the unary has shape {scores.shape}")
    if given.min() < -SLACK or given.max() > 1 + SLACK:
        raise ValueError(f"marginals are from {given.min():.3g} to {given.max():.3g}; expected probabilities, 0 to 1")
    couplings, _ = checked_couplings(scores, pairwise, compatibility)
    return _rows(given), _rows(scores), couplings


def _rows(scores: Array) -> Array:
    """(N, C) of scores (C, *spatial)."""
    return scores.reshape(len(scores), num_points(scores.shape[1:])).T
