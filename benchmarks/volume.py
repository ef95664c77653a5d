"""An MRI volume with class scores made from its labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHAPE = (64, 128, 128)
CLASSES = 4
BRIGHTNESS = (100, 250)
"""Levels of the image that part background, dark and bright tissue."""
BLUR = 2.0
"""Deviation in voxels by which labels are blurred into probabilities."""


def fitted(volume: NDArray, shape: tuple[int, ...]) -> NDArray:
    """The middle of a volume; where it is too small, its edges are repeated."""
    missing = [max(0, size - given) for size, given in zip(shape, volume.shape, strict=True)]
    padded = np.pad(volume, [(each // 2, each - each // 2) for each in missing], mode="edge")
    first = [(given - size) // 2 for size, given in zip(shape, padded.shape, strict=True)]
    return padded[tuple(slice(start, start + size) for start, size in zip(first, shape, strict=True))]


def scores_from(image: NDArray, organ: NDArray) -> NDArray[np.float32]:
    """Logits (4, *spatial): three classes by brightness and the organ, as logarithms of the blurred labels."""
    from scipy.ndimage import gaussian_filter

    from crfrnn import unary_from_probabilities

    labels = np.where(organ > 0, CLASSES - 1, np.digitize(image, BRIGHTNESS))
    shares = [gaussian_filter((labels == label).astype(np.float32), BLUR) for label in range(CLASSES)]
    return np.ascontiguousarray(unary_from_probabilities(np.stack(shares)), np.float32)


def load_volume(data: Path, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits (4, 64, 128, 128) and image (64, 128, 128)."""
    from crfrnn.files.volumes import read_nifti

    image, organ = (
        fitted(read_nifti(data / "volume3d" / f"{name}_{kind}.nii.gz")[0], SHAPE) for kind in ("img", "init")
    )
    return scores_from(image, organ), np.ascontiguousarray(image, np.float32)
