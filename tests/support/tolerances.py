"""How far a result may lie from the truth, by precision: one table for the whole suite."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Tolerance:
    """Largest |difference| as a share of the largest |expected|, so that one figure serves results of any scale."""

    filter: float
    mean_field: float
    gradient: float
    adjoint: float


TOLERANCES = {
    np.dtype(np.float32): Tolerance(filter=1e-5, mean_field=2e-5, gradient=5e-5, adjoint=1e-4),
    np.dtype(np.float64): Tolerance(filter=1e-12, mean_field=1e-11, gradient=1e-11, adjoint=1e-12),
}
# The outputs of other tools in tests/golden were computed in float32 there; issue and README of the goldens ask this.
GOLDEN = 1e-3


def tolerance(dtype: Any) -> Tolerance:
    return TOLERANCES[np.dtype(dtype)]


def assert_close(actual: Any, expected: Any, bound: float, floor: float = 0.0) -> None:
    """max |actual - expected| ≤ bound · max |expected|; a NaN or an infinity anywhere fails, a wrong shape too.

    Args:
        floor: What max |expected| counts at least; for sums of numbers of that size, which may cancel.
    """
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    assert np.isfinite(actual).all()
    difference = np.abs(actual - expected).max(initial=0)
    scale = max(floor, np.abs(expected).max(initial=0))
    assert difference <= bound * scale, f"max |Δ| is {difference:.3g}, {difference / (scale or 1):.3g} of {scale:.3g}"
