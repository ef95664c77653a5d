"""Refines the scores of a network with the image that it saw, in one call."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn.arrays import (
    Array,
    Shape,
    check_classes,
    class_weights,
    image_array,
    label_array,
    mask_array,
    real_shape,
    score_array,
)
from crfrnn.crf import CRF
from crfrnn.files.parameter_files import crf_of, parameters_of
from crfrnn.inference.activity import Activity
from crfrnn.inference.coupling import fewest_axes
from crfrnn.inference.solver import observed, solver_for
from crfrnn.inference.terms import build_terms, checked_couplings, terms_bytes
from crfrnn.intake import map_of_probability, taken
from crfrnn.kernels.build import given_mapping
from crfrnn.kernels.features import Guide, origin_of
from crfrnn.kernels.native import Output
from crfrnn.levels import check_levels
from crfrnn.memory import mean_field_bytes, require_memory
from crfrnn.numbers import flag, one_of, whole_number
from crfrnn.parameters import DEFAULT_PRESET, CRFParameters, with_values
from crfrnn.plausibility import check_logits, check_swapped
from crfrnn.threads import thread_count
from crfrnn.unary import (
    is_alone,
    mask_labels,
    unary_from_labels,
    unary_from_probabilities,
    unknown_labels,
    written_unknown,
)
from crfrnn.upsampling import Method, at_image_size, hint_for

Input = Literal["logits", "probabilities", "labels"]


@overload
def refine(
    scores: Any,
    image: Any,
    parameters: CRFParameters | CRF | str | Path = ...,
    *,
    input: Input = ...,
    num_classes: int | None = ...,
    mask: ArrayLike | None = ...,
    given: Mapping[str, Any] | None = ...,
    spacing: float | Sequence[float] | None = ...,
    origin: Sequence[int] | None = ...,
    upsampling: Method | None = ...,
    return_labels: bool = ...,
    return_activity: Literal[False] = ...,
    device: str | None = ...,
    threads: int | None = ...,
    **values: Any,
) -> NDArray[Any]: ...
@overload
def refine(
    scores: Any,
    image: Any,
    parameters: CRFParameters | CRF | str | Path = ...,
    *,
    input: Input = ...,
    num_classes: int | None = ...,
    mask: ArrayLike | None = ...,
    given: Mapping[str, Any] | None = ...,
    spacing: float | Sequence[float] | None = ...,
    origin: Sequence[int] | None = ...,
    upsampling: Method | None = ...,
    return_labels: bool = ...,
    return_activity: Literal[True],
    device: str | None = ...,
    threads: int | None = ...,
    **values: Any,
) -> tuple[NDArray[Any], Activity]: ...
def refine(
    scores: Any,
    image: Any,
    parameters: CRFParameters | CRF | str | Path = DEFAULT_PRESET,
    *,
    input: Input = "logits",
    num_classes: int | None = None,
    mask: ArrayLike | None = None,
    given: Mapping[str, Any] | None = None,
    spacing: float | Sequence[float] | None = None,
    origin: Sequence[int] | None = None,
    upsampling: Method | None = None,
    return_labels: bool = False,
    return_activity: bool = False,
    device: str | None = None,
    threads: int | None = None,
    **values: Any,
) -> NDArray[Any] | tuple[NDArray[Any], Activity]:
    """Refine class scores of an image, a volume or a signal with a dense CRF.

    Scores and image may be arrays, lists, tensors of any framework and device, pictures of Pillow, which an EXIF tag
    turns, or paths: of pictures, and of .npy and .npz files. Photos become RGB, grey ones too.

    Args:
        scores: Logits or probabilities (C, *spatial), or labels (*spatial). Labels are 0 to C - 1; negative ones are
            unknown, and so is 255 if it is not a class. They count as right with probability 0.7; for another
            probability, refine `unary_from_labels(...)` as logits. A mask of two levels, such as 0 and 255, is labels 0
            and 1. Probabilities below 1e-5 are raised to 1e-5. One channel, (1, *spatial), (*spatial) or
            (*spatial, 1), is the foreground of two classes: the input of a sigmoid, or its output, for which levels of
            integers count from 0 to 1. Values for each class in `parameters` are then for two classes, background
            first. (B, C, *spatial) with as many images is a batch, refined one after the other.
        image: (*spatial, K) with any number of channels, or (*spatial,) if grey; tensors of torch may have the channels
            first. The deviations in `parameters` are in its levels, 0-255 for the presets, unless `image_range` says
            what range it has. None if no kernel reads the image.
        parameters: `CRFParameters`, a `CRF` of any kernels, the name of a preset, or a parameters file.
        input: What the scores are: "logits", "probabilities" or "labels".
        num_classes: C, needed if the last class does not occur in the labels.
        mask: (*spatial,) weights ≥ 0; pixels of weight 0 are not changed and do not affect others.
        given: For kernels over `Given(name)`, by name: features (*spatial, d), divided by their deviations, or a
            kernel: a matrix (N, N), dense or sparse as SciPy has them, or an object with `filter(values, transpose)`
            for values (N, C). For regions, by name: integer ids (*spatial), where a negative id is in no segment, or
            memberships (S, *spatial) from 0 to 1.
        spacing: Distance between neighbouring pixels, such as millimetres: a number, or one for each axis as
            (x, y[, z]), the last axis first. θ_α and θ_γ are then in its unit. None: they are in pixels.
        origin: Position (x, y[, z]) of the first pixel, if this is part of a larger image, as in `refine_tiled`.
        upsampling: How scores smaller than the image are brought to its size, "joint-bilateral" (along its edges, as
            `crfrnn.upsample` does) or "bilinear": logits as logits, probabilities as probabilities, labels as the
            logits that they stand for. None is "bilinear" too, with a warning that names both sizes.
        return_labels: Return the likeliest class of each pixel instead, which is faster.
        return_activity: Return an `Activity` too: how many iterations ran, and what was worked out in them. It is not
            known of a device.
        device: A device of torch to compute on, such as "cuda"; None is the native core, for the CPU.
        threads: None is `default_threads()`. The result is the same, bit for bit, for any number.
        **values: Fields of `CRFParameters` that replace those of the parameters, such as `theta_beta=10`,
            `iterations=5` or `image_range=(0, 1)`; of a `CRF`, those of its solver, `compatibility` and `image_range`.
    Returns: Probabilities in the shape of the scores, summing to 1 over classes; for one channel, of the foreground.
        They are float64 if the scores are, otherwise float32. Or labels (*spatial), uint8 for up to 256 classes; for
        one channel or a mask, 1 is the foreground. They are arrays of NumPy for tensors too, and carry no gradient: to
        train, take `crfrnn.torch.CrfRnn` or `crfrnn.torch.mean_field`. With `return_activity`, a tuple of that and the
        activity.
    Warns: InputWarning: if levels of the image are far from θ_β, scores look like something else than what they are
        taken for, or tensors require a gradient.
    Raises:
        TypeError: if an array holds anything but real numbers, labels are not integers, or there is no such value.
        ValueError: if shapes do not match, values are not finite, parameters do not fit classes or channels, or the
            device does not exist.
        MemoryError: if there is not enough memory.
    """
    whole = crf_of(with_values(parameters_of(parameters), values) if values else parameters)
    one_of(input, get_args(Input), "input")
    return_labels, return_activity = flag(return_labels, "return_labels"), flag(return_activity, "return_activity")
    count = thread_count(threads)
    held, indexed = taken(scores, image, input)
    if held.batched:
        if return_activity or given is not None:
            raise ValueError("return_activity and given are for one image: refine those of a batch one at a time")
        labels = held.scores
        if input == "labels" and num_classes is None:  # as many for each image
            labels, num_classes = labels_of(labels, None, indexed)
            labels = np.where(unknown_labels(labels, num_classes), -1, labels)
        masks = None if mask is None else real_shape(mask, "mask")
        images: Any = held.image
        of_each = masks in (images.shape, images.shape[:-1])
        results = [
            refine(
                labels[index],
                images[index],
                whole,
                input=input,
                num_classes=num_classes,
                mask=np.asarray(mask)[index] if of_each else mask,
                spacing=spacing,
                origin=origin,
                upsampling=upsampling,
                return_labels=return_labels,
                device=device,
                threads=threads,
            )
            for index in range(len(labels))
        ]
        return np.stack(results)
    read = partial(at_image_size, image=held.image, method=upsampling, threads=count)
    unary, binary = unary_of(held.scores, input, num_classes, read, doubtful=True, indexed=indexed)
    guide = guide_of(unary, held.image, held.scores.shape, mask, given, origin)
    if guide.image is not None:
        check_levels(whole, guide.image)
        if input == "logits":
            turned = np.moveaxis(guide.image, -1, 0)
            check_swapped(unary[np.newaxis], turned[np.newaxis], "refine(scores, image)")
    result, activity = refine_unary(
        unary,
        guide,
        whole,
        spacing,
        "labels" if return_labels else "probabilities",
        binary=binary,
        return_activity=return_activity,
        device=device,
        threads=count,
    )
    if binary and not return_labels:
        result = result[0] if held.foreground is None else np.moveaxis(result, 0, held.foreground)
    return result if activity is None else (result, activity)


def guide_of(
    unary: Array,
    image: ArrayLike | None,
    scores: Shape,
    mask: ArrayLike | None = None,
    given: Mapping[str, Any] | None = None,
    origin: Sequence[int] | None = None,
) -> Guide:
    """What kernels are built from, checked beside a unary (C, *spatial) of scores of this shape."""
    grid = unary.shape[1:]
    return Guide(
        grid,
        None if image is None else image_array(image, grid, scores, hint_for(grid, np.shape(image))),
        None if mask is None else mask_array(mask, grid),
        given_mapping(given),
        origin_of(origin, len(grid)),
    )


def refine_unary(
    unary: Array,
    guide: Guide,
    whole: CRF,
    spacing: float | Sequence[float] | None,
    output: Output,
    *,
    binary: bool,
    threads: int,
    return_activity: bool = False,
    device: str | None = None,
) -> tuple[NDArray[Any], Activity | None]:
    """Labels (*spatial), or probabilities (C, *spatial), of a unary; of a `binary` one (1, *spatial)."""
    crf, activity = whole.active, None
    if binary:
        unary = np.concatenate([np.zeros_like(unary), unary])
    _check_weights(whole, len(unary))
    if device is not None:
        if return_activity:
            raise ValueError(f"return_activity=True does not go with device={device!r}: leave one of them out")
        from crfrnn.torch.arrays import refine_on

        result = refine_on(device, unary, crf, guide, spacing, output)
    else:
        result, activity = _refined(unary, crf, guide, spacing, output, return_activity, threads)
    if output == "labels":
        result = result.astype(label_dtype(len(unary)))
    elif binary:
        result = result[1:]
    if activity is not None:
        activity = replace(activity, evaluated=activity.evaluated.reshape(activity.iterations, *guide.grid))
    return result, activity


def _refined(
    unary: Array,
    crf: CRF,
    guide: Guide,
    spacing: float | Sequence[float] | None,
    output: Output,
    return_activity: bool,
    threads: int,
) -> tuple[NDArray[Any], Activity | None]:
    """`refine` by the native core."""
    classes, points = len(unary), unary[0].size
    require_memory(
        terms_bytes(crf, guide, unary.itemsize)
        + mean_field_bytes(points, classes, unary.itemsize)
        + return_activity * crf.solver.iterations * points,
        f"refining {classes} classes on {' × '.join(map(str, guide.grid))} pixels"
        f"{f' with the activity of {crf.solver.iterations} iterations' if return_activity else ''}",
    )
    terms = build_terms(crf, guide, spacing, unary.dtype, threads)
    names = [f"{name}_weight" for name in crf.names]
    couplings = [fewest_axes(matrix) for matrix in checked_couplings(unary, terms, crf.compatibility, names)[0]]
    rows, activity = unary.reshape(classes, points), None
    if return_activity:
        result, activity = observed(crf.solver, rows, terms, couplings, output, threads)
    else:
        result, _ = solver_for(crf.solver).forward(crf.solver, rows, terms, couplings, output, None, threads)
    return result.reshape(guide.grid if output == "labels" else unary.shape), activity


def _check_weights(crf: CRF, classes: int) -> None:
    """Raise a ValueError if weights or compatibility are for another number of classes."""
    for name, term in zip(crf.names, crf.terms, strict=True):
        check_classes(class_weights(term.weight, f"{name}_weight"), classes, f"{name}_weight")
    if crf.compatibility is not None:
        check_classes(class_weights(crf.compatibility, "compatibility"), classes, "compatibility")


def label_dtype(num_classes: int) -> np.dtype[Any]:
    """The smallest unsigned integer type for labels of `num_classes` classes; a single channel has two labels."""
    return np.min_scalar_type(max(1, num_classes - 1))


def unary_of(
    scores: ArrayLike,
    input: Input,
    num_classes: int | None,
    at_size: Callable[[Array], Array],
    doubtful: bool = False,
    indexed: bool = False,
) -> tuple[Array, bool]:
    """Logits at the size of the image, and whether they are the foreground of two classes.

    Args:
        doubtful: Whether masks of two levels may be among the labels, and numbers may be something else than they seem.
        indexed: Whether labels are indices of a palette, and so no mask.
    """
    if num_classes is not None and whole_number(num_classes, "num_classes") < 1:
        raise ValueError(f"num_classes={num_classes} must be at least 1")
    if input == "labels":
        labels, count = labels_of(scores, num_classes, indexed or not doubtful)
        return at_size(unary_from_labels(labels, count, zero_unsure=False)), False
    if input == "probabilities" and doubtful:
        scores = map_of_probability(np.asarray(scores))
    given = score_array(scores, "scores" if input == "logits" else input)
    if doubtful and input == "logits":
        check_logits(given, "give input='probabilities'")
    given = at_size(given)
    unary = unary_from_probabilities(given) if input == "probabilities" else given
    if num_classes not in (None, len(unary)):
        raise ValueError(f"scores have shape {unary.shape}, {len(unary)} classes first, but num_classes={num_classes}")
    return unary, len(unary) == 1


def labels_of(scores: ArrayLike, num_classes: int | None, indexed: bool) -> tuple[NDArray[np.int64], int]:
    """Labels, of which those of a mask are 0 and 1, and the number of classes; `indexed` labels are no mask."""
    mask = mask_labels(scores) if num_classes in (None, 2) and not indexed else None
    labels = label_array(scores if mask is None else mask)
    return labels, num_classes or (label_count(labels) if mask is None else 2)


def label_count(labels: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> int:
    """One more than the largest known label; a ValueError if none is known, or `is_alone` one."""
    unknown = unknown_labels(labels, 1)
    known = labels[~unknown]
    if not known.size:
        levels = np.unique(labels).tolist()
        raise ValueError(
            f"labels hold no known label, only {written_unknown(levels)}: give num_classes=, or for a mask "
            f"mask == {levels[-1]}"
        )
    if known.size < labels.size and known.min() == known.max() and is_alone(levels := np.unique(labels).tolist()):
        other = f" or mask == {levels[0]}, whichever is the foreground" if levels[-1] == 0 else ""
        raise ValueError(
            f"labels hold class {known[0]} alone, and {written_unknown(levels)}: for a mask of two classes give "
            f"mask == {levels[-1]}{other}; otherwise num_classes="
        )
    return int(known.max()) + 1
