"""pydensecrf's kinds of kernels and normalisations."""

import operator
from enum import IntEnum
from typing import Any

from crfrnn.crf import Normalization
from crfrnn.plausibility import warn_of_input


class KernelType(IntEnum):
    """The part of a kernel that learning would have changed; inference does not depend on it."""

    CONST_KERNEL = 0
    DIAG_KERNEL = 1
    FULL_KERNEL = 2


class NormalizationType(IntEnum):
    """How kernels are normalised. NO_NORMALIZATION leaves raw sums: pydensecrf finds a mean norm and never uses it."""

    NO_NORMALIZATION = 0
    NORMALIZE_BEFORE = 1
    NORMALIZE_AFTER = 2
    NORMALIZE_SYMMETRIC = 3


CONST_KERNEL, DIAG_KERNEL, FULL_KERNEL = KernelType
NO_NORMALIZATION, NORMALIZE_BEFORE, NORMALIZE_AFTER, NORMALIZE_SYMMETRIC = NormalizationType
NORMALIZATIONS: dict[int, Normalization] = {
    NO_NORMALIZATION: "none",
    NORMALIZE_BEFORE: "before",
    NORMALIZE_AFTER: "after",
    NORMALIZE_SYMMETRIC: "symmetric",
}


def checked_normalization(kernel: int, normalization: int) -> Normalization:
    """This package's name of a normalisation; a warning if a constant is of the other kind, or unknown.

    Raises: TypeError: if one of them is no number.
    """
    for value, name, other, effect in (
        (kernel, "kernel", NormalizationType, "which has no effect"),
        (normalization, "normalization", KernelType, "whose number counts"),
    ):
        if isinstance(value, other):
            warn_of_input(f"{name}={value.name} is a {other.__name__}, {effect}, as in pydensecrf")
    _number(kernel, "kernel")
    number = _number(normalization, "normalization")
    if number not in NORMALIZATIONS:
        warn_of_input(
            f"normalization={normalization!r} is unknown and counts as NO_NORMALIZATION, as in pydensecrf; use "
            f"{', '.join(NormalizationType.__members__)}"
        )
        return "none"
    return NORMALIZATIONS[number]


def _number(value: Any, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r} must be one of pydensecrf's constants, or its number") from None
