"""Ray itself: imported where it is asked for, connected to a cluster, and kept from printing over the command."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

BACKEND = "RAY_BACKEND_LOG_LEVEL"
"""The variable for what the native part of Ray prints."""
PATIENCE = 10.0
"""Seconds to wait for the first machine of a cluster."""
SILENT = logging.CRITICAL + 1
"""A level that no line reaches: what matters of Ray's lines is in the report of the command."""


def ray_module() -> Any:
    """Ray with Ray Data, or an ImportError that names the extra."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(
            f"a cluster needs Ray, which is not installed ({error}): pip install 'crfrnn[cluster]'"
        ) from error
    return ray


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Ray, connected to a cluster meanwhile; to the one that this process is connected to already, if it is.

    Args:
        address: None is the cluster of RAY_ADDRESS or of this machine, which is started if there is none.
    Raises: ValueError: if there is no cluster at the address.
    """
    ray = ray_module()
    if ray.is_initialized():
        yield ray
        return
    if address is not None and (found := re.fullmatch(r"\[?(.+?)\]?:(\d+)", address)):
        try:  # Ray would try for minutes
            socket.create_connection((found[1], int(found[2])), PATIENCE).close()
        except OSError as error:
            raise ValueError(f"cannot reach a Ray cluster at {address}: {error.strerror or error}") from error
    handler, level = signal.getsignal(signal.SIGTERM), os.environ.get(BACKEND)
    os.environ[BACKEND] = level or "fatal"  # it prints on stderr that tasks are done again
    try:
        ray.init(address=address, log_to_driver=False, logging_level=SILENT)
    except (ConnectionError, TimeoutError, RuntimeError) as error:
        raise ValueError(f"cannot reach a Ray cluster at {address or 'RAY_ADDRESS'}: {error}") from error
    finally:
        if level is None:
            del os.environ[BACKEND]
    try:
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)  # Ray's own would end the process without a word
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Ray from printing meanwhile, which it does on stdout and stderr; its files of logs stay complete."""
    consoles = [each for each in logging.getLogger("ray.data").handlers if isinstance(each, logging.StreamHandler)]
    levels = [each.level for each in consoles]
    for console in consoles:
        console.setLevel(SILENT)
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
            yield
    finally:
        for console, level in zip(consoles, levels, strict=True):
            console.setLevel(level)
