"""Values of few pixels brought to the size of an image: by linear interpolation, or by joint bilateral upsampling.

Both are linear maps of the values, so each has a transpose. docs/algorithm.md, eq. 33.
"""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn.arrays import Array, Shape, check_result, image_array, plain_array, real_shape, score_array
from crfrnn.contrast import contrast_theta_beta
from crfrnn.crf import Bilateral, Exact, Features, Lattice
from crfrnn.kernels.build import check_specification, kernel_of_rows
from crfrnn.kernels.features import Guide, feature_rows
from crfrnn.memory import require_memory
from crfrnn.numbers import one_of
from crfrnn.plausibility import warn_of_input

Method: TypeAlias = Literal["joint-bilateral", "bilinear"]
LINEAR_SHARE = 0.1
"""ε: what linear interpolation counts, where a low pixel of the same place and colour counts about 1. A pixel unlike
all low pixels around it keeps the interpolated value."""
CONTRASTS = 4.0
"""θ_β when none is given, in units of `contrast_theta_beta`: half of what GrabCut takes."""
LEAST_STRIDE = 1.5
"""Scores are of fewer pixels, and not of others, from this distance between them on."""


def upsample(
    scores: ArrayLike,
    image: ArrayLike,
    features: Features | None = None,
    filter: Lattice | Exact | None = None,
    *,
    covers: Sequence[float] | None = None,
    threads: int | None = None,
) -> Array:
    """Bring scores, or any other values, to the size of an image, along the image's edges.

    Each pixel gets the mean of the low pixels around it, weighted by the Gaussian of their differences in position and
    colour (docs/algorithm.md, eq. 33). The corners of both grids coincide: low pixel i has its centre at (i + ½) s - ½
    in pixels of the image, where s is the distance between two of them (`align_corners=False` in other libraries). Its
    colour is that of the image at its centre.

    Args:
        scores: (C, *low) of any channels: logits, probabilities, features of a network. 1 to 3 spatial axes, or more.
        image: (*spatial, K), or (*spatial,) if grey, at least as large as the scores.
        features: `Bilateral`, with θ_α in pixels of the image. None is θ_α = s and θ_β =
            4 × `contrast_theta_beta(image)`, which suits levels of any range.
        filter: `Lattice()`, which None is too, or `Exact()`, over all pairs of pixels.
        covers: How many pixels of the image the scores cover along each axis, such as (height, width), from its first
            pixel: more than it has if the network saw a padded image. None is all that it has.
        threads: None is `default_threads()`.
    Returns: (C, *spatial), never beyond the range of the scores; float64 if they are, otherwise float32.
    Raises:
        TypeError: if an array holds anything but real numbers, or features or filter are none of the above.
        ValueError: if shapes do not fit, values are not finite, or the scores are larger than the image.
        MemoryError: if there is not enough memory.
    References: Kopf, Cohen, Lischinski & Uyttendaele 2007, "Joint bilateral upsampling".
    """
    given = score_array(scores, "scores")
    grids = Grids.of(given, image_guide(image, given.shape), covers)
    check_specification(features, filter)
    return _within_range(
        JointBilateral(grids, features or grids.features, filter or Lattice(), given.dtype, threads).apply, given
    )


def interpolate(scores: ArrayLike, image: ArrayLike, *, covers: Sequence[float] | None = None) -> Array:
    """Scores (C, *low) brought to the size of an image by linear interpolation; arguments as those of `upsample`."""
    given = score_array(scores, "scores")
    return _within_range(Linear(Grids.of(given, image_guide(image, given.shape), covers)).apply, given)


def at_image_size(scores: Array, image: ArrayLike | None, method: Method | None, threads: int | None) -> Array:
    """Scores (C, *low), which have been checked, at the size of the image: the one rule for arrays.

    Args:
        method: As for `method_for`. An image of their size leaves them as they are.
    """
    axes = scores.ndim - 1
    method = method_for(method, scores.shape[1:], None if image is None else np.shape(image)[:axes])
    if method is None:
        return scores
    guide = image_guide(image, scores.shape)  # type: ignore[arg-type]
    if guide.grid == scores.shape[1:]:
        return scores
    return _within_range(chosen_map(method, Grids.of(scores, guide), scores.dtype, threads).apply, scores)


