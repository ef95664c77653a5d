"""Class scores brought to the size of a photo."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crfrnn.memory import require_memory


def resize_scores(scores: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.float32]:
    """Stretch class scores (C, h, w) over `size` (H, W) by bilinear interpolation.

    Corners of the images coincide, not centres of the corner pixels (`align_corners=False` elsewhere).
    """
    height, width = size
    require_memory(4 * len(scores) * height * width, f"stretching {len(scores)} classes over {width}×{height} pixels")
    resized = np.empty((len(scores), height, width), np.float32)
    for channel, plane in zip(resized, scores, strict=True):
        source = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
        channel[...] = np.asarray(source.resize((width, height), Image.Resampling.BILINEAR))
    return resized
