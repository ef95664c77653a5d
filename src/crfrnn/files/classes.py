"""Names and colours of the classes that labels stand for: of known data sets, numbered, or listed in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crfrnn.files.palette import NUM_COLOURS, voc_palette

VOID = 255
"""The label of pixels that belong to no class: ignored in training and evaluation."""
BACKGROUND = "background"


@dataclass(frozen=True)
class ClassSet:
    """Class names in the order of their ids, and their colours (classes, 3), RGB 0-255. Equal if the names are.

    Raises: ValueError: for no or more than 255 classes, an empty or repeated name, or a palette of another shape.
    """

    names: tuple[str, ...]
    palette: NDArray[np.uint8] = field(compare=False, repr=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= VOID:
            raise ValueError(f"{len(self.names)} classes; expected 1 to {VOID}, since label {VOID} means void")
        if not all(name.strip() for name in self.names):
            raise ValueError(f"class {[bool(name.strip()) for name in self.names].index(False)} has an empty name")
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise ValueError(f"class names must differ; more than once: {', '.join(repeated)}")
        if self.palette.shape != (len(self.names), 3) or self.palette.dtype != np.uint8:
            raise ValueError(
                f"palette is {self.palette.dtype} {self.palette.shape}; "
                f"expected uint8 ({len(self.names)}, 3), a colour for each class"
            )

    @property
    def num_classes(self) -> int:
        """How many classes there are; labels run from 0 to one less."""
        return len(self.names)


def named_classes(names: tuple[str, ...]) -> ClassSet:
    """A class set in the colours of PASCAL VOC; black is only for a first class called "background"."""
    first = 0 if names and names[0].lower() == BACKGROUND else 1
    return ClassSet(names, voc_palette()[first : first + len(names)])


CLASS_SETS = {
    "voc": named_classes(
        (
            BACKGROUND, "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
            "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train",
            "tv monitor",
        )
    ),
    "msrc21": named_classes(
        (
            "building", "grass", "tree", "cow", "sheep", "sky", "aeroplane", "water", "face", "car", "bicycle",
            "flower", "sign", "bird", "book", "chair", "road", "cat", "dog", "body", "boat",
        )
    ),
    "camvid": named_classes(
        (
            "sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car", "pedestrian",
            "bicyclist",
        )
    ),
}  # fmt: skip
"""PASCAL VOC 2012; MSRC-21; CamVid's usual 11 classes. The order is that of the ids in their label images."""


def class_set(source: str | int | Path) -> ClassSet:
    """The class set that `source` means: a name in `CLASS_SETS`, a number of classes, or a file of names.

    Args:
        source: "voc", a number N for the names "class 0" to "class N-1", or a UTF-8 file with one name on each line, or
            one ending in .json with a list of names, or an object of all ids and their names, either way round.
    Raises: ValueError: if it is none of these, or the file is not such a list; the message lists what is known.
    """
    if isinstance(source, str) and source in CLASS_SETS:
        return CLASS_SETS[source]
    count = class_count(source)
    if count is not None:
        if not 1 <= count < NUM_COLOURS:
            raise ValueError(f"{count} classes; expected 1 to {VOID}, since label {VOID} means void")
        return named_classes(tuple(f"class {label}" for label in range(count)))
    names = names_in_file(source)
    try:
        return named_classes(names)
    except ValueError as error:
        raise ValueError(f"cannot read class names from {source}: {error}") from error


def class_count(source: str | int | Path) -> int | None:
    """The number of classes that `source` is, as a number or in digits; None if it is none."""
    is_count = isinstance(source, int) or (isinstance(source, str) and source.isdecimal() and len(source) < 10)
    return int(source) if is_count else None  # type: ignore[arg-type]


def names_in_file(source: str | int | Path) -> tuple[str, ...]:
    """The names in a file as `class_set` takes it, however many there are.

    Raises: ValueError: if there is no such file, or it is no list of names.
    """
    path = Path(str(source))
    if not path.is_file():
        raise ValueError(
            f"no classes called {str(source)!r}; expected {', '.join(CLASS_SETS)}, a number of classes, "
            "or a text file with one class name on each line"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors of Windows begin it with a mark
        names = json.loads(text) if path.suffix.lower() == ".json" else text.rstrip().splitlines()
        if isinstance(names, dict):
            names = _in_order(names_by_id(names))
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("it holds no list of names")
        return tuple(name.strip() for name in names)
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"cannot read class names from {path}: {error}") from error


def names_by_id(classes: Mapping[int, str] | Mapping[str, int]) -> dict[int, str]:
    """Names by label, of a dictionary in either direction; labels may be texts, as JSON has them."""
    found = {}
    for key, value in classes.items():
        label, name = (value, key) if isinstance(key, str) and not key.isdecimal() else (key, value)
        is_id = isinstance(label, int | np.integer) or (isinstance(label, str) and label.isdecimal())
        if not is_id or not isinstance(name, str):
            raise TypeError(f"classes have {key!r}: {value!r}; expected an id and a name, such as 8: 'cat'")
        found[int(label)] = name
    return found


def _in_order(names: dict[int, str]) -> list[str]:
    """The names in the order of their ids. Raises a ValueError unless those are 0, 1, 2 and so on."""
    for label in range(len(names)):
        if label not in names:
            raise ValueError(f"it names {len(names)} classes, but none with the id {label}")
    return [names[label] for label in range(len(names))]
