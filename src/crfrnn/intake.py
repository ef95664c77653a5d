"""What users hold, as `refine` computes with it: files, pictures, tensors, maps of the foreground and batches.

`crfrnn.orders` finds out which axis is which.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crfrnn.arrays import is_tensor, label_array, plain_array
from crfrnn.files.photos import (
    ARRAY_SUFFIXES,
    IMAGE_SUFFIXES,
    TIFF_SUFFIXES,
    as_shares,
    grey_levels,
    is_picture,
    label_levels,
    picture_levels,
    read_array,
    read_grey,
    read_label_image,
    read_picture,
    suffix_of,
)
from crfrnn.orders import Ordered, ordered
from crfrnn.plausibility import warn_of_input
from crfrnn.unary import LEAST_WHITE


class Opened(NamedTuple):
    """Scores or an image as an array.

    Attributes:
        values: In the order given.
        channels_first: Whether they are tensors, whose channels may come before the spatial axes.
        indexed: Whether they are labels by a palette, where 255 is void.
    """

    values: NDArray[Any]
    channels_first: bool = False
    indexed: bool = False


def taken(scores: Any, image: Any, input: str) -> tuple[Ordered, bool]:
    """Scores and image in whatever form they are given, in order; and whether they are labels by a palette.

    Raises:
        TypeError: if they are no numbers.
        ValueError: if a file cannot be read, or shapes leave open what is meant.
    """
    name = "scores" if input == "logits" else input
    given = _opened_list(name, scores, lambda each: _opened_scores(each, input))
    if given.values.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, got dtype {given.values.dtype}")
    if image is None:
        return Ordered(given.values, None), given.indexed
    picture = _opened_list("image", image, opened_image)
    if picture.values.dtype.kind not in "biuf":
        raise TypeError(f"image must hold real numbers, got dtype {picture.values.dtype}")
    if given.values.ndim == 0 or picture.values.ndim == 0:
        raise ValueError(f"{name} have shape {given.values.shape} and the image {picture.values.shape}, without pixels")
    return ordered(given.values, picture.values, picture.channels_first, input), given.indexed


def _opened_list(name: str, value: Any, opened: Any) -> Opened:
    """What is opened, or a batch of a list of files, pictures or tensors, which are opened one by one."""
    if not isinstance(value, list | tuple) or not value or not all(_is_held(each) for each in value):
        return opened(value)  # type: ignore[no-any-return]
    parts = [opened(each) for each in value]
    shapes = {each.values.shape for each in parts}
    if len(shapes) > 1:
        raise ValueError(
            f"{name} are a list of arrays of different shapes, {' and '.join(map(str, sorted(shapes)[:2]))}: refine "
            "them one at a time"
        )
    return Opened(np.stack([each.values for each in parts]), parts[0].channels_first, parts[0].indexed)


def _is_held(value: Any) -> bool:
    return isinstance(value, str | Path | Image.Image | np.ndarray) or is_tensor(value)


def opened_labels(labels: Any, name: str) -> Opened:
    """Labels or scores of one photo as an array, without a look at their numbers, for pictures of them.

    Args:
        name: What they are called in messages.
    """
    if isinstance(labels, str | Path) and suffix_of(Path(labels)) not in (*ARRAY_SUFFIXES, *IMAGE_SUFFIXES):
        raise ValueError(
            f"cannot take {labels} as {name}: labels are read from {', '.join((*IMAGE_SUFFIXES, *ARRAY_SUFFIXES))}, "
            f"and scores from {', '.join(ARRAY_SUFFIXES)}; read it yourself"
        )
    if is_tensor(labels):
        labels = labels.detach()
    return _opened_scores(labels, "labels", name, "np.asarray(picture.convert('L')) / 255")


def _opened_scores(scores: Any, input: str, name: str = "", advice: str = "input='probabilities'") -> Opened:
    name = name or ("scores" if input == "logits" else input)
    if isinstance(scores, Image.Image) and input != "logits":
        if input == "probabilities":
            return Opened(as_shares(grey_levels(scores, "the picture")))
        labels, colours = label_levels(scores, "the picture")
        return Opened(labels, indexed=colours == "palette")
    if not isinstance(scores, str | Path):
        hiding = input == "labels" and isinstance(scores, np.ma.MaskedArray)
        return Opened(label_array(scores, name) if hiding else plain_array(_detached("scores", scores), name))
    path = Path(scores)
    suffix = suffix_of(path)
    if suffix in ARRAY_SUFFIXES:
        return Opened(read_array(path))
    if suffix in IMAGE_SUFFIXES and input == "probabilities":
        return Opened(as_shares(read_grey(path)))
    if suffix in IMAGE_SUFFIXES and input == "labels":
        labels, colours = read_label_image(path, advice)
        return Opened(labels, indexed=colours == "palette")
    raise ValueError(
        f"cannot take {path} as {input}: scores are read from {', '.join(ARRAY_SUFFIXES)}, and labels, or the "
        f"probability of a foreground, from pictures too, with input='labels' or 'probabilities'; read it yourself, or "
        "use `crfrnn refine` in a shell"
    )


def opened_image(image: Any) -> Opened:
    """A picture or an image as an array, in the order given."""
    if not isinstance(image, str | Path):
        if isinstance(image, Image.Image):
            return Opened(picture_levels(image))
        return Opened(plain_array(_detached("image", image), "image"), is_tensor(image))
    path = Path(image)
    suffix = suffix_of(path)
    if suffix in ARRAY_SUFFIXES:
        return Opened(read_array(path))
    if suffix in IMAGE_SUFFIXES and (suffix not in TIFF_SUFFIXES or is_picture(path)):
        return Opened(read_picture(path))
    raise ValueError(
        f"cannot take {path} as an image: pictures are read from {', '.join(IMAGE_SUFFIXES)} of one page, arrays from "
        f"{', '.join(ARRAY_SUFFIXES)}; read it yourself, or use `crfrnn refine` in a shell, which knows volumes"
    )


def _detached(name: str, value: Any) -> Any:
    """A tensor of torch without its graph, and a warning that no gradients will come back."""
    if is_tensor(value) and getattr(value, "is_meta", False):
        raise TypeError(f"{name} is a tensor on the device meta, which holds no numbers")
    if not (is_tensor(value) and value.requires_grad):
        return value
    if sys.modules["torch"].is_grad_enabled():
        warn_of_input(
            f"{name} require a gradient, and refine returns an array of NumPy, through which none flows: to train, use "
            "crfrnn.torch.CrfRnn or crfrnn.torch.mean_field; otherwise call it in torch.no_grad(), or give "
            f"{name}.detach()"
        )
    return value.detach()


def map_of_probability(scores: NDArray[Any]) -> NDArray[Any]:
    """Probabilities (C, *spatial): integers up to 255, or 65535, count from 0 to 1.

    Those of which none is at least 128 are left as they are: they seem to be labels.
    """
    if scores.dtype.kind not in "iu" or scores.size == 0 or scores.max() < LEAST_WHITE:
        return scores
    white = next((white for white in (255, 65535) if scores.max() <= white), 1)
    return scores / np.float32(white)
