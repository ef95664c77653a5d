"""The colour deviation θ_β that an image's own contrast suggests: docs/algorithm.md, section 7."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn.arrays import image_array, mask_array, spatial_shape

SHARE = 0.125
"""θ_β as a share of the root mean square step. Edges dominate that mean: at 1 the kernel would reach across them."""
TINY = float(np.finfo(np.float32).tiny)


def contrast_theta_beta(
    image: ArrayLike, *, shape: Sequence[int] | None = None, mask: ArrayLike | None = None
) -> tuple[float, ...]:
    """A deviation θ_β for each of K channels: ⅛ √(K ⟨Δ²⟩), where Δ are its steps between neighbouring pixels.

    |Δ/θ_β|², summed over channels, then has the same mean for any number of channels. Multiplying the levels of a
    channel changes no feature: images of 8 bits, of 16 bits and from 0 to 1 are refined alike. Use a multiple of θ_β
    for another trade-off between smoothing and edges. docs/images.md shows the effect on photos.

    Args:
        image: (*spatial, K), or (*spatial,) if grey, of any real dtype. Channels without steps do not count in K.
        shape: The spatial shape, needed for 1-D signals with channels and for grey volumes; None takes an image of one
            or two axes as grey, and otherwise the last axis as channels.
        mask: (*spatial,) weights ≥ 0 of the pixels; a pair of neighbours counts with the product of its weights.
    Returns: θ_β of each channel, in its levels. A channel without steps gets its largest absolute level, or 1 if that
        is 0. Its θ_β has no effect, because it tells no pixels apart.
    Raises:
        TypeError: if the image does not hold real numbers.
        ValueError: if it is empty, not finite or of another shape, or the mask does not fit.
    References: docs/algorithm.md, eq. 15; Boykov & Jolly 2001, "Interactive graph cuts"; Rother et al. 2004, "GrabCut".
    """
    levels = image_array(image, None if shape is None else spatial_shape(shape))
    *grid, channels = levels.shape
    weights = np.ones(grid) if mask is None else mask_array(mask, tuple(grid)).reshape(grid)
    planes = [levels[..., channel].astype(np.float64) for channel in range(channels)]
    steps, flat = zip(*(_step_and_level(plane, weights) for plane in planes), strict=True)
    scale = SHARE * math.sqrt(np.count_nonzero(steps))
    return tuple(scale * step or level for step, level in zip(steps, flat, strict=True))


def _step_and_level(plane: NDArray[np.float64], weights: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """√⟨Δ²⟩ and the largest absolute level, or 0 and 1 if nothing can be divided by that.

    Levels are divided by a power of two before, so that no square is beyond float64.
    """
    largest = float(np.abs(plane).max())
    if largest <= TINY:
        return 0.0, 1.0
    exponent = math.frexp(largest)[1]
    return math.ldexp(math.sqrt(_mean_square_step(np.ldexp(plane, -exponent), weights)), exponent), largest


def _mean_square_step(plane: NDArray[np.float64], weights: NDArray[np.floating[Any]]) -> float:
    """⟨Δ²⟩ over all pairs of neighbours along all axes; 0 if there are none."""
    total, pairs = 0.0, 0.0
    for axis in range(plane.ndim):
        levels, weight = np.moveaxis(plane, axis, 0), np.moveaxis(weights, axis, 0)
        step = levels[1:] - levels[:-1]
        both = weight[1:] * weight[:-1]
        total += float((both * step * step).sum())
        pairs += float(both.sum(dtype=np.float64))
    return total / pairs if pairs else 0.0
