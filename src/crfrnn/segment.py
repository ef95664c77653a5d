"""From a photo to its segmentation: converts an image for the network, and brings the labels back to its size."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crfrnn.files.classes import ClassSet
from crfrnn.files.picture import Picture
from crfrnn.numbers import whole_number
from crfrnn.pictures import overlay, rgb_image

try:
    import torch
except ImportError as error:
    raise ImportError("crfrnn.segment needs PyTorch, which is not installed: pip install 'crfrnn[models]'") from error

from crfrnn.models import Model, Segmenter, load_model
from crfrnn.models.segmenter import of_classes

LONGEST_SIDE = 500
"""The longest side of the photo that a network sees, in pixels: that of the original CRF-RNN."""
STRIP_SIZE = 4_000_000
"""How many numbers are enlarged at once."""


@dataclass(frozen=True)
class Segmentation:
    """The classes of a photo's pixels. A notebook shows the photo tinted by class.

    Attributes:
        photo: The photo, RGB (H, W, 3).
        labels: Class ids (H, W), at the size of the photo.
        probabilities: Probability of each class (C, h, w), float32, at the size that the network saw.
        classes: Their names and colours.
    """

    photo: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    classes: ClassSet

    def picture(self) -> Picture:
        """The photo tinted by class with a legend, as `crfrnn.overlay` draws it."""
        return overlay(self.photo, self.labels, classes=self.classes)

    def _repr_png_(self) -> bytes:
        return self.picture()._repr_png_()


def segment(
    image: Any, model: Model | None = None, *, crf: bool = True, longest_side: int = LONGEST_SIDE
) -> Segmentation:
    """Segment a photo.

    A photo larger than `longest_side` is segmented at that size, which is close to the size of the photos that networks
    are trained on. Its probabilities are enlarged bilinearly, a strip at a time: apart from the photo and its labels,
    memory does not grow with the photo.

    Args:
        image: (H, W), (1, H, W) or (H, W, 1) grey, (H, W, 2) grey and opacity, (H, W, 3) RGB or (H, W, 4) RGB and
            opacity: uint16 (0-65535), other integers or floating point 0-255, or truth values, black and white. Opacity
            has the same range; transparent parts become white. Or a picture of Pillow, which an EXIF tag turns, a path,
            or a tensor, which may have its channels first.
        model: What `load_model` returns; the model in the package when not given.
        crf: Whether to refine the network's scores by the model's CRF.
        longest_side: Longest side of the photo that the network sees, in pixels.
    Raises:
        TypeError: if the image is not of one of these types.
        ValueError: if its shape or its values are not among those above, the file cannot be read, or the model gives
            one channel and has not two classes.
        MemoryError: if there is not enough memory.
    """
    photo = rgb_image(image)
    if whole_number(longest_side, "longest_side") < 1:
        raise ValueError(f"longest_side={longest_side} must be at least 1 pixel")
    chosen = _built_in_model() if model is None else model
    found: NDArray[np.float32] = probabilities([as_seen(photo, longest_side)], chosen, crf)[0].cpu().numpy()
    return Segmentation(photo, enlarged_labels(found, photo.shape[:2]), found, chosen.classes)


def as_seen(photo: NDArray[np.uint8], longest_side: int) -> NDArray[np.uint8]:
    """A photo (H, W, 3), reduced to the size at which a network sees it."""
    height, width = photo.shape[:2]
    scale = min(1.0, longest_side / max(height, width))
    if scale == 1:
        return photo
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS))


def probabilities(photos: Sequence[NDArray[np.uint8]], model: Model, crf: bool) -> torch.Tensor:
    """Probabilities (B, C, h, w), float32, of RGB photos (h, w, 3) of one size, on the model's device.

    Raises: ValueError: if the model gives one channel and has not two classes.
    """
    with torch.inference_mode():
        images = image_batch(photos, model.segmenter)
        logits = model.segmenter(images) if crf else model.segmenter.unary(images)
        if logits.shape[1] == 1 == model.classes.num_classes:
            raise ValueError(
                "the model gives one channel, the log-odds of a foreground, and has one class: give it the names of "
                "two classes, the background first"
            )
        return torch.softmax(of_classes(logits).float(), dim=1)


def image_batch(photos: Sequence[NDArray[np.uint8]], segmenter: Segmenter) -> torch.Tensor:
    """RGB photos (H, W, 3) of one size as segmenters take them, on the device of this one: (B, 3, H, W), 0-255."""
    device = next((parameter.device for parameter in segmenter.parameters()), None)
    return torch.from_numpy(np.stack(photos)).to(device).permute(0, 3, 1, 2).float().contiguous()


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


@functools.cache
def _built_in_model() -> Model:
    return load_model()
