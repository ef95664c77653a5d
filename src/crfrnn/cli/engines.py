"""Where the files of a command are worked on: on this machine, or on a Ray cluster."""

from __future__ import annotations

import argparse
import re

from crfrnn.cli.usage import UsageError, places_of
from crfrnn.files.places import Place, is_elsewhere
from crfrnn.jobs import Engine, ThisMachine

ADDRESS = re.compile(r"|auto|local|\[?[\w.:-]+\]?:\d+")
"""Addresses that Ray takes: of a cluster by its first machine, or words; none at all too."""


def add_ray(parser: argparse._ActionsContainer) -> None:
    """Add `--ray`."""
    parser.add_argument(
        "--ray",
        nargs="?",
        type=_address,
        const="",
        metavar="ADDRESS",
        help="work on all machines of a Ray cluster, that of ADDRESS such as auto or HOST:6379; without one, that of "
        "RAY_ADDRESS, or of this machine, which starts one if there is none. --threads and --memory are then of each "
        "worker. Write it behind the files, or with the address: --ray=auto",
    )


def chosen_engine(options: argparse.Namespace) -> Engine:
    """What does the work of a command.

    Raises:
        UsageError: if a cluster does not see the files.
        ImportError: if Ray is asked for and missing.
    """
    if options.ray is None:
        return ThisMachine()
    for each in places_of(options):
        if getattr(each, "protocol", "") == "memory":
            raise UsageError(f"{each} is in the memory of this process, which the workers of a cluster do not see")
    from crfrnn.cluster import RayCluster

    return RayCluster(options.ray or None)


def require_this_machine(options: argparse.Namespace, what: str, *places: Place) -> None:
    """Raise a UsageError for a cluster, or places elsewhere, that do not go with this kind of work."""
    if options.ray is not None:
        raise UsageError(f"{what} on this machine: leave out --ray, which is for folders")
    for each in places:
        if is_elsewhere(each):
            raise UsageError(f"{what} from and to files of this machine: copy {each} here first, or name a file here")


def _address(text: str) -> str:
    if not ADDRESS.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no address of a Ray cluster, such as auto or 10.0.0.1:6379: write --ray behind the files, or "
            "with its address, --ray=auto"
        )
    return text
