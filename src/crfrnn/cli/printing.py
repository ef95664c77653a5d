"""What the commands print: every line and table of them, on any terminal.

Where stdout or stderr is a terminal, lines are wrapped to its width, and Rich draws colours, tables and bars. Elsewhere
the same words are printed as they are, and Rich is not imported.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TextIO

from crfrnn.cli.bars import TerminalBar, without_bar
from crfrnn.cli.look import Look, columns_of, encoding_of, legible
from crfrnn.cli.streams import print_failures
from crfrnn.files.progress import Bar, Display
from crfrnn.files.table import Table

if TYPE_CHECKING:
    from rich.text import Text

KINDS = {"error": "bold red", "failed": "bold red", "warning": "bold yellow", "interrupted": "bold yellow"}
"""Styles of the words that say what kind of message it is."""
GOOD, BAD, DOUBTFUL = "bold green", "bold red", "bold yellow"
"""Styles of verdicts."""
SUBJECT, HEADER, RULE = "bold cyan", "bold", "dim"
"""Styles of what a line is about, the names of columns, and lines between rows."""
GAIN = "gain"
"""The column whose numbers are good above 0, and bad below."""
BETWEEN = 2
"""Columns between those of a table."""
HANGING = 2
"""Columns that all lines but the first of a wrapped one are set in."""
HELP = (
    (r"^(usage:|[a-zA-Z][^\n:]{0,60}:$)", HEADER),
    (r"(?<![\w/-])--?[a-zA-Z][\w-]*", "cyan"),
    (r"^  crfrnn(?= )", "green"),
    (r"  # .*$", RULE),
)
"""What stands out in the help of a command."""
EASY_COLUMNS = 100
"""Longer lines of a help are hard to read."""


def say(text: str, subject: object = None, style: str = "", flush: bool = False) -> None:
    """Print a line on stdout.

    Args:
        subject: The file or the like that it is about, which stands before it.
        style: Of the text, such as `GOOD`.
        flush: Print it at once, also into a file.
    """
    about = [] if subject is None else [(f"{subject}:", SUBJECT), (" ", "")]
    _print(sys.stdout, [*about, (text, style)], flush)


def complain(*parts: object) -> None:
    """Print a line on stderr: its parts with colons between them, such as the command, "warning" and what it is."""
    *kinds, message = map(str, parts)
    pieces = [piece for kind in kinds for piece in ((f"{kind}:", KINDS.get(kind, "")), (" ", ""))]
    _print(sys.stderr, [*pieces, (message, "")], flush=True)


def say_table(table: Table) -> None:
    """Print a table on stdout; on a terminal that is too narrow for it, each row as a block of lines."""
    look, stream = Look.of(sys.stdout), sys.stdout
    table = table.mapped(lambda cell: legible(cell, encoding_of(stream)))
    if look.width is not None and _total(table.least_widths) > look.width:
        width = max(map(len, table.header))
        for name, *cells in table.rows:
            _print(stream, [(name, HEADER)])
            for column, cell in zip(table.header[1:], cells, strict=True):
                _print(stream, [(f"  {column:{width}}  ", ""), (cell, _style(column, cell))])
    elif look.width is not None or look.colour:
        _write(stream, look.rendered(_drawn(table, look.width), encoding_of(stream)))
    else:
        _write(stream, f"{table}\n")


def say_raw(text: str) -> None:
    """Print on stdout what another program is to read, with nothing changed in it."""
    _write(sys.stdout, f"{text}\n")


def say_help(text: str, stream: TextIO | None) -> None:
    """Print the help of a command, which is wrapped already."""
    look = Look.of(stream)
    if stream is not None and look.colour:
        from rich.text import Text

        styled = Text(legible(text, encoding_of(stream), kept="\n"))
        for pattern, style in HELP:
            styled.highlight_regex(re.compile(pattern, re.MULTILINE), style)
        text = look.rendered(styled, encoding_of(stream), soft_wrap=True, end="")
    _write(stream, text)


def help_width() -> int:
    """Columns of a help: those of the terminal, as far as lines are easy to read."""
    return min(columns_of(sys.stdout), EASY_COLUMNS) - 2


class Screen(Display):
    """The display of the command line: bars on stderr if that is a terminal."""

    def bar(self, total: int, description: str) -> Bar:
        return TerminalBar(total, description) if Look.of(sys.stderr).movable else Bar()

    def line(self, text: str) -> None:
        say(text, flush=True)

    def notice(self, text: str) -> None:
        complain(text)


class Silent(Screen):
    """The display of a quiet command: no bars."""

    def bar(self, total: int, description: str) -> Bar:
        return Bar()


def _print(stream: TextIO | None, pieces: Sequence[tuple[str, str]], flush: bool = False) -> None:
    """Print pieces of text, each with its style, as one line."""
    if stream is None:
        return
    encoding = encoding_of(stream)
    look, pieces = Look.of(stream), [(legible(text, encoding), style) for text, style in pieces]
    line = "".join(text for text, _ in pieces)
    if look.colour or (look.width is not None and len(line) > look.width // 2):  # a sign may take two columns
        from rich.text import Text

        styled = Text.assemble(*pieces)
        if look.width is not None and styled.cell_len > look.width:
            styled = Text("\n" + " " * HANGING).join(_broken(styled, look.width - HANGING))
        line = look.rendered(styled, encoding, soft_wrap=True, end="")
    _write(stream, f"{line}\n", flush)


def _broken(text: Text, width: int) -> Iterator[Text]:
    """Text in lines of that many columns, broken between words: a longer path stays whole, to be copied."""
    from rich.cells import cell_len

    places, column = [], 0
    for word in re.finditer(r"\S+\s*", text.plain):
        if column and column + cell_len(word[0].rstrip()) > width:
            places.append(word.start())
            column = 0
        column += cell_len(word[0])
    for line in text.divide(places):
        line.rstrip()
        yield line


def _write(stream: TextIO | None, text: str, flush: bool = False) -> None:
    """Write to a stream, in the place of the bar if it is a terminal."""
    if stream is None:
        return
    is_terminal = stream.isatty()
    with print_failures(), without_bar() if is_terminal else nullcontext():
        stream.write(text)
        if flush or is_terminal:
            stream.flush()


def _drawn(table: Table, width: int | None) -> Any:
    """A table of Rich. The names of columns may take several lines, numbers do not."""
    from rich import box
    from rich.table import Table as Drawn
    from rich.text import Text

    drawn = Drawn(
        box=box.SIMPLE_HEAD,
        padding=(0, BETWEEN - 1, 0, 0),  # the box has one more
        header_style=HEADER,
        border_style=RULE,
        show_edge=False,
        pad_edge=False,
    )
    widths = table.widths if width is None or _total(table.widths) <= width else table.least_widths
    for place, (name, columns) in enumerate(zip(table.header, widths, strict=True)):
        drawn.add_column(Text(name), justify="right" if place else "left", vertical="bottom", width=columns)
    for row in table.rows:
        cells = zip(table.header, row, strict=True)
        drawn.add_row(*(Text(cell, _style(name, cell)) for name, cell in cells))
    return drawn


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + BETWEEN * (len(widths) - 1)


def _style(column: str, cell: str) -> str:
    return {"+": "green", "-": "red"}.get(cell[:1], "") if column == GAIN else ""
