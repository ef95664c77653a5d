"""From a photo to its segmentation: converts an image for the network, and brings the labels back to its size."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps

from crfrnn.arrays import plain_array
from crfrnn.files.classes import ClassSet
from crfrnn.files.opening import opened_picture
from crfrnn.numbers import whole_number

try:
    import torch
except ImportError as error:
    raise ImportError("crfrnn.segment needs PyTorch, which is not installed: pip install 'crfrnn[models]'") from error

from crfrnn.models import Model, Segmenter, load_model
from crfrnn.models.segmenter import of_classes

LONGEST_SIDE = 500
"""The longest side of the photo that a network sees, in pixels: that of the original CRF-RNN."""
LEVELS = 255
DEEP_LEVELS = 65535
STRIP_SIZE = 4_000_000
"""How many numbers are enlarged at once."""
CHANNELS = {1: "grey", 2: "grey and opacity", 3: "RGB", 4: "RGB and opacity"}


@dataclass(frozen=True)
class Segmentation:
    """The classes of a photo's pixels.

    Attributes:
        labels: Class ids (H, W), at the size of the photo.
        probabilities: Probability of each class (C, h, w), float32, at the size that the network saw.
        classes: Their names and colours.
    """

    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    classes: ClassSet


def segment(
    image: ArrayLike, model: Model | None = None, *, crf: bool = True, longest_side: int = LONGEST_SIDE
) -> Segmentation:
    """Segment a photo.

    A photo larger than `longest_side` is segmented at that size, which is close to the size of the photos that networks
    are trained on. Its probabilities are enlarged bilinearly, a strip at a time: apart from the photo and its labels,
    memory does not grow with the photo.

    Args:
        image: (H, W), (H, W, 1) grey, (H, W, 2) grey and opacity, (H, W, 3) RGB or (H, W, 4) RGB and opacity: uint8,
            uint16 (0-65535), or floating point 0-255. Opacity has the same range; transparent parts become white. Or a
            picture of Pillow, which an EXIF tag turns.
        model: What `load_model` returns; the model in the package when not given.
        crf: Whether to refine the network's scores by the model's CRF.
        longest_side: Longest side of the photo that the network sees, in pixels.
    Raises:
        TypeError: if the image is neither 8-bit, 16-bit nor floating point.
        ValueError: if its shape or its values are not among those above, or the model gives one channel and
            has not two classes.
        MemoryError: if there is not enough memory.
    """
    photo = rgb_photo(image)
    if whole_number(longest_side, "longest_side") < 1:
        raise ValueError(f"longest_side={longest_side} must be at least 1 pixel")
    chosen = _built_in_model() if model is None else model
    height, width = photo.shape[:2]
    scale = min(1.0, longest_side / max(height, width))
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    seen = photo if scale == 1 else np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS))
    with torch.inference_mode():
        images = image_batch(seen, chosen.segmenter)
        logits = chosen.segmenter(images) if crf else chosen.segmenter.unary(images)
        if logits.shape[1] == 1 == chosen.classes.num_classes:
            raise ValueError(
                "the model gives one channel, the log-odds of a foreground, and has one class: give it the names of "
                "two classes, the background first"
            )
        probabilities: NDArray[np.float32] = torch.softmax(of_classes(logits)[0].float(), dim=0).cpu().numpy()
    return Segmentation(enlarged_labels(probabilities, (height, width)), probabilities, chosen.classes)


def image_batch(photo: NDArray[np.uint8], segmenter: Segmenter) -> torch.Tensor:
    """An RGB photo (H, W, 3) as segmenters take it, on the device of this one: (1, 3, H, W) float32, 0-255."""
    device = next((parameter.device for parameter in segmenter.parameters()), None)
    return torch.from_numpy(np.ascontiguousarray(photo.transpose(2, 0, 1))[None]).float().to(device)


def enlarged_labels(probabilities: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Labels (H, W) of probabilities (C, h, w) enlarged bilinearly to `size`, a strip of rows at a time."""
    classes, h, w = probabilities.shape
    height, width = size
    labels = np.empty(size, np.uint8)
    if (h, w) == size:
        labels[...] = probabilities.argmax(axis=0)
        return labels
    # A class whose probability is below 1/C at every pixel is never the likeliest, not even between pixels.
    ids = np.flatnonzero(probabilities.max(axis=(1, 2)) >= (1 - 1e-5) / classes)
    planes = [Image.fromarray(np.ascontiguousarray(probabilities[label])) for label in ids]
    rows = max(1, STRIP_SIZE // (len(ids) * width))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        box = (0.0, top * h / height, float(w), bottom * h / height)
        strip = [plane.resize((width, bottom - top), Image.Resampling.BILINEAR, box) for plane in planes]
        labels[top:bottom] = ids[np.stack([np.asarray(plane) for plane in strip]).argmax(axis=0)]
    return labels


def load_photo(path: Path) -> NDArray[np.uint8]:
    """A photo file as RGB (H, W, 3) with its top at the top: an EXIF orientation is applied.

    Grey, palette, 16-bit and CMYK images become 8-bit RGB; transparent parts become white. If there are several frames,
    the first is read.

    Raises:
        ValueError: if the file is not an image that can be read.
        MemoryError: if there is not enough memory for it.
    """
    if not path.is_file():
        raise ValueError(f"cannot read {path}: there is no such file")
    try:
        with opened_picture(path) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return rgb_photo(_pixels(image))
    except MemoryError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error and more for damaged files
        raise ValueError(f"cannot read {path} as an image: {error}") from error


def rgb_photo(image: ArrayLike) -> NDArray[np.uint8]:
    """Convert an image that `segment` accepts to 8-bit RGB (H, W, 3)."""
    given = _pixels(ImageOps.exif_transpose(image)) if isinstance(image, Image.Image) else plain_array(image, "image")
    if given.ndim == 2:
        given = given[..., None]
    if given.ndim != 3 or given.shape[2] not in CHANNELS or 0 in given.shape:
        layouts = ", ".join(f"(H, W, {count}) {name}" for count, name in CHANNELS.items())
        raise ValueError(f"image has shape {np.shape(image)}; expected (H, W) grey, {layouts}")
    levels = _eight_bit(given)
    if levels.shape[2] in (2, 4):
        opacity = levels[..., -1:].astype(np.uint16)
        blended = levels[..., :-1] * opacity + (LEVELS - opacity) * np.uint16(LEVELS)
        levels = ((blended + LEVELS // 2) // LEVELS).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(levels, (*levels.shape[:2], 3)))


def _eight_bit(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Levels 0-255 of an image in one of the number formats of `segment`."""
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind == "u" and image.dtype.itemsize == 2:
        step = DEEP_LEVELS // LEVELS
        deep: NDArray[np.uint8] = ((image.astype(np.uint32) + step // 2) // step).astype(np.uint8)
        return deep
    if image.dtype.kind != "f":
        raise TypeError(f"image is {image.dtype}; expected uint8, uint16 or floating point: image.astype(np.uint8)")
    lowest, highest = float(image.min()), float(image.max())
    if not 0 <= lowest <= highest <= LEVELS:
        raise ValueError(f"image ranges from {lowest:.4g} to {highest:.4g}; expected levels 0-{LEVELS}")
    if 0 < highest <= 1:
        raise ValueError(
            f"image ranges from {lowest:.4g} to {highest:.4g}; expected levels 0-{LEVELS}: image * {LEVELS}"
        )
    levels: NDArray[np.uint8] = np.rint(image).astype(np.uint8)
    return levels


def _pixels(image: Image.Image) -> NDArray[Any]:
    """The pixels of a decoded image in one of the layouts of `segment`."""
    if image.mode == "I":
        whole = np.asarray(image)
        if whole.min() < 0 or whole.max() > DEEP_LEVELS:
            raise ValueError(f"it ranges from {whole.min()} to {whole.max()}; expected 8 or 16 bits: 0-{DEEP_LEVELS}")
        return whole.astype(np.uint16)
    if image.mode == "F" or image.mode.startswith("I;16"):
        return np.asarray(image)
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return np.asarray(image if image.mode == mode else image.convert(mode))


@functools.cache
def _built_in_model() -> Model:
    return load_model()
