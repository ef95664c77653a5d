"""Ray itself: imported where it is asked for, connected to a cluster, and kept from printing over the command."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from crfrnn.files.progress import display
from crfrnn.jobs import EngineError

QUIET = {"RAY_BACKEND_LOG_LEVEL": "fatal"}
"""The native part of Ray prints on stderr otherwise that tasks are done again."""
ONE_TRY = {"RAY_gcs_server_port_wait_time_s": "1"}
"""Ray tries twenty times otherwise to connect to what is there but is no cluster, each time for 40 seconds."""
PATIENCE = 10.0
"""Seconds to wait for the first machine of a cluster, and between two looks at it."""
LAST_HERE = ". It is what was started last on this machine: --ray=local starts another one"
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
    Raises: EngineError: if there is no cluster at the address, or none can be started.
    """
    ray = ray_module()
    if ray.is_initialized():
        yield ray
        return
    if address in (None, "auto"):
        address = os.environ.get("RAY_ADDRESS") or address
    first = _last_here() if address in (None, "auto") else None if address == "local" else address
    try:
        if first is not None:
            _require_listening(first)
    except EngineError:
        if address is not None:
            raise
        first, address = None, "local"  # what ran here last was killed
    handler = signal.getsignal(signal.SIGTERM)
    with ExitStack() as stack:
        if first is not None:
            stack.enter_context(_environment(ONE_TRY))
        stack.enter_context(_environment(QUIET))
        stack.enter_context(_without_stderr())
        try:
            ray.init(address=address, log_to_driver=False, logging_level=SILENT, include_dashboard=False)
        except Exception as error:  # Ray has no kind of its own for this
            hint = LAST_HERE if address is None and first is not None else ""
            raise EngineError(_why(first or address, error) + hint) from error
    try:
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)  # Ray's own would end the process without a word
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def watched(ray: Any) -> Iterator[None]:
    """Say so if the first machine of the cluster is lost meanwhile: Ray then ends this process, without a word."""
    address, screen, ended = ray.get_runtime_context().gcs_address, display(), threading.Event()

    def watch() -> None:
        gone = 0
        while not ended.wait(PATIENCE):
            try:
                _require_listening(address)
                gone = 0
            except EngineError:
                gone += 1
            if gone == 2:
                screen.notice(
                    f"the first machine of the cluster does not answer any more at {address}: if it stays so, this "
                    "ends within a minute, and the same command goes on later with what is not there yet"
                )

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _last_here() -> str | None:
    """HOST:PORT of the cluster that was started last on this machine, as Ray has written it down."""
    with suppress(OSError):
        return Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster").read_text().strip() or None
    return None


def _require_listening(address: str) -> None:
    """Raise an EngineError if nothing listens at an address, or it is none: Ray would try for minutes."""
    found = re.fullmatch(r"\[?([\w.:-]+?)\]?:(\d+)", address)
    try:
        if found is None:
            raise OSError("give that of its first machine as HOST:PORT, such as 10.0.0.1:6379")
        socket.create_connection((found[1], int(found[2])), PATIENCE).close()
    except OSError as error:
        raise EngineError(f"cannot reach a Ray cluster at {address}: {error.strerror or error}") from error


def _why(address: str | None, error: Exception) -> str:
    """Why there is no connection to a cluster."""
    told = "".join(traceback.format_exception(error))
    if "AuthenticationError" in told or "InvalidAuthToken" in told:
        return (
            f"the Ray cluster at {address} asks for its token: set RAY_AUTH_MODE=token, and have ~/.ray/auth_token of "
            "its first machine on this one too"
        )
    words = " ".join(str(error).split())
    if address in (None, "local"):
        return f"Ray did not start on this machine, which may be too busy: {words}"
    if address == "auto":
        return "no Ray cluster is running on this machine: start one by `ray start --head`, or name one, HOST:6379"
    return f"cannot reach a Ray cluster at {address}: {words}"


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables that are set meanwhile, unless they are set already."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ |= added
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Drop what native code prints on stderr."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


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
