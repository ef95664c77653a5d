"""From photos to the input of the published network, and from its output to label images."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crfrnn.files.palette import NUM_COLOURS, voc_palette
from crfrnn.files.photos import read_photo

SIZE = 500
BGR_MEAN = (103.939, 116.779, 123.68)
"""The mean of ImageNet, in levels 0-255."""


def get_preprocessed_image(file_name: Path | str) -> tuple[NDArray[np.float32], int, int]:
    """A photo as the network of `get_crfrnn_model_def` takes it.

    Returns: (1, 500, 500, 3), BGR less the mean, with zeros below and to the right of the photo; the photo's height
        and width.
    Raises: ValueError: if the file holds no 8-bit photo, or one larger than 500×500.
    """
    photo = read_photo(Path(file_name))
    height, width, _ = photo.shape
    if max(height, width) > SIZE:
        raise ValueError(
            f"{file_name} is {height} pixels high and {width} wide; this network takes at most {SIZE} × {SIZE}: make "
            "it smaller, or use crfrnn.keras.fcn8s(), which takes any size"
        )
    image = np.zeros((1, SIZE, SIZE, 3), np.float32)
    image[0, :height, :width] = photo[..., ::-1] - np.array(BGR_MEAN, np.float32)
    return image, height, width


def get_label_image(probs: Any, img_h: int, img_w: int) -> Image.Image:
    """The likeliest class of every pixel, as an image in the colours of PASCAL VOC.

    Args:
        probs: (H, W, C) probabilities or logits of one image; only the part at the top left is used.
        img_h: Height of that part.
        img_w: Its width.
    Raises: ValueError: if there is a batch axis, too many classes for a palette, or the part is larger than probs.
    """
    scores = np.asarray(keras.ops.convert_to_numpy(probs))
    if scores.ndim != 3:
        raise ValueError(
            f"probs has shape {scores.shape}; expected (height, width, classes)"
            f"{': pass probs[0]' if scores.ndim == 4 else ''}"
        )
    height, width, classes = scores.shape
    if not (0 < img_h <= height and 0 < img_w <= width):
        raise ValueError(f"img_h={img_h}, img_w={img_w} does not lie within {height} × {width} scores")
    if not 0 < classes <= NUM_COLOURS:
        raise ValueError(f"probs has {classes} classes; a label image takes 1 to {NUM_COLOURS}")
    image = Image.fromarray(scores[:img_h, :img_w].argmax(axis=2).astype(np.uint8))
    image.putpalette(voc_palette().tobytes())
    return image
