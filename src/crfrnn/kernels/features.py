"""Feature rows of points (docs/algorithm.md, eq. 3): what kernels compare them by."""

import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from crfrnn.arrays import (
    Array,
    Shape,
    double_or_single,
    float_array,
    float_dtype,
    image_array,
    num_points,
    real_shape,
    spatial_shape,
)
from crfrnn.crf import Bilateral, Features, Given, Spatial
from crfrnn.memory import require_memory
from crfrnn.numbers import per_axis

FURTHEST = 2**48
"""The largest number of an origin."""


class Guide(NamedTuple):
    """What kernels are built from besides their specification; all of it has been checked.

    Attributes:
        grid: The spatial shape.
        image: (*grid, K), finite, or None.
        mask: Weights (N,) ≥ 0 of the points, or None.
        given: Features or kernels by the names that `Given` has, and segments by those of regions, as the call gave
            them.
        origin: Position (x, y[, z]) of the first pixel in a larger image; None is 0.
    """

    grid: Shape
    image: NDArray[Any] | None = None
    mask: Array | None = None
    given: Mapping[str, Any] = {}
    origin: Sequence[int] | None = None


def spatial_features(
    shape: Sequence[int], theta_gamma: Any, *, origin: Sequence[int] | None = None, dtype: DTypeLike = np.float32
) -> Array:
    """Rows (x/θ_γ, y/θ_γ, …) of the points of a grid, in raster order.

    Args:
        shape: Spatial shape, such as (height, width).
        theta_gamma: Deviation in pixels, or one for each axis as (x, y[, z]).
        origin: Position (x, y[, z]) of the first point in a larger grid; None is 0.
        dtype: float32 or float64.
    """
    grid, kind = spatial_shape(shape), float_dtype(dtype)
    require_memory(2 * num_points(grid) * len(grid) * kind.itemsize, f"features of {' × '.join(map(str, grid))} points")
    return feature_rows(Spatial(theta_gamma), Guide(grid, origin=origin_of(origin, len(grid))), kind)


def bilateral_features(
    image: ArrayLike,
    theta_alpha: Any,
    theta_beta: Any,
    *,
    shape: Sequence[int] | None = None,
    origin: Sequence[int] | None = None,
    dtype: DTypeLike | None = None,
) -> Array:
    """Rows (x/θ_α, y/θ_α, …, c_0/θ_β, c_1/θ_β, …) of the pixels of an image, in raster order.

    Args:
        image: (*spatial, K), or (*spatial,) if grey, of any real dtype.
        theta_alpha: Deviation in pixels, or one for each axis as (x, y[, z]).
        theta_beta: Deviation in the image's own levels, or one for each channel.
        shape: The spatial shape, needed for 1-D signals with channels and for grey volumes; None takes an image of
            one or two axes for grey and the last axis for channels otherwise.
        origin: Position (x, y[, z]) of the first pixel in a larger image: its parts then have its features. None is 0.
        dtype: float32 or float64; None is float64 for a float64 image and float32 for others.
    Raises:
        TypeError: if the image does not hold real numbers.
        ValueError: if it is empty, not finite or of another shape, or deviations do not fit its axes and channels.
    """
    channels = image_array(image, None if shape is None else spatial_shape(shape))
    if dtype is None:
        dtype = double_or_single(channels.dtype)
    features, grid = Bilateral(theta_alpha, theta_beta), channels.shape[:-1]
    guide = Guide(grid, channels, origin=origin_of(origin, len(grid)))
    return feature_rows(features, guide, float_dtype(dtype))


@singledispatch
def feature_rows(features: Features, guide: Guide, dtype: np.dtype[Any]) -> Array:
    """Rows (N, d) of the points of the guide's grid, in raster order.

    Raises: ValueError: if deviations do not fit the axes and channels, or something is missing.
    """
    raise TypeError(f"features are a {type(features).__name__}, which this backend cannot turn into rows")


@feature_rows.register
def _(features: Spatial, guide: Guide, dtype: np.dtype[Any]) -> Array:
    rows: Array = np.empty((*guide.grid, len(guide.grid)), dtype)
    _write_coordinates(rows, features.theta_gamma, guide.origin, "theta_gamma")
    return rows.reshape(-1, len(guide.grid))


@feature_rows.register
def _(features: Bilateral, guide: Guide, dtype: np.dtype[Any]) -> Array:
    image, axes = guide.image, len(guide.grid)
    if image is None:
        raise ValueError("the bilateral kernel needs an image; give one, or leave the kernel out (bilateral_weight=0)")
    num_channels = image.shape[-1]
    thetas = per_axis(features.theta_beta, num_channels, "theta_beta", "image channels")
    rows: Array = np.empty((*guide.grid, axes + num_channels), dtype)
    _write_coordinates(rows, features.theta_alpha, guide.origin, "theta_alpha")
    # Channel by channel: NumPy's inner loop then runs along the pixels, not along three channels.
    for channel, theta in enumerate(thetas):
        divisor = _divisor(theta * features.level, dtype, "theta_beta")
        with _within(dtype, "the image", "theta_beta"):
            np.divide(image[..., channel], divisor, out=rows[..., axes + channel], casting="same_kind")
    return rows.reshape(-1, axes + num_channels)


@feature_rows.register
def _(features: Given, guide: Guide, dtype: np.dtype[Any]) -> Array:
    count = given_count(features.name, guide.given, guide.grid)
    return float_array(guide.given[features.name], f"given[{features.name!r}]", dtype).reshape(-1, count)


