"""Arguments in, exit status out: 0 done, 1 something failed, 2 the command was not understood."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import crfrnn
from crfrnn.cli.accuracy import add_accuracy
from crfrnn.cli.compare import add_compare
from crfrnn.cli.completion import add_completion
from crfrnn.cli.convert import add_convert
from crfrnn.cli.evaluate import add_evaluate
from crfrnn.cli.failures import described, files_of, tracebacks
from crfrnn.cli.info import info_lines
from crfrnn.cli.parser import Parser, add_debug, add_quiet
from crfrnn.cli.printing import Screen, Silent, complain, say, say_table
from crfrnn.cli.refine import add_refine
from crfrnn.cli.segment import add_segment
from crfrnn.cli.streams import finished_output, spelt_output
from crfrnn.cli.train import add_train
from crfrnn.cli.tune import add_tune
from crfrnn.cli.usage import one_line
from crfrnn.cli.web import add_web
from crfrnn.demo import COLUMN_TITLES, draw_demo
from crfrnn.files.progress import shown_on
from crfrnn.interrupts import orderly_end, raise_asked
from crfrnn.jobs import SUBJECT
from crfrnn.plausibility import forget_warnings

NOISY = ("/PIL/", "Detected pickle protocol")
"""What libraries warn of when they read files, by a part of their path or words: it does not matter, or is an error."""
READER_GONE = 141
"""What shells see of a program that printed to a closed pipe."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; `arguments` are those of the process if not given. Returns the exit status.

    Whatever fails ends in one line on stderr; --debug adds where it happened.
    """
    options = argparse.Namespace(command=None, debug=False)
    with ExitStack() as stack:
        stack.enter_context(spelt_output())
        try:
            with orderly_end(), finished_output():
                require_folder()
                command_parser().parse_args(arguments, options)
                if options.debug:
                    stack.enter_context(tracebacks())
                with spoken_warnings(options), spoken_background(options), silence(getattr(options, "quiet", False)):
                    return int(options.run(options))
        except BrokenPipeError:  # whoever reads what is printed is gone, as after `| head`
            return READER_GONE
        except KeyboardInterrupt as asked:
            return interrupted(options, asked)
        except Exception as error:
            return failed(options, error)


def require_folder() -> None:
    """Raise a ValueError if the current folder was removed: libraries find no file then, not even their own."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise ValueError("the current folder is not there any more: change to another one") from error


def failed(options: argparse.Namespace, error: Exception) -> int:
    """Print an error: the only place where one becomes a line. Returns the exit status."""
    try:
        raise_asked(error)
    except KeyboardInterrupt as asked:
        return interrupted(options, asked)
    _complain(options, "error", described(error, files_of(options)))
    return 1


def interrupted(options: argparse.Namespace, asked: KeyboardInterrupt) -> int:
    """Print by what the command was ended. Returns the exit status, which tells the signal as shells do."""
    number = signal.Signals(getattr(asked, "number", signal.SIGINT))
    words = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    _complain(options, *filter(None, [words, one_line(asked)]))
    return 128 + number


def _complain(options: argparse.Namespace, *parts: str) -> None:
    complain(" ".join(filter(None, ["crfrnn", options.command])), *parts)


@contextmanager
def spoken_warnings(options: argparse.Namespace) -> Iterator[None]:
    """Print warnings as lines of the command, without the place in the code; --debug leaves them as they are.

    What was warned of before, by an earlier command of this process, is told again.
    """

    def speak(message: Any, category: Any, filename: str, *where: Any, **more: Any) -> None:
        told = f"{Path(filename).as_posix()} {message}"
        if not any(noisy in told for noisy in NOISY) and "PIL" not in category.__module__:
            _complain(options, "warning", *filter(None, [one_line(SUBJECT.get())]), one_line(message))

    forget_warnings()
    with warnings.catch_warnings():
        if not options.debug:
            warnings.showwarning = speak
        yield


@contextmanager
def spoken_background(options: argparse.Namespace) -> Iterator[None]:
    """Print errors of other threads as lines, and leave out those of destructors, which follow from others."""
    threads, destructors = threading.excepthook, sys.unraisablehook

    def speak(found: threading.ExceptHookArgs) -> None:
        if isinstance(found.exc_value, Exception):
            _complain(options, "error", f"in the background: {described(found.exc_value)}")

    def drop(found: Any) -> None:
        if isinstance(found.exc_value, KeyboardInterrupt):
            destructors(found)

    threading.excepthook = speak
    if not options.debug:
        sys.unraisablehook = drop
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = threads, destructors


@contextmanager
def silence(quiet: bool) -> Iterator[None]:
    """Show progress on the terminal; if quiet, leave it out, and what is printed on stdout."""
    if not quiet:
        with shown_on(Screen()):
            yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), shown_on(Silent()):
        yield


def command_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = Parser(prog="crfrnn", description="Dense conditional random fields on images.")
    add_debug(parser, default=False)
    parser.add_argument("--version", action="version", version=f"crfrnn {crfrnn.__version__}")
    commands: Any = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_refine(commands)
    add_segment(commands)
    add_compare(commands)
    add_train(commands)
    add_tune(commands)
    add_evaluate(commands)
    add_accuracy(commands)
    add_convert(commands)

    info = commands.add_parser("info", help="print versions, compiler, SIMD path and threads")
    add_debug(info)
    info.set_defaults(run=run_info)

    demo = commands.add_parser("demo", help="segment two photos that come with the package and draw one picture")
    output_help = "picture to draw (default: %(default)s)"
    demo.add_argument("-o", "--output", type=Path, metavar="OUT", default=Path("out/demo.png"), help=output_help)
    add_quiet(demo)
    add_debug(demo)
    demo.set_defaults(run=run_demo)
    add_web(commands)
    add_completion(commands, parser)
    return parser


def run_info(options: argparse.Namespace) -> int:
    """Print the facts. Returns the exit status."""
    for line in info_lines():
        say(line)
    return 0


def run_demo(options: argparse.Namespace) -> int:
    """Draw the demonstration, and say what the CRF changed. Returns the exit status."""
    say_table(draw_demo(options.output))
    say(str(options.output), ", ".join(COLUMN_TITLES))
    return 0
