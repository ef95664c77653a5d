"""The native core as the rest of the package sees it: what its kernels have in common, and the fused loop over them.

Besides the package's `__init__.py`, only the files of this folder know `_native`. All that they hand over has been
checked where users gave it.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn import _native
from crfrnn.arrays import Array, cast_finite, check_result, mask_array, padded_channels, point_array
from crfrnn.crf import MeanField
from crfrnn.memory import require_memory
from crfrnn.numbers import flag
from crfrnn.threads import thread_count

Output: TypeAlias = Literal["logits", "probabilities", "labels"]
Storage: TypeAlias = Literal["computed", "with messages", "float16", "bfloat16"]
"""How marginals are kept for the gradient: in the precision of computing, or rounded to 16 bits."""
LARGE_MESSAGES = 2**28
"""Bytes from which on memory is worth a look."""
Happened: TypeAlias = tuple[int, list[int], NDArray[np.uint8] | None]
"""How many iterations ran, how many classes sent in each, and, if asked, which points were evaluated (T, N)."""


class NativeKernel:
    """A linear map between values at N points, computed natively: the mean field runs it inside its fused loop.

    Attributes:
        num_points: N.
        dtype: float32 or float64.
        symmetric: Whether the kernel is its own transpose.
    """

    symmetric: ClassVar[bool] = False
    num_points: int
    dtype: np.dtype[Any]
    _native: Any
    _threads: int | None

    def filter(self, values: ArrayLike, transpose: bool = False, threads: int | None = None) -> Array:
        """Σ_j k(i, j) v_j at every point i.

        Args:
            values: (N,) or (N, channels).
            transpose: Apply the exact transpose. A lattice is not quite symmetric; the other kernels are.
        Returns: An array of the shape of values, of the kernel's dtype.
        """
        given = point_array(values, "values", self.num_points, self.dtype)
        filtered = self.filter_rows(given.reshape(self.num_points, -1), flag(transpose, "transpose"), threads).reshape(
            given.shape
        )
        check_result(filtered, "filtered values", "values")
        return filtered

    def gradient(self, values: ArrayLike, cotangent: ArrayLike, threads: int | None = None) -> Array:
        """The gradient of ⟨cotangent, K values⟩ to what the kernel was built from (docs/algorithm.md, eq. 23 and 24).

        It is the derivative of the filter as it computes, with the vertices of a lattice and the radius of a grid held
        fixed. It costs about as much as two to three filters; of an exact kernel, four.

        Args:
            values: (N,) or (N, channels).
            cotangent: Of the same shape.
        Returns: (N, d) for the features of a lattice or an exact kernel, (axes,) for the deviations of a grid.
        Raises: ValueError: if shapes do not fit, or numbers are not finite.
        """
        given = point_array(values, "values", self.num_points, self.dtype)
        other = point_array(cotangent, "cotangent", self.num_points, self.dtype)
        if given.shape != other.shape:
            raise ValueError(
                f"cotangent has shape {other.shape}, but values have {given.shape}; expected the same shape"
            )
        rows, others = (array.reshape(self.num_points, -1) for array in (given, other))
        return self.gradient_rows(rows, others, threads)

    def norm(self, mask: ArrayLike | None = None, threads: int | None = None) -> Array:
        """Σ_j k(i, j) m_j at every point i, (N,).

        Args:
            mask: (N,) weights m ≥ 0; None is 1 everywhere.
        """
        return self.norm_of(None if mask is None else mask_array(mask, (self.num_points,)), threads)

    def filter_rows(self, rows: Array, transpose: bool, threads: int | None = None) -> Array:
        """`filter` of (N, channels) values of the kernel's dtype that are not checked: NaN goes in and comes out."""
        count = thread_count(self._threads if threads is None else threads)
        filtered: Array = self._native.filter(np.ascontiguousarray(rows), transpose, count)
        return filtered

    def gradient_rows(self, values: Array, cotangent: Array, threads: int | None = None) -> Array:
        """`gradient` of (N, channels) rows of the kernel's dtype that are not checked."""
        count = thread_count(self._threads if threads is None else threads)
        gradient: Array = self._native.gradient(np.ascontiguousarray(values), np.ascontiguousarray(cotangent), count)
        return gradient

    def norm_of(self, mask: Array | None, threads: int | None = None) -> Array:
        """`norm` of a mask that has been checked."""
        weights = np.ones(self.num_points, self.dtype) if mask is None else cast_finite(mask, self.dtype, "mask")
        return self.filter_rows(weights[:, None], False, threads)[:, 0]