@singledispatch
def feature_gradients(features: Features, guide: Guide, rows: Array, to_rows: Array) -> dict[tuple[str, str], Array]:
    """Gradients to what `feature_rows` are made of, from those to the rows.

    Returns: By kind and name: ("image", ""): (*grid, K); ("given", name): (N, d); ("thetas", name): one for each axis
        or channel, in float64.
    """
    raise TypeError(f"features are a {type(features).__name__}, through which this backend computes no gradient")


@feature_gradients.register
def _(features: Spatial, guide: Guide, rows: Array, to_rows: Array) -> dict[tuple[str, str], Array]:
    return {("thetas", "theta_gamma"): _theta_gradient(features.theta_gamma, rows, to_rows)}


@feature_gradients.register
def _(features: Bilateral, guide: Guide, rows: Array, to_rows: Array) -> dict[tuple[str, str], Array]:
    axes = len(guide.grid)
    channels = rows.shape[1] - axes
    thetas = [theta * features.level for theta in per_axis(features.theta_beta, channels, "theta_beta", "channels")]
    return {
        ("thetas", "theta_alpha"): _theta_gradient(features.theta_alpha, rows[:, :axes], to_rows[:, :axes]),
        ("thetas", "theta_beta"): _theta_gradient(features.theta_beta, rows[:, axes:], to_rows[:, axes:]),
        ("image", ""): (to_rows[:, axes:] / np.asarray(thetas, to_rows.dtype)).reshape(*guide.grid, channels),
    }


@feature_gradients.register
def _(features: Given, guide: Guide, rows: Array, to_rows: Array) -> dict[tuple[str, str], Array]:
    return {("given", features.name): to_rows}


def _theta_gradient(theta: Any, rows: Array, to_rows: Array) -> Array:
    """One for each column: a row is a number divided by θ, so ∂row/∂θ = -row/θ."""
    products = (np.multiply(*columns) for columns in zip(rows.T, to_rows.T, strict=True))  # faster than all at once
    sums = -np.array([product.sum(dtype=np.float64) for product in products])
    return np.asarray(sums / np.asarray(theta, np.float64))


def origin_of(origin: Any, axes: int) -> tuple[int, ...] | None:
    """The position of the first pixel, (x, y[, z]); None is 0.

    Raises: TypeError or ValueError: if it is not one integer for each of so many axes, or further than `FURTHEST`.
    """
    if origin is None:
        return None
    try:
        first = tuple(operator.index(position) for position in origin)
    except TypeError:
        raise TypeError(f"origin={origin!r} must be integers, one for each spatial axis, (x, y[, z])") from None
    if len(first) != axes:
        raise ValueError(f"origin={first} has {len(first)} values, but there are {axes} spatial axes")
    if any(abs(position) > FURTHEST for position in first):
        raise ValueError(f"origin={first} is further away than any image is large: {FURTHEST} at most")
    return first


def given_count(name: str, given: Mapping[str, Any], grid: Shape) -> int:
    """How many features a point has in the features that a call gave.

    Raises:
        TypeError: if these are not numbers.
        ValueError: if they do not fit the grid.
    """
    shape, points = real_shape(given[name], f"given[{name!r}]"), num_points(grid)
    if shape[:-1] not in (grid, (points,)) or len(shape) < 2 or shape[-1] == 0:
        raise ValueError(
            f"given[{name!r}] has shape {shape}; expected features ({', '.join(map(str, grid))}, d) or ({points}, d), "
            "or a kernel with filter(values, transpose)"
        )
    return shape[-1]


def _write_coordinates(rows: NDArray[Any], theta: Any, origin: Sequence[int] | None, name: str) -> None:
    """Write the scaled coordinates into the first columns of (*spatial, d) features: the last axis, x, first."""
    *grid, _ = rows.shape
    thetas = per_axis(theta, len(grid), name, "spatial axes")
    first = (0,) * len(grid) if origin is None else origin
    with _within(rows.dtype, "the position", name):
        for column, (length, start, theta) in enumerate(zip(reversed(grid), first, thetas, strict=True)):
            positions = np.arange(start, start + length, dtype=rows.dtype)
            steps = positions / _divisor(theta, rows.dtype, name)
            rows[..., column] = steps.reshape((length,) + (1,) * column)


@contextmanager
def _within(dtype: np.dtype[Any], what: str, theta: str) -> Iterator[None]:
    """A division by θ, and a ValueError if its result is beyond what the precision holds."""
    try:
        with np.errstate(over="raise"):
            yield
    except FloatingPointError as error:
        largest = np.finfo(dtype).max
        raise ValueError(
            f"{what} divided by {theta} is more than {dtype} can hold, {largest:.2g}: make {theta} larger"
            f"{', or scale the image down' if what == 'the image' else ''}"
        ) from error


def _divisor(theta: float, dtype: np.dtype[Any], name: str) -> Any:
    """θ in the precision of the rows: they are divided by it, as other tools do, to the same bits."""
    smallest = float(np.finfo(dtype).tiny)
    if theta < smallest:
        raise ValueError(f"{name}={theta} is too small for {dtype} rows; expected at least {smallest:.3g}")
    with np.errstate(over="ignore"):  # divided by infinity, all are alike
        return dtype.type(theta)
