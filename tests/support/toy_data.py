"""A data set that a network of one layer can learn, written in any layout: noisy photos of three colours."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 3
COLOURS = np.array([[60, 0, 0], [0, 60, 0], [0, 0, 60]], np.uint8)
SIZES = ((18, 26), (26, 18), (22, 22))


def toy_sample(index: int) -> tuple[np.ndarray, np.ndarray]:
    """A photo (H, W, 3) and labels (H, W): two halves and a corner, the first row void."""
    rng = np.random.default_rng(index)
    labels = np.zeros(SIZES[index % len(SIZES)], np.uint8)
    labels[:, rng.integers(6, 14) :] = 1
    labels[rng.integers(8, 12) :, :6] = 2
    photo = COLOURS[labels] + rng.integers(0, 195, (*labels.shape, 3), dtype=np.uint8)
    labels[0] = 255
    return photo, labels


def write_pair(photo: Path, labels: Path, index: int) -> None:
    for path, array in zip((photo, labels), toy_sample(index), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(array)
        if path == labels:
            image.putpalette(list(range(256)) * 3)
        image.save(path)


def write_toy_data(root: Path, train: int = 7, val: int = 3) -> Path:
    """The layout images/, labels/, SPLIT.txt."""
    names = [f"photo {index}" for index in range(train + val)]
    for index, name in enumerate(names):
        write_pair(root / "images" / f"{name}.png", root / "labels" / f"{name}.png", index)
    (root / "train.txt").write_text("\n".join(names[:train]) + "\n")
    (root / "val.txt").write_text("\n".join(names[train:]) + "\n")
    return root
