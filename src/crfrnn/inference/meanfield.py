"""Mean-field inference of a dense CRF, forward and backward (docs/algorithm.md, eq. 4-8).

`steps` is the iteration in a few lines of NumPy: each term gives its message, and the gradients through it
(`terms.Term`). With kernels of the native core alone, the fused loop there does the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn.arrays import Array, check_result, float_array, num_points, padded_channels, score_array
from crfrnn.crf import MeanField
from crfrnn.inference.activity import Activity, complete_activity
from crfrnn.inference.adjoint import array_arithmetic, biconjugate_gradients, check_converged
from crfrnn.inference.coupling import compatibility_gradient, couple, fewest_axes, weight_gradient
from crfrnn.inference.term_gradients import no_gradient, summed, term_gradient, through_normalization
from crfrnn.inference.terms import PairwiseTerm, Term, checked_couplings, precision
from crfrnn.kernels import native
from crfrnn.kernels.native import FusedTerm, Happened, NativeKernel, Output, Storage, TermGradient
from crfrnn.memory import mean_field_bytes, require_memory
from crfrnn.numbers import flag
from crfrnn.threads import thread_count


class MeanFieldGradients(NamedTuple):
    """What `mean_field_vjp` returns; every gradient has the shape of what it belongs to.

    Attributes:
        unary: (C, *spatial).
        weights: One for each pairwise term.
        compatibility: None if none was given.
        kernels: To what each term's kernel was built from: features (N, d), or deviations of a grid (axes,); None for
            kernels that are not ours, and for regions. Empty if not asked for, as is the next one.
        masks: To each term's mask (N,); None where it has none, and for regions.
    """

    unary: Array
    weights: list[Array]
    compatibility: Array | None
    kernels: list[Array | None]
    masks: list[Array | None]


def mean_field(
    unary: ArrayLike,
    pairwise: Sequence[Term],
    *,
    iterations: int = 5,
    compatibility: ArrayLike | None = None,
    damping: float = 0.0,
    class_threshold: float = 0.0,
    tolerance: float = MeanField.tolerance,
    return_probabilities: bool = False,
    threads: int | None = None,
) -> Array:
    """Approximate marginals of a dense CRF by mean-field iteration, as logits or probabilities.

    Args:
        unary: Class scores (C, *spatial) or (C, N), higher is likelier (logits, not energies). One class has
            probability 1 everywhere: log-odds z of two classes are np.concatenate([np.zeros_like(z), z]) here, as
            `refine` does it.
        pairwise: Kernels over the same points, with their weights, and regions (`RegionTerm`).
        iterations: T; 0 returns the unary.
        compatibility: M, a number, (C,) or (C, C); None is the Potts model, -1.
        damping: Share of the previous logits kept at each iteration, at least 0 and below 1.
        class_threshold: Leave a class out of filtering as soon as its probability is below this everywhere: it then
            sends no messages. docs/algorithm.md, sections 6 and 8, has the rules and the error.
        tolerance: How far a marginal may be off in an iteration because of work left out: 0 works everything out in
            every iteration (docs/algorithm.md, section 8).
        return_probabilities: Return softmax(a_T) instead of the logits a_T.
        threads: None is `default_threads()`. The result is the same to the bit for any number.
    Returns: (C, *spatial), in the precision of the kernels.
    Raises:
        TypeError: if unary holds no real numbers.
        ValueError: if unary is empty or not finite, or sizes do not match.
        MemoryError: if there is not enough memory.
    References: Krähenbühl & Koltun 2011, algorithm 1; Zheng et al. 2015, algorithm 1.
    """
    solver = MeanField(iterations, damping, class_threshold, tolerance)
    scores = score_array(unary, "unary", precision(pairwise))
    couplings, _ = checked_couplings(scores, pairwise, compatibility)
    _require_memory(scores.shape[0], num_points(scores.shape[1:]), scores.itemsize, 0)
    output: Output = "probabilities" if flag(return_probabilities, "return_probabilities") else "logits"
    result, _ = forward(solver, _by_class(scores), pairwise, _all_fewest_axes(couplings), output, None, threads)
    return result.reshape(scores.shape)


def mean_field_with_marginals(
    unary: ArrayLike,
    pairwise: Sequence[Term],
    *,
    iterations: int = 5,
    compatibility: ArrayLike | None = None,
    damping: float = 0.0,
    threads: int | None = None,
) -> tuple[Array, Array]:
    """`mean_field`, with the marginals that `mean_field_vjp` needs.

    Returns: Logits a_T (C, *spatial), and marginals q_0 … q_{T-1} as (T, N, P): the first C of P channels are the
        classes, the rest is padding and 0.
    """
    solver = MeanField(iterations, damping)
    scores = score_array(unary, "unary", precision(pairwise))
    couplings, _ = checked_couplings(scores, pairwise, compatibility)
    _require_memory(scores.shape[0], num_points(scores.shape[1:]), scores.itemsize, solver.iterations)
    logits, marginals = forward(
        solver, _by_class(scores), pairwise, _all_fewest_axes(couplings), "logits", "computed", threads
    )
    return logits.reshape(scores.shape), marginals


def mean_field_vjp(
    cotangent: ArrayLike,
    marginals: Array,
    pairwise: Sequence[Term],
    *,
    compatibility: ArrayLike | None = None,
    damping: float = 0.0,
    guide: bool = False,
    threads: int | None = None,
) -> MeanFieldGradients:
    """Gradients of ⟨cotangent, a_T⟩ to unary, weights and compatibility (docs/algorithm.md, eq. 8 and 22).

    Args:
        cotangent: (C, *spatial), the gradient of a loss to the logits of `mean_field_with_marginals`.
        marginals: As returned there, with the same pairwise terms, compatibility and damping.
        guide: Whether to compute those to features, deviations and masks of kernels too, in about twice the time.
    """
    given = score_array(cotangent, "cotangent", precision(pairwise))
    couplings, compatible = checked_couplings(given, pairwise, compatibility)
    classes, points = len(given), num_points(given.shape[1:])
    kept = float_array(marginals, "marginals", given.dtype)
    if kept.ndim != 3 or kept.shape[1:] != (points, padded_channels(classes)):
        raise ValueError(
            f"marginals have shape {kept.shape}, which is not what mean_field_with_marginals returns for "
            f"{classes} classes and {points} points"
        )
    solver, guide = MeanField(len(kept), damping, tolerance=0), flag(guide, "guide")
    rows = given.reshape(classes, points)
    unary, gradients, to_terms = vjp(solver, rows, kept, pairwise, couplings, threads, guide)
    by_coupling = [gradient.astype(np.float64) for gradient in gradients]
    given_weights: list[Any] = [term.weight for term in pairwise]
    weights = [
        weight_gradient(gradient, compatible, weight, classes).astype(given.dtype)
        for gradient, weight in zip(by_coupling, given_weights, strict=True)
    ]
    total: Array | None = None
    if compatible is not None:
        total = np.zeros_like(compatible)
        for gradient, weight in zip(by_coupling, given_weights, strict=True):
            total = total + compatibility_gradient(gradient, compatible, weight, classes)
        total = np.asarray(total, given.dtype)
    to_guides = [through_normalization(term, to_term) for term, to_term in zip(pairwise, to_terms, strict=False)]
    kernels, masks = [to_kernel for to_kernel, _ in to_guides], [to_mask for _, to_mask in to_guides]
    return MeanFieldGradients(unary.reshape(given.shape), weights, total, kernels, masks)


def forward(
    solver: MeanField,
    unary: Array,
    pairwise: Sequence[Term],
    couplings: Sequence[NDArray[Any]],
    output: Output,
    keep: Storage | None,
    threads: int | None,
) -> tuple[Array, Any]:
    """As in `solver.Solver`: the marginals kept are q_0 … q_{T-1}, (T, N, P) padded to P channels.

    Kernels that are not of the native core keep them as computed. With an implicit gradient only those of the result
    are kept, as computed, (1, N, P).
    """
    if keep is not None and solver.gradient == "implicit":
        logits, _ = forward(solver, unary, pairwise, couplings, "logits", None, threads)
        return logits, _fixed_point(solver, unary, logits, pairwise, couplings)
    fused = _fused(pairwise, couplings)
    if fused is not None:
        result, marginals, _ = native.mean_field(unary, fused, solver, output, keep, thread_count(threads))
    else:
        result, marginals, _ = _by_steps(solver, unary, pairwise, couplings, output, keep)
    return result, marginals if keep else None


def observed(
    solver: MeanField,
    unary: Array,
    pairwise: Sequence[Term],
    couplings: Sequence[NDArray[Any]],
    output: Output,
    threads: int | None,
) -> tuple[Array, Activity]:
    """As in `solver.observed`."""
    fused = _fused(pairwise, couplings)
    if fused is not None:
        result, _, happened = native.mean_field(unary, fused, solver, output, None, thread_count(threads), True)
    else:
        result, _, happened = _by_steps(solver, unary, pairwise, couplings, output, None)
    iterations, classes, evaluated = happened
    if evaluated is None:
        return result, replace(complete_activity(iterations, *unary.shape), classes=tuple(classes))
    return result, Activity(iterations, tuple(classes), evaluated[:iterations].view(np.bool_))


def vjp(
    solver: MeanField,
    cotangent: Array,
    kept: Array,
    pairwise: Sequence[Term],
    couplings: Sequence[NDArray[Any]],
    threads: int | None,
    guide: bool = False,
) -> tuple[Array, list[Array], Sequence[TermGradient | None]]:
    """As in `solver.Solver` (docs/algorithm.md, eq. 8 and 22)."""
    if solver.gradient == "implicit":
        return _implicit_vjp(solver, cotangent, kept, pairwise, couplings, threads, guide)
    fused = _fused(pairwise, couplings)
    if fused is not None:
        return native.mean_field_vjp(cotangent, kept, fused, solver, thread_count(threads), guide)
    damping = solver.damping
    g = cotangent.T
    unary = np.zeros_like(g)
    gradients = [np.zeros(matrix.shape, g.dtype) for matrix in couplings]
    to_terms = [no_gradient(term) for term in pairwise] if guide else []
    for q in kept[::-1, :, : g.shape[1]]:
        received = (1 - damping) * g
        unary += received
        v = np.zeros_like(g)
        for k, (term, matrix, gradient) in enumerate(zip(pairwise, couplings, gradients, strict=True)):
            to_q, to_coupling = term.vjp(q, received, matrix)
            v -= to_q
            gradient -= to_coupling
            if guide:
                to_terms[k] = summed(to_terms[k], term_gradient(term, q, -couple(received, matrix.T)))
        g = damping * g + q * (v - (v * q).sum(axis=1, keepdims=True))
    return np.array((unary + g).T, order="C"), gradients, to_terms


def kept_rows(solver: MeanField) -> int:
    """As `solver.Solver` tells."""
    return 1 if solver.gradient == "implicit" else solver.iterations


class Step(NamedTuple):
    """An iteration: how many classes send; and, all (N, C), their marginals, the message, and the logits after it."""

    classes: int
    marginals: Array
    message: Array
    logits: Array


def steps(
    solver: MeanField, unary: Array, pairwise: Sequence[Term], couplings: Sequence[NDArray[Any]]
) -> Iterator[Step]:
    """The iterations one by one, without end (docs/algorithm.md, eq. 4), in NumPy; unary (N, C)."""
    logits = unary
    likely = _likely(softmax(unary, axis=1), solver.class_threshold)
    while True:
        q = np.zeros_like(logits)
        q[:, likely] = softmax(logits[:, likely], axis=1)
        received = message(q, pairwise, couplings)
        undamped = unary - received
        logits = np.where(likely, (1 - solver.damping) * undamped + solver.damping * logits, undamped)
        yield Step(int(likely.sum()), q, received, logits)
        likely &= _likely(q, solver.class_threshold)


def message(q: Array, pairwise: Sequence[Term], couplings: Sequence[NDArray[np.floating[Any]]]) -> Array:
    """Σ_k E_k (N_k q), and what regions send, for (N, C) marginals: what an iteration subtracts from the unary."""
    total = np.zeros_like(q)
    for term, matrix in zip(pairwise, couplings, strict=True):
        total += term.message(q, matrix)
    return total


def softmax(logits: Array, axis: int) -> Array:
    """Softmax over the axis of the classes."""
    with np.errstate(over="ignore"):  # a class that is beyond the range of numbers below the likeliest has 0
        exponentials: Array = np.exp(logits - logits.max(axis=axis, keepdims=True))
    exponentials /= exponentials.sum(axis=axis, keepdims=True)
    return exponentials


def _by_steps(
    solver: MeanField,
    unary: Array,
    pairwise: Sequence[Term],
    couplings: Sequence[NDArray[Any]],
    output: Output,
    keep: Storage | None,
) -> tuple[Array, Array, Happened]:
    """What `native.mean_field` returns, for any kernels."""
    classes, points = unary.shape
    kept = np.zeros((solver.iterations if keep else 0, points, padded_channels(classes)), unary.dtype)
    logits, sent = unary.T, []
    with np.errstate(over="ignore", invalid="ignore"):
        for iteration, step in zip(range(solver.iterations), steps(solver, unary.T, pairwise, couplings), strict=False):
            logits = step.logits
            check_result(logits, "scores")
            sent.append(step.classes)
            if keep:
                kept[iteration, :, :classes] = step.marginals
    happened = (solver.iterations, sent, None)
    if output == "labels":
        return logits.argmax(axis=1).astype(np.int32), kept, happened
    result = softmax(logits, axis=1) if output == "probabilities" else logits
    return np.array(result.T, order="C"), kept, happened


def _fixed_point(
    solver: MeanField,
    unary: Array,
    logits: Array,
    pairwise: Sequence[Term],
    couplings: Sequence[NDArray[Any]],
) -> Array:
    """The marginals of the result, (1, N, P); warns where another iteration would change them."""
    q = softmax(logits.T, axis=1)
    following = softmax(unary.T - message(q, pairwise, couplings), axis=1)
    check_converged(float(np.abs(following - q).max()), solver)
    kept = np.zeros((1, len(q), padded_channels(len(logits))), q.dtype)
    kept[0, :, : len(logits)] = q
    return kept


def _implicit_vjp(
    solver: MeanField,
    cotangent: Array,
    kept: Array,
    pairwise: Sequence[Term],
    couplings: Sequence[NDArray[Any]],
    threads: int | None,
    guide: bool,
) -> tuple[Array, list[Array], Sequence[TermGradient | None]]:
    """The gradients at the fixed point (docs/algorithm.md, eq. 31): those of one iteration, for the solution w."""
    once = replace(solver, iterations=1, damping=0.0, gradient="unrolled")

    def product(w: Array) -> Array:
        """w less what an iteration that gets it sends back to the scores that it starts from."""
        return 2 * w - vjp(once, w, kept, pairwise, couplings, threads)[0]

    w = biconjugate_gradients(product, cotangent, array_arithmetic(cotangent.dtype))
    return w, *vjp(once, w, kept, pairwise, couplings, threads, guide)[1:]


def _likely(q: Array, threshold: float) -> NDArray[np.bool_]:
    """Which classes of (N, C) marginals reach the threshold somewhere, (C,); there is always at least one."""
    most = q.max(axis=0)
    return np.asarray(most >= min(threshold, most.max()))


def _fused(pairwise: Sequence[Term], couplings: Sequence[NDArray[Any]]) -> list[FusedTerm] | None:
    """The terms that the native core runs in one loop; None if one of them is not its own."""
    terms = []
    for term, matrix in zip(pairwise, couplings, strict=True):
        if not isinstance(term, PairwiseTerm) or not isinstance(term.kernel, NativeKernel):
            return None
        terms.append(FusedTerm(term.kernel, term.pre, term.post, matrix, term.row_sum))
    return terms


def _by_class(scores: Array) -> Array:
    """(C, N) of scores (C, *spatial), in the order that they have in memory."""
    return scores.reshape(len(scores), -1)


def _all_fewest_axes(couplings: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    return [fewest_axes(matrix) for matrix in couplings]


def _require_memory(classes: int, points: int, itemsize: int, kept: int) -> None:
    require_memory(
        mean_field_bytes(points, classes, itemsize, kept), f"a mean field of {points} points and {classes} classes"
    )
