"""What went wrong, on one line for people, and for whoever is to find out why."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from crfrnn.cli.streams import NOT_PRINTED
from crfrnn.cli.usage import one_line, places_of
from crfrnn.files.places import Place
from crfrnn.jobs import EngineError

EXPECTED = (ValueError, TypeError, OSError, MemoryError, ImportError)
"""What is raised for a mistake of the user, or of the machine, with words for it."""
OUT_OF_MEMORY = "there is not enough memory: work on a smaller image, with fewer classes, or by --tile"
UNEXPECTED = "this is a mistake in crfrnn: please report it with what the same command prints after --debug"
_log = logging.getLogger("crfrnn")


def described(error: BaseException, files: Iterable[Place] = ()) -> str:
    """An error on one line, behind the names of the files at work unless it names one, or begins with an option.

    --debug prints its traceback.
    """
    _log.debug("this is where it happened:", exc_info=error)
    message = one_line(_words(error))
    if not isinstance(error, EXPECTED) and not _is_memory(error):
        message = f"{type(error).__name__}: {message} ({UNEXPECTED})"
    names = list(dict.fromkeys(map(one_line, files)))
    if (
        isinstance(error, ImportError | EngineError)
        or message.startswith(("cannot write ", NOT_PRINTED, "--", "the worker on "))
        or any(name in message for name in names)
    ):
        return message
    return f"{', '.join(names)}: {message}" if names else message


def files_of(options: argparse.Namespace) -> list[Place]:
    """The files and folders that a command was given, without that of its result."""
    output = getattr(options, "output", None)
    return [each for each in places_of(options) if each is not output]


@contextmanager
def tracebacks() -> Iterator[None]:
    """Print the traceback of each error that is described, on stderr."""
    handler, level = logging.StreamHandler(sys.stderr), _log.level
    _log.addHandler(handler)
    _log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(level)


def _words(error: BaseException) -> str:
    """The message of an error, in terms of users."""
    if isinstance(error, MemoryError) and str(error) in ("", "std::bad_alloc"):
        return OUT_OF_MEMORY
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return str(error) or type(error).__name__


def _is_memory(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfMemoryError"  # that of PyTorch, which is no MemoryError