class FusedTerm(NamedTuple):
    """A kernel with what the fused loop multiplies: factors (N,) sent and received, None for ones, and E = M W.

    row_sum: What no row of the normalised kernel sums to more than, or 0 if that is not known.
    """

    kernel: NativeKernel
    pre: Array | None
    post: Array | None
    coupling: NDArray[np.floating[Any]]
    row_sum: float = 0.0


class TermGradient(NamedTuple):
    """The gradients to what a term consists of besides its coupling (docs/algorithm.md, eq. 22).

    Attributes:
        kernel: To the features (N, d) of the kernel, or to the deviations (axes,) of a grid; None for other kernels.
        pre: (N,); None where the term has no such factors.
        post: Likewise.
    """

    kernel: Any
    pre: Array | None
    post: Array | None


def mean_field(
    unary: Array,
    terms: Sequence[FusedTerm],
    solver: MeanField,
    output: Output,
    keep: Storage | None,
    threads: int,
    evaluated: bool = False,
) -> tuple[Array, Any, Happened]:
    """The fused loop: logits a_T, their softmax (C, N) or labels (N,), and the marginals (T, N, P) if they are kept.

    NumPy has no bfloat16: marginals kept so are uint16. Kept "with messages", they are a pair with those.

    Args:
        unary: (C, N), contiguous class after class or point after point, in the precision of the kernels.
        keep: How to keep the marginals, or None. Gradients need those of all points, so that no work is left out.
        evaluated: Whether to tell which points were evaluated.
    """
    tolerance = 0.0 if keep else solver.tolerance
    with_messages = keep == "with messages"
    storage = None if keep is None else _native.Storage["COMPUTED" if with_messages else keep.upper()]
    row_sums = [term.row_sum for term in terms]
    numbers = row_sums, solver.iterations, solver.damping, solver.class_threshold, tolerance
    _require_messages(terms, unary)
    arguments = _apart(terms, unary.dtype)
    if output == "labels":
        labelled: Callable[..., tuple[Array, Happened]] = _by_precision("mean_field_labels", unary)
        labels, happened = labelled(unary, *arguments, *numbers, evaluated, threads)
        return labels, None, happened
    fused: Callable[..., tuple[Array, Array, Happened, Any]] = _by_precision("mean_field", unary)
    result, marginals, happened, messages = fused(
        unary, *arguments, *numbers, storage, with_messages, output == "probabilities", evaluated, threads
    )
    return result, (marginals, messages) if with_messages else marginals, happened


def mean_field_vjp(
    cotangent: Array,
    kept: Any,
    terms: Sequence[FusedTerm],
    solver: MeanField,
    threads: int,
    guide: bool = False,
) -> tuple[Array, list[Array], list[TermGradient]]:
    """Gradients of ⟨cotangent, a_T⟩ to the unary, to every coupling, in its shape, and to every term.

    Args:
        kept: By `mean_field`.
        guide: Whether to compute those to the terms; without it there are none.
    """
    marginals = kept if isinstance(kept, tuple) else (kept, None)
    row_sums = [term.row_sum for term in terms]
    numbers = row_sums, solver.damping, solver.tolerance, guide, threads
    fused: Callable[..., tuple[Array, list[Array], list[Any]]] = _by_precision("mean_field_vjp", cotangent)
    unary, couplings, of_terms = fused(cotangent, *marginals, *_apart(terms, cotangent.dtype), *numbers)
    return unary, couplings, [TermGradient(*each) for each in of_terms]


def _require_messages(terms: Sequence[FusedTerm], unary: Array) -> None:
    """Raise a MemoryError unless there is room for two rows of each vertex: only built lattices tell how many."""
    vertices = sum(getattr(term.kernel, "num_vertices", 0) for term in terms)
    needed = 2 * vertices * padded_channels(len(unary)) * unary.itemsize
    if needed > LARGE_MESSAGES:
        require_memory(needed, f"messages about {len(unary)} classes over {vertices} lattice vertices")


def _by_precision(name: str, scores: Array) -> Any:
    return getattr(_native, f"{name}{64 if scores.dtype == np.float64 else 32}")


def _apart(
    terms: Sequence[FusedTerm], dtype: np.dtype[Any]
) -> tuple[list[Any], list[Array | None], list[Array | None], list[Array]]:
    """Kernels, pre, post and couplings, as the native core takes them."""
    return (
        [term.kernel._native for term in terms],
        [term.pre for term in terms],
        [term.post for term in terms],
        [np.asarray(term.coupling, dtype, order="C") for term in terms],
    )
