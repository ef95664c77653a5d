"""Class scores (logits, higher is likelier) from labels and from probabilities: docs/algorithm.md, section 5."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn.arrays import LARGEST_LABEL, Array, label_array, plain_array, score_array
from crfrnn.memory import require_memory
from crfrnn.numbers import flag, share, whole_number
from crfrnn.plausibility import classes_last, likeness, warn_of_input

UNKNOWN_LABEL = 255
GROUND_TRUTH_PROBABILITY = 0.7
SUM_TOLERANCE = 1e-2
LARGEST_ID = 100
"""Levels above this are taken to be no ids of classes where nobody says how many classes there are."""
LEAST_WHITE = 128
"""The whole numbers of a probability reach this somewhere: lower ones are ids of classes."""
MOST_OCCURRING = 40
"""Hardly any picture holds more classes than this at once."""
SEVERAL_LEVELS = 8
BETWEEN = 0.4
SMALL_STEP = 0.25
"""A picture of this many levels is smooth if this share of its edges is next to another one, and their median is at
most this share of all levels."""
ROWS = 64
"""About how many rows of a picture are looked at to tell whether it is smooth."""


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
    Warns: InputWarning: if `zero_unsure` is on and 0 seems to be a class, because the last label never occurs.
    """
    num_classes = whole_number(num_classes, "num_classes")
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes} must be at least 1")
    ground_truth_probability = share(ground_truth_probability, "ground_truth_probability")
    zero_unsure = flag(zero_unsure, "zero_unsure")
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
    if zero_unsure and num_classes > 1 and np.where(unknown, 0, given).max() == num_classes - 1 and (given == 0).any():
        warn_of_input(
            f"labels are from 0 to {num_classes - 1}; with zero_unsure=True the {num_classes} classes have labels 1 to "
            f"{num_classes}, and 0 is unknown, but {num_classes} never occurs: if 0 is a class, give zero_unsure=False"
        )
    require_memory(4 * num_classes * given.size, f"scores of {num_classes} classes on {given.size} pixels")
    wrong = (1 - ground_truth_probability) / max(num_classes - 1, 1)
    logits = np.full((num_classes, given.size), math.log(wrong), np.float32)
    known = np.flatnonzero(~unknown)
    logits[given.reshape(-1)[known] - first, known] = math.log(ground_truth_probability)
    logits[:, unknown.reshape(-1)] = -math.log(num_classes)
    return logits.reshape(num_classes, *given.shape)


def mask_levels(present: Sequence[Any], restored: bool = False) -> tuple[Any, Any] | None:
    """The levels of background and foreground, if the levels that occur are those of a mask: the one rule.

    Two levels are a mask if the larger is above `LARGEST_ID`, as ids of classes are not; 255 beside another level than
    0 is void. 0 and 1 are a mask and the labels of two classes, which is the same. Where the result gets its levels
    back, as in label images, nothing is lost if ids are taken for a mask: there 0 and any other level are one, and so
    is 255 alone.

    Args:
        present: In ascending order.
        restored: Whether the result gets these levels back; elsewhere it is 0 and 1.
    """
    if len(present) != 2:
        return (0, UNKNOWN_LABEL) if restored and list(present) == [UNKNOWN_LABEL] else None
    low, high = present
    if low < 0 or high > LARGEST_LABEL:
        return None
    if high <= LARGEST_ID:
        return (low, high) if low == 0 and (restored or high == 1) else None
    return (low, high) if low == 0 or high != UNKNOWN_LABEL else None


def mask_labels(values: ArrayLike, name: str = "labels") -> NDArray[np.uint8] | None:
    """A mask of two levels, such as 0 and 255, as labels 0 and 1, in any type of numbers; None for what is no mask.

    Raises: ValueError: for a grey mask with soft edges, which is neither labels nor a mask of two levels.
    """
    given = plain_array(values, name)
    if given.dtype == bool:
        return given.astype(np.uint8)
    if given.dtype.kind not in "iuf" or given.size == 0:
        return None
    low, high = given.min(), given.max()
    if low < high and mask_levels((low, high)) is not None:
        white = given == high
        if bool((white | (given == low)).all()):
            return np.asarray(white, np.uint8)
    if given.dtype.kind in "iu" and low >= 0 and SEVERAL_LEVELS <= high <= LARGEST_LABEL and is_soft(given):
        raise ValueError(
            f"{name} hold {len(np.unique(given))} levels from {low} to {high}, as a grey mask with soft edges does. "
            "If it is the probability of the foreground, give input='probabilities'; for a mask of two classes, "
            f"mask > {high // 2}; if these are ids of classes, num_classes={int(high) + 1}"
        )
    return None


