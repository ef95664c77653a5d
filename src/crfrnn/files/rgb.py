"""Images in any of the forms that photos have, as 8-bit RGB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps

from crfrnn.arrays import plain_array
from crfrnn.files.opening import opened_picture

LEVELS = 255
DEEP_LEVELS = 65535
CHANNELS = {1: "grey", 2: "grey and opacity", 3: "RGB", 4: "RGB and opacity"}


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
        first = given.ndim == 3 and given.shape[0] in CHANNELS
        hint = "; its channels come last: np.moveaxis(image, 0, -1)" if first else ""
        layouts = ", ".join(f"(H, W, {count}) {name}" for count, name in CHANNELS.items())
        raise ValueError(f"image has shape {np.shape(image)}; expected (H, W) grey, {layouts}{hint}")
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
        raise TypeError(f"image is {image.dtype}; expected uint8, uint16 or floating point{_advice(image)}")
    lowest, highest = float(image.min()), float(image.max())
    if not 0 <= lowest <= highest <= LEVELS:
        raise ValueError(f"image ranges from {lowest:.4g} to {highest:.4g}; expected levels 0-{LEVELS}")
    if 0 < highest <= 1:
        raise ValueError(
            f"image ranges from {lowest:.4g} to {highest:.4g}; expected levels 0-{LEVELS}: image * {LEVELS}"
        )
    levels: NDArray[np.uint8] = np.rint(image).astype(np.uint8)
    return levels


def _advice(image: NDArray[Any]) -> str:
    """How to bring integers to 8 bits without a wrap."""
    if image.dtype.kind not in "iu":
        return ""
    lowest, highest = int(image.min()), int(image.max())
    if 0 <= lowest <= highest <= LEVELS:
        return ": image.astype(np.uint8)"
    scaled = f"np.interp(image, ({min(lowest, 0)}, {highest}), (0, {LEVELS}))"
    return f" 0-{LEVELS}, and it ranges from {lowest} to {highest}: {scaled} brings it there"


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
