"""Photos of PASCAL VOC with the class scores a real network gave them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SMOOTH, MEDIAN, TEXTURED = "2007_008964", "2007_006171", "2007_000332"
SETTLED = "2007_001733"  # scores that soon settle
CANVAS = 513


def load_photo(data: Path, name: str, size: tuple[int, int] | None, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits (classes, H, W) float32 and photo (H, W, 3) uint8; `size` is (W, H), None the photo's own.

    Two classes are background and "any object". Above 21, the network's 21 are repeated, a little lower each time.
    """
    photo = Image.open(data / "voc_animals" / "images" / f"{name}.jpg").convert("RGB")
    with np.load(data / "voc_animals" / "logits33" / f"{name}.npz") as file:
        coarse = file["logits"].astype(np.float32)
    if classes == 2:
        coarse = np.stack([coarse[0], np.logaddexp.reduce(coarse[1:])])
    else:
        coarse = np.concatenate([coarse - repeat for repeat in range(-(-classes // len(coarse)))])[:classes]
    # The coarse logits cover a square canvas with the photo, scaled to it, at the top left.
    scale = CANVAS / max(photo.size)
    box = (0, 0, round(photo.width * scale), round(photo.height * scale))
    if size is not None:
        photo = photo.resize(size, Image.Resampling.BILINEAR)
    logits = [
        Image.fromarray(plane)
        .resize((CANVAS, CANVAS), Image.Resampling.BILINEAR)
        .crop(box)
        .resize(photo.size, Image.Resampling.BILINEAR)
        for plane in coarse
    ]
    return np.stack([np.asarray(plane) for plane in logits]), np.array(photo)


def photo_size(data: Path, name: str, scale: float) -> tuple[int, int]:
    """(W, H) of a photo scaled."""
    with Image.open(data / "voc_animals" / "images" / f"{name}.jpg") as photo:
        return round(photo.width * scale), round(photo.height * scale)
