"""What a stream can show: colours, a cursor that moves, so many columns; and text made ready for it."""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from crfrnn.cli.streams import SPELT

if TYPE_CHECKING:
    from rich.console import Console

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Characters that would steer a terminal, where a name of a file has them."""
LEAST_COLUMNS, USUAL_COLUMNS, MOST_COLUMNS = 20, 80, 10_000
"""Narrower terminals count as the first, unknown ones as the second, and lines without an end as the third."""


@dataclass(frozen=True)
class Look:
    """What a stream can show.

    Attributes:
        colour: Whether it shows colours.
        movable: Whether its cursor moves back, as bars need.
        width: Its columns; None if it is no terminal, whose lines have no end.
    """

    colour: bool
    movable: bool
    width: int | None

    @classmethod
    def of(cls, stream: TextIO | None) -> Look:
        """The look of a stream, as the environment says: https://no-color.org, https://force-color.org."""
        terminal = stream is not None and not stream.closed and stream.isatty()
        movable = terminal and os.environ.get("TERM", "").lower() not in ("dumb", "unknown") and not _is_legacy()
        colour = not os.environ.get("NO_COLOR") and (movable or bool(os.environ.get("FORCE_COLOR")))
        return cls(colour, movable, columns_of(stream) if terminal else None)

    def console(self) -> Console:
        """A console of Rich that takes text as it is: no markup, no highlighting."""
        from rich.console import Console

        return Console(
            force_terminal=self.colour or self.movable,
            force_jupyter=False,
            color_system="standard" if self.colour else None,
            width=self.width or MOST_COLUMNS,
            markup=False,
            emoji=False,
            highlight=False,
            legacy_windows=False,
        )

    def rendered(self, content: Any, encoding: str, **options: Any) -> str:
        """What Rich would print on a stream of this encoding."""
        console = self.console()
        console.file = io.TextIOWrapper(io.BytesIO(), encoding)
        with console.capture() as captured:
            console.print(content, **options)
        return captured.get()


def columns_of(stream: TextIO | None) -> int:
    """The columns of a terminal, as COLUMNS or itself says; 80 of anything else."""
    given = os.environ.get("COLUMNS", "")
    columns = int(given) if given.isdecimal() and len(given) < 5 else 0
    if not columns and stream is not None:
        try:
            columns = os.get_terminal_size(stream.fileno()).columns
        except (OSError, ValueError):
            columns = 0
    return max(LEAST_COLUMNS, columns or USUAL_COLUMNS)


def encoding_of(stream: TextIO) -> str:
    """The encoding of a stream; UTF-8 of one in memory."""
    return getattr(stream, "encoding", None) or "utf-8"


def legible(text: str, encoding: str, kept: str = "") -> str:
    """Text that a stream of this encoding can show, with control characters written as in a string of Python.

    Args:
        kept: Control characters to leave as they are.
    """
    shown = CONTROLS.sub(lambda found: found[0] if found[0] in kept else repr(found[0])[1:-1], text)
    return shown.encode(encoding, SPELT).decode(encoding)


def _is_legacy() -> bool:
    """Whether this is a console of Windows that takes no control sequences."""
    if os.name != "nt":
        return False
    from rich.console import detect_legacy_windows

    return detect_legacy_windows()
