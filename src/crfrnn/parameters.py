"""The numbers of a dense CRF, validated in one place, and the presets that people use."""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike

from crfrnn.arrays import class_weights, float_array

Normalization: TypeAlias = Literal["none", "before", "after", "symmetric"]
SpatialKernel: TypeAlias = Literal["grid", "lattice"]
Filter: TypeAlias = Literal["lattice", "exact"]
Deviation: TypeAlias = float | tuple[float, ...]
LARGEST_INTEGER = 2**31 - 1
MOST_NEIGHBOUR_ROUNDS = 3  # each multiplies the vertices; the second already adds no accuracy


@dataclass(frozen=True)
class CRFParameters:
    """Parameters of the mean field with a spatial and a bilateral kernel (docs/algorithm.md, eq. 1-6).

    Lists and arrays given for a field are kept as tuples, so that parameters compare, hash and pickle.

    Attributes:
        theta_alpha: Deviation of the bilateral kernel in pixels, or in the unit of the `spacing` of those calls that
            take one: a number, or one for each axis as (x, y[, z]).
        theta_beta: Deviation of the bilateral kernel in the image's own levels: a number, or one for each channel.
        theta_gamma: Deviation of the spatial kernel, in the unit of theta_alpha: a number, or one for each axis.
        spatial_weight: Weight W of the spatial kernel: a number, (C,) or (C, C). With 0 the kernel is not computed.
        bilateral_weight: The same of the bilateral kernel.
        compatibility: M in `a = U - M (W_s s + W_b b)`. None is the Potts model, M = -1: agreement is rewarded. A
            number, (C,) diagonal or (C, C) matrix is taken as given: a positive diagonal penalises agreement.
        normalization: "after" (CRF-RNN), "before", "symmetric" (pydensecrf) or "none" (raw sums).
        iterations: Mean-field iterations; 0 returns what was given.
        spatial: Spatial kernel as exact Gaussian on the "grid", or approximated by a "lattice" as other tools do.
        damping: Share of the previous logits kept at each iteration, at least 0 and below 1.
        neighbour_rounds: Rounds of lattice vertices that no pixel touches added around those touched. One round halves
            the error on rough images at 3 to 5 times the vertices; a second one adds nothing (docs/benchmarks.md).
        class_threshold: Classes are left out of filtering as soon as their probability is nowhere at least this; 0
            filters all. docs/algorithm.md, section 6, gives the rule and the error.
        filter: Bilateral kernel approximated on a "lattice", or "exact" over all pairs of pixels, which takes seconds
            an iteration for a photo and grows with the square of its pixels (docs/accuracy.md). The exact filter goes
            with spatial="grid" and without neighbour_rounds.
    Raises: TypeError or ValueError: on construction, naming the field.
    """

    theta_alpha: Deviation | Sequence[float] = 160.0
    theta_beta: Deviation | Sequence[float] = 3.0
    theta_gamma: Deviation | Sequence[float] = 3.0
    spatial_weight: ArrayLike = 3.0
    bilateral_weight: ArrayLike = 5.0
    compatibility: ArrayLike | None = None
    normalization: Normalization = "after"
    iterations: int = 10
    spatial: SpatialKernel = "grid"
    damping: float = 0.0
    neighbour_rounds: int = 0
    class_threshold: float = 0.0
    filter: Filter = "lattice"

    def __post_init__(self) -> None:
        for name in ("theta_alpha", "theta_beta", "theta_gamma"):
            self._set(name, deviations(getattr(self, name), name))
        for name in ("spatial_weight", "bilateral_weight"):
            self._set(name, _nested_tuple(class_weights(getattr(self, name), name).tolist()))
        if self.compatibility is not None:
            self._set("compatibility", _nested_tuple(class_weights(self.compatibility, "compatibility").tolist()))
        one_of(self.normalization, get_args(Normalization), "normalization")
        one_of(self.spatial, get_args(SpatialKernel), "spatial")
        one_of(self.filter, get_args(Filter), "filter")
        self._set("iterations", whole_number(self.iterations, "iterations"))
        self._set("neighbour_rounds", whole_number(self.neighbour_rounds, "neighbour_rounds", MOST_NEIGHBOUR_ROUNDS))
        for name in ("damping", "class_threshold"):
            self._set(name, proper_fraction(getattr(self, name), name))
        if self.filter == "exact":
            for name, other in (("spatial", "grid"), ("neighbour_rounds", 0)):
                if getattr(self, name) != other:
                    raise ValueError(
                        f"filter='exact' has no lattice for {name}={getattr(self, name)!r}; set {name} to {other!r}"
                    )

    def in_pixels(self, spacing: float | Sequence[float], axes: int) -> "CRFParameters":
        """The same with θ_α and θ_γ, given in the unit of the spacing, in pixels along each of `axes` axes.

        Args:
            spacing: Distance between neighbouring pixels: a number, or one for each axis as (x, y[, z]).
            axes: How many spatial axes there are.
        Raises: TypeError or ValueError: if the spacing is not positive and finite, or has another number of axes.
        """
        return replace(
            self,
            theta_alpha=in_pixels(self.theta_alpha, spacing, axes, "theta_alpha"),
            theta_gamma=in_pixels(self.theta_gamma, spacing, axes, "theta_gamma"),
        )

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


