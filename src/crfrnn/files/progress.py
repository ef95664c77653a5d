"""Progress of long work, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")

QUIET_SECONDS = 1.0
HIDDEN: ContextVar[bool] = ContextVar("HIDDEN", default=False)


@contextmanager
def hidden_progress() -> Iterator[None]:
    """Show no progress meanwhile."""
    token = HIDDEN.set(True)
    try:
        yield
    finally:
        HIDDEN.reset(token)


def progress(items: Sequence[Item], description: str) -> Iterable[Item]:
    """The same items, with a progress bar once they have taken a second; none if stderr is not a terminal.

    tqdm draws the bar where it is installed; otherwise a counter does.
    """
    if HIDDEN.get():
        return items
    try:
        from tqdm import tqdm
    except ImportError:
        return counted(items, description)
    bar: Iterable[Item] = tqdm(items, desc=description, delay=QUIET_SECONDS, disable=None, leave=False)
    return bar


def counted(items: Sequence[Item], description: str) -> Iterator[Item]:
    """The same items, with a line "description 3/10" rewritten before each once they have taken a second."""
    start = time.monotonic()
    line = ""
    for done, item in enumerate(items):
        if sys.stderr.isatty() and time.monotonic() - start > QUIET_SECONDS:
            line = f"{description} {done}/{len(items)}"
            print(f"\r{line}", end="", file=sys.stderr, flush=True)
        yield item
    if line:
        print(f"\r{' ' * len(line)}\r", end="", file=sys.stderr, flush=True)
