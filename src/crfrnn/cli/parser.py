"""argparse, with errors on one line that name what was probably meant, and what every command has."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from crfrnn.cli.usage import one_line


class Parser(argparse.ArgumentParser):
    """A parser of the whole line, or of a command. Values may be lists of numbers that begin below 0, such as -1,1."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._negative_number_matcher = re.compile(r"^-\.?\d[-+.,\deE]*$")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {one_line(message)} (see {self.prog} --help)\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        if self._subparsers is None:
            self._refuse_unknown(given)
        elif given and given[0].startswith("-") and given[0] not in self._option_string_actions:
            self.error(f"options such as {given[0]} come after the command")
        return super().parse_known_args(given, namespace)

    def _refuse_unknown(self, given: Sequence[str]) -> None:
        """End with an error for an option that does not exist, before argparse misses something else."""
        known = [name for name in self._option_string_actions if name.startswith("--")]
        for word in given:
            if word == "--":
                return
            name = word.partition("=")[0]
            if name.startswith("--") and not any(each.startswith(name) for each in known):
                self.error(f"there is no option {name}{meant(name, known)}")
            if name.startswith("-") and f"-{name}" in known:
                self.error(f"there is no option {name}{meant(f'-{name}', known)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += meant(str(value), [str(choice) for choice in action.choices or ()])
            raise


def meant(given: str, known: Sequence[str]) -> str:
    """The end of a message, that says which known word is like the one given; "" if none is."""
    bare = {name.lstrip("-"): name for name in known}  # dashes would make all options alike
    close = get_close_matches(given.lower().replace("_", "-").lstrip("-"), bare, 1)
    return f"; did you mean {bare[close[0]]}?" if close else ""


def add_command(commands: Any, name: str, help: str, description: str, examples: str, usage: str = "") -> Parser:
    """Add a command.

    Args:
        examples: Lines of a shell, shown at the end of its help.
        usage: What follows its name; argparse's list of all options if not given.
    """
    parser: Parser = commands.add_parser(
        name,
        help=help,
        description=description,
        epilog=f"examples:\n{examples}",
        usage=f"%(prog)s {usage}" if usage else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_debug(parser)
    return parser


def add_debug(parser: argparse.ArgumentParser, default: object = argparse.SUPPRESS) -> None:
    """Add `--debug`, which may stand before and behind the name of a command."""
    help = "print where an error happened, to report it"
    parser.add_argument("--debug", action="store_true", default=default, help=help)


def add_quiet(parser: argparse._ActionsContainer) -> None:
    """Add `--quiet`."""
    parser.add_argument("-q", "--quiet", action="store_true", help="print warnings and errors only")
