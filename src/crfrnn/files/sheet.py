"""Pictures in rows on one sheet, with captions."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from crfrnn.files.legend import INK, PAPER
from crfrnn.files.lettering import font_for

GAP = 12


def sheet(rows: Sequence[Sequence[Image.Image]], legend: Image.Image | None = None) -> Image.Image:
    """Rows of pictures, `GAP` apart, each in the middle of its column, and a legend below them."""
    widths = [max(row[column].width for row in rows if column < len(row)) for column in range(max(map(len, rows)))]
    heights = [max(cell.height for cell in row) for row in rows]
    width = sum(widths) + GAP * (len(widths) + 1)
    below = legend if legend is not None else Image.new("RGB", (0, 0))
    page = Image.new("RGB", (max(width, below.width), sum(heights) + GAP * len(rows) + below.height), PAPER)
    first, top = (page.width - width) // 2 + GAP, 0
    for row, height in zip(rows, heights, strict=True):
        left = first
        for cell, wide in zip(row, widths, strict=False):
            page.paste(cell, (left + (wide - cell.width) // 2, top + height - cell.height))
            left += wide + GAP
        top += height + GAP
    page.paste(below, ((page.width - below.width) // 2, top))
    return page


def captioned(picture: Image.Image, caption: str, font_size: int) -> Image.Image:
    """A picture below a line of text, as wide as both need."""
    font = font_for(caption, font_size)
    high = round(1.8 * font_size)
    width = max(picture.width, round(font.getlength(caption)) + 2)
    whole = Image.new("RGB", (width, high + picture.height), PAPER)
    ImageDraw.Draw(whole).text((width / 2, high / 2), caption, INK, font, anchor="mm")
    whole.paste(picture, ((width - picture.width) // 2, high))
    return whole
