"""Pairwise terms: a kernel with its weight, its normalisation and a mask."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from crfrnn.arrays import (
    Array,
    Shape,
    check_classes,
    class_weights,
    image_array,
    mask_array,
    num_points,
    point_array,
    spatial_shape,
)
from crfrnn.coupling import Matrix, coupling
from crfrnn.exact import ExactGaussian
from crfrnn.features import bilateral_features, spatial_features
from crfrnn.grid import GridGaussian
from crfrnn.kernel import NativeKernel
from crfrnn.lattice import MAX_FEATURES, PermutohedralLattice
from crfrnn.parameters import CRFParameters, Normalization, chosen, one_of, per_axis

# Keeps 1 / norm finite where a norm is 0, which masks can make it.
EPSILON = 1e-20


class Kernel(Protocol):
    """A linear map between values at N points. Ours run fused in the native core; any other one works, in NumPy."""

    @property
    def num_points(self) -> int: ...

    def filter(self, values: Any, transpose: bool = False) -> Any: ...

    def norm(self, mask: Any = None) -> Any: ...


@dataclass(frozen=True, eq=False)
class PairwiseTerm:
    """A kernel and how it enters the mean field: weight W and normalised filter N (docs/algorithm.md, eq. 5).

    Attributes:
        kernel: `GridGaussian`, `PermutohedralLattice`, or anything with their `num_points`, `filter` and `norm`.
        weight: Number, (C,) or (C, C).
        normalization: "after", "before", "symmetric" or "none".
        mask: Weights ≥ 0 of the points, N of them in any shape; points of weight 0 neither send nor receive.
    Raises: TypeError or ValueError: on construction, if one of them does not fit.
    """

    kernel: Kernel
    weight: ArrayLike = 1.0
    normalization: Normalization = "after"
    mask: ArrayLike | None = None

    def __post_init__(self) -> None:
        if not all(hasattr(self.kernel, name) for name in ("num_points", "filter", "norm")):
            raise TypeError(
                f"kernel is a {type(self.kernel).__name__}; expected a GridGaussian, a PermutohedralLattice or another "
                "object with num_points, filter and norm"
            )
        one_of(self.normalization, get_args(Normalization), "normalization")
        object.__setattr__(self, "weight", class_weights(self.weight, "weight"))
        if self.mask is not None:
            # A copy: the norms below are computed once, and a mask changed later must not disagree with them.
            mask = mask_array(np.array(self.mask).reshape(-1), (self.kernel.num_points,))
            object.__setattr__(self, "mask", mask)

    @property
    def pre(self) -> Array | None:
        """(N,) factors of what points send; None where all are 1."""
        return self._scales[0]

    @property
    def post(self) -> Array | None:
        """(N,) factors of what points receive; None where all are 1."""
        return self._scales[1]

    def filter(self, values: ArrayLike, transpose: bool = False, threads: int | None = None) -> Array:
        """N v for (N, C) or (N,) values v, N = diag(post) K diag(pre); or Nᵀ v.

        Args:
            threads: For our own kernels; None is what the kernel was given.
        """
        dtype = getattr(self.kernel, "dtype", None)
        sent = point_array(values, "values", self.kernel.num_points, dtype)
        before, after = (self.post, self.pre) if transpose else (self.pre, self.post)
        sent = _scaled(sent, before)
        if isinstance(self.kernel, NativeKernel):
            received = self.kernel.filter(sent, transpose, threads)
        else:
            received = self.kernel.filter(sent, transpose)
        return _scaled(received, after)

    @cached_property
    def _scales(self) -> tuple[Array | None, Array | None]:
        given: Any = self.mask
        mask: Array | None = None if given is None else given.astype(getattr(self.kernel, "dtype", np.float64))
        if self.normalization == "none":
            return mask, mask
        norm: Array = self.kernel.norm(mask) + EPSILON
        m: Any = 1 if mask is None else mask
        if self.normalization == "after":
            return mask, m / norm
        if self.normalization == "before":
            return m / norm, mask
        root = m / np.sqrt(norm)
        return root, root


def pairwise_terms(
    image: ArrayLike | None,
    parameters: CRFParameters | str | Path,
    *,
    shape: Sequence[int] | None = None,
    mask: ArrayLike | None = None,
    spacing: float | Sequence[float] | None = None,
    origin: Sequence[int] | None = None,
    threads: int | None = None,
    dtype: DTypeLike | None = None,
) -> list[PairwiseTerm]:
    """The spatial and the bilateral term of an image; a term of weight 0 is left out.

    Args:
        image: (*spatial, K), or (*spatial,) if grey. None if `shape` is given and the bilateral weight is 0.
        parameters: `CRFParameters`, the name of a preset, or a parameters file.
        shape: The spatial shape, needed for 1-D signals with channels and for grey volumes; None takes an image of
            one or two axes for grey and the last axis for channels otherwise.
        mask: (*spatial,) weights ≥ 0 of the pixels; pixels of weight 0 neither send nor receive.
        spacing: Distance between neighbouring pixels, a number or one for each axis as (x, y[, z]); θ_α and θ_γ are
            then in its unit. None: they are in pixels.
        origin: Position (x, y[, z]) of the first pixel in a larger image, in pixels; None is 0. A lattice is nailed to
            the coordinates: only with their origin do parts of an image see the same one.
        threads: Threads of building and filtering; None is `default_threads()`.
        dtype: float32 or float64; None is float64 for a float64 image and float32 for others.
    Raises:
        TypeError: if image or mask do not hold real numbers.
        ValueError: if shapes, deviations or spacing do not fit the image, or it is not finite.
        MemoryError: if a lattice would not fit into memory.
    """
    parameters = chosen(parameters)
    grid = None if shape is None else spatial_shape(shape)
    if image is not None:
        channels = image_array(image, grid)
        grid = channels.shape[:-1]
    elif grid is None:
        raise ValueError("without an image, shape= must say how large the grid is")
    elif np.any(parameters.bilateral_weight):
        raise ValueError("the bilateral kernel needs an image; give one, or set bilateral_weight=0")
    if dtype is None:
        dtype = np.float64 if image is not None and channels.dtype == np.float64 else np.float32
    weights = None if mask is None else mask_array(mask, grid)
    if spacing is not None:
        parameters = parameters.in_pixels(spacing, len(grid))

    kernel: NativeKernel
    terms = []
    if np.any(parameters.spatial_weight):
        kernel = _spatial_kernel(grid, parameters, origin, threads, dtype)
        terms.append(PairwiseTerm(kernel, parameters.spatial_weight, parameters.normalization, weights))
    if np.any(parameters.bilateral_weight):
        if parameters.filter == "lattice" and len(grid) + channels.shape[-1] > MAX_FEATURES:
            raise ValueError(
                f"image has {channels.shape[-1]} channels; with {len(grid)} coordinates that makes "
                f"{len(grid) + channels.shape[-1]} features, and a lattice takes at most {MAX_FEATURES}: "
                "reduce the channels, for example by PCA, or take filter='exact'"
            )
        features = bilateral_features(
            channels, parameters.theta_alpha, parameters.theta_beta, shape=grid, origin=origin, dtype=dtype
        )
        if parameters.filter == "exact":
            kernel = ExactGaussian(features, threads=threads)
        else:
            kernel = PermutohedralLattice(features, neighbour_rounds=parameters.neighbour_rounds, threads=threads)
        terms.append(PairwiseTerm(kernel, parameters.bilateral_weight, parameters.normalization, weights))
    return terms


def precision(pairwise: Sequence[PairwiseTerm]) -> np.dtype[Any] | None:
    """The dtype in which our kernels compute; None if there is none of ours."""
    if not isinstance(pairwise, Sequence):
        raise TypeError(f"pairwise is a {type(pairwise).__name__}; expected a list of PairwiseTerm(kernel, weight)")
    for index, term in enumerate(pairwise):
        if not isinstance(term, PairwiseTerm):
            raise TypeError(f"pairwise[{index}] is a {type(term).__name__}; expected PairwiseTerm(kernel, weight)")
    dtypes = {term.kernel.dtype for term in pairwise if isinstance(term.kernel, NativeKernel)}
    if len(dtypes) > 1:
        raise ValueError("pairwise mixes float32 and float64 kernels; build all of them in one precision")
    return next(iter(dtypes), None)


def checked_couplings(
    shape: Shape, pairwise: Sequence[PairwiseTerm], compatibility: ArrayLike | None
) -> tuple[list[Matrix], Matrix | None]:
    """E of every term and the compatibility as a matrix, after checking that terms fit scores of this shape."""
    classes, *spatial = shape
    compatible = None if compatibility is None else class_weights(compatibility, "compatibility")
    if compatible is not None:
        check_classes(compatible, classes, "compatibility")
    couplings = []
    for index, term in enumerate(pairwise):
        _check_points(term.kernel, tuple(spatial), f"pairwise[{index}]")
        weight: Any = term.weight
        check_classes(weight, classes, f"the weight of pairwise[{index}]")
        couplings.append(coupling(compatible, weight))
    return couplings, compatible


def _spatial_kernel(
    shape: Shape, parameters: CRFParameters, origin: Sequence[int] | None, threads: int | None, dtype: DTypeLike
) -> NativeKernel:
    if parameters.spatial == "lattice":
        features = spatial_features(shape, parameters.theta_gamma, origin=origin, dtype=dtype)
        return PermutohedralLattice(features, neighbour_rounds=parameters.neighbour_rounds, threads=threads)
    sigma = per_axis(parameters.theta_gamma, len(shape), "theta_gamma", "spatial axes")
    return GridGaussian(shape, sigma[::-1], dtype, threads=threads)


def _scaled(values: Array, factors: Array | None) -> Array:
    if factors is None:
        return values
    scaled: Array = values * (factors if values.ndim == 1 else factors[:, np.newaxis])
    return scaled


def _check_points(kernel: Any, spatial: Shape, name: str) -> None:
    points = num_points(spatial)
    if kernel.num_points != points:
        raise ValueError(
            f"scores of spatial shape {spatial} have {points} points, but the kernel of {name} has {kernel.num_points}"
        )
    grid = kernel.shape if isinstance(kernel, GridGaussian) else spatial
    if len(grid) == len(spatial) and grid != spatial:
        swapped = "; did you swap height and width?" if grid == spatial[::-1] else ""
        raise ValueError(f"scores have spatial shape {spatial}, but the kernel of {name} is a grid of {grid}{swapped}")
