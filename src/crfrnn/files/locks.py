"""Locks on files and folders, which the system takes back from a process that ends, however it ends."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if sys.platform == "win32":
    fcntl: Any = None
else:
    import fcntl

PATIENCE = 10.0
"""Seconds to wait for a lock: children of a process that was killed notice it only after a while, and hold it."""


def lock(number: int) -> bool | None:
    """Lock an open file until it is closed. False if another process has it; None where files have no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextmanager
def waiting_lock(path: Path, alone: bool) -> Iterator[None]:
    """Hold a lock on a file, which is made if it is not there: alone, or beside others that do not ask to be alone.

    Waits as long as it takes. Where files have no locks, this does nothing.
    """
    number = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if fcntl is not None:
            fcntl.flock(number, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
    finally:
        os.close(number)


@contextmanager
def alone_in(folder: Path, what: str) -> Iterator[None]:
    """Be the only process that does `what` in a folder, which is made if it is not there.

    Raises: ValueError: if another one does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if os.name != "posix":
        yield
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        patient_until = time.monotonic() + PATIENCE
        while lock(number) is False:
            if time.monotonic() > patient_until:
                raise ValueError(f"another process is {what} in {folder}: wait for it, or name another folder")
            time.sleep(0.1)
        yield
    finally:
        os.close(number)
