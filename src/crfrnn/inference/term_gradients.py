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
    return TermGradient(None, *(None if factor is None else np.zeros_like(factor) for factor in (term.pre, term.post)))


def summed(first: TermGradient | None, second: TermGradient | None) -> TermGradient | None:
    if first is None or second is None:
        return None
    return TermGradient(*(b if a is None else a + b for a, b in zip(first, second, strict=True)))


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
        None if term.pre is None else (values * back).sum(axis=1),
        None if term.post is None else (cotangent * forward).sum(axis=1),
    )


def through_normalization(term: Term, gradient: TermGradient | None) -> tuple[Array | None, Array | None]:
    """Gradients to what the kernel is built from, and to the mask (N,), if there is one: eq. (5) in reverse."""
    if gradient is None or not isinstance(term, PairwiseTerm):
        return None, None
    kernel: Any = term.kernel
    to_pre: Any
    to_post: Any
    to_kernel, to_pre, to_post = gradient
    if term.normalization == "none":
        return to_kernel, None if term.mask is None else to_pre + to_post
    divided, other = (to_pre, to_post) if term.normalization == "before" else (to_post, to_pre)
    given: Any = term.mask
    mask = np.ones_like(divided) if given is None else given.astype(divided.dtype)
    norm = filtered_mask(kernel, None if given is None else mask)
    if term.normalization == "symmetric":
        to_mask = (to_pre + to_post) / np.sqrt(norm)
        to_norm = -0.5 * to_mask * mask / norm
    else:
        to_mask = divided / norm
        to_norm = -to_mask * mask / norm
        if other is not None:
            to_mask = to_mask + other
    if isinstance(kernel, NativeKernel):
        to_kernel = to_kernel + kernel.gradient_rows(mask[:, None], to_norm[:, None])
    if given is None:
        return to_kernel, None
    back = kernel.filter_rows if isinstance(kernel, NativeKernel) else kernel.filter
    return to_kernel, to_mask + back(to_norm[:, None], True)[:, 0]
