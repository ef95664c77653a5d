"""A picture that was drawn: it shows itself in a notebook, saves itself, and is pixels to NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image

from crfrnn.files.photos import write_picture

LONGEST_SHOWN = 1600
"""The longest side of a picture in a notebook, in pixels; larger ones are reduced to it there, and only there."""


@dataclass(frozen=True, eq=False, repr=False)
class Picture:
    """What `overlay` and `compare` return. `np.asarray(picture)` are its pixels, uint8 (height, width, 3).

    A notebook shows it when it is the last value of a cell, or by `display`.

    Attributes:
        image: The picture of Pillow, RGB, for all that Pillow does with one.
    """

    image: Image.Image

    def save(self, path: str | Path) -> None:
        """Write the picture to a PNG or JPEG file, by its suffix.

        Raises:
            ValueError: for another suffix; `picture.image.save` knows more formats.
            OSError: if the file cannot be written; one that was there before is left as it was.
        """
        write_picture(Path(path), self.image)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("the pixels of a Picture are copied into an array: leave out copy=False")
        return np.array(self.image, dtype)

    def _repr_png_(self) -> bytes:
        shown, encoded = self.image, BytesIO()
        if max(shown.size) > LONGEST_SHOWN:
            shown = shown.copy()
            shown.thumbnail((LONGEST_SHOWN, LONGEST_SHOWN))
        shown.save(encoded, format="PNG")
        return encoded.getvalue()

    def __repr__(self) -> str:
        return f"<crfrnn.Picture of {self.image.width}×{self.image.height} pixels>"
