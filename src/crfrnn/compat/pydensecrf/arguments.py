"""What callers of pydensecrf give, read as pydensecrf reads it and turned into what this package takes.

What is odd there and yet means something is taken, with a warning that says what it means. What can only be a mistake
is an error.
"""

import operator
import sys
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn.arrays import Shape, check_classes, class_weights, float_array, num_points
from crfrnn.levels import far_from, unseen
from crfrnn.numbers import whole_number
from crfrnn.plausibility import warn_of_input

SMALLEST_DEVIATION = float(np.finfo(np.float32).tiny)
LARGEST_DEVIATION = float(np.finfo(np.float32).max)
"""What an infinite deviation counts as: features divided by it are 0 and tell no points apart."""


def count(value: Any, name: str) -> int:
    """A whole number of at least 0: fractions are cut off and what is below 0 counts as 0, with a warning.

    Raises: TypeError: if it is no number.
    """
    number = _whole(value, name)
    if number < 0:
        warn_of_input(f"{name}={value} is below 0 and counts as 0, as in pydensecrf")
    return max(number, 0)


def positive_count(value: Any, name: str) -> int:
    """A whole number of at least 1; fractions are cut off, with a warning."""
    return whole_number(_whole(value, name), name, most=sys.maxsize, least=1)


def deviations(value: Any, number: int, name: str, what: str) -> tuple[float, ...]:
    """A standard deviation for each of `number` axes or channels, from one number or `number` of them.

    Infinite ones leave an axis or channel out of the comparison. Negative ones count without their sign, with a
    warning. `what` is "axes" or "channels" in messages.
    """
    return _deviations(_numbers(value, number, name, what), number, name, what)


def first_deviations(value: Any, number: int, name: str, what: str) -> tuple[float, ...]:
    """`deviations`, of which surplus ones are left out, with a warning."""
    given = _numbers(value, number, name, what)
    if given.ndim and len(given) > number:
        warn_of_input(
            f"{name}={value!r} has {len(given)} values for {number} {what}: the last {len(given) - number} count not"
        )
        given = given[:number]
    return _deviations(given, number, name, what)


def padded_deviations(value: Any, number: int, name: str, what: str, hint: str = "") -> tuple[float, ...]:
    """`deviations`, of which missing ones are 1, with a warning: axes and channels without one are not divided."""
    given = _numbers(value, number, name, what)
    if given.ndim and len(given) < number:
        warn_of_input(
            f"{name}={value!r} has {len(given)} of {number} values: the last {number - len(given)} {what} are not "
            f"divided, which is a deviation of 1, as in pydensecrf{hint or '; give one number for all, or all of them'}"
        )
        given = np.concatenate([given, np.ones(number - len(given))])
    return _deviations(given, number, name, what)


def agreement(compat: ArrayLike, num_labels: int) -> NDArray[np.float64]:
    """A compat as the weight of a `PairwiseTerm`, where every agreement is rewarded.

    In pydensecrf too, numbers are rewards. Vectors and matrices are penalties, and only their symmetric part counts.
    """
    given = class_weights(compat, "compat")
    check_classes(given, num_labels, "compat")
    if given.ndim == 0:
        return given
    return np.negative(given if given.ndim == 1 else (given + given.T) / 2)


def layout(rows: Any) -> Shape | None:
    """The shape (rows, *spatial) that an array had before it was flattened to (rows, points), if it still shows."""
    if not isinstance(rows, np.ndarray) or rows.ndim > 2:
        return getattr(rows, "shape", None)
    owner = rows.base
    if not isinstance(owner, np.ndarray) or owner.ndim < 3 or owner.size != rows.size or not owner.flags.c_contiguous:
        return None
    if rows.flags.f_contiguous and owner.shape[-1] == len(rows):  # array.transpose(2, 0, 1).reshape(len(rows), -1)
        return (owner.shape[-1], *owner.shape[:-1])
    return owner.shape if rows.flags.c_contiguous else None


def check_levels(image: NDArray[Any], thetas: tuple[float, ...], name: str) -> None:
    """Warn if the levels of an image (*grid, K) are far from their deviations."""
    how = unseen(image, thetas)
    if how is not None:
        low, high = float(image.min()), float(image.max())
        doubt = far_from(name, thetas[0], how, high)
        warn_of_input(f"the image's levels are from {low:.5g} to {high:.5g}, which is far from {doubt}")


def copied_bytes(value: Any, shape: Shape) -> int:
    """Bytes of the float32 copy that `float_array` makes of values of this shape; 0 if it makes none."""
    as_it_is = isinstance(value, np.ndarray) and value.dtype == np.float32 and value.flags.c_contiguous
    return 0 if as_it_is else 4 * num_points(shape)


def _whole(value: Any, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        pass
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name}={value!r} must be a whole number") from None
    if number != value:
        warn_of_input(f"{name}={value} is no whole number and counts as {number}, as in pydensecrf")
    return number


def _numbers(value: Any, number: int, name: str, what: str) -> NDArray[np.float64]:
    given = float_array(value, name, np.float64).astype(np.float64, copy=False)
    if given.ndim > 1 or given.size == 0 or np.isnan(given).any() or (np.abs(given) < SMALLEST_DEVIATION).any():
        raise ValueError(f"{name}={value!r} must be a number above 0, or one for each of the {number} {what}")
    return given


def _deviations(given: NDArray[np.float64], number: int, name: str, what: str) -> tuple[float, ...]:
    if given.ndim and len(given) != number:
        raise ValueError(
            f"{name}={tuple(given.tolist())} does not fit {number} {what}: give one number for all of them, or {number}"
        )
    if (given < 0).any():
        warn_of_input(
            f"{name}={given.tolist()} holds negative deviations, which count without their sign, as in pydensecrf"
        )
    return tuple(np.broadcast_to(np.minimum(np.abs(given), LARGEST_DEVIATION), number).tolist())
