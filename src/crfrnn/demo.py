"""The demonstration: photos segmented by the package's model, with its network alone and with the CRF-RNN."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crfrnn.files.classes import ClassSet
from crfrnn.files.comparison import close_row, close_up, visible_classes, whole_row
from crfrnn.files.legend import draw_legend, full_palette, key_of
from crfrnn.files.palette import CLEAR_COLOURS
from crfrnn.files.photos import read_photo, write_picture
from crfrnn.files.progress import progress
from crfrnn.files.sheet import captioned, sheet
from crfrnn.files.table import Table

EXAMPLES = ("chelsea", "astronaut", "coffee")
WITH_CLASSES = EXAMPLES[:2]
"""Those that show classes of the model. A cup is none."""
COLUMN_TITLES = ("photo", "network alone", "network + CRF-RNN")
CELL_WIDTH = 480
TITLE_SIZE = 24


@dataclass(frozen=True)
class Example:
    """A photo (H, W, 3) and its labels (H, W) by the network alone and with the CRF-RNN."""

    photo: NDArray[np.uint8]
    network: NDArray[np.uint8]
    refined: NDArray[np.uint8]


def draw_demo(output: Path) -> Table:
    """Segment the examples with classes, and draw them to `output`. Returns what it took and what the CRF changed."""
    from crfrnn.models import load_model
    from crfrnn.segment import segment

    model = load_model()
    examples = []
    rows = []
    segment(read_example(WITH_CLASSES[0]), model)  # the first call makes things ready, which takes longer
    for name in progress(WITH_CLASSES, "demo"):
        photo = read_example(name)
        start = time.perf_counter()
        alone = segment(photo, model, crf=False).labels
        middle = time.perf_counter()
        refined = segment(photo, model).labels
        end = time.perf_counter()
        height, width = refined.shape
        seconds = middle - start, end - middle
        rows.append(
            [
                name,
                f"{width}×{height}",
                *(f"{1000 * each:.0f} ms" for each in seconds),
                f"{np.mean(alone != refined):.1%}",
            ]
        )
        examples.append(Example(photo, alone, refined))
    write_picture(output, draw(examples, model.classes))
    return Table(("", "size", *COLUMN_TITLES[1:], "pixels changed"), rows)


def read_example(name: str) -> NDArray[np.uint8]:
    """An example photo (H, W, 3)."""
    with as_file(files("crfrnn").joinpath("data", "examples", f"{name}.png")) as path:
        return read_photo(path)


def draw(examples: list[Example], classes: ClassSet) -> Image.Image:
    """Two rows for each photo, whole and close up: the photo, network alone, network + CRF-RNN. A legend is below."""
    shown = visible_classes(*(labels for one in examples for labels in (one.network, one.refined)))
    coloured = in_clear_colours(classes, shown)
    rows = [row for example in examples for row in rows_of(example, coloured)]
    rows[0] = [captioned(cell, title, TITLE_SIZE) for cell, title in zip(rows[0], COLUMN_TITLES, strict=True)]
    return sheet(rows, draw_legend(key_of(coloured, shown), 3 * CELL_WIDTH))


def in_clear_colours(classes: ClassSet, shown: list[int]) -> ClassSet:
    """The classes with a bright colour for each of those that are shown. The background is the dimmed photo."""
    palette = np.zeros_like(classes.palette)
    for place, label in enumerate(shown):
        palette[label] = CLEAR_COLOURS[place % len(CLEAR_COLOURS)]
    return ClassSet(classes.names, palette)


def rows_of(example: Example, classes: ClassSet) -> list[list[Image.Image]]:
    """The photo whole and close up: each a row of photo, network alone and network + CRF-RNN, `CELL_WIDTH` wide."""
    box, maps, palette = (
        close_up(example.network, example.refined),
        (example.network, example.refined),
        full_palette(classes),
    )
    return [
        whole_row(example.photo, maps, palette, CELL_WIDTH, [box]),
        close_row(example.photo, maps, palette, CELL_WIDTH, box),
    ]
