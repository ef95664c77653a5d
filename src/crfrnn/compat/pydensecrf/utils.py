"""pydensecrf's unaries and features. Unaries are energies, -log p, flattened to (labels, points).

Features run (y, x, channels), while those of DenseCRF2D's own methods run (x, y, channels). The lattice then has
another orientation, so results differ a little.
"""

import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn import unary
from crfrnn.arrays import (
    Shape,
    check_result,
    float_array,
    image_array,
    label_array,
    plain_array,
    real_shape,
    spatial_shape,
)
from crfrnn.compat.pydensecrf.arguments import check_levels, deviations, padded_deviations, positive_count
from crfrnn.memory import require_memory
from crfrnn.numbers import finite_number, flag, share
from crfrnn.plausibility import check_probabilities, warn_of_input
from crfrnn.terms import speaking

Float32 = NDArray[np.float32]


@speaking({"give another input than labels": "use unary_from_softmax"})
def unary_from_labels(labels: ArrayLike, n_labels: int, gt_prob: float, zero_unsure: bool = True) -> Float32:
    """Energies of labels that are each right with the same probability.

    Args:
        labels: Integers of any shape. Negative ones count from the last class back, as Python's indices do, with a
            warning.
        n_labels: Number of classes, without the unknown one.
        gt_prob: Above 0 and below 1; the other classes share the rest.
        zero_unsure: Class c has label c + 1, and points of label 0 may be anything; otherwise class c has label c.
    Returns: (n_labels, points).
    Raises:
        TypeError: if labels are not integers.
        ValueError: if there are no labels, one stands for no class, or gt_prob is out of range.
        MemoryError: if there is not enough memory.
    """
    number = positive_count(n_labels, "n_labels")
    gt_prob, zero_unsure = share(gt_prob, "gt_prob"), flag(zero_unsure, "zero_unsure")
    given = label_array(labels)
    require_memory(4 * number * given.size, f"energies of {number} classes on {given.size} pixels")
    lowest, highest = int(given.min()), int(given.max())
    first, last = (1, number) if zero_unsure else (0, number - 1)
    if lowest < first - number or highest > last:
        raise ValueError(
            f"labels range from {lowest} to {highest}; with n_labels={number} they are 0 to {last}, and 0 is "
            f"{'unsure (a class, if zero_unsure=False)' if zero_unsure else 'a class (unsure, if zero_unsure=True)'}"
        )
    if lowest < 0:
        negative = given < 0
        warn_of_input(
            f"{negative.sum()} labels are negative, down to {lowest}: as in pydensecrf they count back from the end, "
            f"so that {lowest} means class {lowest + number - first} of 0 to {number - 1}. If they are unknown, "
            f"{'make them 0' if zero_unsure else 'give labels + 1 with zero_unsure=True, where 0 is unknown'}"
        )
        given = np.where(negative, given + number, given)
    energies: Float32 = np.negative(unary.unary_from_labels(given, number, gt_prob, zero_unsure))
    return energies.reshape(number, -1)


def compute_unary(labels: ArrayLike, M: int, GT_PROB: float = 0.5) -> Float32:
    """Deprecated name of `unary_from_labels`."""
    _deprecated("compute_unary", "unary_from_labels")
    return unary_from_labels(labels, M, GT_PROB)


