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
IMPORT_SYSTEM = "<frozen importlib._bootstrap>"
"""Python's own code that imports: an exception there keeps its locks, and other threads wait for them forever."""
MOMENT = 0.01
"""Seconds that a signal there is put off."""
ENDING = tuple(signal.Signals[name] for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Terminated(KeyboardInterrupt):
    """The process was asked to end by another signal than that of Ctrl-C.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int, *message: object) -> None:
        super().__init__(*message)
        self.number = signal.Signals(number)


class _Asked:
    """When and by which signal the process was asked last."""

    number: int = signal.SIGINT
    when = -math.inf


_asked = _Asked()


@contextmanager
def orderly_end() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, SIGTERM and SIGHUP `Terminated`, so that unfinished files are removed.

    A signal that the process ignores, as SIGHUP under nohup, or handles already is left alone. One that comes where
    Python drops exceptions, as in destructors, is sent again.
    """
    kept = [each for each in ENDING if signal.getsignal(each) is signal.SIG_DFL]
    dropped = sys.unraisablehook

    def send_again(found: Any) -> None:
        if isinstance(found.exc_value, KeyboardInterrupt):
            _send_later(getattr(found.exc_value, "number", signal.SIGINT), 1.1 * GRACE)
        else:
            dropped(found)

    with _raising([*_interrupt(), *kept]):
        sys.unraisablehook = send_again
        try:
            yield
        finally:
            sys.unraisablehook = dropped


@contextmanager
def patient_interrupts() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, but not within `GRACE` seconds of the last time that it did.

    Only the main thread receives it: elsewhere, and where the process handles it already, this does nothing.
    """
    with _raising(_interrupt()):
        yield


@contextmanager
def telling(words: Callable[[], str]) -> Iterator[None]:
    """An interruption tells these words, such as how to go on, unless it tells something already."""
    try:
        yield
    except KeyboardInterrupt as asked:
        if not asked.args:
            asked.args = (words(),)
        raise


def raise_asked(error: BaseException) -> None:
    """Raise the interruption again that a library has turned into another error."""
    if time.monotonic() - _asked.when < GRACE:
        raise _exception(_asked.number) from error


def _send_later(number: int, seconds: float) -> None:
    later = threading.Timer(seconds, _send, (number,))
    later.daemon = True
    later.start()


def _send(number: int) -> None:
    if os.name == "nt":  # where os.kill ends the process at once
        signal.raise_signal(number)
    else:
        os.kill(os.getpid(), number)


def _interrupt() -> list[signal.Signals]:
    return [signal.SIGINT] if signal.getsignal(signal.SIGINT) is signal.default_int_handler else []


def _exception(number: int) -> KeyboardInterrupt:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


@contextmanager
def _raising(numbers: list[signal.Signals]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _asked.when = -math.inf

    def handle(number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code.co_filename == IMPORT_SYSTEM:
            _send_later(number, MOMENT)
        elif time.monotonic() - _asked.when > GRACE:
            _asked.number, _asked.when = number, time.monotonic()
            raise _exception(number)

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if before:  # who goes on after an interruption was not asked again
            _asked.when = -math.inf


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
