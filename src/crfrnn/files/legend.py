"""Photos tinted by class, with a legend that names the colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from crfrnn.files.classes import VOID, ClassSet
from crfrnn.files.lettering import font_for, shown_text, warn_of_missing_letters
from crfrnn.files.palette import tinted, voc_palette

OPACITY = 0.55
LONGEST_SIDE = 1600
"""The longest side of the photo in an overlay that commands write, in pixels; larger photos are reduced to it."""
SCALE_SIDE = 1600
"""The longest side of a photo from which its legend grows with it."""
CONTOUR_SIDE = 400
"""The longest side of a photo for each pixel that its contours are wide."""
PAPER = (255, 255, 255)
INK = (34, 34, 34)
FONT_SIZE = 18
SQUARE = 18
SPACE = 8
GAP = 26
LINE_HEIGHT = 32
VOID_NAME = "void"

Value = TypeVar("Value", bound=np.generic)


@dataclass(frozen=True)
class Key:
    """What the colours of a picture mean.

    Attributes:
        names: A name for each label from 0 on.
        colours: Their colours (labels, 3), RGB.
    """

    names: tuple[str, ...]
    colours: NDArray[np.uint8]

    @property
    def shown(self) -> list[str]:
        """The names as they are drawn: on one line, and not too long."""
        return [shown_text(name) for name in self.names]


def key_of(classes: ClassSet, present: Sequence[int]) -> Key:
    """The key of these labels of a class set, in their order; 255 is called void."""
    names = tuple(VOID_NAME if label == VOID else classes.names[label] for label in present)
    return Key(names, full_palette(classes)[list(present)])


def labelled_overlay(
    photo: NDArray[np.uint8],
    labels: NDArray[np.integer],
    key: Key,
    *,
    opacity: float = OPACITY,
    contours: bool = False,
    longest_side: int | None = None,
) -> Image.Image:
    """A photo tinted by class, and below it the legend.

    Args:
        photo: RGB (H, W, 3).
        labels: Labels of the key (H, W).
        contours: Whether borders between labels are drawn in full colour, one pixel wide for each `CONTOUR_SIDE` of the
            photo's longer side.
        longest_side: Photos whose longer side has more pixels are reduced to it.
    """
    warn_of_missing_letters(key.shown)
    picture = tinted_photo(photo, labels, key.colours, longest_side, opacity, contours)
    legend = draw_legend(key, picture.width, max(1.0, max(picture.size) / SCALE_SIDE))
    overlay = Image.new("RGB", (max(picture.width, legend.width), picture.height + legend.height), PAPER)
    overlay.paste(picture, ((overlay.width - picture.width) // 2, 0))
    overlay.paste(legend, (0, picture.height))
    return overlay


def tinted_photo(
    photo: NDArray[np.uint8],
    labels: NDArray[np.integer],
    palette: NDArray[np.uint8],
    longest_side: int | None,
    opacity: float = OPACITY,
    contours: bool = False,
) -> Image.Image:
    """A photo (H, W, 3) tinted by its labels (H, W), reduced if its longer side is above `longest_side` pixels."""
    picture = Image.fromarray(photo)
    ids = Image.fromarray(labels.astype(np.int32))
    scale = 1.0 if longest_side is None else longest_side / max(picture.size)
    if scale < 1:
        size = (max(1, round(scale * picture.width)), max(1, round(scale * picture.height)))
        picture, ids = picture.resize(size, Image.Resampling.LANCZOS), ids.resize(size, Image.Resampling.NEAREST)
    shown = np.asarray(ids)
    colours = tinted(np.asarray(picture), shown, palette, opacity)
    if contours:
        line, inside = contour(shown, max(1, round(max(shown.shape) / CONTOUR_SIDE)))
        colours[line] = palette[inside[line]]
    return Image.fromarray(colours)


def contour(labels: NDArray[np.integer], width: int) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
    """The pixels (H, W) of lines about this wide along borders between labels, and the label that each belongs to.

    That is the higher one of the two, so that classes have a contour, and the background, 0, has none of its own.
    """
    return highest_within(borders(labels), width // 2), highest_within(labels.astype(np.int32), width)


def highest_within(values: NDArray[Value], reach: int) -> NDArray[Value]:
    """The highest of the values (H, W) that are at most `reach` rows and columns away from each pixel.

    Windows grow by doubling, so that wide ones cost little more than narrow ones.
    """
    for _ in range(2):
        values = np.pad(values.T, [(reach, reach), (0, 0)], "edge")
        wide = 1
        while wide <= 2 * reach:
            step = min(wide, 2 * reach + 1 - wide)
            values = np.maximum(values[step:], values[:-step])
            wide += step
    return values


def borders(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """The pixels (H, W) whose right or lower neighbour has another label."""
    found = np.zeros(labels.shape, bool)
    found[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    found[:-1] |= labels[:-1] != labels[1:]
    return found


def draw_legend(key: Key, width: int, scale: float = 1.0) -> Image.Image:
    """A strip with a coloured square and a name for each label of the key, in centred lines.

    It is `width` pixels wide, or as wide as the longest name needs, as it is drawn. Letters and squares are `scale`
    times as large.
    """
    square, space, gap, high = (round(scale * length) for length in (SQUARE, SPACE, GAP, LINE_HEIGHT))
    names = key.shown
    fonts = [font_for(name, scale * FONT_SIZE) for name in names]
    lengths = [square + space + round(font.getlength(name)) for font, name in zip(fonts, names, strict=True)]
    width = max(width, max(lengths, default=0) + 2 * space)
    lines = _lines(lengths, width - 2 * space, gap)
    strip = Image.new("RGB", (width, high * len(lines)), PAPER)
    pen = ImageDraw.Draw(strip)
    for row, line in enumerate(lines):
        middle = high * row + high // 2
        left = (width - sum(lengths[item] for item in line) - gap * (len(line) - 1)) // 2
        for item in line:
            red, green, blue = (int(level) for level in key.colours[item])
            corners = (left, middle - square // 2, left + square - 1, middle + square // 2 - 1)
            pen.rectangle(corners, (red, green, blue), INK)
            pen.text((left + square + space, middle), names[item], INK, fonts[item], anchor="lm")
            left += lengths[item] + gap
    return strip


def full_palette(classes: ClassSet) -> NDArray[np.uint8]:
    """A colour for every 8-bit label (256, 3): the classes' own, that of PASCAL VOC beyond them and for void."""
    palette = voc_palette().copy()
    palette[: classes.num_classes] = classes.palette
    return palette


def _lines(lengths: Sequence[int], width: int, gap: int) -> list[list[int]]:
    """Items of these lengths in lines that fit into `width`, `gap` apart."""
    lines: list[list[int]] = []
    used = 0
    for item, length in enumerate(lengths):
        if lines and used + gap + length <= width:
            lines[-1].append(item)
            used += gap + length
        else:
            lines.append([item])
            used = length
    return lines
