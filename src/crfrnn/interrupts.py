"""How a process is asked to end: Ctrl-C; SIGTERM, which schedulers send; SIGHUP, when its terminal is closed.

This module needs nothing but Python: `crfrnn` imports it before everything else.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

GRACE = 2.0
"""Seconds in which further signals count as the same one: programs and terminals send them twice in a row."""
ENDING = tuple(signal.Signals[name] for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Terminated(KeyboardInterrupt):
    """The process was asked to end by another signal than that of Ctrl-C.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int, *message: object) -> None:
        super().__init__(*message)
        self.number = signal.Signals(number)


@contextmanager
def orderly_end() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `Terminated`, so that unfinished files are removed as after Ctrl-C.

    A signal that the process ignores, as SIGHUP under nohup, or handles already is left alone.
    """
    with _raising([each for each in ENDING if signal.getsignal(each) is signal.SIG_DFL], Terminated):
        yield


@contextmanager
def patient_interrupts() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, but not within `GRACE` seconds of the last time that it did.

    Only the main thread receives it: elsewhere, and where the process handles it already, this does nothing.
    """
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with _raising([signal.SIGINT] if ours else [], lambda number: KeyboardInterrupt()):
        yield


@contextmanager
def _raising(numbers: list[signal.Signals], exception: Callable[[int], BaseException]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    last = -math.inf

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal last
        if time.monotonic() - last > GRACE:
            last = time.monotonic()
            raise exception(number)

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_command() -> bool:
    """Whether this process was started as `crfrnn …` or `python -m crfrnn …`."""
    first = sys.argv[0] if getattr(sys, "argv", None) else ""
    if first == "-m":  # what it is while Python looks for the module
        given = sys.orig_argv
        return "crfrnn" in [module for flag, module in pairwise(given) if flag == "-m"][:1]
    return Path(first).name in ("crfrnn", "crfrnn.exe")


def _end_import(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    if sys.stderr is not None:
        print("crfrnn: interrupted", file=sys.stderr, flush=True)
    os._exit(128 + signal.SIGINT)


if _is_command():  # Ctrl-C before `main` is there to handle it would show where Python imports what
    sys.excepthook = _end_import