def _within_range(apply: Callable[[Array], Array], values: Array) -> Array:
    """Means of values. They are no larger than these, but sums on the way may be: then all is 2^32 times smaller."""
    with np.errstate(over="ignore", invalid="ignore"):
        result = apply(values)
        if not np.isfinite(result.sum()):
            smaller = values.dtype.type(2.0**-32)
            few = values * smaller
            result = apply(few).clip(few.min(), few.max()) / smaller
    check_result(result, "upsampled scores", "scores")
    return result


def method_for(
    method: Method | None, low: Sequence[Any], grid: Sequence[Any] | None, scores: str = "scores"
) -> Method | None:
    """How scores of size low are brought to that of an image: the one rule for arrays and layers.

    Args:
        method: What the user says; None is linear interpolation of scores that are clearly smaller, with a warning. A
            few pixels less along an axis are a mistake more often than a network's stride.
        grid: The size of the image; None without one.
        scores: What the scores are called.
    Returns: None for what stays as it is: nobody said a method, and sizes are equal, or go together in no way.
    Raises: ValueError: if there is no image, or height and width seem to be swapped.
    """
    if method is not None:
        one_of(method, get_args(Method), "upsampling")
        if grid is None:
            raise ValueError(f"upsampling={method!r} brings {scores} to the size of an image; give one")
        return method
    if grid is None or not are_smaller(low, grid, LEAST_STRIDE):
        return None
    sizes = [" × ".join(map(str, size)) for size in (low, grid)]
    alike = are_proportional(low, grid)
    if not alike and are_proportional(low[::-1], grid):
        raise ValueError(
            f"{scores} are {sizes[0]} pixels and the image {sizes[1]}: did you swap height and width? If they "
            "are meant to be stretched so, give upsampling='bilinear'"
        )
    doubt = "" if alike else ", although their proportions are not those of the image"
    warn_of_input(
        f"{scores} are {sizes[0]} pixels and the image {sizes[1]}: they are brought to its size by linear interpolation"
        f"{doubt}. Say so by upsampling='bilinear'; 'joint-bilateral' follows the image's edges"
        f"{'' if alike else '; for a network that saw a padded image, see covers= of crfrnn.upsample'}"
    )
    return "bilinear"


def are_smaller(low: Sequence[Any], grid: Sequence[Any], stride: float = 1.0) -> bool:
    """Whether a size is known to fit into another of as many axes, and to be smaller by a stride along one of them."""
    pairs = list(zip(low, grid, strict=False))
    if len(low) != len(grid) or not all(isinstance(each, int) and each > 0 for pair in pairs for each in pair):
        return False
    strides = [length / few for few, length in pairs]
    return bool(strides) and min(strides) >= 1 and max(strides) >= stride and tuple(low) != tuple(grid)


def are_proportional(low: Sequence[int], grid: Sequence[int]) -> bool:
    """Whether one stride leads from a size to another, give or take a pixel of the smaller one along each axis."""
    if len(low) != len(grid):
        return False
    least = max(length / (few + 1) for few, length in zip(low, grid, strict=True))
    most = min(length / (few - 1) if few > 1 else math.inf for few, length in zip(low, grid, strict=True))
    return least <= most


def image_guide(image: ArrayLike, scores: Shape) -> Guide:
    """The image (*spatial, K) beside scores of this shape (C, *low).

    Raises: ValueError: if it has another number of axes.
    """
    axes, shape = len(scores) - 1, real_shape(image, "image")
    if len(shape) not in (axes, axes + 1):
        one_channel = f"; values of one channel need an axis for it: [None] makes it {(1, *scores)}"
        raise ValueError(
            f"image has shape {shape}; expected {axes} spatial axes, with or without channels last, for scores of "
            f"shape {scores}{one_channel if len(shape) == axes + 2 else ''}"
        )
    return Guide(shape[:axes], image_array(image, shape[:axes]))


