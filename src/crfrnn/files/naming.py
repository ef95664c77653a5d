"""Which name and colour a label has in a picture, from whatever users hold of either."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn.files.classes import BACKGROUND, CLASS_SETS, VOID, ClassSet, class_count, names_by_id, names_in_file
from crfrnn.files.legend import VOID_NAME, Key
from crfrnn.files.palette import CLEAR_COLOURS, voc_colours
from crfrnn.numbers import one_of

Palette: TypeAlias = ArrayLike | Literal["voc", "clear"] | None
"""Colours (classes, 3), or a name of some."""
PALETTES = ("voc", "clear")
VOID_LABEL = -1
"""Stands for all that is void."""


@dataclass(frozen=True)
class Naming:
    """Names and colours of labels.

    Attributes:
        names: By label. Others are numbered.
        num_classes: How many classes there are, if that is known.
        palette: Colours (n, 3), if the user or the set of classes has some.
        first: The colour of PASCAL VOC that label 0 has otherwise.
        clear: Whether the classes that occur have `CLEAR_COLOURS` in their order instead, and a background black.
    """

    names: Mapping[int, str]
    num_classes: int | None = None
    palette: NDArray[np.uint8] | None = None
    first: int = 0
    clear: bool = False

    def key(self, present: NDArray[np.int64], holder: str) -> Key:
        """The key of these labels, in this order; `VOID_LABEL` is void.

        Args:
            holder: What holds the labels, for messages.
        Raises: ValueError: if a label is of no class, or has no colour.
        """
        highest = int(present.max())
        if self.num_classes is not None and highest >= self.num_classes:
            void = f" ({VOID} is {VOID_NAME})" if self.num_classes <= VOID else ""
            raise ValueError(
                f"{holder} hold {highest}, but {self.num_classes} classes have labels 0 to {self.num_classes - 1}{void}"
            )
        if self.palette is not None and highest >= len(self.palette):
            raise ValueError(
                f"{holder} hold {highest}, but the palette has {len(self.palette)} colours, from label 0 on"
            )
        is_void = (present == VOID_LABEL)[:, np.newaxis]
        colours = np.where(is_void, voc_colours(np.array([VOID])), self._colours(np.maximum(present, 0)))
        names = [
            VOID_NAME if label == VOID_LABEL else self.names.get(label, f"class {label}") for label in present.tolist()
        ]
        return Key(tuple(names), colours)

    def _colours(self, labels: NDArray[np.int64]) -> NDArray[np.uint8]:
        if self.clear:
            painted = (labels > 0) | (self.names.get(0, BACKGROUND).lower() != BACKGROUND)
            places = (np.cumsum(painted) - 1) % len(CLEAR_COLOURS)
            return np.where(painted[:, np.newaxis], CLEAR_COLOURS[places], np.uint8(0))
        return voc_colours(labels + self.first) if self.palette is None else self.palette[labels]


ClassNames: TypeAlias = (
    ClassSet
    | Naming
    | Sequence[str]
    | NDArray[np.str_]
    | NDArray[np.object_]
    | Mapping[int, str]
    | Mapping[str, int]
    | str
    | int
    | Path
    | None
)
"""Names of classes: in the order of their ids, by id, those of a set or a file, or only how many there are."""


def naming_of(classes: ClassNames, palette: Palette = None) -> Naming:
    """The naming that users mean by names of classes and a palette, as `crfrnn.overlay` describes them.

    Raises: TypeError or ValueError: if they are none of the forms described there.
    """
    named = _named(classes)
    if palette is None:
        return named
    if isinstance(palette, str):
        one_of(palette, PALETTES, "palette")
        return replace(named, palette=None, clear=palette == "clear")
    return replace(named, palette=_colours(palette))


def _named(classes: ClassNames) -> Naming:
    """The naming in the colours that go with the names."""
    if classes is None:
        return Naming({})
    if isinstance(classes, bool):
        raise TypeError(f"classes={classes!r}; expected names, by id or in order, or how many classes there are")
    if isinstance(classes, int | np.integer):
        if classes < 1:
            raise ValueError(f"classes={classes} must be at least 1")
        return Naming({}, int(classes))
    if isinstance(classes, str | Path):
        count = class_count(classes)
        if count is not None:
            return replace(_named(count), first=1)
        classes = CLASS_SETS[classes] if classes in CLASS_SETS else _names_in_file(classes)
    if isinstance(classes, Naming):
        return classes
    if isinstance(classes, ClassSet):
        return Naming(dict(enumerate(classes.names)), classes.num_classes, classes.palette, _first(classes.names))
    if isinstance(classes, Mapping):
        return Naming(names_by_id(classes))
    if not isinstance(classes, Iterable) or isinstance(classes, Set):  # which has no order
        raise TypeError(f"classes are a {type(classes).__name__}; expected a list of names, or a dictionary")
    names = list(classes)
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"classes={names!r}; expected a name for each class, as texts")
    return Naming(dict(enumerate(names)), len(names), first=_first(names))


def _names_in_file(source: str | Path) -> tuple[str, ...]:
    names = names_in_file(source)
    if not names:
        raise ValueError(f"cannot read class names from {source}: it is empty")
    return names


def _first(names: Sequence[str]) -> int:
    """The colour of PASCAL VOC for the first of these classes: black is only for a background."""
    return 0 if names[0].lower() == BACKGROUND else 1


def _colours(palette: ArrayLike) -> NDArray[np.uint8]:
    """A palette (n, 3) of integers 0-255."""
    given = np.asarray(palette)
    if given.ndim != 2 or given.shape[1] != 3 or not len(given):
        raise ValueError(f"palette has shape {given.shape}; expected (classes, 3), red, green and blue of each class")
    if given.dtype.kind not in "iu":
        raise TypeError(f"palette is {given.dtype}; expected integers 0-255, such as (255 * palette).astype(int)")
    if given.min() < 0 or given.max() > 255:
        raise ValueError(f"palette ranges from {given.min()} to {given.max()}; expected integers 0-255")
    return given.astype(np.uint8)
