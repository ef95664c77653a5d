"""What the commands share: the error for arguments that do not fit together, counts in words, parsers of amounts."""

import argparse
import math
import re

from crfrnn import memory

AS_OPTIONS = (
    (r"\binput='(\w+)'", r"--input \1"),
    (r"\bnum_classes=(\d*)", r"--num-classes \1"),
    (r"\bimage_range=\(([^,()]+), ([^,()]+)\)", r"--image-range \1,\2"),
    (r"\bcrfrnn\.contrast_theta_beta\(image\)", "--theta-beta contrast"),
)
"""How advice for Python is typed in a shell."""


class UsageError(ValueError):
    """The arguments do not fit together, regardless of what the files hold."""


def counted(number: int, noun: str) -> str:
    """A number of things: 1 tile, 2 tiles."""
    return f"{number} {noun}{'s' if number != 1 else ''}"


def one_line(message: object) -> str:
    """A message of the package on one line, with arguments of functions as options."""
    text = " ".join(str(message).split())
    for pattern, option in AS_OPTIONS:
        text = re.sub(pattern, option, text)
    return text


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
