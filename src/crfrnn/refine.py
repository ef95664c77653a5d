"""From the scores of a network and the image it saw to refined probabilities, in one call."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from crfrnn.arrays import Array, check_classes, class_weights, image_array, label_array, score_array
from crfrnn.meanfield import solve
from crfrnn.memory import lattice_bytes, mean_field_bytes, require_memory
from crfrnn.pairwise import pairwise_terms
from crfrnn.parameters import CRFParameters, chosen, one_of, whole_number
from crfrnn.threads import thread_count
from crfrnn.unary import UNKNOWN_LABEL, unary_from_labels, unary_from_probabilities, unknown_labels

Input = Literal["logits", "probabilities", "labels"]


def refine(
    scores: ArrayLike,
    image: ArrayLike | None,
    parameters: CRFParameters | str = "crfrnn",
    *,
    input: Input = "logits",
    num_classes: int | None = None,
    mask: ArrayLike | None = None,
    threads: int | None = None,
) -> Array:
    """Refine class scores of an image, a volume or a signal with a dense CRF.

    Args:
        scores: Logits or probabilities (C, *spatial), or labels (*spatial): 0 to C - 1, where negative ones, and 255
            if it is no class, are unknown. Labels count as right with probability 0.7; for another one refine
            `unary_from_labels(...)` as logits. Probabilities below 1e-5 are raised to that.
        image: (*spatial, K) with any number of channels, or (*spatial,) if grey; deviations in `parameters` are in
            its levels, 0-255 in the presets. None if the bilateral weight is 0.
        parameters: `CRFParameters`, or the name of a preset.
        input: What scores are: "logits", "probabilities" or "labels".
        num_classes: C; needed for labels in which the last class does not occur.
        mask: (*spatial,) weights ≥ 0; pixels of weight 0 are neither changed nor listened to.
        threads: None is `default_threads()`. The result is the same to the bit for any number.
    Returns: Probabilities (C, *spatial), summing to 1 over classes; float64 if scores are, float32 otherwise.
    Raises:
        TypeError: if an array holds something else than real numbers, or labels are not integers.
        ValueError: if shapes do not match, values are not finite, or parameters do not fit classes or channels.
        MemoryError: if there is not enough memory.
    """
    parameters = chosen(parameters)
    one_of(input, get_args(Input), "input")
    count = thread_count(threads)
    unary = _unary(scores, input, num_classes)
    classes, *spatial = unary.shape
    for name in ("spatial_weight", "bilateral_weight", "compatibility"):
        if getattr(parameters, name) is not None:
            check_classes(class_weights(getattr(parameters, name), name), classes, name)
    shape = tuple(spatial)
    channels = None if image is None else image_array(image, shape, np.shape(scores))
    points, features = unary[0].size, len(shape) + (0 if channels is None else channels.shape[-1])
    require_memory(
        lattice_bytes(points, features, unary.itemsize) + mean_field_bytes(points, classes, unary.itemsize),
        f"refining {classes} classes on {' × '.join(map(str, shape))} pixels",
    )
    pairwise = pairwise_terms(channels, parameters, shape=shape, mask=mask, threads=count, dtype=unary.dtype)
    return solve(
        unary,
        pairwise,
        iterations=parameters.iterations,
        compatibility=parameters.compatibility,
        damping=parameters.damping,
        class_threshold=parameters.class_threshold,
        return_probabilities=True,
        threads=count,
    )


def _unary(scores: ArrayLike, input: Input, num_classes: int | None) -> Array:
    if num_classes is not None and whole_number(num_classes, "num_classes") < 1:
        raise ValueError(f"num_classes={num_classes} must be at least 1")
    if input == "labels":
        labels = label_array(scores)
        return unary_from_labels(labels, num_classes or _label_count(labels), zero_unsure=False)
    unary = unary_from_probabilities(scores) if input == "probabilities" else score_array(scores, "scores")
    if num_classes not in (None, len(unary)):
        raise ValueError(f"scores have shape {unary.shape}, {len(unary)} classes first, but num_classes={num_classes}")
    return unary


def _label_count(labels: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> int:
    """One more than the largest known label."""
    unknown = unknown_labels(labels, 1)
    known = labels[~unknown]
    if not known.size:
        raise ValueError("labels hold no known label; give num_classes=")
    if known.max() == 0 and (labels[unknown] == UNKNOWN_LABEL).any():
        raise ValueError(
            f"labels hold only 0 and {UNKNOWN_LABEL}, which stands for unknown; for a mask of two classes give "
            f"mask // {UNKNOWN_LABEL}, otherwise num_classes="
        )
    return int(known.max()) + 1
