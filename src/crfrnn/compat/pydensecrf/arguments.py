"""What callers of pydensecrf give, checked in its words and turned into what this package takes."""

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn.arrays import Shape, check_classes, class_weights, float_array

SMALLEST_DEVIATION = float(np.finfo(np.float32).tiny)


def count(value: Any, name: str) -> int:
    """A whole number of at least 0; 5.0 counts as one."""
    try:
        number = int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r} must be a whole number") from None
    if number < 0:
        raise ValueError(f"{name}={number} must be at least 0")
    return number


def positive_count(value: Any, name: str) -> int:
    """A whole number of at least 1."""
    number = count(value, name)
    if number == 0:
        raise ValueError(f"{name}=0 must be at least 1")
    return number


def deviations(value: Any, number: int, name: str, what: str) -> tuple[float, ...]:
    """A standard deviation for each of `number` axes or channels, from one number or `number` of them.

    `what` is "axes" or "channels" in messages.
    """
    given = float_array(value, name, np.float64)
    if given.ndim > 1 or given.size == 0 or not (np.isfinite(given) & (given >= SMALLEST_DEVIATION)).all():
        raise ValueError(f"{name}={value!r} must be a finite number above 0, or one for each of the {number} {what}")
    if given.ndim and len(given) != number:
        raise ValueError(
            f"{name}={value!r} does not fit {number} {what}: give one number for all of them, or {number} (pydensecrf "
            "takes the first, and leaves axes and channels without one undivided; 1 does that here)"
        )
    return tuple(np.broadcast_to(given, number).tolist())


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
