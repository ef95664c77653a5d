"""Class scores (logits, higher is likelier) from labels and from probabilities: docs/algorithm.md, section 5."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn.arrays import Array, label_array, score_array
from crfrnn.memory import require_memory
from crfrnn.numbers import whole_number

UNKNOWN_LABEL = 255
GROUND_TRUTH_PROBABILITY = 0.7
SUM_TOLERANCE = 1e-2


def unary_from_labels(
    labels: ArrayLike,
    num_classes: int,
    ground_truth_probability: float = GROUND_TRUTH_PROBABILITY,
    zero_unsure: bool = True,
) -> NDArray[np.float32]:
    """Logits (C, *spatial) of labels that are each right with a given probability.

    Args:
        labels: Integers (*spatial). With `zero_unsure` class c has label c + 1 and 0 is unknown, otherwise class c has
            label c. Negative labels are unknown, and so is 255 if no class has that label. All classes are
            equally likely where the label is unknown.
        num_classes: C.
        ground_truth_probability: Probability that a label is right, above 0 and below 1; the other classes share the
            rest.
    Raises:
        TypeError: if labels are not integers.
        ValueError: if a label is above the last class, or the probability is out of range.
        MemoryError: if there is not enough memory for this many classes.
    """
    if whole_number(num_classes, "num_classes") < 1:
        raise ValueError(f"num_classes={num_classes} must be at least 1")
    if not 0 < ground_truth_probability < 1:
        raise ValueError(f"ground_truth_probability={ground_truth_probability} must be above 0 and below 1")
    given = label_array(labels)
    first = 1 if zero_unsure else 0
    unknown = unknown_labels(given, num_classes, first)
    too_large = (given >= first + num_classes) & ~unknown
    if too_large.any():
        position = np.unravel_index(int(too_large.argmax()), given.shape)
        raise ValueError(
            f"labels hold {given[position]} at {[int(i) for i in position]}, but {num_classes} classes have labels "
            f"{first} to {first + num_classes - 1} (negative labels and {UNKNOWN_LABEL} are unknown): raise num_classes"
        )
    require_memory(4 * num_classes * given.size, f"scores of {num_classes} classes on {given.size} pixels")
    wrong = (1 - ground_truth_probability) / max(num_classes - 1, 1)
    logits = np.full((num_classes, given.size), math.log(wrong), np.float32)
    known = np.flatnonzero(~unknown)
    logits[given.reshape(-1)[known] - first, known] = math.log(ground_truth_probability)
    logits[:, unknown.reshape(-1)] = -math.log(num_classes)
    return logits.reshape(num_classes, *given.shape)


def unknown_labels(labels: NDArray[np.int64], num_classes: int, first: int = 0) -> NDArray[np.bool_]:
    """Where labels are meant to name no class: below the first class, or 255 where no class has that label."""
    unknown: NDArray[np.bool_] = labels < first
    if first + num_classes <= UNKNOWN_LABEL:
        unknown |= labels == UNKNOWN_LABEL
    return unknown


def unary_from_probabilities(probabilities: ArrayLike, scale: float | None = None, floor: float = 1e-5) -> Array:
    """Logits (C, *spatial) of class probabilities, such as the softmax output of a network.

    Args:
        probabilities: (C, *spatial), at least 0, summing to 1 over classes; or (1, *spatial) for the foreground of two
            classes.
        scale: Trust in the probabilities, above 0 and up to 1: they are mixed with 1 - scale of the uniform
            distribution. None leaves them as they are.
        floor: Smaller probabilities are raised to it, so that log 0 cannot occur.
    Returns: Logits of the same shape; for one channel p, the log-odds log p - log(1 - p).
    Raises: ValueError: if these are not probabilities, or scale or floor is out of range.
    """
    if scale is not None and not 0 < scale <= 1:
        raise ValueError(f"scale={scale} must be above 0 and at most 1")
    if not 0 < floor < 1:
        raise ValueError(f"floor={floor} must be above 0 and below 1")
    given = score_array(probabilities, "probabilities")
    _check_probabilities(given)
    of_classes = np.concatenate([1 - given, given]) if len(given) == 1 else given
    mixed = of_classes if scale is None else scale * of_classes + (1 - scale) / len(of_classes)
    logits: Array = np.log(np.maximum(mixed, floor))
    return logits[1:] - logits[:1] if len(given) == 1 else logits


def num_classes_of(channels: int) -> int:
    """How many classes a number of score channels tells apart: one channel is foreground against background."""
    return max(channels, 2)


def _check_probabilities(given: Array) -> None:
    lowest, highest = float(given.min()), float(given.max())
    if lowest < 0 or highest > 1 + SUM_TOLERANCE:
        raise ValueError(
            f"probabilities range from {lowest:.4g} to {highest:.4g}, outside 0 to 1; scores of a network before its "
            "softmax are logits"
        )
    if len(given) == 1:
        return
    total = given.sum(axis=0)
    error = np.abs(total - 1)
    if error.max() > SUM_TOLERANCE:
        position = np.unravel_index(int(error.argmax()), total.shape)
        raise ValueError(
            f"probabilities of the {len(given)} classes sum to {total[position]:.4g} at pixel "
            f"{[int(i) for i in position]}; expected 1 (classes are the first axis)"
        )
