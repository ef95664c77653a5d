"""Plots of how a solver went on, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np


def plot_trace(trace: Iterable[Any], axes: Any = None) -> Any:
    """A line of what a solver descends on, before the first iteration and after each one. Needs matplotlib.

        crfrnn.plot_trace(crfrnn.mean_field_trace(unary, terms, iterations=10))

    Args:
        trace: What `mean_field_trace` or `frank_wolfe_trace` returns, of which the values are drawn; or such values.
        axes: Axes of matplotlib to draw on; None makes some.
    Returns: The axes.
    Raises:
        ImportError: if matplotlib is not installed.
        TypeError or ValueError: if there are no values, or something else than numbers.
    """
    drawn = axes_of(axes)
    values = [step[1] if isinstance(step, tuple) and len(step) == 2 else step for step in trace]
    if not values:
        raise ValueError("the trace holds no values: was it read before? Call mean_field_trace again")
    heights = np.asarray(values)
    if heights.ndim != 1 or heights.dtype.kind not in "iuf":
        raise TypeError(
            f"the trace holds values of {heights.dtype} and shape {heights.shape}; expected what mean_field_trace "
            "returns, or a number for each iteration"
        )
    drawn.plot(range(len(heights)), heights, "o-")
    drawn.set(xlabel="iteration", ylabel="what the solver descends on")
    drawn.xaxis.get_major_locator().set_params(integer=True)
    return drawn


def axes_of(axes: Any) -> Any:
    """These axes, or new ones. An ImportError says what to install."""
    if axes is not None:
        return axes
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("plots need matplotlib, which is not installed: pip install 'crfrnn[plots]'") from error
    return pyplot.subplots(layout="constrained")[1]
