"""Progress of long work, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

QUIET_SECONDS = 1.0


def progress(items: Sequence[Item], description: str, quiet: bool = False) -> Iterable[Item]:
    """The same items, with a progress bar once they have taken a second; none if quiet or stderr is not a terminal.

    tqdm draws the bar where it is installed; otherwise a counter does.
    """
    if quiet:
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
