"""What users hold, as `refine` computes with it: files, pictures, tensors, maps of the foreground and batches."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crfrnn.arrays import Shape, is_tensor, label_array, plain_array
from crfrnn.files.photos import (
    ARRAY_SUFFIXES,
    IMAGE_SUFFIXES,
    TIFF_SUFFIXES,
    is_picture,
    picture_levels,
    read_array,
    read_labels,
    read_picture,
    suffix_of,
)
from crfrnn.plausibility import likeness, warn_of_input
from crfrnn.unary import LEAST_WHITE

FEWEST_SLICES = 5
"""Scores and image of one shape (n, H, W) may be classes and channels first below this, and are a volume from it on."""
MOST_AXES = 3
"""Spatial axes of a map of the foreground; with more, it may as well be a batch."""


class Taken(NamedTuple):
    """Scores and image as arrays in the order that `refine` computes with.

    Attributes:
        scores: (C, *spatial), or with labels (*spatial); of a batch (B, C, *spatial).
        image: (*spatial, K) or (*spatial,), of a batch (B, *spatial, K) or (B, *spatial), or None.
        batched: Whether both begin with a batch axis.
        foreground: Where the scores are a map of the foreground: its axis of one channel, -1, or None without one. It
            is 0 for all others.
    """

    scores: NDArray[Any]
    image: NDArray[Any] | None
    batched: bool = False
    foreground: int | None = 0


def taken(scores: Any, image: Any, input: str) -> Taken:
    """Scores and image in whatever form they are given.

    Raises:
        TypeError: if they are no numbers.
        ValueError: if a file cannot be read, or shapes leave open what is meant.
    """
    given = _opened_scores(scores, input)
    picture = _opened_image(image)
    if picture is None:
        return Taken(given, None)
    if input == "labels":
        return Taken(given, _channels_last(picture, image, given.shape))
    if _is_foreground(given.shape, picture.shape, is_tensor(image)):
        return _foreground(given, picture, input)
    lone = _of_batch_of_one(given, picture, image)
    if lone is not None:
        return Taken(given, lone[np.newaxis], True)
    if _is_batch(given, picture, image):
        return Taken(given, _channels_last(picture, image, (len(given), *given.shape[2:])), True)
    return Taken(given, _channels_last(picture, image, given.shape[1:]))


def _opened_scores(scores: Any, input: str) -> NDArray[Any]:
    name = "scores" if input == "logits" else input
    if not isinstance(scores, str | Path):
        hiding = input == "labels" and isinstance(scores, np.ma.MaskedArray)
        return label_array(scores) if hiding else plain_array(_detached("scores", scores), name)
    path = Path(scores)
    suffix = suffix_of(path)
    if suffix in ARRAY_SUFFIXES:
        return read_array(path)
    if suffix in IMAGE_SUFFIXES and input != "logits":
        return read_labels(path)
    raise ValueError(
        f"cannot take {path} as {input}: scores are read from {', '.join(ARRAY_SUFFIXES)}, and labels, or the "
        f"probability of a foreground, from pictures too, with input='labels' or 'probabilities'; read it yourself, or "
        "use `crfrnn refine` in a shell"
    )


def _opened_image(image: Any) -> NDArray[Any] | None:
    if image is None:
        return None
    if not isinstance(image, str | Path):
        return picture_levels(image) if hasattr(image, "getexif") else plain_array(_detached("image", image), "image")
    path = Path(image)
    suffix = suffix_of(path)
    if suffix in ARRAY_SUFFIXES:
        return read_array(path)
    if suffix in IMAGE_SUFFIXES and (suffix not in TIFF_SUFFIXES or is_picture(path)):
        return read_picture(path)
    raise ValueError(
        f"cannot take {path} as an image: pictures are read from {', '.join(IMAGE_SUFFIXES)} of one page, arrays from "
        f"{', '.join(ARRAY_SUFFIXES)}; read it yourself, or use `crfrnn refine` in a shell, which knows volumes"
    )


def _detached(name: str, value: Any) -> Any:
    """A tensor of torch without its graph, and a warning that no gradients will come back."""
    if not (is_tensor(value) and value.requires_grad):
        return value
    if sys.modules["torch"].is_grad_enabled():
        warn_of_input(
            f"{name} require a gradient, and refine returns an array of NumPy, through which none flows: to train, use "
            "crfrnn.torch.CrfRnn or crfrnn.torch.mean_field; otherwise call it in torch.no_grad(), or give "
            f"{name}.detach()"
        )
    return value.detach()


def _channels_last(picture: NDArray[Any], given: Any, grid: Shape) -> NDArray[Any]:
    """An image whose channels are last; those of tensors may come before the spatial axes of the grid."""
    if not is_tensor(given) or picture.ndim != len(grid) + 1 or picture.shape[:-1] == grid:
        return picture
    for axis in (0, 1):  # of one image, and of a batch whose axis is part of the grid
        if np.moveaxis(picture, axis, -1).shape[:-1] == grid:
            return np.moveaxis(picture, axis, -1)
    return picture


def _is_foreground(scores: Shape, image: Shape, channels_first: bool) -> bool:
    """Whether scores of this shape are one number for each pixel: (H, W) or (H, W, 1)."""
    if channels_first and scores == image and len(image) == 3 and image[0] < FEWEST_SLICES:
        return False  # classes and channels
    for grid in (image, image[:-1], *((image[1:],) if channels_first else ())):
        if 1 < len(grid) <= MOST_AXES and scores in (grid, (*grid, 1)):
            return True
    return False


def _foreground(given: NDArray[Any], picture: NDArray[Any], input: str) -> Taken:
    """A map of the foreground, as one channel."""
    if given.dtype.kind in "biu" and input == "logits":
        raise ValueError(
            f"scores are {given.dtype} of shape {given.shape}, one number for each pixel: labels, or a mask, are "
            "input='labels', the probability of the foreground input='probabilities'; logits are floating-point, with "
            "a class axis first"
        )
    if given.shape == picture.shape and given.ndim == 3 and len(given) < FEWEST_SLICES and given.shape[-1] > 1:
        raise ValueError(
            f"scores and image both have shape {given.shape}: if these are {len(given)} classes and channels, the "
            "channels of the image come last: use np.moveaxis(image, 0, -1); if it is the foreground of a volume of "
            f"{len(given)} slices, give scores[np.newaxis]"
        )
    last = given.shape[-1] == 1 and given.shape[:-1] in (picture.shape, picture.shape[:-1], picture.shape[1:])
    scores = given[..., 0] if last else given
    beside = scores.shape in (picture.shape, picture.shape[:-1])
    return Taken(
        scores[np.newaxis], picture if beside else np.moveaxis(picture, 0, -1), foreground=-1 if last else None
    )


def _of_batch_of_one(scores: NDArray[Any], picture: NDArray[Any], image: Any) -> NDArray[Any] | None:
    """The image of scores (1, C, *spatial) if it has no batch axis itself, its channels last; otherwise None."""
    spatial = scores.shape[2:]
    if len(scores) != 1 or len(spatial) < 2:
        return None
    if scores.shape[1:] == picture.shape and not (is_tensor(image) and len(picture) < FEWEST_SLICES):
        return None  # one class of a volume
    lone = _channels_last(picture, image, spatial)
    return (
        lone if lone is not None and lone.ndim <= len(spatial) + 1 and lone.shape[: len(spatial)] == spatial else None
    )


def _is_batch(scores: NDArray[Any], picture: NDArray[Any], image: Any) -> bool:
    """Whether scores (B, C, *spatial) and images of a batch are given."""
    spatial, axes = scores.shape[2:], scores.ndim - 2
    if axes < 2:
        return False
    grids = [picture.shape[1 : axes + 1]] + ([picture.shape[2:]] if is_tensor(image) else [])
    if len(picture) != len(scores) or picture.ndim not in (axes + 1, axes + 2) or spatial not in grids:
        return False
    if picture.shape[: axes + 1] != scores.shape[1:]:
        return True
    # As many images as classes: it may be a volume of as many slices too.
    sums = likeness(np.moveaxis(scores, 1, 0))
    if sums is not None and not sums.classes_last and likeness(scores) is None:
        return True
    if axes == 2 and likeness(scores) is None:
        warn_of_input(
            f"scores have shape {scores.shape} and the image {picture.shape}: they are taken for a volume "
            f"of {len(scores)} slices and {len(scores)} classes. If they are {len(scores)} images, refine one at a time"
        )
    return False


def map_of_probability(scores: NDArray[Any]) -> NDArray[Any]:
    """The probability of the foreground (1, *spatial): integers up to 255, or 65535, count from 0 to 1.

    Those of which none is at least 128 are left as they are: they seem to be labels.
    """
    if len(scores) != 1 or scores.dtype.kind not in "iu" or scores.size == 0 or scores.max() < LEAST_WHITE:
        return scores
    white = next((white for white in (255, 65535) if scores.max() <= white), 1)
    return scores / np.float32(white)
