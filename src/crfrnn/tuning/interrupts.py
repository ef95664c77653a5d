"""Ctrl-C that programs and terminals send twice in a row, taken for one."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

GRACE = 2.0
"""Seconds in which further interrupts count as the same one."""


@contextmanager
def patient_interrupts() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, but not within `GRACE` seconds of the last time that it did.

    Only the main thread receives it: elsewhere, and where the process handles it already, this does nothing.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    last = -math.inf

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal last
        if time.monotonic() - last > GRACE:
            last = time.monotonic()
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
