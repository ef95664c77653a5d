"""From photos to the input of the published network, and from its output to label images."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crfrnn.files.published import label_image, network_input


def get_preprocessed_image(file_name: Path | str) -> tuple[NDArray[np.float32], int, int, tuple[int, int]]:
    """A photo as the network of `get_crfrnn_model_def` takes it, scaled to 500 pixels along its longer side.

    Returns: (1, 500, 500, 3), BGR less the mean, with zeros below and to the right of the photo; the scaled photo's
        height and width; the photo's own size as (width, height).
    Raises: ValueError: if the file holds no 8-bit photo.
    """
    image, height, width, size = network_input(file_name)
    return image[np.newaxis], height, width, size


def get_label_image(probs: Any, img_h: int, img_w: int, original_size: tuple[int, int] | None = None) -> Image.Image:
    """The likeliest class of every pixel, as an image in the colours of PASCAL VOC.

    Args:
        probs: (H, W, C) probabilities or logits of one image; only the part at the top left is used.
        img_h: Height of that part.
        img_w: Its width.
        original_size: (width, height) that it is scaled to; None leaves it.
    Raises: ValueError: if there is a batch axis, too many classes for a palette, or the part is larger than probs.
    """
    scores = np.asarray(keras.ops.convert_to_numpy(probs))
    if scores.ndim != 3:
        raise ValueError(
            f"probs has shape {scores.shape}; expected (height, width, classes)"
            f"{': pass probs[0]' if scores.ndim == 4 else ''}"
        )
    return label_image(scores, img_h, img_w, original_size)
