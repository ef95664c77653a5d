"""What the commands share: the error for arguments that do not fit together, counts in words, parsers of amounts."""

import argparse
import math
import re
from dataclasses import fields
from pathlib import Path

from crfrnn import memory
from crfrnn.files.places import Place, is_elsewhere, place
from crfrnn.parameters import CRFParameters

OPTIONS = [*(field.name for field in fields(CRFParameters)), "input", "num_classes", "classes", "spacing", "device"]
"""Arguments of functions that are options of commands."""
ARGUMENT = re.compile(
    rf"\b({'|'.join(OPTIONS)})(?:=| is (?=nan\b|-?inf\b))(\([^()]*\)|\[[^\[\]]*\]|'[^']*'|[^\s,;:()]*)"
)


class UsageError(ValueError):
    """The arguments do not fit together, regardless of what the files hold."""


def counted(number: int, noun: str) -> str:
    """A number of things: 1 tile, 2 tiles."""
    return f"{number} {noun}{'s' if number != 1 else ''}"


def one_line(message: object) -> str:
    """A message of the package on one line, with arguments of functions as options."""
    text = " ".join(str(message).split())
    text = text.replace("crfrnn.contrast_theta_beta(image)", "--theta-beta contrast")
    text = text.replace("(low, high), such as (0, 1)", "low,high, such as 0,1")
    return ARGUMENT.sub(_as_option, text)


def _as_option(argument: re.Match[str]) -> str:
    """How an argument of a function is typed in a shell."""
    name, value = argument.groups()
    typed = value.strip("()[]'").replace(", ", ",")
    return f"--{name.replace('_', '-')} {typed}".rstrip()


def going_on(done: int, asked: int, verb: str, overwrite: bool) -> str:
    """What to tell of several files when a command is interrupted: how many are done, and how to go on."""
    if asked < 2:
        return ""
    again = "does all of them again" if overwrite else "goes on with the others"
    return f"{done} of {asked} {verb}; the same command {again}"


def given_place(text: str) -> Place:
    """A path or a URL on the command line."""
    try:
        return place(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def places_of(options: argparse.Namespace) -> list[Place]:
    """The files and folders that a command was given."""
    given = [each for value in vars(options).values() for each in (value if isinstance(value, list) else [value])]
    return [each for each in given if isinstance(each, Path) or is_elsewhere(each)]


def byte_count(text: str) -> int:
    """Bytes in words such as 4GB, 500MB or 1.5 TB."""
    try:
        return memory.byte_count(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def frames(text: str) -> float:
    """A deviation along time, above 0."""
    try:
        given = float(text)
    except ValueError:
        given = math.nan
    if not 0 < given < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of frames above 0, such as 2")
    return given


def distances(text: str) -> tuple[float, ...]:
    """A distance between neighbouring pixels, or one for each axis separated by commas."""
    try:
        given = tuple(float(part) for part in text.split(","))
    except ValueError:
        given = ()
    if not given or not all(0 < step < math.inf for step in given):
        raise argparse.ArgumentTypeError(f"{text!r} is no distance above 0, nor one for each axis such as 0.9,0.9,3")
    return given