def is_soft(labels: NDArray[Any]) -> bool:
    """Whether whole numbers from 0 on are shades of grey, not ids of classes: too many, mostly black and white, or
    smooth.
    """
    if labels.max() > LARGEST_ID:
        levels, counts = np.unique(labels, return_counts=True)
        classes = levels[levels != UNKNOWN_LABEL]
        white = levels[-1] >= UNKNOWN_LABEL - 1 and counts[[0, -1]].sum() >= labels.size / 2
        if len(classes) and classes[-1] >= LEAST_WHITE and levels[0] == 0 and (len(classes) > MOST_OCCURRING or white):
            return True
    return labels.ndim == 2 and _is_smooth(labels[:: max(1, len(labels) // ROWS)])


def _is_smooth(levels: NDArray[Any]) -> bool:
    """Whether levels (H, W) go up and down in ramps, unlike those of regions and unlike ids at random."""
    levels = np.where(levels == UNKNOWN_LABEL, 0, levels) if levels.max() == UNKNOWN_LABEL else levels
    if len(np.unique(levels)) < SEVERAL_LEVELS:
        return False
    steps = np.abs(np.diff(levels.astype(np.int64), axis=1))
    edges = steps > 0
    before, both = int(edges[:, :-1].sum()), int((edges[:, :-1] & edges[:, 1:]).sum())
    if both <= BETWEEN * max(before, 1):
        return False
    return bool(np.median(steps[edges]) <= SMALL_STEP * float(levels.max()))


def unknown_labels(labels: NDArray[np.int64], num_classes: int, first: int = 0) -> NDArray[np.bool_]:
    """Where labels are meant to name no class: below the first class, or 255 where no class has that label."""
    unknown: NDArray[np.bool_] = labels < first
    if first + num_classes <= UNKNOWN_LABEL:
        unknown |= labels == UNKNOWN_LABEL
    return unknown


def is_alone(present: Sequence[Any]) -> bool:
    """Whether of the levels that occur one is a class and others are unknown, but most probably meant as a class.

    The result would be that class everywhere. So negative levels beside one class are refused, such as a mask of -1 and
    1, and 255 beside 0; beside another class 255 is void, as in label images of one object.
    """
    known = [level for level in present if level >= 0 and level != UNKNOWN_LABEL]
    return len(present) > len(known) == 1 and (known[0] == 0 or present[0] < 0)


def written_unknown(levels: Sequence[Any]) -> str:
    """Which of these levels stand for unknown, in words: negative ones and 255."""
    unknown = [f"{level}" for level in levels if level < 0 or level == UNKNOWN_LABEL]
    listed = ", ".join(unknown[:3]) + (", …" if len(unknown) > 3 else "")
    return f"{listed}, which stand{'s' if len(unknown) == 1 else ''} for unknown"


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
    scale = None if scale is None else share(scale, "scale", most=1)
    floor = share(floor, "floor")
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
            f"probabilities range from {lowest:.4g} to {highest:.4g}, outside 0 to 1; {_advice(given, lowest, highest)}"
        )
    if len(given) == 1:
        return
    total = given.sum(axis=0)
    error = np.abs(total - 1)
    if error.max() > SUM_TOLERANCE:
        alike = likeness(given)
        if alike is not None and alike.classes_last:
            raise ValueError(classes_last(given.shape, alike.kind))
        position = np.unravel_index(int(error.argmax()), total.shape)
        raise ValueError(
            f"probabilities of the {len(given)} classes sum to {total[position]:.4g} at pixel "
            f"{[int(i) for i in position]}; expected 1 (classes are the first axis). {_advice_of_sums(total)}"
        )


def _advice(given: Array, lowest: float, highest: float) -> str:
    """What numbers outside 0 to 1 may be instead of probabilities."""
    alike = likeness(given)
    if alike is not None and alike.kind == "energies":
        return "exp(-scores) sums to 1: these are energies, -log p; give -scores as logits"
    with np.errstate(over="ignore"):
        total = given.sum(axis=0)
    if lowest >= 0 and len(given) > 1 and total.min() > 0.95 * total.max():
        return f"they sum to about {total.mean():.4g} at every pixel: divide them by their sum, scores.sum(axis=0)"
    white = next((white for white in (100, 255, 65535) if highest <= white), None)
    if lowest >= 0 and len(given) == 1 and white:
        return f"divide levels up to {white} by it; scores of a network before its sigmoid are logits"
    return "scores of a network before its softmax are logits"


def _advice_of_sums(total: Array) -> str:
    """What probabilities may be that do not sum to 1."""
    if (total.min() > 0.9 and total.max() < 1.1) or total.min() > 0.95 * total.max():
        return "Divide them by their sum, scores.sum(axis=0), if they were rounded or scaled"
    return "Outputs of a sigmoid for each class do not exclude each other: refine each map scores[c] as a foreground"
