"""Pictures opened by Pillow at any size that memory holds."""

import os
from pathlib import Path
from typing import Any

from PIL import Image

from crfrnn.files.places import Place
from crfrnn.memory import require_memory

FORMATS = ("PNG", "JPEG", "BMP")
"""Those whose decoders have no limit of their own."""
TOO_LARGE = "it has more pixels than Pillow opens in this format: save it as PNG"
BYTES_PER_PIXEL = 10
"""What decoding a picture and turning it into RGB takes."""


def opened_picture(path: Path, most_pixels: int | None = None) -> Image.Image:
    """A picture whose pixels are still to be decoded; close it, or use it in a `with`.

    Pillow's limit on pixels is a setting of the whole process, and warns in its own words before it is reached. So the
    decoders of photos are called here without it, and memory is the limit. Other formats keep Pillow's.

    Args:
        most_pixels: How many it may have, of a picture from strangers.
    Raises:
        MemoryError: if there is not enough memory for its pixels.
        ValueError: if it has more pixels than it may, or than Pillow's limit, in another format than `FORMATS`.
        Exception: whatever a decoder raises for a damaged file.
    """
    image = _of_photo(path)
    if image is None:
        try:
            image = Image.open(path)
        except Image.DecompressionBombError as error:
            raise ValueError(f"{TOO_LARGE} ({error})") from error
    pixels = image.width * image.height
    if most_pixels is not None and pixels > most_pixels:
        image.close()
        raise ValueError(
            f"it has {image.width}×{image.height} pixels, {pixels / 1e6:.0f} million; a photo may have "
            f"{most_pixels / 1e6:.0f} million"
        )
    try:
        require_memory(BYTES_PER_PIXEL * pixels, f"reading {path}, {image.width}×{image.height} pixels,")
    except MemoryError:
        image.close()
        raise
    return image


def file_text(path: Place) -> str:
    """The text of a file, in UTF-8. A device might have no end.

    Raises: OSError or UnicodeDecodeError: if it is none, or cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError("there is no such file")
    return str(path.read_text(encoding="utf-8"))


def _of_photo(path: Path) -> Image.Image | None:
    """The picture if it is in one of `FORMATS`."""
    Image.preinit()
    with open(path, "rb") as file:
        prefix = file.read(16)
    for name in FORMATS:
        decoder, accepts = Image.OPEN[name]
        if accepts is not None and accepts(prefix) is True:
            opened: Any = decoder
            return opened(os.fspath(path), os.fspath(path))  # type: ignore[no-any-return]
    return None
