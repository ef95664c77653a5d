"""From the specification of a kernel to the kernel over the points of an image."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from crfrnn.arrays import Array, check_finite, num_points
from crfrnn.crf import Exact, Features, Given, Grid, Kernel, Lattice
from crfrnn.kernels.base import PointKernel
from crfrnn.kernels.exact import ExactGaussian
from crfrnn.kernels.features import Guide, feature_rows, given_count
from crfrnn.kernels.grid import GridGaussian
from crfrnn.kernels.lattice import MAX_FEATURES, PermutohedralLattice
from crfrnn.kernels.matrix import matrix_kernel
from crfrnn.kernels.native import NativeKernel
from crfrnn.memory import exact_bytes, lattice_bytes
from crfrnn.numbers import per_axis


class OwnKernel:
    """A caller's kernel. The only thing it needs is a method `filter(values, transpose=False)`."""

    def __init__(self, kernel: Any, points: int) -> None:
        self.num_points = points
        self._kernel = kernel

    def filter(self, values: Any, transpose: bool = False) -> Any:
        """K values, or Kᵀ values, (N, channels)."""
        name = type(self._kernel).__name__
        try:
            filtered = np.asarray(self._kernel.filter(values, transpose))
        except TypeError as error:
            raise TypeError(f"{name}.filter(values, transpose) failed: {error}") from error
        if filtered.dtype.kind not in "biuf":
            raise TypeError(f"the filter of {name} made {filtered.dtype}; expected real numbers")
        if filtered.shape != np.shape(values):
            raise ValueError(
                f"the filter of {name} turned shape {np.shape(values)} into {filtered.shape}; expected the same shape"
            )
        if np.isfinite(values).all():  # what is not finite before is not the filter's fault, and is told at the end
            check_finite(filtered, f"what the filter of {name} made")
        return filtered


def build_kernel(kernel: Kernel, guide: Guide, dtype: np.dtype[Any], threads: int | None) -> PointKernel:
    """The kernel over the points of the guide's grid.

    Raises: ValueError: if deviations or features do not fit, or something is missing.
    """
    features, own = kernel.features, own_kernel(kernel, guide)
    if own is not None:
        return OwnKernel(own, num_points(guide.grid))
    if isinstance(kernel.filter, Grid):
        sigma = per_axis(features.theta_gamma, len(guide.grid), "theta_gamma", "spatial axes")  # type: ignore[attr-defined]
        return GridGaussian(guide.grid, sigma[::-1], dtype, threads=threads)
    rows = feature_rows(features, guide, dtype)
    check_finite(rows, f"given[{features.name!r}]" if isinstance(features, Given) else "features")
    if isinstance(kernel.filter, Lattice):
        _check_count(kernel, guide, rows.shape[1])
        return PermutohedralLattice.of_rows(rows, kernel.filter.neighbour_rounds, threads)
    return ExactGaussian.of_rows(rows, threads)


def check_specification(features: object, filter: object) -> None:
    """Raise a TypeError unless these are what pixels are compared by and how a kernel is filtered, or None."""
    if features is not None and (not isinstance(features, Features) or isinstance(features, Given)):
        raise TypeError(f"features is a {type(features).__name__}; expected Bilateral(…) or Spatial(…)")
    if filter is not None and not isinstance(filter, Lattice | Exact):
        raise TypeError(f"filter is a {type(filter).__name__}; expected Lattice(…) or Exact(…)")


def kernel_of_rows(rows: Array, filter: Lattice | Exact, threads: int | None) -> NativeKernel:
    """The kernel over points of features (N, d), by itself.

    Raises:
        ValueError: if features are not finite, or too many for a lattice.
        MemoryError: if there is not enough memory.
    """
    if isinstance(filter, Lattice):
        return PermutohedralLattice(rows, neighbour_rounds=filter.neighbour_rounds, threads=threads)
    return ExactGaussian(rows, threads=threads)


def given_mapping(given: Any) -> Mapping[str, Any]:
    """What a call gave by name; a TypeError if it has no names."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"given is a {type(given).__name__}; expected {{name: features or a kernel}}")
    return given


def own_kernel(kernel: Kernel, guide: Guide) -> Any | None:
    """What a call gave as the kernel itself, an object or a matrix; None where it is built from features.

    Raises: ValueError: if the call gave nothing under that name.
    """
    if not isinstance(kernel.features, Given):
        return None
    name, given = kernel.features.name, guide.given
    if name not in given:
        raise ValueError(missing(name, given))
    if hasattr(given[name], "filter"):
        return given[name]
    return matrix_kernel(given[name], num_points(guide.grid), f"given[{name!r}]")


def missing(name: str, given: Mapping[str, Any], regions: bool = False) -> str:
    """The message for a call that gave nothing under a name, of a kernel or of regions."""
    there = f"; there is {', '.join(map(repr, given))}" if given else ""
    if regions:
        return f"regions need given={{{name!r}: …}}, ids of segments or memberships{there}"
    return f"a kernel needs given={{{name!r}: …}}, features of the points, a matrix (N, N) or a kernel{there}"


def kernel_bytes(kernel: Kernel, guide: Guide, itemsize: int) -> int:
    """About how many bytes building the kernel takes."""
    points, axes = num_points(guide.grid), len(guide.grid)
    if own_kernel(kernel, guide) is not None or isinstance(kernel.filter, Grid):
        return 0
    count = axes if kernel.features.positions else 0
    if kernel.features.reads_image and guide.image is not None:
        count += guide.image.shape[-1]
    elif isinstance(kernel.features, Given):
        count = given_count(kernel.features.name, guide.given, guide.grid)
    if isinstance(kernel.filter, Lattice):
        return lattice_bytes(points, count, itemsize, kernel.filter.neighbour_rounds)
    return exact_bytes(points, count, itemsize)


def _check_count(kernel: Kernel, guide: Guide, count: int) -> None:
    if count <= MAX_FEATURES:
        return
    if kernel.features.reads_image and guide.image is not None:
        axes = len(guide.grid) if kernel.features.positions else 0
        raise ValueError(
            f"image has {guide.image.shape[-1]} channels; with {axes} coordinates that makes {count} features, and a "
            f"lattice takes at most {MAX_FEATURES}: reduce the channels, for example by PCA, or take filter='exact'"
        )
    raise ValueError(
        f"there are {count} features a point, and a lattice takes at most {MAX_FEATURES}: reduce them, for example by "
        "PCA, or take Exact()"
    )
