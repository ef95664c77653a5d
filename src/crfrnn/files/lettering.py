"""Text in pictures: on one line, not too long, and in a font that has its letters."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

from crfrnn.plausibility import warn_of_input

LONGEST_TEXT = 60
"""How many letters of a name are drawn at most."""
FONT_FILES = (
    "DejaVuSans.ttf",
    "Arial.ttf",
    "Arial Unicode.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "wqy-zenhei.ttc",
    "wqy-microhei.ttc",
    "msyh.ttc",
    "msgothic.ttc",
    "malgun.ttf",
    "seguisym.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "AppleSDGothicNeo.ttc",
)
"""Fonts of Linux, Windows and macOS, tried in this order where Pillow's own lacks a letter."""
PROBE_SIZE = 18
FONTS_KEPT = 32
"""Opened fonts that are kept; each is one file at one size."""
NO_LETTER = "\uffff"
"""A code point that no font has: what is drawn for it stands for all that are missing."""
EAST_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL")


def shown_text(text: str) -> str:
    """A name as it is drawn: whitespace is one space, and what is longer than `LONGEST_TEXT` ends in an ellipsis."""
    line = unicodedata.normalize("NFC", " ".join(text.split()))
    return line if len(line) <= LONGEST_TEXT else line[: LONGEST_TEXT - 1].rstrip() + "…"


def font_for(text: str, size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font if it has all letters of a text, else the first of the system that lacks the fewest."""
    return _font(_source_for(text), size)


def warn_of_missing_letters(texts: Iterable[str]) -> None:
    """Warn, once for all texts of a picture, of letters that no font of the system has.

    Warns: InputWarning: which letters, and what font to install.
    """
    missing = "".join(dict.fromkeys(letter for text in texts for letter in _missing(_source_for(text), text)))
    if not missing:
        return
    listed = ", ".join(f"{letter if letter.isprintable() else ''} (U+{ord(letter):04X})".strip() for letter in missing)
    eastern = any(unicodedata.name(letter, "").startswith(EAST_ASIAN) for letter in missing)
    font = "Noto Sans CJK (fonts-noto-cjk)" if eastern else "DejaVu Sans (fonts-dejavu-core) or Noto Sans"
    warn_of_input(
        f"no font that was found has {listed}: drawn as empty boxes; install one that has them, such as {font}, or "
        "give other names"
    )


def _source_for(text: str) -> str | None:
    """The file of the font for a text; None for Pillow's own."""
    best, fewest = None, len(_missing(None, text))
    for name in (*FONT_FILES, _font_of_matplotlib()) if fewest else ():
        source = _installed(name)
        lacking = fewest if source is None else len(_missing(source, text))
        if lacking < fewest:
            best, fewest = source, lacking
        if not fewest:
            break
    return best


def _missing(source: str | None, text: str) -> list[str]:
    """The letters of a text that a font lacks."""
    if source is None and text.isascii() and text.isprintable():
        return []
    return [letter for letter in dict.fromkeys(text) if not letter.isspace() and _lacks(source, letter)]


@cache
def _lacks(source: str | None, letter: str) -> bool:
    return "\ud800" <= letter <= "\udfff" or _mask(source, letter) == _mask(source, NO_LETTER)


def _mask(source: str | None, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = _font(source, PROBE_SIZE).getmask(letter)
    return mask.size, bytes(mask)


@lru_cache(FONTS_KEPT)
def _font(source: str | None, size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size) if source is None else ImageFont.truetype(source, size)


@cache
def _installed(name: str) -> str | None:
    """The path of a font by its file name, or None if it is not installed."""
    try:
        return str(ImageFont.truetype(name, PROBE_SIZE).path)
    except OSError:
        return None


@cache
def _font_of_matplotlib() -> str:
    """The path of the font that comes with matplotlib, which is not imported; of no file if it is not installed."""
    try:
        found = find_spec("matplotlib")
    except (ImportError, ValueError):  # where it is blocked
        found = None
    folder = Path(found.origin).parent if found is not None and found.origin is not None else Path("matplotlib")
    return str(folder / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")
