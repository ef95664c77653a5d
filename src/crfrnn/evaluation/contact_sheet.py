"""One picture of the photos that a model segments best and worst."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from crfrnn.evaluation.evaluate import Evaluation, ShownPhoto
from crfrnn.files.classes import ClassSet
from crfrnn.files.legend import INK, PAPER, draw_legend, full_palette, key_of, tinted_photo
from crfrnn.files.lettering import font_for, shown_text, warn_of_missing_letters

CELL = 320
"""The width of a picture and its largest height, in pixels."""
GAP = 12
TITLE_HEIGHT = 40
CAPTION_HEIGHT = 30
TITLE_SIZE = 20
CAPTION_SIZE = 15


def contact_sheet(evaluation: Evaluation) -> Image.Image:
    """A row for each of the best and of the worst photos: photo, truth, network, network with CRF; a legend below.

    Raises: ValueError: if all photos are void, so that none can be ranked.
    """
    shown = [("best", each) for each in evaluation.best] + [("worst", each) for each in evaluation.worst]
    if not shown:
        raise ValueError("no photo has a label other than void; there is nothing to show")
    titles = ["photo", "truth", "network"] + ([] if evaluation.crf is None else ["network with CRF"])
    rows = [_row(kind, each, evaluation.classes) for kind, each in shown]
    key = key_of(evaluation.classes, _present(shown))
    warn_of_missing_letters([*key.shown, *(shown_text(each.sample.name) for _, each in shown)])
    width = len(titles) * (CELL + GAP) + GAP
    legend = draw_legend(key, width)
    height = TITLE_HEIGHT + sum(row.height for row in rows) + legend.height + GAP
    sheet = Image.new("RGB", (max(width, legend.width), height), PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        middle = GAP + column * (CELL + GAP) + CELL // 2
        pen.text((middle, TITLE_HEIGHT // 2), title, INK, font_for(title, TITLE_SIZE), anchor="mm")
    top = TITLE_HEIGHT
    for row in rows:
        sheet.paste(row, (GAP, top))
        top += row.height
    sheet.paste(legend, (0, top))
    return sheet


def _row(kind: str, shown: ShownPhoto, classes: ClassSet) -> Image.Image:
    """The pictures of a photo side by side and a line below them."""
    layers: list[NDArray[np.uint8]] = [shown.sample.labels, shown.network]
    caption = f"{kind}: {shown_text(shown.sample.name)}    mean IoU {100 * shown.scores.network:.1f}"
    if shown.crf is not None and shown.scores.crf is not None:
        layers.append(shown.crf)
        caption += f", with CRF {100 * shown.scores.crf:.1f}"
    photo = Image.fromarray(shown.sample.image)
    palette = full_palette(classes)
    cells = [photo, *(tinted_photo(shown.sample.image, labels, palette, None) for labels in layers)]
    scale = CELL / max(photo.size)
    size = (max(1, round(scale * photo.width)), max(1, round(scale * photo.height)))
    row = Image.new("RGB", (len(cells) * (CELL + GAP), size[1] + CAPTION_HEIGHT), PAPER)
    for column, cell in enumerate(cells):
        row.paste(cell.resize(size, Image.Resampling.LANCZOS), (column * (CELL + GAP) + (CELL - size[0]) // 2, 0))
    font = font_for(caption, CAPTION_SIZE)
    ImageDraw.Draw(row).text((0, size[1] + CAPTION_HEIGHT // 2), caption, INK, font, anchor="lm")
    return row


def _present(shown: list[tuple[str, ShownPhoto]]) -> list[int]:
    """The labels that occur in the pictures."""
    present: set[int] = set()
    for _, each in shown:
        for labels in (each.sample.labels, each.network, each.crf):
            if labels is not None:
                present.update(np.unique(labels).tolist())
    return sorted(present)
