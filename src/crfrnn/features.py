"""Feature rows of the two standard kernels (docs/algorithm.md, eq. 3). Any other (N, d) rows work as well."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from crfrnn.arrays import Array, float_dtype, image_array, num_points, spatial_shape
from crfrnn.parameters import per_axis


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
    grid = spatial_shape(shape)
    features: Array = np.empty((*grid, len(grid)), float_dtype(dtype))
    thetas = per_axis(theta_gamma, len(grid), "theta_gamma", "spatial axes")
    _write_coordinates(features, thetas, origin, "theta_gamma")
    return features.reshape(num_points(grid), len(grid))


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
        dtype = np.float64 if channels.dtype == np.float64 else np.float32
    *grid, num_channels = channels.shape
    axes = len(grid)
    theta_alphas = per_axis(theta_alpha, axes, "theta_alpha", "spatial axes")
    theta_betas = per_axis(theta_beta, num_channels, "theta_beta", "image channels")
    features: Array = np.empty((*grid, axes + num_channels), float_dtype(dtype))
    _write_coordinates(features, theta_alphas, origin, "theta_alpha")
    # Channel by channel: NumPy's inner loop then runs along the pixels, not along three channels.
    with np.errstate(over="ignore"):
        for channel, theta in enumerate(theta_betas):
            column = features[..., axes + channel]
            np.divide(
                channels[..., channel], _divisor(theta, features.dtype, "theta_beta"), out=column, casting="same_kind"
            )
    return features.reshape(-1, axes + num_channels)


def _write_coordinates(
    features: NDArray[Any], thetas: tuple[float, ...], origin: Sequence[int] | None, name: str
) -> None:
    """Write the scaled coordinates into the first columns of (*spatial, d) features: the last axis, x, first."""
    *grid, _ = features.shape
    first = (0,) * len(grid) if origin is None else tuple(origin)
    if len(first) != len(grid):
        raise ValueError(f"origin={first} has {len(first)} values, but there are {len(grid)} spatial axes")
    with np.errstate(over="ignore"):
        for column, (length, start, theta) in enumerate(zip(reversed(grid), first, thetas, strict=True)):
            positions = np.arange(start, start + length, dtype=features.dtype)
            steps = positions / _divisor(theta, features.dtype, name)
            features[..., column] = steps.reshape((length,) + (1,) * column)


def _divisor(theta: float, dtype: np.dtype[Any], name: str) -> Any:
    """θ in the precision of the features: they are divided by it, as other tools do, to the same bits."""
    smallest = float(np.finfo(dtype).tiny)
    if theta < smallest:
        raise ValueError(f"{name}={theta} is too small for {dtype} features; expected at least {smallest:.3g}")
    return dtype.type(theta)
