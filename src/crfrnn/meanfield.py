"""Mean-field inference of a dense CRF, forward and backward (docs/algorithm.md, eq. 4-8).

The loop itself is `_loop`, in a few lines of NumPy; with kernels of the native core the fused loop there does the same.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn import _native
from crfrnn.arrays import Array, float_array, num_points, score_array
from crfrnn.coupling import compatibility_gradient, couple, simplest, weight_gradient
from crfrnn.kernel import NativeKernel
from crfrnn.memory import mean_field_bytes, require_memory
from crfrnn.pairwise import PairwiseTerm, checked_couplings, precision
from crfrnn.parameters import CRFParameters, proper_fraction, whole_number
from crfrnn.threads import thread_count


class MeanFieldGradients(NamedTuple):
    """What `mean_field_vjp` returns; every gradient has the shape of what it belongs to.

    Attributes:
        unary: (C, *spatial).
        weights: One for each pairwise term.
        compatibility: None if none was given.
    """

    unary: Array
    weights: list[Array]
    compatibility: Array | None


def mean_field(
    unary: ArrayLike,
    pairwise: Sequence[PairwiseTerm],
    *,
    iterations: int = 5,
    compatibility: ArrayLike | None = None,
    damping: float = 0.0,
    class_threshold: float = 0.0,
    return_probabilities: bool = False,
    threads: int | None = None,
) -> Array:
    """Approximate marginals of a dense CRF by mean-field iteration, as logits or probabilities.

    Args:
        unary: Class scores (C, *spatial) or (C, N), higher is likelier (logits, not energies). One class has
            probability 1 everywhere: log-odds z of two classes are np.concatenate([np.zeros_like(z), z]) here, as
            `refine` does it.
        pairwise: Kernels over the same points, with their weights.
        iterations: T; 0 returns the unary.
        compatibility: M, a number, (C,) or (C, C); None is the Potts model, -1.
        damping: Share of the previous logits kept at each iteration, at least 0 and below 1.
        class_threshold: Leave classes out of filtering as soon as their probability is nowhere at least this: the
            others no longer hear of them. docs/algorithm.md, section 6, gives the rule and the error.
        return_probabilities: Return softmax(a_T) instead of the logits a_T.
        threads: None is `default_threads()`. The result is the same to the bit for any number.
    Returns: (C, *spatial), in the precision of the kernels.
    Raises:
        TypeError: if unary holds no real numbers.
        ValueError: if unary is empty or not finite, or sizes do not match.
        MemoryError: if there is not enough memory.
    References: Krähenbühl & Koltun 2011, algorithm 1; Zheng et al. 2015, algorithm 1.
    """
    return solve(
        score_array(unary, "unary", precision(pairwise)),
        pairwise,
        iterations=iterations,
        compatibility=compatibility,
        damping=damping,
        class_threshold=class_threshold,
        return_probabilities=return_probabilities,
        threads=threads,
    )


def mean_field_with_marginals(
    unary: ArrayLike,
    pairwise: Sequence[PairwiseTerm],
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
    scores = score_array(unary, "unary", precision(pairwise))
    couplings = [simplest(matrix) for matrix in checked_couplings(scores.shape, pairwise, compatibility)[0]]
    logits, marginals = run(
        scores.reshape(len(scores), -1),
        pairwise,
        couplings,
        iterations=whole_number(iterations, "iterations"),
        damping=proper_fraction(damping, "damping"),
        keep_marginals=True,
        threads=threads,
    )
    return logits.reshape(scores.shape), marginals


def mean_field_vjp(
    cotangent: ArrayLike,
    marginals: Array,
    pairwise: Sequence[PairwiseTerm],
    *,
    compatibility: ArrayLike | None = None,
    damping: float = 0.0,
    threads: int | None = None,
) -> MeanFieldGradients:
    """Gradients of ⟨cotangent, a_T⟩ to unary, weights and compatibility (docs/algorithm.md, eq. 8).

    Args:
        cotangent: (C, *spatial), the gradient of a loss to the logits of `mean_field_with_marginals`.
        marginals: As returned there, with the same pairwise terms, compatibility and damping.
    """
    given = score_array(cotangent, "cotangent", precision(pairwise))
    couplings, compatible = checked_couplings(given.shape, pairwise, compatibility)
    classes, points = len(given), num_points(given.shape[1:])
    kept = float_array(marginals, "marginals", given.dtype)
    if kept.ndim != 3 or kept.shape[1:] != (points, _native.padded_channels(classes)):
        raise ValueError(
            f"marginals have shape {kept.shape}, which is not what mean_field_with_marginals returns for "
            f"{classes} classes and {points} points"
        )
    unary, gradients = run_vjp(
        given.reshape(classes, points),
        kept,
        pairwise,
        couplings,
        damping=proper_fraction(damping, "damping"),
        threads=threads,
    )
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
    return MeanFieldGradients(unary.reshape(given.shape), weights, total)


def solve(
    unary: Array,
    pairwise: Sequence[PairwiseTerm],
    *,
    iterations: int,
    compatibility: ArrayLike | None,
    damping: float,
    class_threshold: float,
    return_probabilities: bool,
    threads: int | None,
) -> Array:
    """`mean_field` of a unary (C, *spatial) that `score_array` has checked."""
    couplings = [simplest(matrix) for matrix in checked_couplings(unary.shape, pairwise, compatibility)[0]]
    rounds, kept_share = whole_number(iterations, "iterations"), proper_fraction(damping, "damping")
    result, _ = run(
        unary.reshape(len(unary), -1),
        pairwise,
        couplings,
        iterations=rounds,
        damping=kept_share,
        class_threshold=proper_fraction(class_threshold, "class_threshold"),
        return_probabilities=return_probabilities,
        threads=threads,
    )
    return result.reshape(unary.shape)


def solve_labels(
    unary: Array, pairwise: Sequence[PairwiseTerm], parameters: CRFParameters, threads: int | None
) -> NDArray[np.int32]:
    """The likeliest class of each pixel after `solve`, (*spatial,); of several the first."""
    couplings = [simplest(matrix) for matrix in checked_couplings(unary.shape, pairwise, parameters.compatibility)[0]]
    scores, numbers = (
        unary.reshape(len(unary), -1),
        (parameters.iterations, parameters.damping, parameters.class_threshold),
    )
    if _all_native(pairwise):
        _require_memory(scores)
        fused: Callable[..., NDArray[np.int32]] = (
            _native.mean_field_labels64 if unary.dtype == np.float64 else _native.mean_field_labels32
        )
        labels = fused(scores, *_native_terms(pairwise, couplings, unary.dtype), *numbers, thread_count(threads))
    else:
        labels = _loop(scores, pairwise, couplings, *numbers, False)[0].argmax(axis=0).astype(np.int32)
    return labels.reshape(unary.shape[1:])


def softmax(logits: Array, axis: int) -> Array:
    """Softmax over the axis of the classes."""
    exponentials: Array = np.exp(logits - logits.max(axis=axis, keepdims=True))
    exponentials /= exponentials.sum(axis=axis, keepdims=True)
    return exponentials


def run(
    unary: Array,
    pairwise: Sequence[PairwiseTerm],
    couplings: Sequence[NDArray[np.floating[Any]]],
    *,
    iterations: int,
    damping: float,
    class_threshold: float = 0.0,
    keep_marginals: bool = False,
    return_probabilities: bool = False,
    threads: int | None = None,
) -> tuple[Array, Array]:
    """Logits a_T, or their softmax, and the marginals kept, for checked input.

    Args:
        unary: (C, N), contiguous class after class or point after point, float32 or float64 as the kernels are.
        couplings: E = M W of each term: (), (C,) or (C, C).
        keep_marginals: Not together with a class_threshold.
    Returns: (C, N) in the order of the unary, and marginals (T, N, P) padded to P channels, T = 0 unless they are kept.
    """
    _require_memory(unary, iterations if keep_marginals else 0)
    if not _all_native(pairwise):
        result, marginals = _loop(unary, pairwise, couplings, iterations, damping, class_threshold, keep_marginals)
        return (softmax(result, axis=0) if return_probabilities else result), marginals
    fused: Callable[..., tuple[Array, Array]] = (
        _native.mean_field64 if unary.dtype == np.float64 else _native.mean_field32
    )
    return fused(
        unary,
        *_native_terms(pairwise, couplings, unary.dtype),
        iterations,
        damping,
        class_threshold,
        keep_marginals,
        return_probabilities,
        thread_count(threads),
    )


def run_vjp(
    cotangent: Array,
    marginals: Array,
    pairwise: Sequence[PairwiseTerm],
    couplings: Sequence[NDArray[np.floating[Any]]],
    *,
    damping: float,
    threads: int | None = None,
) -> tuple[Array, list[Array]]:
    """Gradients of ⟨cotangent, a_T⟩ to the unary and to every coupling, in its shape, for checked input.

    Args:
        cotangent: (C, N), contiguous class after class or point after point, in the precision of the kernels.
        marginals: (T, N, P) as `run` returns them.
    """
    if not _all_native(pairwise):
        return _loop_vjp(cotangent, marginals, pairwise, couplings, damping)
    fused: Callable[..., tuple[Array, Any]] = (
        _native.mean_field_vjp64 if cotangent.dtype == np.float64 else _native.mean_field_vjp32
    )
    terms = _native_terms(pairwise, couplings, cotangent.dtype)
    return fused(cotangent, marginals, *terms, damping, thread_count(threads))


def message(q: Array, pairwise: Sequence[PairwiseTerm], couplings: Sequence[NDArray[np.floating[Any]]]) -> Array:
    """Σ_k E_k (N_k q) for (N, C) marginals: what an iteration takes from the unary."""
    total = np.zeros_like(q)
    for term, matrix in zip(pairwise, couplings, strict=True):
        total += couple(term.filter(q), matrix)
    return total


def _require_memory(unary: Array, kept_iterations: int = 0) -> None:
    classes, points = unary.shape
    require_memory(
        mean_field_bytes(points, classes, unary.itemsize, kept_iterations),
        f"a mean field of {points} points and {classes} classes",
    )


def _loop(
    unary: Array,
    pairwise: Sequence[PairwiseTerm],
    couplings: Sequence[NDArray[np.floating[Any]]],
    iterations: int,
    damping: float,
    class_threshold: float,
    keep_marginals: bool,
) -> tuple[Array, Array]:
    """The mean field in NumPy, for kernels that are not of the native core."""
    scores = unary.T
    classes = scores.shape[1]
    kept_shape = (iterations if keep_marginals else 0, len(scores), _native.padded_channels(classes))
    marginals = np.zeros(kept_shape, scores.dtype)
    logits = scores
    likely = _likely(softmax(scores, axis=1), class_threshold)
    for iteration in range(iterations):
        q = np.zeros_like(logits)
        q[:, likely] = softmax(logits[:, likely], axis=1)
        if keep_marginals:
            marginals[iteration, :, :classes] = q
        received = scores - message(q, pairwise, couplings)
        logits = np.where(likely, (1 - damping) * received + damping * logits, received)
        likely &= _likely(q, class_threshold)
    return np.array(logits.T, order="C"), marginals


def _likely(q: Array, threshold: float) -> NDArray[np.bool_]:
    """Which classes of (N, C) marginals are somewhere at least as likely as the threshold, (C,); never none of them."""
    most = q.max(axis=0)
    return np.asarray(most >= min(threshold, most.max()))


def _loop_vjp(
    cotangent: Array,
    marginals: Array,
    pairwise: Sequence[PairwiseTerm],
    couplings: Sequence[NDArray[np.floating[Any]]],
    damping: float,
) -> tuple[Array, list[Array]]:
    """The gradients of `_loop`."""
    g = cotangent.T
    unary = np.zeros_like(g)
    gradients = [np.zeros(matrix.shape, g.dtype) for matrix in couplings]
    for q in marginals[::-1, :, : g.shape[1]]:
        received = (1 - damping) * g
        unary += received
        v = np.zeros_like(g)
        for term, matrix, gradient in zip(pairwise, couplings, gradients, strict=True):
            h = term.filter(received, transpose=True)
            gradient -= h.T @ q if matrix.ndim == 2 else (h * q).sum(axis=0 if matrix.ndim else None)
            v -= couple(h, matrix.T)
        g = damping * g + q * (v - (v * q).sum(axis=1, keepdims=True))
    return np.array((unary + g).T, order="C"), gradients


def _all_native(pairwise: Sequence[PairwiseTerm]) -> bool:
    return all(isinstance(term.kernel, NativeKernel) for term in pairwise)


def _native_terms(
    pairwise: Sequence[PairwiseTerm], couplings: Sequence[NDArray[np.floating[Any]]], dtype: np.dtype[Any]
) -> tuple[list[Any], list[Array | None], list[Array | None], list[Array]]:
    """Handles, pre, post and couplings, as the native core takes them."""
    kernels: list[Any] = [term.kernel for term in pairwise]
    return (
        [kernel._native for kernel in kernels],
        [term.pre for term in pairwise],
        [term.post for term in pairwise],
        [np.asarray(matrix, dtype, order="C") for matrix in couplings],
    )
