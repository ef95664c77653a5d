"""The port's photos in and label images out, channels first."""

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from crfrnn.arrays import plain_array
from crfrnn.files.published import label_image, network_input


def get_preprocessed_image(file_name: Path | str) -> tuple[NDArray[np.float32], int, int, tuple[int, int]]:
    """A photo as `CrfRnnNet` takes it, scaled to 500 pixels along its longer side.

    Returns: (1, 3, 500, 500), BGR less the mean, with zeros below and to the right of the photo; the scaled photo's
        height and width; the photo's own size as (width, height).
    Raises: ValueError: if the file holds no 8-bit photo.
    """
    image, height, width, size = network_input(file_name)
    return np.ascontiguousarray(image.transpose(2, 0, 1))[np.newaxis], height, width, size


def get_label_image(probs: ArrayLike, img_h: int, img_w: int, original_size: tuple[int, int]) -> Image.Image:
    """The likeliest class of every pixel, as an image in the colours of PASCAL VOC.

    Args:
        probs: (classes, H, W) probabilities or logits of one image; only the part at the top left is used.
        img_h: Height of that part.
        img_w: Its width.
        original_size: (width, height) that it is scaled to.
    Raises: ValueError: if there is a batch axis, too many classes for a palette, or the part is larger than probs.
    """
    scores = plain_array(probs, "probs")
    if scores.ndim != 3:
        raise ValueError(
            f"probs has shape {scores.shape}; expected (classes, height, width)"
            f"{': pass probs[0]' if scores.ndim == 4 else ''}"
        )
    return label_image(np.moveaxis(scores, 0, -1), img_h, img_w, original_size)
