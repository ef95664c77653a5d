"""The demonstration: three photos, what a network says about them, and what the CRF makes of that, in one picture."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from crfrnn.files import read_array, read_photo, write_picture
from crfrnn.palette import tinted
from crfrnn.parameters import CRFParameters
from crfrnn.progress import progress
from crfrnn.refine import refine
from crfrnn.resize import resize_scores

Colour = tuple[int, int, int]

EXAMPLES = ("chelsea", "astronaut", "coffee")
CANVAS = 513
"""Side of the square that the network's scores cover; the photo lies at its top left, its longer side as long."""

PARAMETERS = CRFParameters(theta_alpha=50.0, theta_beta=10.0, theta_gamma=3.0, normalization="symmetric", iterations=10)

CLASS_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table",
    "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
)  # fmt: skip

COLUMN_TITLES = ("photo", "network alone", "after the CRF")
COLOURS = ((240, 190, 40), (40, 130, 240), (0, 180, 130), (150, 90, 240), (230, 90, 60), (220, 80, 170))
"""Of the classes that occur, in their order; the background is the dimmed photo."""
OPACITY = 0.55
CELL_WIDTH = 480
GAP = 12
TITLE_HEIGHT = 44
LEGEND_HEIGHT = 52
PAPER = (255, 255, 255)
INK = (34, 34, 34)


@dataclass(frozen=True)
class Example:
    """A photo (H, W, 3) and its labels (H, W) before and after."""

    photo: NDArray[np.uint8]
    before: NDArray[np.integer]
    after: NDArray[np.integer]


def run_demo(output: Path) -> int:
    """Refine the example photos, draw them to `output`, and print what changed. Returns the exit status."""
    examples = []
    lines = []
    for name in progress(EXAMPLES, "demo"):
        example, seconds = refined(name)
        examples.append(example)
        height, width = example.after.shape
        changed = np.mean(example.before != example.after)
        lines.append(f"{name:<10} {width}×{height}  {1000 * seconds:5.0f} ms  {changed:5.1%} of pixels changed")
    write_picture(output, draw(examples))
    print("\n".join(lines))
    print(f"photo, network alone, after the CRF: {output}")
    return 0


def refined(name: str) -> tuple[Example, float]:
    """An example before and after, and the seconds that the CRF took."""
    photo, scores = read_example(name)
    start = time.perf_counter()
    probabilities = refine(scores, photo, PARAMETERS)
    seconds = time.perf_counter() - start
    return Example(photo, scores.argmax(axis=0), probabilities.argmax(axis=0)), seconds


def read_example(name: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """An example photo (H, W, 3) and the network's logits (21, H, W) at its size."""
    folder = files("crfrnn").joinpath("data", "examples")
    with as_file(folder / f"{name}.png") as path:
        photo = read_photo(path)
    with as_file(folder / f"{name}_logits33.npz") as path:
        coarse = read_array(path)
    return photo, photo_part(coarse, photo.shape[0], photo.shape[1])


def photo_part(coarse: NDArray[np.floating], height: int, width: int) -> NDArray[np.float32]:
    """Coarse scores of the whole canvas (C, h, w) as scores of the photo (C, height, width)."""
    scale = CANVAS / max(height, width)
    canvas = resize_scores(coarse, (CANVAS, CANVAS))
    return resize_scores(canvas[:, : round(scale * height), : round(scale * width)], (height, width))


def draw(examples: list[Example]) -> Image.Image:
    """One row per photo: the photo, then its labels before and after over it; a legend below."""
    colours = colours_of(examples)
    rows = [row_of(example, colours) for example in examples]
    width = 3 * CELL_WIDTH + 4 * GAP
    height = TITLE_HEIGHT + sum(row[0].height + GAP for row in rows) - GAP + LEGEND_HEIGHT
    picture = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(picture)
    lefts = [GAP + column * (CELL_WIDTH + GAP) for column in range(3)]
    for left, title in zip(lefts, COLUMN_TITLES, strict=True):
        pen.text((left + CELL_WIDTH / 2, TITLE_HEIGHT / 2), title, INK, ImageFont.load_default(24), anchor="mm")
    top = TITLE_HEIGHT
    for row in rows:
        for left, cell in zip(lefts, row, strict=True):
            picture.paste(cell, (left, top))
        top += row[0].height + GAP
    draw_legend(pen, colours, width / 2, height - LEGEND_HEIGHT / 2)
    return picture


def colours_of(examples: list[Example]) -> dict[int, Colour]:
    """A colour for every class but the background that occurs in the examples."""
    present = np.unique(np.concatenate([labels.ravel() for one in examples for labels in (one.before, one.after)]))
    return {int(label): COLOURS[place % len(COLOURS)] for place, label in enumerate(present[present > 0])}


def row_of(example: Example, colours: dict[int, Colour]) -> list[Image.Image]:
    """Photo, network alone, after the CRF, each `CELL_WIDTH` wide."""
    height, width = example.before.shape
    size = (CELL_WIDTH, round(height * CELL_WIDTH / width))
    palette = np.zeros((len(CLASS_NAMES), 3), np.uint8)
    for label, colour in colours.items():
        palette[label] = colour
    pictures = [example.photo]
    pictures += [tinted(example.photo, labels, palette, OPACITY) for labels in (example.before, example.after)]
    return [Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS) for picture in pictures]


def draw_legend(pen: ImageDraw.ImageDraw, colours: dict[int, Colour], middle: float, line: float) -> None:
    """A coloured square and a name for each class, centred at `middle` on the `line`."""
    font = ImageFont.load_default(20)
    square, space, gap = 20, 8, 32
    lengths = {label: square + space + pen.textlength(CLASS_NAMES[label], font) for label in colours}
    left = middle - (sum(lengths.values()) + gap * (len(lengths) - 1)) / 2
    for label, colour in colours.items():
        pen.rectangle((left, line - square / 2, left + square, line + square / 2), colour)
        pen.text((left + square + space, line), CLASS_NAMES[label], INK, font, anchor="lm")
        left += lengths[label] + gap
