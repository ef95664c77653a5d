"""Ray itself: imported where it is asked for, connected to a cluster, and kept from printing over the command."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=SILENT)
    except (ConnectionError, TimeoutError, RuntimeError) as error:
        raise ValueError(f"cannot reach a Ray cluster at {address or 'RAY_ADDRESS'}: {error}") from error
    try:
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)  # Ray's own would end the process without a word
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Ray from printing meanwhile; its files of logs stay complete."""
    from ray._private.log import PlainRayHandler
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as printed

    handlers = list(printed.handlers)
    consoles = [each for each in logging.getLogger("ray.data").handlers if isinstance(each, PlainRayHandler)]
    levels = [each.level for each in consoles]
    for name, _ in handlers:
        printed.remove_handler(name)
    for console in consoles:
        console.setLevel(SILENT)
    try:
        yield
    finally:
        for console, level in zip(consoles, levels, strict=True):
            console.setLevel(level)
        for name, handler in handlers:
            printed.add_handler(name, handler)
