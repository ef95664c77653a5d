"""Photos as the published networks of CRF-RNN take them, and label images of what they give."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crfrnn.files.palette import NUM_COLOURS, voc_palette
from crfrnn.files.photos import read_photo
from crfrnn.numbers import file_path, whole_number

SIZE = 500
BGR_MEAN = (103.939, 116.779, 123.68)
"""The mean of ImageNet, in levels 0-255."""


def network_input(path: Path | str) -> tuple[NDArray[np.float32], int, int, tuple[int, int]]:
    """A photo scaled to 500 pixels along its longer side, bilinearly.

    Returns: (500, 500, 3), BGR less the mean, with zeros below and to the right of the photo; the scaled photo's height
        and width; the photo's own size as (width, height).
    Raises: ValueError: if the file holds no 8-bit photo.
    """
    photo = Image.fromarray(read_photo(file_path(path, "path")))
    ratio = min(SIZE / photo.width, SIZE / photo.height)
    width, height = (max(int(length * ratio), 1) for length in photo.size)
    scaled = np.asarray(photo.resize((width, height), Image.Resampling.BILINEAR))
    image = np.zeros((SIZE, SIZE, 3), np.float32)
    image[:height, :width] = scaled[..., ::-1] - np.array(BGR_MEAN, np.float32)
    return image, height, width, photo.size


def label_image(scores: NDArray[np.floating], height: int, width: int, size: tuple[int, int] | None) -> Image.Image:
    """The likeliest class of the pixels at the top left, in the colours of PASCAL VOC.

    Args:
        scores: (H, W, C).
        height: Of that part.
        width: Of that part.
        size: (width, height) that the image is scaled to, without new classes between others; None leaves it.
    Raises: ValueError: if there are too many classes for a palette, or the part is larger than the scores.
    """
    rows, columns, classes = scores.shape
    height, width = whole_number(height, "img_h"), whole_number(width, "img_w")
    if not (0 < height <= rows and 0 < width <= columns):
        raise ValueError(f"img_h={height}, img_w={width} does not lie within {rows} × {columns} scores")
    if not 0 < classes <= NUM_COLOURS:
        raise ValueError(f"probs has {classes} classes; a label image takes 1 to {NUM_COLOURS}")
    image = Image.fromarray(scores[:height, :width].argmax(axis=2).astype(np.uint8))
    image.putpalette(voc_palette().tobytes())
    return image if size is None else image.resize(size, Image.Resampling.NEAREST)