def unary_from_softmax(sm: ArrayLike, scale: float | None = None, clip: float | None = 1e-5) -> Float32:
    """Energies of class probabilities.

    Args:
        sm: (labels, *spatial); need not sum to 1.
        scale: Trust in them, above 0 and up to 1: they are mixed with 1 - scale of the uniform distribution.
        clip: Smaller probabilities are raised to it, and those above 1 are lowered to 1; None leaves both as they are.
    Returns: (labels, points).
    Raises:
        TypeError: if sm does not hold real numbers.
        ValueError: if it is empty, or scale is out of range.
        MemoryError: if there is not enough memory.
    """
    scale = None if scale is None else share(scale, "scale", most=1)
    clip = None if clip is None else finite_number(clip, "clip")
    shape = real_shape(sm, "sm")
    if 0 in (len(shape), *shape):
        raise ValueError(f"sm has shape {shape}; expected (labels, height, width) or (labels, points)")
    require_memory(8 * math.prod(shape), f"energies of probabilities of shape {shape}")
    given = float_array(sm, "sm")
    check_probabilities(given, "sm", "unary_from_softmax takes")
    mixed = given if scale is None else scale * given + (1 - scale) / len(given)
    probabilities = mixed if clip is None else np.clip(mixed, clip, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        energies = np.log(probabilities, out=None if probabilities is given else probabilities)
    return np.negative(energies, out=energies).astype(np.float32, copy=False).reshape(len(given), -1)


def softmax_to_unary(sm: ArrayLike, GT_PROB: float = 1) -> Float32:
    """Deprecated name of `unary_from_softmax`, without clipping."""
    _deprecated("softmax_to_unary", "unary_from_softmax")
    scale = share(GT_PROB, "GT_PROB", most=1)
    return unary_from_softmax(sm, None if scale == 1 else scale, clip=None)


def create_pairwise_gaussian(sdims: float | Sequence[float], shape: Sequence[int]) -> Float32:
    """Features of a spatial kernel on a grid of any number of axes, for `addPairwiseEnergy`.

    Args:
        sdims: Standard deviation along each axis, or one for all.
        shape: Points along each axis, such as (height, width).
    Returns: (axes, points) coordinates, divided by sdims.
    Raises:
        ValueError: if sdims do not fit the shape.
        MemoryError: if there is not enough memory.
    """
    grid = spatial_shape(shape)
    _require_memory(grid, 0)
    features = _coordinates(grid, deviations(sdims, len(grid), "sdims", "axes"), 0)
    check_result(features, "features", "positions / sdims")
    return features.reshape(len(grid), -1)


def create_pairwise_bilateral(
    sdims: float | Sequence[float], schan: float | Sequence[float], img: ArrayLike, chdim: int = -1
) -> Float32:
    """Features of a bilateral kernel on an image or a volume, for `addPairwiseEnergy`.

    Args:
        sdims: Standard deviation along each axis of the image, or one for all. Axes beyond those given are not divided,
            with a warning.
        schan: Standard deviation of each channel, or one for all, as for sdims.
        img: Of any real dtype.
        chdim: Which axis of img holds the channels. -1, the default, means that there is none, not the last axis.
    Returns: (axes + channels, points) coordinates and levels, divided by sdims and schan.
    Raises:
        ValueError: if sdims or schan do not fit the image, or it is not finite.
        MemoryError: if there is not enough memory.
    """
    image = plain_array(img, "img")
    if not isinstance(chdim, int | np.integer) or not -image.ndim <= chdim < image.ndim:
        raise ValueError(f"chdim={chdim!r} is no axis of img of shape {image.shape}; -1 means that it has no channels")
    planes = image[np.newaxis] if chdim == -1 else np.moveaxis(image, chdim, 0)
    grid, channels = spatial_shape(planes.shape[1:]), len(planes)
    one_less = chdim == -1 and math.prod(real_shape(sdims, "sdims")) == len(grid) - 1
    hint = (
        f". chdim=-1 means that img of shape {image.shape} has no axis of channels: if its last axis holds them, give "
        f"chdim={len(grid) - 1}"
    )
    thetas = padded_deviations(sdims, len(grid), "sdims", "axes", hint if one_less else "")
    divisors = padded_deviations(schan, channels, "schan", "channels")
    _require_memory(grid, channels, channels if image.dtype.kind == "f" else 0)
    levels = image_array(np.moveaxis(planes, 0, -1), grid)
    check_levels(levels, divisors, "schan")
    features = _coordinates(grid, thetas, channels)
    with np.errstate(over="ignore"):
        for channel, divisor in enumerate(divisors):
            column = features[len(grid) + channel]
            np.divide(levels[..., channel], np.float32(divisor), out=column, casting="same_kind")
    check_result(features, "features", "positions / sdims and img / schan")
    return features.reshape(len(features), -1)


def _coordinates(grid: Shape, thetas: tuple[float, ...], channels: int) -> Float32:
    """(axes + channels, *grid) features with the coordinates filled in."""
    features: Float32 = np.empty((len(grid) + channels, *grid), np.float32)
    with np.errstate(over="ignore"):
        for axis, (length, theta) in enumerate(zip(grid, thetas, strict=True)):
            steps = np.arange(length, dtype=np.float32) / np.float32(theta)
            features[axis] = steps.reshape((length,) + (1,) * (len(grid) - axis - 1))
    return features


def _require_memory(grid: Shape, channels: int, beside: int = 0) -> None:
    """Raise a MemoryError if there is no room for features, and for so many bytes a point beside them."""
    rows = len(grid) + channels
    require_memory((4 * rows + beside) * math.prod(grid), f"{rows} features of {' × '.join(map(str, grid))} points")


def _deprecated(old: str, new: str) -> None:
    warnings.warn(f"{old} is deprecated, use {new} instead", DeprecationWarning, stacklevel=3)
