"""Sparse labels of photos, in the place of label images of all pixels: clicks and scribbles."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from crfrnn.data.layouts import Pair, label_images, some
from crfrnn.files.classes import VOID
from crfrnn.files.opening import file_text
from crfrnn.files.photos import read_labels
from crfrnn.numbers import whole_number

CLICK_RADIUS = 3
"""Pixels that a click labels in each direction: a single one would get lost where photos are made smaller."""


class Annotations(Protocol):
    """Sparse labels of photos."""

    def pairs(self, photos: Sequence[Path], complete: bool = True) -> list[Pair]:
        """Each photo with the file that holds its labels. Raises ValueError if some have none and all must."""
        ...

    def labels(self, pair: Pair, size: tuple[int, int]) -> NDArray[Any]:
        """The class of each pixel (height, width), 255 where it has none. Raises ValueError if they cannot be read."""
        ...


class Scribbles:
    """Label images of the photos' names in a folder, 255 where there is no scribble.

    Raises: ValueError: if there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise ValueError(f"cannot read scribbles from {folder}: there is no such folder")

    def pairs(self, photos: Sequence[Path], complete: bool = True) -> list[Pair]:
        """Each photo with its label image."""
        names = [photo.stem for photo in photos]
        files = label_images(names, self.folder, "the split", complete)
        return [Pair(*each) for each in zip(names, photos, files, strict=True)]

    def labels(self, pair: Pair, size: tuple[int, int]) -> NDArray[Any]:
        """As the file holds them, in its own size."""
        return np.full(size, VOID) if pair.labels is None else read_labels(pair.labels)


class Clicks:
    """Clicks from a JSON file, {"name of a photo": [[x, y, class], …], …} in pixels from the top left.

    A click labels the pixels within `radius` of it; where two reach, the nearer one does.

    Raises: ValueError: if the file holds something else.
    """

    def __init__(self, path: Path, radius: int = CLICK_RADIUS) -> None:
        self.path, self.radius = path, whole_number(radius, "radius")
        self.clicks = _read_clicks(path)

    def pairs(self, photos: Sequence[Path], complete: bool = True) -> list[Pair]:
        """Each photo with the file of the clicks."""
        missing = [photo.stem for photo in photos if photo.stem not in self.clicks]
        if missing and complete:
            raise ValueError(f"{some(missing)} of {len(photos)} photos have no clicks in {self.path}")
        return [Pair(photo.stem, photo, self.path if photo.stem in self.clicks else None) for photo in photos]

    def labels(self, pair: Pair, size: tuple[int, int]) -> NDArray[Any]:
        """Discs around the clicks of a photo."""
        labels = np.full(size, VOID, np.int64)
        nearest = np.full(size, self.radius**2 + 1)
        rows, columns = np.ogrid[: size[0], : size[1]]
        for x, y, label in self.clicks.get(pair.name, []):
            if not (0 <= x < size[1] and 0 <= y < size[0]):
                raise ValueError(
                    f"{self.path}: {pair.name!r} has a click at x={x}, y={y}, but is {size[1]} pixels wide and "
                    f"{size[0]} high"
                )
            distance = (columns - x) ** 2 + (rows - y) ** 2
            reached = distance < nearest
            nearest[reached], labels[reached] = distance[reached], label
        return labels


def _read_clicks(path: Path) -> Mapping[str, list[list[int]]]:
    try:
        content = json.loads(file_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot read clicks from {path}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds no clicks; expected {{"name of a photo": [[x, y, class], …], …}}')
    for name, clicks in content.items():
        if not isinstance(clicks, list) or not all(map(_is_click, clicks)):
            raise ValueError(f"{path}: {name!r} must be a list of clicks [x, y, class], three whole numbers each")
    return content


def _is_click(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(each) is int for each in value)
