"""What approximate filters cost in accuracy: compares each way to filter with the exact one, on one image."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn.arrays import Array, image_array
from crfrnn.crf import CRF, Exact, Grid, Lattice, MeanField, Spatial
from crfrnn.files.parameter_files import crf_of
from crfrnn.files.resize import resize_scores
from crfrnn.inference.terms import pairwise_terms
from crfrnn.parameters import DEFAULT_PRESET, CRFParameters
from crfrnn.refine import Input, refine

Result = TypeVar("Result")
EXACT = "exact"


class Way(NamedTuple):
    """A way to filter: the filter of spatial kernels and that of all others, and the classes left out."""

    spatial: Grid | Lattice = Grid()
    others: Lattice | Exact = Lattice()
    class_threshold: float = 0.0


WAYS = {
    "lattice": Way(),
    "lattice, neighbour_rounds=1": Way(others=Lattice(1)),
    "lattice, spatial=lattice": Way(spatial=Lattice()),
    "lattice, class_threshold=0.01": Way(class_threshold=0.01),
    EXACT: Way(others=Exact()),
}
REPEATS = 3
QUICK = 2.0  # seconds above which a call is timed once


@dataclass(frozen=True)
class FilterAccuracy:
    """How far one way to filter is from the exact one, on one image.

    Attributes:
        setting: A key of `WAYS`.
        message_error: Relative error of the first iteration's bilateral message, without the mean of each class,
            against the exact message in float64, as a ratio of root mean squares.
        mean_change: Mean absolute difference of the final probabilities from those of the exact filter.
        max_change: The largest such difference.
        labels_changed: Share of the points at which another class is the likeliest.
        seconds: Time of the whole call, including building the kernels: the fastest of three calls, or of one if it is
            slow.
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
    parameters: CRFParameters | CRF | str | Path = DEFAULT_PRESET,
    *,
    input: Input = "logits",
    num_classes: int | None = None,
    spacing: float | Sequence[float] | None = None,
    threads: int | None = None,
    device: str | None = None,
) -> list[FilterAccuracy]:
    """Refine an image in every way of `WAYS` and compare each with the exact filter.

    Takes O(N²) time: seconds to minutes an iteration for a photo of 500×366 (docs/accuracy.md). `shrunk` reduces it.

    Args:
        scores: As for `refine`, like the arguments that follow.
        parameters: Their filters and their class_threshold are ignored.
        device: Changes and times are those of refining there. The error of the message is always that of the CPU.
    Returns: One entry for each way, in order; without the class_threshold way if the solver has no class_threshold.
    Raises: ValueError: if all kernels are spatial. Also what `refine` raises.
    """
    given = crf_of(parameters).active
    compared = [kernel for kernel in given.kernels if not isinstance(kernel.features, Spatial)]
    if not compared:
        raise ValueError("bilateral_weight=0 leaves no bilateral filter to compare")

    def refined(crf: CRF) -> Array:
        options: dict[str, Any] = {"input": input, "num_classes": num_classes, "spacing": spacing}
        found: Array = refine(scores, image, crf, threads=threads, device=device, **options)
        return found

    start = refined(replace(given, solver=MeanField(iterations=0)))
    shape = start.shape[1:]
    marginals = (np.concatenate([1 - start, start]) if len(start) == 1 else start).reshape(max(2, len(start)), -1).T

    def message(crf: CRF, dtype: type[np.floating[Any]]) -> NDArray[np.float64]:
        first = [kernel for kernel in crf.kernels if not isinstance(kernel.features, Spatial)][:1]
        (term,) = pairwise_terms(
            image, replace(crf, kernels=first, regions=()), shape=shape, spacing=spacing, threads=threads, dtype=dtype
        )
        filtered = term.filter(marginals.astype(dtype), threads=threads).astype(np.float64)
        centred: NDArray[np.float64] = filtered - filtered.mean(axis=0)
        return centred

    leaves_out = _has_threshold(given)
    ways = {name: _filtered(given, way) for name, way in WAYS.items() if leaves_out or not way.class_threshold}
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
    scores: Any, image: Any, parameters: CRFParameters | CRF, longest_side: int, input: Input = "logits"
) -> tuple[Any, NDArray[Any], CRFParameters | CRF]:
    """A photo and its scores reduced in size, and θ_α and θ_γ with them; unchanged if they are small enough.

    Args:
        scores: (C, H, W), or labels (H, W).
        image: (H, W, K) or (H, W).
        longest_side: Most pixels along an axis.
    Raises: ValueError: if this is not a photo, or its scores have another size.
    """
    given = np.asarray(scores)
    size = given.shape if input == "labels" else given.shape[1:]
    if len(size) != 2:
        raise ValueError(f"scores have shape {given.shape}; only photos of height and width can be made smaller")
    channels = image_array(image, size, given.shape)
    if longest_side >= max(size):
        return scores, channels, parameters
    factor = longest_side / max(size)
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
    # A pixel is now 1/factor times as wide as before.
    return smaller, np.moveaxis(planes, 0, -1), parameters.in_pixels(1 / factor, 2)


def _filtered(crf: CRF, way: Way) -> CRF:
    """The CRF with the filters and the class threshold of a way. With exact filters, everything is worked out."""
    kernels = [
        replace(kernel, filter=way.spatial if isinstance(kernel.features, Spatial) else way.others)
        for kernel in crf.kernels
    ]
    numbers: dict[str, Any] = {"class_threshold": way.class_threshold}
    if isinstance(way.others, Exact):
        numbers["tolerance"] = 0.0
    known = [each.name for each in fields(crf.solver)]
    solver = replace(crf.solver, **{name: value for name, value in numbers.items() if name in known})
    return replace(crf, kernels=kernels, solver=solver)


def _has_threshold(crf: CRF) -> bool:
    """Whether the solver can leave classes out."""
    return any(each.name == "class_threshold" for each in fields(crf.solver))


def _labels(probabilities: Array) -> NDArray[Any]:
    found: NDArray[Any] = probabilities[0] > 0.5 if len(probabilities) == 1 else probabilities.argmax(axis=0)
    return found


def _timed(call: Callable[[], Result]) -> tuple[Result, float]:
    """The result of a call and its seconds. A quick call is repeated, and the fastest time counts."""
    fastest = np.inf
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = call()
        fastest = min(fastest, time.perf_counter() - start)
        if fastest > QUICK:
            break
    return result, float(fastest)
