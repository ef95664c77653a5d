"""Progress of long work, and lines in between. The command line shows both in its own way: `shown_on`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")

QUIET_SECONDS = 1.0
"""Shorter work shows no progress."""


class Bar:
    """Progress that nobody sees."""

    def reach(self, done: int, words: str = "") -> None:
        """Show how many parts are done, and some words on how it goes."""

    def close(self) -> None:
        """Show nothing any more."""


class Counter(Bar):
    """A line "description 3/10 words" on stderr, written anew whenever a part is done."""

    def __init__(self, total: int, description: str) -> None:
        self.total, self.description = total, description
        self.start, self.width = time.monotonic(), 0

    def reach(self, done: int, words: str = "") -> None:
        if sys.stderr is not None and sys.stderr.isatty() and time.monotonic() - self.start > QUIET_SECONDS:
            line = f"{self.description} {done}/{self.total} {words}".rstrip()
            print(f"\r{line:{self.width}}", end="", file=sys.stderr, flush=True)
            self.width = len(line)

    def close(self) -> None:
        if self.width:
            print(f"\r{' ' * self.width}\r", end="", file=sys.stderr, flush=True)
            self.width = 0


class Display:
    """Where progress is seen: here, for callers in Python, a counter on stderr if that is a terminal."""

    def bar(self, total: int, description: str) -> Bar:
        """Begin to show work of so many parts."""
        return Counter(total, description)

    def line(self, text: str) -> None:
        """Print a line on stdout at once."""
        print(text, flush=True)

    def notice(self, text: str) -> None:
        """Print a line on stderr."""
        print(f"\n{text}", file=sys.stderr)


_DISPLAY: ContextVar[Display] = ContextVar("_DISPLAY", default=Display())  # noqa: B039  (it has no state)


def display() -> Display:
    """Where progress is seen now."""
    return _DISPLAY.get()


@contextmanager
def shown_on(display: Display) -> Iterator[None]:
    """Show progress there meanwhile."""
    token = _DISPLAY.set(display)
    try:
        yield
    finally:
        _DISPLAY.reset(token)


def progress(items: Sequence[Item], description: str) -> Iterable[Item]:
    """The same items, with a progress bar once they have taken a second; none if stderr is not a terminal."""
    return _counted(items, display().bar(len(items), description))


def _counted(items: Sequence[Item], bar: Bar) -> Iterator[Item]:
    try:
        for done, item in enumerate(items):
            bar.reach(done)
            yield item
    finally:
        bar.close()
