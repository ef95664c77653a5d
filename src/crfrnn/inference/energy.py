"""What a dense CRF minimises: the energy of a labelling, and how far marginals are from the model."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from crfrnn.arrays import Array, label_array, num_points, score_array
from crfrnn.crf import MeanField
from crfrnn.inference.meanfield import message, steps
from crfrnn.inference.terms import Term, checked_couplings, precision

SMALLEST_PROBABILITY = 1e-20


def energy(
    labels: ArrayLike,
    unary: ArrayLike,
    pairwise: Sequence[Term],
    *,
    compatibility: ArrayLike | None = None,
) -> float:
    """Energy of a labelling, lower is likelier (docs/algorithm.md, eq. 1).

    Every unordered pair of points counts once. A point does not count with itself: its share, taken to be the
    Gaussian's value 1 at distance 0, is left out. A lattice's own value there differs. With a Potts model this shifts
    the energy of all labellings equally, so their differences stay right. Regions add theirs (eq. 32).

    Args:
        labels: (*spatial) integers from 0 to C - 1.
        unary: Class scores (C, *spatial), higher is likelier.
        compatibility: M, a number, (C,) or (C, C); None is the Potts model, -1.
    """
    scores = score_array(unary, "unary", precision(pairwise))
    couplings, _ = checked_couplings(scores.shape, pairwise, compatibility)
    classes = len(scores)
    given = label_array(labels)
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
    return total + sum(term.energy(one_hot, matrix) for term, matrix in zip(pairwise, couplings, strict=True))


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
    dtype = precision(pairwise)
    scores, given = score_array(unary, "unary", dtype), score_array(marginals, "marginals", dtype)
    if given.shape != scores.shape:
        raise ValueError(f"marginals have shape {given.shape} but the unary has shape {scores.shape}")
    couplings, _ = checked_couplings(scores.shape, pairwise, compatibility)
    q = given.reshape(len(given), -1).T
    return divergence(q, scores.reshape(len(scores), -1).T, message(q, pairwise, couplings))


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
    couplings, _ = checked_couplings(scores.shape, pairwise, compatibility)
    solver = MeanField(iterations, damping)

    def trace() -> Iterator[tuple[Array, float]]:
        U = scores.reshape(len(scores), num_points(scores.shape[1:])).T
        for step in itertools.islice(steps(solver, U, pairwise, couplings), solver.iterations + 1):
            marginals = np.array(step.marginals.T, order="C").reshape(scores.shape)
            yield marginals, divergence(step.marginals, U, step.message)

    return trace()


def divergence(q: Array, unary: Array, received: Array) -> float:
    """D(q) of marginals, logits and the message that the marginals make, of one shape (docs/algorithm.md, eq. 7)."""
    log_q = np.log(np.maximum(q, SMALLEST_PROBABILITY))
    return float(np.sum(q * (log_q - unary + received), dtype=np.float64))
