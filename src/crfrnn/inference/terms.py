"""Terms of a CRF: what they share, and pairs: a kernel with its weight, its normalisation and a mask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from crfrnn.arrays import (
    Array,
    Shape,
    cast_finite,
    check_classes,
    check_result,
    class_weights,
    double_or_single,
    float_dtype,
    image_array,
    is_tensor,
    mask_array,
    num_points,
    plain_array,
    point_array,
    real_shape,
    region_array,
    spatial_shape,
    wider,
)
from crfrnn.crf import CRF, EPSILON, Normalization, Regions
from crfrnn.files.parameter_files import crf_of, parameters_of
from crfrnn.inference.coupling import Matrix, couple, coupling, coupling_gradient
from crfrnn.inference.regions import RegionTerm
from crfrnn.kernels.base import PointKernel
from crfrnn.kernels.build import build_kernel, given_mapping, kernel_bytes, missing
from crfrnn.kernels.features import Guide, origin_of
from crfrnn.kernels.grid import GridGaussian
from crfrnn.kernels.matrix import MatrixKernel, is_sparse
from crfrnn.kernels.native import NativeKernel
from crfrnn.levels import check_levels
from crfrnn.memory import region_bytes, require_memory
from crfrnn.numbers import flag, one_of
from crfrnn.parameters import CRFParameters, with_values


class Term(Protocol):
    """Pairs (`PairwiseTerm`), regions (`RegionTerm`), or another term that a mean field sums over.

    Marginals q and whatever has their shape are (N, C) and not checked. The coupling E is (), (C,) or (C, C).
    """

    @property
    def weight(self) -> ArrayLike:
        """Number, (C,) or (C, C), as an array."""
        ...

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """In which the term computes; None if it takes any."""
        ...

    @property
    def num_points(self) -> int:
        """N."""
        ...

    def message(self, q: Array, coupling: NDArray[Any]) -> Array:
        """What an iteration subtracts from the unary, E applied to what points receive: (N, C)."""
        ...

    def vjp(self, q: Array, cotangent: Array, coupling: NDArray[Any]) -> tuple[Array, Array]:
        """Gradients of ⟨cotangent, message⟩ to the marginals and to the coupling, in its shape."""
        ...

    def energy(self, q: Array, coupling: NDArray[Any]) -> float:
        """What the term adds to the energy of a labelling, whose marginals are 0 and 1."""
        ...

    def check_points(self, spatial: Shape, name: str) -> None:
        """Raise a ValueError, in which the term has this name, unless it is one of as many points."""
        ...


@dataclass(frozen=True, eq=False)
class PairwiseTerm:
    """A kernel and how it enters the mean field: weight W and normalised filter N (docs/algorithm.md, eq. 5).

    Attributes:
        kernel: `GridGaussian`, `PermutohedralLattice`, `ExactGaussian`, anything with `num_points` and
            `filter(values, transpose=False)`, or a matrix (N, N), dense or sparse as SciPy has them.
        weight: Number, (C,) or (C, C).
        normalization: "after", "before", "symmetric" or "none".
        mask: Weights ≥ 0 of the points, N of them in any shape; points of weight 0 neither send nor receive.
        pre: (N,) factors of what points send; None where all are 1.
        post: (N,) factors of what points receive; None where all are 1.
    Raises: TypeError or ValueError: on construction, if one of them does not fit.
    """

    kernel: Any
    weight: ArrayLike = 1.0
    normalization: Normalization = "after"
    mask: ArrayLike | None = None
    pre: Array | None = field(init=False, repr=False)
    post: Array | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.kernel, np.ndarray) or is_sparse(self.kernel) or is_tensor(self.kernel):
            object.__setattr__(self, "kernel", MatrixKernel(self.kernel))
        if not all(hasattr(self.kernel, name) for name in ("num_points", "filter")):
            raise TypeError(
                f"kernel is a {type(self.kernel).__name__}; expected a GridGaussian, a PermutohedralLattice or another "
                "object with num_points and filter"
            )
        one_of(self.normalization, get_args(Normalization), "normalization")
        mask = None
        if self.mask is not None:
            mask = mask_array(plain_array(self.mask, "mask").flatten(), (self.kernel.num_points,))
        self._set(weight=class_weights(self.weight, "weight"), mask=mask)

    @classmethod
    def of_checked(
        cls, kernel: PointKernel, weight: ArrayLike, normalization: Normalization, mask: Array | None
    ) -> "PairwiseTerm":
        """A term of a kernel and a mask (N,) that have been checked."""
        term = cls.__new__(cls)
        term._set(kernel=kernel, weight=np.asarray(weight, np.float64), normalization=normalization, mask=mask)
        return term

    def filter(self, values: ArrayLike, transpose: bool = False, threads: int | None = None) -> Array:
        """N v for (N, C) or (N,) values v, N = diag(post) K diag(pre); or Nᵀ v.

        Args:
            threads: For our own kernels; None is what the kernel was given.
        """
        dtype = getattr(self.kernel, "dtype", None)
        given = point_array(values, "values", self.kernel.num_points, dtype)
        filtered = self.filter_rows(given.reshape(len(given), -1), flag(transpose, "transpose"), threads).reshape(
            given.shape
        )
        check_result(filtered, "filtered values", "values")
        return filtered

    def filter_rows(self, rows: Array, transpose: bool = False, threads: int | None = None) -> Array:
        """`filter` of (N, C) values that are not checked."""
        before, after = (self.post, self.pre) if transpose else (self.pre, self.post)
        with np.errstate(over="ignore"):  # callers check what comes out
            sent = rows if before is None else rows * before[:, None]
            if isinstance(self.kernel, NativeKernel):
                received = self.kernel.filter_rows(sent, transpose, threads)
            else:
                received = self.kernel.filter(sent, transpose)
            return received if after is None else received * after[:, None]

    @property
    def symmetric(self) -> bool:
        """Whether N is known to be its own transpose, which saves filtering by it."""
        return self.pre is self.post and getattr(self.kernel, "symmetric", False)

    @property
    def num_points(self) -> int:
        """Those of the kernel."""
        return int(self.kernel.num_points)

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """That of a kernel of the native core; None for other kernels."""
        return self.kernel.dtype if isinstance(self.kernel, NativeKernel) else None

    def message(self, q: Array, coupling: NDArray[Any]) -> Array:
        """As in `Term`."""
        return couple(self.filter_rows(q), coupling)

    def vjp(self, q: Array, cotangent: Array, coupling: NDArray[Any]) -> tuple[Array, Array]:
        """As in `Term`; ⟨cotangent, E N q⟩ is ⟨Nᵀ cotangent, E q⟩, so one filter is enough."""
        h = self.filter_rows(cotangent, transpose=True)
        return couple(h, coupling.T), coupling_gradient(h, q, coupling.ndim)

    def energy(self, q: Array, coupling: NDArray[Any]) -> float:
        """As in `Term`: half of what points receive, without what each sends itself."""
        classes = q.shape[1]
        own = np.broadcast_to(coupling.diagonal() if coupling.ndim == 2 else coupling, classes)
        received = (q * self.message(q, coupling)).sum(axis=1)
        alone = (q * own).sum(axis=1)
        for factors in (self.pre, self.post):
            alone = alone if factors is None else alone * factors
        return 0.5 * float((received - alone).sum(dtype=np.float64))

    def check_points(self, spatial: Shape, name: str) -> None:
        """As in `Term`."""
        points = num_points(spatial)
        kernel = self.kernel
        if kernel.num_points != points:
            raise ValueError(
                f"scores of spatial shape {spatial} have {points} points, but the kernel of {name} has "
                f"{kernel.num_points}"
            )
        grid = kernel.shape if isinstance(kernel, GridGaussian) else spatial
        if len(grid) == len(spatial) and grid != spatial:
            swapped = "; did you swap height and width?" if grid == spatial[::-1] else ""
            raise ValueError(
                f"scores have spatial shape {spatial}, but the kernel of {name} is a grid of {grid}{swapped}"
            )

    @property
    def row_sum(self) -> float:
        """What no row of N sums to more than; 0 if that takes a filter to know."""
        if self.normalization != "after":
            return 0.0
        return 1.0 if self.mask is None else float(np.max(self.mask))  # of m_i (K m)_i / (K m)_i

    @property
    def own(self) -> Array:
        """(N,) what N weighs the pair of each point with itself, if K weighs it 1."""
        factors = [each for each in (self.pre, self.post) if each is not None]
        own: Array = np.prod(
            [np.ones(self.kernel.num_points, getattr(self.kernel, "dtype", np.float64)), *factors], axis=0
        )
        return own

    def _set(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            object.__setattr__(self, name, value)
        pre, post = self._factors()
        object.__setattr__(self, "pre", pre)
        object.__setattr__(self, "post", post)

    def _factors(self) -> tuple[Array | None, Array | None]:
        given: Any = self.mask
        dtype = getattr(self.kernel, "dtype", np.float64)
        mask: Array | None = None if given is None else cast_finite(given, dtype, "mask")
        if self.normalization == "none":
            return mask, mask
        norm = filtered_mask(self.kernel, mask)
        m: Any = 1 if mask is None else mask
        if self.normalization == "after":
            return mask, m / norm
        if self.normalization == "before":
            return m / norm, mask
        if norm.min() < 0:
            raise ValueError(
                f"normalization='symmetric' takes roots of the filtered mask, which is {norm.min():.3g} somewhere: use "
                "another normalisation, or a kernel without negative values"
            )
        root = m / np.sqrt(norm)
        return root, root


def pairwise_terms(
    image: ArrayLike | None,
    parameters: CRFParameters | CRF | str | Path,
    *,
    shape: Sequence[int] | None = None,
    mask: ArrayLike | None = None,
    given: Mapping[str, Any] | None = None,
    spacing: float | Sequence[float] | None = None,
    origin: Sequence[int] | None = None,
    threads: int | None = None,
    dtype: DTypeLike | None = None,
    **values: Any,
) -> list[Any]:
    """The terms of an image: a `PairwiseTerm` for each kernel, then a `RegionTerm` for each of the CRF's regions.

    Those of weight 0 are left out.

    Args:
        image: (*spatial, K), or (*spatial,) if grey. None if `shape` is given and no kernel needs it.
        parameters: `CRFParameters`, a `CRF`, the name of a preset, or a parameters file.
        shape: The spatial shape, needed for 1-D signals with channels and for grey volumes; None takes an image of
            one or two axes for grey and the last axis for channels otherwise.
        mask: (*spatial,) weights ≥ 0 of the pixels; pixels of weight 0 neither send nor receive.
        given: For kernels over `Given(name)`, by name: features (*spatial, d) or (N, d), divided by their deviations,
            or a kernel: a matrix (N, N), dense or sparse, or an object with `filter(values, transpose)` for values
            (N, C). For regions: ids (*spatial) or
            memberships (S, *spatial).
        spacing: Distance between neighbouring pixels, a number or one for each axis as (x, y[, z]); θ_α and θ_γ are
            then in its unit. None: they are in pixels.
        origin: Position (x, y[, z]) of the first pixel in a larger image, in pixels; None is 0. The place of a lattice
            depends on the coordinates, so parts of an image share a lattice only if each is given its origin.
        threads: Threads of building and filtering; None is `default_threads()`.
        dtype: float32 or float64; None is float64 for a float64 image and float32 for others.
        **values: Fields of `CRFParameters` that replace those of the parameters, as for `refine`.
    Warns: InputWarning: if levels of the image are far from θ_β.
    Raises:
        TypeError: if image or mask do not hold real numbers.
        ValueError: if shapes, deviations or spacing do not fit the image, or it is not finite.
        MemoryError: if a lattice would not fit into memory.
    """
    crf = crf_of(with_values(parameters_of(parameters), values) if values else parameters).active
    grid = None if shape is None else spatial_shape(shape)
    channels = None if image is None else image_array(image, grid)
    if channels is not None:
        grid = channels.shape[:-1]
    elif grid is None:
        raise ValueError("without an image, shape= must say how large the grid is")
    if dtype is None:
        dtype = np.float32 if channels is None else double_or_single(channels.dtype)
    weights = None if mask is None else mask_array(mask, grid)
    guide = Guide(grid, channels, weights, given_mapping(given), origin_of(origin, len(grid)))
    if channels is not None:
        check_levels(crf, channels)
    kind = float_dtype(dtype)
    require_memory(terms_bytes(crf, guide, kind.itemsize), f"kernels over {' × '.join(map(str, grid))} points")
    return build_terms(crf, guide, spacing, kind, threads)


def build_terms(
    crf: CRF, guide: Guide, spacing: float | Sequence[float] | None, dtype: np.dtype[Any], threads: int | None
) -> list[Term]:
    """All terms of a CRF, from input that has been checked, as has the memory it takes."""
    in_pixels = crf if spacing is None else crf.in_pixels(spacing, len(guide.grid))
    pairs = [
        PairwiseTerm.of_checked(
            build_kernel(kernel, guide, dtype, threads), kernel.weight, kernel.normalization, guide.mask
        )
        for kernel in in_pixels.kernels
    ]
    return [*pairs, *(_region_term(regions, guide) for regions in crf.regions)]


def terms_bytes(crf: CRF, guide: Guide, itemsize: int) -> int:
    """About how many bytes `build_terms` takes."""
    shapes = (real_shape(_given_segments(each, guide), f"given[{each.name!r}]") for each in crf.regions)
    segments = sum(region_bytes(num_points(shape)) for shape in shapes)
    return segments + sum(kernel_bytes(kernel, guide, itemsize) for kernel in crf.kernels)


def precision(pairwise: Sequence[Term]) -> np.dtype[Any] | None:
    """The dtype in which our own kernels compute; None if there are none."""
    if not isinstance(pairwise, Sequence):
        raise TypeError(f"pairwise is a {type(pairwise).__name__}; expected a list of PairwiseTerm(kernel, weight)")
    for index, term in enumerate(pairwise):
        if not all(hasattr(term, name) for name in ("message", "vjp", "check_points", "dtype")):
            raise TypeError(
                f"pairwise[{index}] is a {type(term).__name__}; expected PairwiseTerm(kernel, weight), a RegionTerm or "
                "another term with their methods"
            )
    dtypes = {term.dtype for term in pairwise if term.dtype is not None}
    if len(dtypes) > 1:
        raise ValueError("pairwise mixes float32 and float64 kernels; build all of them in one precision")
    return next(iter(dtypes), None)


def checked_couplings(
    scores: Array, pairwise: Sequence[Term], compatibility: ArrayLike | None, names: Sequence[str] | None = None
) -> tuple[list[Matrix], Matrix | None]:
    """E of every term and the compatibility as a matrix, after checking that terms fit these scores.

    Args:
        names: What the user calls the weights, for messages; None if they are those of the list `pairwise`.
    Raises: ValueError: if they do not, or a coupling is beyond what the precision of the scores holds.
    """
    classes, *spatial = scores.shape
    compatible = None if compatibility is None else class_weights(compatibility, "compatibility")
    if compatible is not None:
        check_classes(compatible, classes, "compatibility")
    couplings = []
    for index, term in enumerate(pairwise):
        term.check_points(tuple(spatial), f"pairwise[{index}]")
        weight: Any = term.weight
        name = f"the weight of pairwise[{index}]" if names is None else names[index]
        check_classes(weight, classes, name)
        with np.errstate(over="ignore", invalid="ignore"):
            couplings.append(coupling(compatible, weight))
        limit = np.finfo(scores.dtype).max
        if not (np.abs(couplings[-1]) <= limit).all():
            raise ValueError(
                f"{name} times the compatibility is more than {scores.dtype} scores can hold, "
                f"{limit:.2g}: make one of them smaller{wider(scores.dtype)}"
            )
    return couplings, compatible


def filtered_mask(kernel: Any, mask: Array | None) -> Array:
    """K m + ε, which a normalisation divides by; no mask is 1 everywhere."""
    norm: Array
    if isinstance(kernel, NativeKernel):
        norm = kernel.norm_of(mask)
    elif hasattr(kernel, "norm"):
        norm = kernel.norm(mask)
    else:
        weights = np.ones(kernel.num_points) if mask is None else mask
        norm = np.asarray(kernel.filter(weights[:, None]))[:, 0]
    check_result(norm, "sums of the mask" if mask is not None else "sums of the kernel", "the mask")
    return norm + EPSILON


def _region_term(regions: Regions, guide: Guide) -> RegionTerm:
    segments = region_array(_given_segments(regions, guide), f"given[{regions.name!r}]", guide.grid)
    return RegionTerm.of_checked(segments, regions, guide.mask, guide.grid)


def _given_segments(regions: Regions, guide: Guide) -> Any:
    """What a call gave as the segments of regions."""
    if regions.name not in guide.given:
        raise ValueError(missing(regions.name, guide.given, regions=True))
    return guide.given[regions.name]
