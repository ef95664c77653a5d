"""Class scores brought to the size of a photo."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crfrnn.memory import require_memory


def resize_scores(scores: NDArray[np.floating], size: tuple[int, int], square: bool = False) -> NDArray[np.float32]:
    """Stretch class scores (C, h, w) over `size` (H, W) by bilinear interpolation.

    The corners of the images coincide, not the centres of the corner pixels (`align_corners=False` in other libraries).

    Args:
        square: The scores (C, h, h) cover a square of side max(H, W), with the photo at its top left, as networks that
            see photos padded to a square give them. The part beyond the photo is left out.
    Raises:
        ValueError: if `square` is given and the scores are not square.
        MemoryError: if there is not enough memory.
    """
    height, width = size
    classes, h, w = scores.shape
    if square and h != w:
        raise ValueError(f"scores have shape {scores.shape}, which covers no square; expected (classes, side, side)")
    side = max(size)
    seen = (0.0, 0.0, w * width / side, h * height / side) if square else None
    require_memory(4 * classes * height * width, f"stretching {classes} classes over {width}×{height} pixels")
    resized = np.empty((classes, height, width), np.float32)
    for channel, plane in zip(resized, scores, strict=True):
        source = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
        channel[...] = np.asarray(source.resize((width, height), Image.Resampling.BILINEAR, seen))
    return resized


def seem_square(scores: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether scores of this shape (C, h, w) probably cover a square, while a photo of `size` (H, W) is not one."""
    return scores[-2] == scores[-1] and size[0] != size[1]