def low_steps(scores: Sequence[int], grid: Sequence[int], covers: Sequence[float] | None) -> tuple[float, ...]:
    """Distance between low pixels in pixels of the image, for each axis in their order.

    Args:
        scores: Shape of the scores, spatial axes last.
        grid: Spatial shape of the image.
    Raises: ValueError: if scores do not fit the image, or what they cover does not.
    """
    low = scores[-len(grid) :]
    try:
        if not isinstance(covers, tuple | list | None):  # those do not go through NumPy, which torch would trace
            covers = plain_array(covers, "covers").tolist()
        covered = tuple(grid) if covers is None else tuple(float(length) for length in covers)
    except (TypeError, ValueError):
        raise TypeError(f"covers={covers!r} must be numbers of pixels, one for each axis of {tuple(grid)}") from None
    if len(covered) != len(grid) or not all(
        least <= length < math.inf for length, least in zip(covered, grid, strict=True)
    ):
        raise ValueError(f"covers={covers!r} must be at least {tuple(grid)}, the size of the image, along each axis")
    if any(few > length for few, length in zip(low, covered, strict=True)):
        raise ValueError(
            f"scores have shape {tuple(scores)}, more than {covered} pixels of the image along some axis: make them "
            "smaller, or give the image at its full size"
        )
    return tuple(length / few for length, few in zip(covered, low, strict=True))


def hint_for(low: Sequence[Any], grid: Sequence[Any], scores: str = "scores") -> str:
    """What to add to an error where scores and image differ in size, if the scores are the smaller ones.

    Args:
        grid: Spatial shape of the image; channels may follow.
        scores: What the scores are called. Losses call theirs "probabilities", and bring nothing to another size.
    """
    if are_smaller(low, grid[: len(low)]):
        if scores == "probabilities":
            return "; a loss takes both at one size: interpolate the logits, or make the image smaller"
        return "; upsampling='joint-bilateral' or 'bilinear' brings scores to the size of the image"
    return ""


class Taps(NamedTuple):
    """Linear interpolation at positions along an axis: (1 - share) v[first] + share v[second]."""

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    share: Array

    @classmethod
    def at(cls, positions: Array, length: int) -> "Taps":
        """At positions in an axis of this length; those beyond an end are at the end."""
        inside = positions.clip(0, length - 1)
        first = np.minimum(inside.astype(np.intp), max(length - 2, 0))
        return cls(first, np.minimum(first + 1, length - 1), inside - first)

    def along(self, values: NDArray[Any], axis: int) -> NDArray[Any]:
        """Values with positions in place of the axis, in their own precision."""
        share = self.share.astype(values.dtype).reshape(-1, *(1,) * (values.ndim - 1 - axis))
        first, second = values.take(self.first, axis), values.take(self.second, axis)
        interpolated: NDArray[Any] = first + share * (second - first)
        return interpolated

    def transposed(self, values: NDArray[Any], axis: int, length: int) -> NDArray[Any]:
        """The transpose of `along`: values at positions sent back to the axis."""
        weights = np.zeros((length, len(self.share)), values.dtype)
        np.add.at(weights, (self.first, np.arange(len(self.share))), 1 - self.share)
        np.add.at(weights, (self.second, np.arange(len(self.share))), self.share)
        return np.moveaxis(np.tensordot(weights, values, (1, axis)), 0, axis)


class Grids(NamedTuple):
    """The pixels of scores and of an image.

    Attributes:
        low: The spatial shape of the scores.
        guide: The image.
        step: Distance between low pixels in pixels of the image, for each axis in their order.
    """

    low: Shape
    guide: Guide
    step: tuple[float, ...]

    @classmethod
    def of(cls, scores: NDArray[Any], guide: Guide, covers: Sequence[float] | None = None) -> "Grids":
        """Of scores (C, *low); a ValueError if they are larger than what they cover."""
        return cls(scores.shape[1:], guide, low_steps(scores.shape, guide.grid, covers))

    @property
    def features(self) -> Bilateral:
        """What pixels are compared by when nothing is given."""
        levels = contrast_theta_beta(self.guide.image, shape=self.guide.grid)  # type: ignore[arg-type]
        return Bilateral(self.step[::-1], tuple(min(CONTRASTS * level, sys.float_info.max) for level in levels))

    def taps(self) -> list[Taps]:
        """Where each pixel of the image lies among the low ones, for each axis."""
        axes = zip(self.guide.grid, self.low, self.step, strict=True)
        return [Taps.at((np.arange(length) + 0.5) / step - 0.5, few) for length, few, step in axes]

    def centres(self) -> list[Taps]:
        """Where the low pixels whose centres lie in the image lie among its pixels, for each axis."""
        found = []
        for length, few, step in zip(self.guide.grid, self.low, self.step, strict=True):
            ends = (np.arange(few) + 0.5) * step
            found.append(Taps.at(ends[ends <= length] - 0.5, length))
        return found


