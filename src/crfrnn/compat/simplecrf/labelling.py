"""What both modules do: labels from probabilities and an image, by pydensecrf's CRF with its points row by row."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn.arrays import float_array, image_array, num_points
from crfrnn.compat.pydensecrf.arguments import first_deviations
from crfrnn.compat.pydensecrf.densecrf import DenseCRF
from crfrnn.kernels.features import bilateral_features, spatial_features

MOST_LABELS = 128
"""As many as the labels that are returned, of 8 bits with a sign, can tell apart."""


def labels(
    image: ArrayLike,
    probabilities: ArrayLike,
    axes: int,
    spatial: tuple[Any, Any],
    bilateral: tuple[Any, Any, Any],
    iterations: Any,
    clip: tuple[float, float] | None,
) -> NDArray[np.int8]:
    """The likeliest label of each pixel or voxel.

    Args:
        image: (*spatial, K).
        probabilities: (*spatial, labels).
        axes: How many spatial axes there are.
        spatial: Weight of the spatial kernel and its deviations (x, y[, z]).
        bilateral: Weight of the bilateral kernel, its deviations (x, y[, z]) and those of levels.
        iterations: As pydensecrf takes them: 5.0 is 5.
        clip: The range that probabilities are brought into, or None.
    Raises: ValueError: if shapes do not fit, or values are not finite.
    """
    given = float_array(probabilities, "P", np.float32)
    layout = "H, W" if axes == 2 else "D, H, W"
    if given.ndim != axes + 1 or given.size == 0 or given.shape[-1] > MOST_LABELS:
        raise ValueError(
            f"P has shape {given.shape}; expected probabilities ({layout}, labels) of 1 to {MOST_LABELS} labels"
        )
    grid, classes = given.shape[:-1], given.shape[-1]
    shape = np.shape(image)
    if shape[:-1] != grid:
        raise ValueError(f"I has shape {shape}; expected ({', '.join(map(str, grid))}, channels) for P of {given.shape}")
    levels = image_array(image, grid)
    kept = given if clip is None else given.clip(*clip)
    with np.errstate(divide="ignore"):
        energies = -np.log(kept.reshape(-1, classes).T)
    crf = DenseCRF(num_points(grid), classes)
    crf.setUnaryEnergy(energies)
    weight, across = spatial
    thetas = first_deviations(across, axes, "gamma" if axes == 2 else "PosRStd, PosCStd, PosZStd", "axes")
    crf.addPairwiseEnergy(spatial_features(grid, thetas).T, weight)
    weight, across, between = bilateral
    thetas = first_deviations(across, axes, "alpha" if axes == 2 else "BilateralRStd, BilateralCStd, BilateralZStd", "axes")
    divisors = first_deviations(between, levels.shape[-1], "beta" if axes == 2 else "BilateralModsStds", "channels of I")
    crf.addPairwiseEnergy(bilateral_features(levels, thetas, divisors, shape=grid, dtype=np.float32).T, weight)
    return crf.inference(iterations).argmax(axis=0).astype(np.int8).reshape(grid)
