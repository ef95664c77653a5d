"""Gradients to what pairwise terms are built from: the kernel's features or deviations, and the mask.

A solver collects them to a term's kernel and its two factors, iteration by iteration. At the end they go through the
normalisation, of which the factors are made (docs/algorithm.md, eq. 22). Terms that are no pairs have None everywhere.
"""

from typing import Any

import numpy as np

from crfrnn.arrays import Array
from crfrnn.inference.terms import PairwiseTerm, Term, filtered_mask
from crfrnn.kernels.native import NativeKernel, TermGradient


def no_gradient(term: Term) -> TermGradient | None:
    """What `summed` begins with."""
    if not isinstance(term, PairwiseTerm):
        return None
    dtype = getattr(term.kernel, "dtype", np.float64)
    return TermGradient(None, *(np.zeros(term.kernel.num_points, dtype) for _ in range(2)))


def summed(first: TermGradient | None, second: TermGradient | None) -> TermGradient | None:
    if first is None or second is None:
        return None
    kernel = second.kernel if first.kernel is None else first.kernel + second.kernel
    return TermGradient(kernel, first.pre + second.pre, first.post + second.post)


def term_gradient(term: Term, values: Array, cotangent: Array) -> TermGradient | None:
    """Gradients of ⟨cotangent, N values⟩, both (N, C), to the kernel and to the factors, each while others stay."""
    if not isinstance(term, PairwiseTerm):
        return None
    sent = values if term.pre is None else values * term.pre[:, None]
    received = cotangent if term.post is None else cotangent * term.post[:, None]
    kernel: Any = term.kernel
    native = isinstance(kernel, NativeKernel)
    forward = kernel.filter_rows(sent, False) if native else kernel.filter(sent, False)
    back = kernel.filter_rows(received, True) if native else kernel.filter(received, True)
    return TermGradient(
        kernel.gradient_rows(sent, received) if native else None,
        (values * back).sum(axis=1),
        (cotangent * forward).sum(axis=1),
    )


def through_normalization(term: Term, gradient: TermGradient | None) -> tuple[Array | None, Array | None]:
    """Gradients to what the kernel is built from, and to the mask (N,): eq. (5) in reverse."""
    if gradient is None or not isinstance(term, PairwiseTerm):
        return None, None
    kernel: Any = term.kernel
    to_kernel, to_pre, to_post = gradient
    if term.normalization == "none":
        return to_kernel, to_pre + to_post
    given: Any = term.mask
    mask = np.ones_like(to_pre) if given is None else given.astype(to_pre.dtype)
    norm = filtered_mask(kernel, None if given is None else mask)
    if term.normalization == "symmetric":
        to_root = to_pre + to_post
        to_mask = to_root / np.sqrt(norm)
        to_norm = -0.5 * to_mask * mask / norm
    else:
        divided, other = (to_post, to_pre) if term.normalization == "after" else (to_pre, to_post)
        to_mask = other + divided / norm
        to_norm = -divided * mask / norm**2
    if not isinstance(kernel, NativeKernel):
        return to_kernel, to_mask + kernel.filter(to_norm[:, None], True)[:, 0]
    of_norm: Array = kernel.gradient_rows(mask[:, None], to_norm[:, None])
    return to_kernel + of_norm, to_mask + kernel.filter_rows(to_norm[:, None], True)[:, 0]