class Linear:
    """Linear interpolation B v of values (C, *low) to (C, *grid)."""

    def __init__(self, grids: Grids) -> None:
        self.low, self._taps = grids.low, grids.taps()

    def apply(self, values: NDArray[Any]) -> NDArray[Any]:
        """B v."""
        for axis, taps in enumerate(self._taps, start=1):
            values = taps.along(values, axis)
        return values

    def transpose(self, values: NDArray[Any]) -> NDArray[Any]:
        """Bᵀ g."""
        for axis, (taps, length) in enumerate(zip(self._taps, self.low, strict=True), start=1):
            values = taps.transposed(values, axis, length)
        return values


class JointBilateral:
    """Joint bilateral upsampling L v of values (C, *low) to (C, *grid): docs/algorithm.md, eq. 33.

    One kernel connects all pixels, the low ones first. Values are sent by these and read by the others.
    """

    def __init__(
        self, grids: Grids, features: Features, filter: Lattice | Exact, dtype: np.dtype[Any], threads: int | None
    ) -> None:
        self._linear, self._grid = Linear(grids), grids.guide.grid
        rows = feature_rows(features, grids.guide, dtype)
        lows = rows.reshape(*self._grid, -1)
        for axis, taps in enumerate(grids.centres()):
            lows = taps.along(lows, axis)
        self._sending = (slice(None), *(slice(length) for length in lows.shape[:-1]))
        self._count = lows[..., 0].size
        points = np.concatenate([lows.reshape(self._count, rows.shape[1]), rows])
        self._kernel = kernel_of_rows(points, filter, threads)
        self._norm = self._received(np.ones((1, *lows.shape[:-1]), dtype)) + dtype.type(LINEAR_SHARE)

    def apply(self, values: NDArray[Any]) -> NDArray[Any]:
        """L v."""
        interpolated = self._linear.apply(values)
        interpolated *= interpolated.dtype.type(LINEAR_SHARE)
        interpolated += self._received(values[self._sending])
        interpolated /= self._norm
        return interpolated

    def transpose(self, values: NDArray[Any]) -> NDArray[Any]:
        """Lᵀ g."""
        sent = values / self._norm
        back: NDArray[Any] = self._linear.transpose(sent) * sent.dtype.type(LINEAR_SHARE)
        rows = np.zeros((self._kernel.num_points, len(values)), sent.dtype)
        rows[self._count :] = sent.reshape(len(values), -1).T
        received = self._kernel.filter_rows(rows, True)[: self._count].T
        back[self._sending] += received.reshape(back[self._sending].shape)
        return back

    def _received(self, values: NDArray[Any]) -> NDArray[Any]:
        """What the pixels of the image receive from the low ones in the image, not normalised."""
        require_memory(
            4 * self._kernel.num_points * len(values) * values.itemsize,
            f"upsampling {len(values)} channels to {' × '.join(map(str, self._grid))} pixels",
        )
        rows = np.zeros((self._kernel.num_points, len(values)), values.dtype)
        rows[: self._count] = values.reshape(len(values), -1).T
        received = self._kernel.filter_rows(rows, False)[self._count :]
        upsampled: NDArray[Any] = received.T.reshape(len(values), *self._grid)
        return upsampled


def chosen_map(method: Method, grids: Grids, dtype: np.dtype[Any], threads: int | None) -> Linear | JointBilateral:
    """The map of a method."""
    if method == "bilinear":
        return Linear(grids)
    return JointBilateral(grids, grids.features, Lattice(), dtype, threads)
