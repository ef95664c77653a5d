"""The streams that commands print to: what their encoding lacks is spelt out, and their end is part of the command."""

from __future__ import annotations

import codecs
import io
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

SPELT = "crfrnn-spelt"
NOT_PRINTED = "cannot print"
SIGNS = {"×": "x", "…": "...", "→": "->", "–": "-", "·": "-", "≤": "<=", "≥": ">=", "²": "2", "½": "1/2", "−": "-"}
"""How signs are written where the terminal has none."""


def spelt(error: UnicodeError) -> tuple[str, int]:
    """Characters that an encoding does not have, for `codecs.register_error`: Greek letters become their names."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_spelt, error.object[error.start : error.end])), error.end


codecs.register_error(SPELT, spelt)


@contextmanager
def spelt_output() -> Iterator[None]:
    """Print whatever the terminal's encoding holds, and spell out what it does not: "θ" is "theta"."""
    streams = [each for each in (sys.stdout, sys.stderr) if isinstance(each, io.TextIOWrapper)]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors=SPELT)
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            if not stream.closed:
                stream.reconfigure(errors=errors)


@contextmanager
def finished_output() -> Iterator[None]:
    """Print everything that is still to be printed at the end, so that an error is one of the command.

    Raises: OSError: if it cannot be printed; BrokenPipeError if its reader is gone.
    """
    try:
        yield
    except BrokenPipeError:
        _drop_output()
        raise
    finally:
        _flush()


def _flush() -> None:
    if sys.stdout is None or sys.stdout.closed:
        return
    try:
        with print_failures():
            sys.stdout.flush()
    except OSError:
        _drop_output()
        raise


@contextmanager
def print_failures() -> Iterator[None]:
    """Say of an error that it is about printing, and no file of the command; BrokenPipeError stays what it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(f"{NOT_PRINTED}: {error.strerror}") from error


def _drop_output() -> None:
    """Have nothing printed any more: Python would try again at its end, and complain."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except OSError:  # it is no file, such as that of a test
        pass


def _spelt(character: str) -> str:
    if character in SIGNS:
        return SIGNS[character]
    name = unicodedata.name(character, "")
    if name.startswith("GREEK SMALL LETTER ") and name.count(" ") == 3:
        return name.rpartition(" ")[2].lower()
    return character.encode("ascii", "backslashreplace").decode()
