"""Terminals of any width, to see what the commands print on them."""

import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""Colours, and movements of the cursor."""


class Terminal:
    """One end of a pseudo-terminal; what is printed at the other end is read as it comes.

    Args:
        seen: Called with all that was printed so far, whenever there is more.
    """

    def __init__(self, columns: int, seen: Callable[[bytes], None] = lambda printed: None) -> None:
        self.near, self.far = pty.openpty()
        fcntl.ioctl(self.far, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.read = b""
        self.reader = threading.Thread(target=self._follow, args=[seen])
        self.reader.start()

    def _follow(self, seen: Callable[[bytes], None]) -> None:
        try:
            while more := os.read(self.near, 1 << 16):
                self.read += more
                seen(self.read)
        except OSError:  # the other end is closed
            pass
        os.close(self.near)

    def printed(self, encoding: str = "utf-8") -> str:
        """Everything that was printed, once nobody prints any more."""
        os.close(self.far)
        self.reader.join(60)
        return self.read.decode(encoding).replace("\r\n", "\n")


@contextmanager
def on_terminal(columns: int, encoding: str = "utf-8") -> Iterator[list[str]]:
    """Let this process print to a terminal. The list has what was printed, afterwards."""
    terminal, shown = Terminal(columns), []
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(os.fdopen(os.dup(terminal.far), "wb"), encoding, line_buffering=True) for _ in before
    )
    try:
        yield shown
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.close()
        sys.stdout, sys.stderr = before
        shown.append(terminal.printed(encoding))


def plain(printed: str) -> str:
    """What was printed, without colours."""
    return SEQUENCE.sub("", printed)


def lines_seen(printed: str) -> Sequence[str]:
    """Lines as they stand in the end, without colours: a carriage return goes back to the beginning of its line."""
    lines = []
    for line in plain(printed).split("\n"):
        seen = ""
        for part in line.split("\r"):
            seen = part + seen[len(part) :]
        lines.append(seen.rstrip())
    return lines
