"""Arguments in, exit status out: 0 done, 1 something failed, 2 the command was not understood."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import crfrnn
from crfrnn.cli.accuracy import add_accuracy
from crfrnn.cli.completion import add_completion
from crfrnn.cli.convert import add_convert
from crfrnn.cli.evaluate import add_evaluate
from crfrnn.cli.info import info_lines
from crfrnn.cli.parser import Parser, add_quiet
from crfrnn.cli.refine import add_refine
from crfrnn.cli.segment import add_segment
from crfrnn.cli.train import add_train
from crfrnn.cli.tune import add_tune
from crfrnn.cli.usage import SUBJECT, one_line
from crfrnn.demo import run_demo
from crfrnn.files.progress import hidden_progress


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; `arguments` are those of the process if not given. Returns the exit status."""
    parser = command_parser()
    options = parser.parse_args(arguments)
    try:
        with spoken_warnings(options.command), silence(getattr(options, "quiet", False)):
            status: int = options.run(options)
    except (ValueError, TypeError, OSError, MemoryError, ImportError) as error:
        print(f"crfrnn {options.command}: error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"crfrnn {options.command}: interrupted", file=sys.stderr)
        return 130
    return status


@contextmanager
def spoken_warnings(command: str) -> Iterator[None]:
    """Print warnings of this package as lines of the command, without the place in its code."""
    shown = warnings.showwarning

    def speak(message: Any, category: Any, filename: str, *where: Any, **more: Any) -> None:
        if category.__module__.startswith("crfrnn"):
            subject = f"{SUBJECT.get()}: " if SUBJECT.get() else ""
            print(f"crfrnn {command}: warning: {subject}{one_line(message)}", file=sys.stderr)
        else:
            shown(message, category, filename, *where, **more)

    warnings.showwarning = speak
    try:
        yield
    finally:
        warnings.showwarning = shown


@contextmanager
def silence(quiet: bool) -> Iterator[None]:
    """Leave out what is printed on stdout, and progress."""
    if not quiet:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), hidden_progress():
        yield


def command_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = Parser(prog="crfrnn", description="Dense conditional random fields on images.")
    parser.add_argument("--version", action="version", version=f"crfrnn {crfrnn.__version__}")
    commands: Any = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_refine(commands)
    add_segment(commands)
    add_train(commands)
    add_tune(commands)
    add_evaluate(commands)
    add_accuracy(commands)
    add_convert(commands)

    info = commands.add_parser("info", help="print versions, compiler, SIMD path and threads")
    info.set_defaults(run=run_info)

    demo = commands.add_parser("demo", help="segment three photos that come with the package and draw one picture")
    demo.add_argument("-o", "--output", type=Path, metavar="OUT", default=Path("out/demo.png"), help="%(default)s")
    add_quiet(demo)
    demo.set_defaults(run=lambda options: run_demo(options.output))
    add_completion(commands, parser)
    return parser


def run_info(options: argparse.Namespace) -> int:
    """Print the facts. Returns the exit status."""
    for line in info_lines():
        print(line)
    return 0
