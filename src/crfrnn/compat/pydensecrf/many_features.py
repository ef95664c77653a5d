"""The lattice of a kernel, also over more features than the native core takes: in NumPy then."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn import reference
from crfrnn.arrays import check_finite
from crfrnn.kernels.base import PointKernel
from crfrnn.kernels.lattice import MAX_FEATURES, PermutohedralLattice
from crfrnn.plausibility import warn_of_input

TOGETHER = 4096
"""Points whose vertices are looked for together, which bounds the memory for their coordinates."""


def lattice(rows: NDArray[Any]) -> PointKernel:
    """The lattice of features (N, d)."""
    features = rows.shape[1]
    if features <= MAX_FEATURES:
        return PermutohedralLattice(rows)
    warn_of_input(
        f"{features} features are more than the {MAX_FEATURES} of the native lattice: this kernel is worked out in "
        "NumPy, many times slower. A lattice over so many features hardly joins any points; reduce them, for example "
        "by PCA"
    )
    return ManyFeatures(rows)


class ManyFeatures(reference.Lattice):
    """The lattice of `reference`, whose vertices are told apart by a random number of 64 bits for each.

    That two of M vertices share one is as likely as M² in 2⁶⁵.

    Args:
        features: (N, d) rows of any d.
    """

    def __init__(self, features: NDArray[Any]) -> None:
        check_finite(features, "features")
        self.num_points, self.num_features = features.shape
        # The number of a vertex is a sum over its coordinates, so that a step to a neighbour adds the same to all.
        random = np.random.default_rng(0)
        factors = random.integers(0, 2**64, self.num_features + 1, np.uint64, endpoint=False)
        numbers = np.empty((self.num_points, self.num_features + 1), np.uint64)
        self.weights = np.empty(numbers.shape)
        for start in range(0, self.num_points, TOGETHER):
            part = slice(start, start + TOGETHER)
            coordinates, self.weights[part] = reference.simplices(features[part])
            numbers[part] = coordinates.astype(np.uint64) @ factors
        keys, vertices = np.unique(numbers, return_inverse=True)
        self.vertices = vertices.reshape(numbers.shape)
        self.num_vertices = len(keys)
        steps = reference.blur_steps(self.num_features)[:, 1:].astype(np.uint64) @ factors
        self.neighbours = np.stack(
            [np.stack([_places(keys, keys - step), _places(keys, keys + step)], 1) for step in steps]
        )


def _places(keys: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where sorted keys hold the wanted ones; -1 where they do not."""
    places = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[places] == wanted, places, -1)
