"""The folder that most commands run in: photo.png of the HEIGHT and WIDTH of the module of tests."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def photo(request, rng) -> np.ndarray:
    """Two flat halves with a little noise."""
    image = np.full((request.module.HEIGHT, request.module.WIDTH, 3), 60)
    image[:, request.module.WIDTH // 2 :] = 190
    return (image + rng.integers(-9, 10, image.shape)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path, photo, monkeypatch) -> Path:
    """A working folder with photo.png."""
    Image.fromarray(photo).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path
