"""What is said of one call: right, refused in words of our own, or a fault."""

import dis
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import crfrnn

PACKAGE = str(Path(crfrnn.__file__).parent)
NATIVE_WORDS = ("lattice", "features hold NaN or infinite values")
"""What messages of the native core that users may see are about; all others are for the package's own modules."""
OURS = (ValueError, TypeError, KeyError, MemoryError, ImportError, OSError)


class Fault(Exception):  # noqa: N818  (it is found, not raised)
    """Something that must not happen: its kind, where, and what was seen."""

    def __init__(self, kind: str, where: str, seen: str = "") -> None:
        super().__init__(f"{kind}: {where}: {seen}")
        self.kind, self.where, self.seen = kind, where, seen


class Outcome(NamedTuple):
    """A result, or an error in words of our own."""

    result: Any = None
    error: Exception | None = None


def outcome(call: Callable[[], Any]) -> Outcome:
    """What a call returns or refuses. A fault if it fails in other words, or other libraries warn."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = Outcome(call())
        except Exception as error:
            found = _refused(error)
    for each in said:
        if not each.category.__module__.startswith("crfrnn"):
            raise Fault(
                "foreign warning", _place(each.filename, each.lineno), f"{each.category.__name__}: {each.message}"
            )
    return found


def _refused(error: Exception) -> Outcome:
    if isinstance(error, Fault):
        raise error
    if isinstance(error, OURS) and own_words(error):
        return Outcome(error=error)
    raise Fault("foreign error", last_own_line(error), f"{type(error).__name__}: {str(error)[:300]}") from error


def own_words(error: BaseException) -> bool:
    """Whether an error comes from a `raise` in the package, or from its native core about what users gave."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not trace.tb_frame.f_code.co_filename.startswith(PACKAGE):
        return False
    instruction = trace.tb_frame.f_code.co_code[trace.tb_lasti]
    if dis.opname[instruction] == "RAISE_VARARGS":
        return True
    in_kernels = trace.tb_frame.f_globals.get("__name__", "").startswith("crfrnn.kernels.")
    return in_kernels and any(words in str(error) for words in NATIVE_WORDS)


def last_own_line(error: BaseException) -> str:
    """Where in the package an error was on its way."""
    place, trace = "outside", error.__traceback__
    while trace is not None:
        filename = trace.tb_frame.f_code.co_filename
        if filename.startswith(PACKAGE):
            place = _place(filename, trace.tb_lineno)
        trace = trace.tb_next
    return place


def _place(filename: str, line: int) -> str:
    return f"{filename.removeprefix(PACKAGE).lstrip('/')}:{line}"


def require(condition: Any, what: str, seen: str = "") -> None:
    """A fault, a wrong result, unless a property holds."""
    if not condition:
        caller = sys._getframe(1)
        raise Fault("wrong result", what, f"{seen} (properties line {caller.f_lineno})")


def require_finite(array: Any, what: str) -> None:
    require(np.isfinite(np.asarray(array)).all(), f"{what} is not finite", f"{array!r:.200}")


def require_close(found: Any, expected: Any, bound: float, what: str) -> None:
    """max |Δ| ≤ bound · max(1, |expected|)."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    require(found.shape == expected.shape, f"{what}: shape", f"{found.shape}, expected {expected.shape}")
    off = np.abs(found - expected).max(initial=0)
    scale = max(1.0, np.abs(expected).max(initial=0))
    require(off <= bound * scale, what, f"off by {off:.3g}, at a scale of {scale:.3g}")


def require_same(first: Outcome, second: Outcome, what: str) -> None:
    """The same bits, or both refused."""
    if first.error is None and second.error is None:
        pairs = zip(_arrays(first.result), _arrays(second.result), strict=True)
        require(all(_same_bits(a, b) for a, b in pairs), f"{what}: other bits", f"{first.result!r:.200}")
        return
    refused = f"{first.error!r:.200} and {second.error!r:.200}"
    require(first.error is not None and second.error is not None, f"{what}: one of both refused", refused)


def _arrays(result: Any) -> list[Any]:
    parts = vars(result).values() if is_dataclass(result) else result if isinstance(result, tuple | list) else None
    return [result] if parts is None else [each for part in parts for each in _arrays(part)]


def _same_bits(first: Any, second: Any) -> bool:
    """Arrays to the bit; a number that a call sums up over arrays of another layout to rounding."""
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=1e-6, abs_tol=1e-6)
    one, other = (each.detach().numpy() if hasattr(each, "detach") else np.asarray(each) for each in (first, second))
    alike = one.shape == other.shape and one.dtype == other.dtype
    return alike and np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
