"""Photos tinted by class, with a legend that names the colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from crfrnn.files.classes import VOID, ClassSet
from crfrnn.files.palette import tinted, voc_palette

OPACITY = 0.55
LONGEST_SIDE = 1600
"""The longest side of the photo in an overlay, in pixels; larger photos are reduced to it."""
PAPER = (255, 255, 255)
INK = (34, 34, 34)
FONT_SIZE = 18
SQUARE = 18
SPACE = 8
GAP = 26
LINE_HEIGHT = 32


def labelled_overlay(photo: NDArray[np.uint8], labels: NDArray[np.integer], classes: ClassSet) -> Image.Image:
    """A photo tinted by class, and below it a legend of the classes that occur.

    Args:
        photo: RGB (H, W, 3).
        labels: Class ids (H, W); 255 is void.
        classes: Names and colours.
    Returns: A picture in which the photo's longer side is at most `LONGEST_SIDE` pixels.
    Raises: ValueError: if the labels' size is not the photo's, or they name no class.
    """
    check_labels(photo, labels, classes)
    present = [int(label) for label in np.unique(labels)]
    picture = tinted_photo(photo, labels, classes, LONGEST_SIDE)
    legend = draw_legend(classes, present, picture.width)
    overlay = Image.new("RGB", (max(picture.width, legend.width), picture.height + legend.height), PAPER)
    overlay.paste(picture, ((overlay.width - picture.width) // 2, 0))
    overlay.paste(legend, (0, picture.height))
    return overlay


def tinted_photo(
    photo: NDArray[np.uint8], labels: NDArray[np.integer], classes: ClassSet, longest_side: int
) -> Image.Image:
    """A photo (H, W, 3) tinted by its labels (H, W), reduced if its longer side is above `longest_side` pixels."""
    picture = Image.fromarray(photo)
    ids = Image.fromarray(labels.astype(np.uint8))
    scale = longest_side / max(picture.size)
    if scale < 1:
        size = (max(1, round(scale * picture.width)), max(1, round(scale * picture.height)))
        picture, ids = picture.resize(size, Image.Resampling.LANCZOS), ids.resize(size, Image.Resampling.NEAREST)
    return Image.fromarray(tinted(np.asarray(picture), np.asarray(ids), full_palette(classes), OPACITY))


def draw_legend(classes: ClassSet, present: Sequence[int], width: int) -> Image.Image:
    """A strip with a coloured square and a name for each label in `present`, in centred lines.

    It is `width` pixels wide, or as wide as the longest name needs. Label 255 is called void.
    """
    font = ImageFont.load_default(FONT_SIZE)
    names = ["void" if label == VOID else classes.names[label] for label in present]
    lengths = [SQUARE + SPACE + round(font.getlength(name)) for name in names]
    width = max(width, max(lengths, default=0) + 2 * SPACE)
    lines = _lines(lengths, width - 2 * SPACE)
    strip = Image.new("RGB", (width, LINE_HEIGHT * len(lines)), PAPER)
    pen = ImageDraw.Draw(strip)
    palette = full_palette(classes)
    for row, line in enumerate(lines):
        middle = LINE_HEIGHT * row + LINE_HEIGHT // 2
        left = (width - sum(lengths[item] for item in line) - GAP * (len(line) - 1)) // 2
        for item in line:
            red, green, blue = (int(level) for level in palette[present[item]])
            square = (left, middle - SQUARE // 2, left + SQUARE - 1, middle + SQUARE // 2 - 1)
            pen.rectangle(square, (red, green, blue), INK)
            pen.text((left + SQUARE + SPACE, middle), names[item], INK, font, anchor="lm")
            left += lengths[item] + GAP
    return strip


def full_palette(classes: ClassSet) -> NDArray[np.uint8]:
    """A colour for every 8-bit label (256, 3): the classes' own, that of PASCAL VOC beyond them and for void."""
    palette = voc_palette()
    palette[: classes.num_classes] = classes.palette
    return palette


def check_labels(photo: NDArray[np.uint8], labels: NDArray[np.integer], classes: ClassSet) -> None:
    """Raise a ValueError if labels do not belong to the photo or to the classes."""
    if labels.shape != photo.shape[:2]:
        raise ValueError(f"labels have shape {labels.shape}; expected that of the photo, {photo.shape[:2]}")
    unknown = labels[((labels < 0) | (labels >= classes.num_classes)) & (labels != VOID)]
    if unknown.size:
        raise ValueError(
            f"labels hold {unknown[0]}, but {classes.num_classes} classes have labels 0 to {classes.num_classes - 1} "
            f"({VOID} is void)"
        )


def _lines(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Items of these lengths in lines that fit into `width`, `GAP` apart."""
    lines: list[list[int]] = []
    used = 0
    for item, length in enumerate(lengths):
        if lines and used + GAP + length <= width:
            lines[-1].append(item)
            used += GAP + length
        else:
            lines.append([item])
            used = length
    return lines
