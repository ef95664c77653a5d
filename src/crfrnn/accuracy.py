"""What approximate filters cost in accuracy: each way to filter against the exact one, on one image."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn.arrays import Array, image_array
from crfrnn.pairwise import pairwise_terms
from crfrnn.parameters import CRFParameters, chosen
from crfrnn.refine import Input, refine
from crfrnn.resize import resize_scores

Result = TypeVar("Result")
EXACT = "exact"
SETTINGS: dict[str, dict[str, Any]] = {
    "lattice": {},
    "lattice, neighbour_rounds=1": {"neighbour_rounds": 1},
    "lattice, spatial=lattice": {"spatial": "lattice"},
    "lattice, class_threshold=0.01": {"class_threshold": 0.01},
    EXACT: {"filter": "exact"},
}
"""The ways to filter, and how each differs from the bilateral lattice beside the spatial grid with all classes."""
REPEATS = 3
QUICK = 2.0  # seconds above which a call is timed once


@dataclass(frozen=True)
class FilterAccuracy:
    """How far one way to filter is from the exact one, on one image.

    Attributes:
        setting: A key of `SETTINGS`.
        message_error: Of the bilateral message of the first iteration, without the mean of each class: relative error
            to the exact message in float64, as the ratio of root mean squares.
        mean_change: Of the probabilities after all iterations, mean absolute difference to the exact filter's.
        max_change: The largest such difference.
        labels_changed: Share of the points where another class is the likeliest.
        seconds: Of the whole call, with building the kernels; the fastest of three, or of one if it takes long.
    """

    setting: str
    message_error: float
    mean_change: float
    max_change: float
    labels_changed: float
    seconds: float


def filter_accuracy(
    scores: ArrayLike,
    image: ArrayLike,
    parameters: CRFParameters | str = "crfrnn",
    *,
    input: Input = "logits",
    num_classes: int | None = None,
    spacing: float | Sequence[float] | None = None,
    threads: int | None = None,
) -> list[FilterAccuracy]:
    """Refine an image in every way of `SETTINGS` and compare each with the exact filter.

    Takes O(N²) time: seconds to minutes an iteration for a photo of 500×366 (docs/accuracy.md). `shrunk` makes it less.

    Args:
        scores: As for `refine`, like what follows.
        parameters: Whose filter, spatial, neighbour_rounds and class_threshold count for nothing.
    Returns: One entry for each setting, in their order.
    Raises: ValueError: if the bilateral weight is 0; and what `refine` raises.
    """
    given = chosen(parameters)
    if not np.any(given.bilateral_weight):
        raise ValueError("bilateral_weight=0 leaves no bilateral filter to compare")
    plain = replace(given, filter="lattice", spatial="grid", neighbour_rounds=0, class_threshold=0.0)

    def refined(chosen_way: CRFParameters) -> Array:
        return refine(scores, image, chosen_way, input=input, num_classes=num_classes, spacing=spacing, threads=threads)

    start = refined(replace(plain, iterations=0))
    shape = start.shape[1:]
    marginals = (np.concatenate([1 - start, start]) if len(start) == 1 else start).reshape(max(2, len(start)), -1).T

    def message(chosen_way: CRFParameters, dtype: type[np.floating[Any]]) -> NDArray[np.float64]:
        (term,) = pairwise_terms(
            image, replace(chosen_way, spatial_weight=0), shape=shape, spacing=spacing, threads=threads, dtype=dtype
        )
        filtered = term.filter(marginals.astype(dtype), threads=threads).astype(np.float64)
        centred: NDArray[np.float64] = filtered - filtered.mean(axis=0)
        return centred

    ways = {name: replace(plain, **changes) for name, changes in SETTINGS.items()}
    true_message = message(ways[EXACT], np.float64)
    results = {name: _timed(lambda way=way: refined(way)) for name, way in ways.items()}  # type: ignore[misc]
    true_result, _ = results[EXACT]
    measured = []
    for name, (probabilities, seconds) in results.items():
        error = np.linalg.norm(message(ways[name], np.float32) - true_message) / np.linalg.norm(true_message)
        change = np.abs(probabilities - true_result)
        labels_changed = np.mean(_labels(probabilities) != _labels(true_result))
        measured.append(
            FilterAccuracy(
                name, float(error), float(change.mean()), float(change.max()), float(labels_changed), seconds
            )
        )
    return measured


def shrunk(
    scores: Any, image: Any, parameters: CRFParameters, longest_side: int, input: Input = "logits"
) -> tuple[Any, NDArray[Any], CRFParameters]:
    """A photo and its scores made smaller, with θ_α and θ_γ as much smaller; as they are if they are small enough.

    Args:
        scores: (C, H, W), or labels (H, W).
        image: (H, W, K) or (H, W).
        longest_side: Most pixels along an axis.
    Raises: ValueError: if this is no photo, or its scores have another size.
    """
    given = np.asarray(scores)
    size = given.shape if input == "labels" else given.shape[1:]
    if len(size) != 2:
        raise ValueError(f"scores have shape {given.shape}; only photos of height and width can be made smaller")
    channels = image_array(image, size, given.shape)
    factor = longest_side / max(size)
    if factor >= 1:
        return scores, channels, parameters
    height, width = (max(1, round(length * factor)) for length in size)
    planes = resize_scores(np.moveaxis(channels, -1, 0), (height, width))
    if input == "labels":
        rows, columns = (
            ((np.arange(length) + 0.5) / length * full).astype(int)
            for length, full in zip((height, width), size, strict=True)
        )
        smaller: NDArray[Any] = given[np.ix_(rows, columns)]
    else:
        smaller = resize_scores(given, (height, width))
    # A pixel is now 1/factor of what it was.
    return smaller, np.moveaxis(planes, 0, -1), parameters.in_pixels(1 / factor, 2)


def _labels(probabilities: Array) -> NDArray[Any]:
    found: NDArray[Any] = probabilities[0] > 0.5 if len(probabilities) == 1 else probabilities.argmax(axis=0)
    return found


def _timed(call: Callable[[], Result]) -> tuple[Result, float]:
    """The result and the seconds of a call, the fastest of some if it is quick."""
    fastest = np.inf
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = call()
        fastest = min(fastest, time.perf_counter() - start)
        if fastest > QUICK:
            break
    return result, float(fastest)
