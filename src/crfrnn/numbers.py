"""The one place where numbers and words from users are checked: deviations, counts, shares, choices."""

import math
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from crfrnn.arrays import class_weights, float_array, plain_array

Deviation: TypeAlias = float | tuple[float, ...]
LARGEST_INTEGER = 2**31 - 1


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
    """Convert a deviation from the unit of the spacing to pixels, for each axis.

    Args:
        theta: One positive number, or one for each axis as (x, y[, z]).
        spacing: Distance between neighbouring pixels: a number, or one for each axis as (x, y[, z]).
        axes: How many spatial axes there are.
    """
    distances = for_each(spacing_steps(spacing), axes, "spacing", "spatial axes")
    thetas = for_each(_sequence(theta), axes, name, "spatial axes")
    return tuple(deviation / distance for deviation, distance in zip(thetas, distances, strict=True))


def spacing_steps(spacing: Any) -> list[float]:
    """The distances between neighbouring pixels: one, or one for each axis. Torch can trace this function."""
    try:
        given = spacing
        if not isinstance(
            spacing, int | float | list | tuple
        ):  # those do not go through NumPy, which torch would trace
            given = plain_array(spacing, "spacing").ravel().tolist()
        steps = [float(step) for step in _sequence(given)]
    except OverflowError:  # of an integer with more than 308 digits
        steps = [math.inf]
    except (TypeError, ValueError):
        raise TypeError(f"spacing={spacing!r} must be a number, or one for each axis") from None
    if not all(0 < step < math.inf for step in steps):
        raise ValueError(f"spacing={spacing!r} must be a finite number above 0, or one for each axis")
    return steps


def for_each(given: Sequence[Any], count: int, name: str, what: str) -> tuple[Any, ...]:
    """One number repeated, or as many numbers as there are axes or channels."""
    if len(given) not in (1, count):
        raise ValueError(
            f"{name}={tuple(given)} has {len(given)} values, but there are {count} {what}: give one number or {count}"
        )
    return (given[0],) * count if len(given) == 1 else tuple(given)


def weight(value: Any, name: str) -> Any:
    """A finite number, (C,) vector or (C, C) matrix over classes, as nested tuples that compare, hash and pickle."""
    return _nested_tuple(class_weights(value, name).tolist())


def one_of(value: object, choices: Sequence[str], name: str) -> None:
    """Raise a ValueError if a word is not among the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; use {', '.join(map(repr, choices))}")


def file_path(value: Any, name: str) -> Path:
    """The path of a file or a folder, given as text or as a path."""
    try:
        return Path(value)
    except TypeError:
        raise TypeError(f"{name}={value!r} must be a path: text, or a pathlib.Path") from None


def flag(value: Any, name: str) -> bool:
    """True or False, also NumPy's, or 1 and 0."""
    if isinstance(value, bool):  # what torch traces
        return value
    if isinstance(value, np.bool_ | int | np.integer) and value in (0, 1):
        return bool(value)
    raise TypeError(f"{name}={value!r} must be True or False")


def whole_number(value: Any, name: str, most: int = LARGEST_INTEGER, least: int = 0) -> int:
    """An integer from `least` to `most`, by default the largest that the native core can count to."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r} must be an integer") from None
    if not least <= number <= most:
        raise ValueError(f"{name}={number} must be at least {least} and at most {most}")
    return number


def finite_number(value: Any, name: str) -> float:
    """A finite number."""
    given = class_weights(value, name)
    if given.ndim:
        raise ValueError(f"{name} has shape {given.shape}; expected a number")
    return float(given)


def positive_number(value: Any, name: str) -> float:
    """A finite number above 0."""
    number = finite_number(value, name)
    if number <= 0:
        raise ValueError(f"{name}={number} must be above 0")
    return number


def increasing_pair(value: Any, name: str) -> tuple[float, float]:
    """Two finite numbers, the second above the first."""
    given = float_array(value, name, np.float64)
    if given.shape != (2,) or not np.isfinite(given).all() or not given[0] < given[1]:
        raise ValueError(f"{name}={value!r} must be two finite numbers, (low, high), such as (0, 1)")
    low, high = given.tolist()
    return low, high


def proper_fraction(value: Any, name: str) -> float:
    """A number of at least 0 and below 1; neither True nor False is one."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = float(value)
    except OverflowError:  # of an integer with more than 308 digits
        number = math.inf
    except (TypeError, ValueError):
        raise TypeError(f"{name}={value!r} must be a number") from None
    if not (math.isfinite(number) and 0 <= number < 1):
        raise ValueError(f"{name}={number} must be at least 0 and below 1")
    return number


def share(value: Any, name: str, most: float = math.inf) -> float:
    """A number above 0 and below 1, or with `most` up to that."""
    number = finite_number(value, name)
    if not 0 < number < min(1, most) and number != most:
        raise ValueError(f"{name}={value} must be above 0 and {'below' if most == math.inf else 'at most'} 1")
    return number


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else (value,)


def _nested_tuple(value: Any) -> Any:
    return tuple(map(_nested_tuple, value)) if isinstance(value, list) else value
