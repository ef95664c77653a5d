"""The bar of a command, on the last line of the terminal of stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from crfrnn.cli.look import Look, encoding_of, legible
from crfrnn.files.progress import QUIET_SECONDS, Bar

REDRAWN = 0.1
"""Seconds between two drawings."""
FEWEST_COLUMNS = 60
"""On a narrower terminal there is a count alone."""
BAR_COLUMNS = 24
_lock = threading.RLock()
_columns_drawn = 0
"""Columns of the bar that is on the terminal; 0 if none is."""


class TerminalBar(Bar):
    """A bar that is there once its work has taken a second.

    It is drawn when a part is done, by the thread that says so: there is none of its own, so that processes may be
    forked meanwhile, and none that outlives the command.
    """

    def __init__(self, total: int, description: str) -> None:
        from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn

        look = Look.of(sys.stderr)
        width = look.width or FEWEST_COLUMNS
        self.look = Look(look.colour, look.movable, width - 1)  # a full line moves some cursors to the next
        self.encoding = encoding_of(sys.stderr)
        count = TextColumn("{task.completed}/{task.total}", markup=False)
        columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), count]
        if width >= FEWEST_COLUMNS:
            columns[1:1] = [BarColumn(BAR_COLUMNS, complete_style="cyan", finished_style="cyan", pulse_style="cyan")]
            columns += [
                TextColumn("{task.fields[left]}", markup=False),
                TextColumn("{task.fields[words]}", markup=False),
            ]
        self.shown = Progress(*columns, console=self.look.console(), auto_refresh=False)
        self.task = self.shown.add_task(legible(description, self.encoding), total=total, left="", words="")
        self.start, self.last = time.monotonic(), -REDRAWN

    def reach(self, done: int, words: str = "") -> None:
        remaining = self.shown.tasks[0].time_remaining if done else None
        left = "" if remaining is None else f"{_clock(remaining)} left"
        self.shown.update(self.task, completed=done, words=legible(words, self.encoding), left=left)
        now = time.monotonic()
        if now - self.start > QUIET_SECONDS and now - self.last >= REDRAWN:
            self.last = now
            self._draw()

    def _draw(self) -> None:
        global _columns_drawn
        line = self.look.rendered(self.shown.get_renderable(), self.encoding).splitlines()[0].rstrip()
        with without_bar():
            _columns_drawn = self.look.width or 0  # before it is: Ctrl-C may come between
            sys.stderr.write(f"\r{line}")
            sys.stderr.flush()

    def close(self) -> None:
        with without_bar():
            pass


@contextmanager
def without_bar() -> Iterator[None]:
    """Take the bar off the terminal, and let no other thread draw it meanwhile."""
    global _columns_drawn
    with _lock:
        if _columns_drawn and sys.stderr is not None and not sys.stderr.closed:
            sys.stderr.write(f"\r{' ' * _columns_drawn}\r")
            sys.stderr.flush()
        _columns_drawn = 0
        yield


def _clock(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"
