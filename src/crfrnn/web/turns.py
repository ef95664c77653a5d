"""Whose turn it is: a few compute at a time, those of one line one after the other, and waiting has an end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakValueDictionary

AT_ONCE = 2
"""Computations that run side by side; others wait."""
MOST_WAITING = 32

Result = TypeVar("Result")


class BusyError(ValueError):
    """Too many wait already."""


class Turns:
    """Lets work run in threads, in the order in which it was asked for. It belongs to one event loop."""

    def __init__(self, at_once: int = AT_ONCE, most_waiting: int = MOST_WAITING) -> None:
        self._free, self._most = asyncio.Semaphore(at_once), at_once + most_waiting
        self._asked = 0
        self._lines: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def take(self, line: str, work: Callable[[], Result]) -> Result:
        """What `work` returns, once what came before in the same line is done.

        Raises: BusyError: if too many wait already; and what `work` raises.
        """
        if self._asked >= self._most:
            raise BusyError(f"{self._most} computations wait already; try again in a moment")
        self._asked += 1
        try:
            async with self._lines.setdefault(line, asyncio.Lock()), self._free:
                return await asyncio.to_thread(work)
        finally:
            self._asked -= 1