def deviations(value: Any, name: str) -> Deviation:
    """A deviation, or one for each axis or channel; a sequence of one is a number."""
    given = float_array(value, name, np.float64)
    if given.ndim > 1 or given.size == 0 or not (np.isfinite(given).all() and (given > 0).all()):
        raise ValueError(f"{name}={value!r} must be a finite number above 0, or one for each axis or channel")
    return float(given.item()) if given.size == 1 else tuple(given.tolist())


def per_axis(value: Any, count: int, name: str, what: str) -> tuple[float, ...]:
    """A deviation for each of `count` axes or channels (`what`, in the plural)."""
    return for_each(_sequence(deviations(value, name)), count, name, what)


def in_pixels(theta: Deviation | Sequence[float], spacing: Any, axes: int, name: str) -> tuple[float, ...]:
    """A deviation in the unit of the spacing as one in pixels for each axis; torch can trace it.

    Args:
        theta: One positive number, or one for each axis as (x, y[, z]).
        spacing: Distance between neighbouring pixels: a number, or one for each axis as (x, y[, z]).
        axes: How many spatial axes there are.
    """
    try:
        # Numbers, lists and tuples without NumPy, which torch would trace.
        given = spacing if isinstance(spacing, int | float | list | tuple) else np.ravel(spacing).tolist()
        steps = [float(step) for step in _sequence(given)]
    except (TypeError, ValueError):
        raise TypeError(f"spacing={spacing!r} must be a number, or one for each axis") from None
    if not all(0 < step < math.inf for step in steps):
        raise ValueError(f"spacing={spacing!r} must be a finite number above 0, or one for each axis")
    distances = for_each(steps, axes, "spacing", "spatial axes")
    thetas = for_each(_sequence(theta), axes, name, "spatial axes")
    return tuple(deviation / distance for deviation, distance in zip(thetas, distances, strict=True))


def for_each(given: Sequence[float], count: int, name: str, what: str) -> tuple[float, ...]:
    """One number repeated, or as many numbers as there are axes or channels."""
    if len(given) not in (1, count):
        raise ValueError(
            f"{name}={tuple(given)} has {len(given)} values, but there are {count} {what}: give one number or {count}"
        )
    return (given[0],) * count if len(given) == 1 else tuple(given)


def one_of(value: object, choices: Sequence[str], name: str) -> None:
    """Raise a ValueError if a word is not among the choices."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; use {', '.join(map(repr, choices))}")


def whole_number(value: Any, name: str, most: int = LARGEST_INTEGER) -> int:
    """An integer from 0 to `most`, by default what the native core can count."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r} must be an integer") from None
    if not 0 <= number <= most:
        raise ValueError(f"{name}={number} must be at least 0 and at most {most}")
    return number


def finite_number(value: Any, name: str) -> float:
    """A finite number."""
    given = class_weights(value, name)
    if given.ndim:
        raise ValueError(f"{name} has shape {given.shape}; expected a number")
    return float(given)


def proper_fraction(value: Any, name: str) -> float:
    """A number of at least 0 and below 1."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}={value!r} must be a number") from None
    if not (math.isfinite(number) and 0 <= number < 1):
        raise ValueError(f"{name}={number} must be at least 0 and below 1")
    return number


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else (value,)


def _nested_tuple(value: Any) -> Any:
    return tuple(map(_nested_tuple, value)) if isinstance(value, list) else value


# Numbers in common use, named after where. All but crfrnn were written for pydensecrf, hence
# "symmetric". Their unaries: crfrnn takes logits; deeplab, stego, seam, afa, toco and pydensecrf softmax probabilities
# (input="probabilities"; seam and afa at full size, s = 1: at 1/s of the size divide theta_alpha and theta_gamma by s);
# maskcut the softmax of a {0, 1} mask; irn labels held with probability 0.7 (input="labels"); text-mask a mask / 255.
PRESETS: dict[str, CRFParameters] = {
    "crfrnn": CRFParameters(),
    **{
        name: CRFParameters(
            theta_gamma=theta_gamma,
            spatial_weight=spatial_weight,
            theta_alpha=theta_alpha,
            theta_beta=theta_beta,
            bilateral_weight=bilateral_weight,
            normalization="none" if name == "text-mask" else "symmetric",
            iterations=iterations,
        )
        for name, theta_gamma, spatial_weight, theta_alpha, theta_beta, bilateral_weight, iterations in (
            ("deeplab", 1, 3, 67, 3, 4, 10),
            ("stego", 1, 3, 67, 3, 4, 10),
            ("maskcut", 3, 7, 50, 5, 10, 10),
            ("irn", 3, 3, 50, 5, 10, 10),
            ("seam", 3, 3, 80, 13, 10, 10),
            ("afa", 3, 3, 80, 13, 10, 10),
            ("toco", 1, 1, 121, 5, 4, 10),
            ("text-mask", 1, 3, 23, 7, 20, 5),
            ("pydensecrf", 3, 3, 80, 13, 10, 5),
        )
    },
}


def chosen(parameters: CRFParameters | str | Path) -> CRFParameters:
    """Parameters as they are, those of the preset of that name, or of a file: a path, or text that ends in .json."""
    if isinstance(parameters, Path) or (isinstance(parameters, str) and parameters.endswith(".json")):
        from crfrnn.parameter_files import load_parameters

        return load_parameters(parameters)
    if isinstance(parameters, str):
        return preset(parameters)
    if not isinstance(parameters, CRFParameters):
        raise TypeError(
            "parameters must be CRFParameters, the name of a preset or a parameters file, "
            f"got {type(parameters).__name__}"
        )
    return parameters


def preset(name: str) -> CRFParameters:
    """The parameters of that name in `PRESETS`."""
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
