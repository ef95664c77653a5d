"""What both modules do: labels from probabilities and an image, by pydensecrf's CRF with its points row by row."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn.arrays import float_array, image_array, num_points, real_shape
from crfrnn.compat.pydensecrf.arguments import check_levels, count, first_deviations
from crfrnn.compat.pydensecrf.densecrf import DenseCRF
from crfrnn.compat.pydensecrf.unary import IMPOSSIBLE
from crfrnn.kernels.features import bilateral_features, spatial_features
from crfrnn.numbers import finite_number
from crfrnn.plausibility import Likeness, check_probabilities, likeness, warn_of_input
from crfrnn.terms import speaking

MOST_LABELS = 128
"""As many as the labels that are returned, of 8 bits with a sign, can tell apart."""


class Named(NamedTuple):
    """What a caller gave, under which name; deviations are a number, or one for each axis (x, y[, z]) or channel."""

    name: str
    value: Any


class Kernels(NamedTuple):
    """Both kernels' deviations and weights.

    Attributes:
        position: Of the spatial kernel.
        both: Of the bilateral kernel's axes.
        levels: Of its channels.
        weights: Of the spatial and of the bilateral kernel.
    """

    position: Named
    both: Named
    levels: Named
    weights: tuple[Named, Named]


@speaking({"pydensecrf": "SimpleCRF", "u holds": "P holds", "image holds": "I holds", "(theta)": "of param"})
def labels(
    image: ArrayLike,
    probabilities: ArrayLike,
    kernels: Kernels,
    iterations: Named,
    clip: tuple[float, float] | None = None,
) -> NDArray[np.int8]:
    """The likeliest label of each pixel or voxel.

    Args:
        image: (*spatial, K).
        probabilities: (*spatial, labels).
        iterations: As pydensecrf takes them: 5.0 is 5.
        clip: The range that probabilities are brought into, or None.
    Raises: ValueError: if shapes do not fit, or values are not finite.
    """
    given = float_array(probabilities, "P", np.float32)
    *grid, classes = given.shape or (0,)
    shape, axes = real_shape(image, "I"), len(grid)
    if shape[:-1] != tuple(grid) or not axes or given.size == 0 or classes > MOST_LABELS:
        raise ValueError(
            f"I has shape {shape} and P {given.shape}; expected an image (H, W, channels) or (D, H, W, channels) and "
            f"probabilities of the same pixels, with 1 to {MOST_LABELS} labels on the last axis"
        )
    levels = image_array(image, tuple(grid))
    across = [first_deviations(each.value, axes, each.name, "axes") for each in (kernels.position, kernels.both)]
    between = first_deviations(kernels.levels.value, levels.shape[-1], kernels.levels.name, "channels of I")
    check_levels(levels, between, kernels.levels.name)
    check_probabilities(np.moveaxis(given, -1, 0), "P", "SimpleCRF takes")
    _check_order(given)
    weights = [finite_number(each.value, each.name) for each in kernels.weights]
    number = count(iterations.value, iterations.name)
    kept = given if clip is None else given.clip(*clip)
    crf = DenseCRF(num_points(tuple(grid)), classes)
    crf.setUnaryEnergy(_energies(kept).reshape(-1, classes).T)
    features = [
        spatial_features(grid, across[0]),
        bilateral_features(levels, across[1], between, shape=grid, dtype=np.float32),
    ]
    for rows, weight in zip(features, weights, strict=True):
        crf.addPairwiseEnergy(rows.T, weight)
    chosen: NDArray[np.int8] = crf.inference(number).argmax(axis=0).astype(np.int8).reshape(grid)
    return chosen


def _check_order(given: NDArray[np.float32]) -> None:
    """Warn if probabilities (*spatial, labels) are (labels, *spatial) that was reshaped instead of turned."""
    *grid, classes = given.shape
    turned = given.reshape(classes, *grid)
    if likeness(np.moveaxis(given, -1, 0)) is None and likeness(turned) == Likeness("probabilities", False):
        warn_of_input(
            f"P has shape {given.shape}, but sums to 1 over the first axis of {turned.shape}: the labels were first "
            "and the array was reshaped; use np.moveaxis(P, 0, -1) instead of reshape"
        )


def _energies(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """-log p; that of 0 as pydensecrf's names take it, with a warning."""
    with np.errstate(divide="ignore", invalid="ignore"):
        energies: NDArray[np.float32] = -np.log(probabilities)
    zero = probabilities == 0
    if zero.any():
        warn_of_input(
            f"P holds {zero.sum()} probabilities of 0 among {zero.size}: such labels never win, and masks of 0 and 1 "
            "stay as they are. Give P.clip(0.01, 0.99), as denseCRF.densecrf does by itself, if they may change"
        )
        energies[zero & ~zero.all(axis=-1, keepdims=True)] = IMPOSSIBLE
    return energies
