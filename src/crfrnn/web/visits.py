"""What each of several users works on, kept in memory and forgotten when they leave."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from crfrnn.web.desk import Desk

MOST_BYTES = 1_000_000_000
"""Of all desks together; beyond it the user who has been away for longest loses theirs."""
MOST_SECONDS = 3600.0
"""After which a desk that nobody touched is forgotten, as of a browser that never said goodbye."""


class NoDeskError(ValueError):
    """There is no desk of a user."""


@dataclass(eq=False)
class _Kept:
    desk: Desk
    touched: float


class Visits:
    """The desk of each user, by a word that only their browser knows.

    Threads may share it.
    """

    def __init__(self, most_bytes: int = MOST_BYTES, most_seconds: float = MOST_SECONDS) -> None:
        self.most_bytes, self.most_seconds = most_bytes, most_seconds
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, user: str, desk: Desk) -> None:
        """Keep a desk in the place of the user's last one."""
        with self._lock:
            self._kept[user] = _Kept(desk, time.monotonic())
            self._kept.move_to_end(user)
            self._sweep()

    def desk(self, user: str) -> Desk:
        """The desk of a user.

        Raises: NoDeskError: if there is none, or it was forgotten.
        """
        with self._lock:
            self._sweep()
            if user not in self._kept:
                raise NoDeskError("choose a photo, or one of the examples")
            self._kept.move_to_end(user)
            self._kept[user].touched = time.monotonic()
            return self._kept[user].desk

    def forget(self, user: str) -> None:
        """Forget a user."""
        with self._lock:
            self._kept.pop(user, None)

    def _sweep(self) -> None:
        """Forget what nobody touched for long, and what is oldest beyond the limit, except the last desk."""
        since = time.monotonic() - self.most_seconds
        total = sum(kept.desk.nbytes for kept in self._kept.values())
        for user, kept in list(self._kept.items()):
            if kept.touched < since or (total > self.most_bytes and len(self._kept) > 1):
                total -= kept.desk.nbytes
                del self._kept[user]
