"""argparse, with errors on one line that name what was probably meant, and what every command has."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from crfrnn.cli.printing import complain, help_width, say_help
from crfrnn.cli.usage import one_line

ITEM = re.compile(r"  (?! )(?:[-\w]+ {2,})?")
"""How an entry of a list begins in a help: with two spaces, and maybe a name and more spaces; it goes on after four."""
EXAMPLE = re.compile(r"  crfrnn \S")


class Formatter(argparse.HelpFormatter):
    """Wraps the paragraphs and lists of a help to the terminal. Examples stay on one line, to be copied."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=help_width())

    def add_argument(self, action: argparse.Action) -> None:
        """Commands are indented twice, which argparse leaves out of the width of their column."""
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            longest = max(map(len, action.choices)) + 2 * self._indent_increment
            self._action_max_length = max(self._action_max_length, longest)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts: list[str] = []
        for line in text.strip().splitlines():
            last = parts[-1] if parts else ""
            continues = line.startswith("    ") if ITEM.match(last) else bool(last) and not ITEM.match(line)
            if line and continues:
                parts[-1] += f" {line.strip()}"
            else:
                parts.append(line)
        return "\n".join(self._filled(part, width, indent) for part in parts)

    def _format_usage(self, usage: str | None, *more: Any) -> str:
        text = super()._format_usage(usage, *more)
        if usage is None:
            return text
        hanging = " " * len(f"usage: {self._prog} ")
        return textwrap.fill(text, self._width, subsequent_indent=hanging, break_on_hyphens=False) + "\n\n"

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _filled(self, part: str, width: int, indent: str) -> str:
        if not part or EXAMPLE.match(part):
            return part
        found = ITEM.match(part)
        head = found[0] if found else ""
        hanging = "" if not head else " " * (len(head) if 2 < len(head) < width // 2 else 4)
        body = textwrap.TextWrapper(width, indent + head, indent + hanging, break_on_hyphens=False)
        return body.fill(part[len(head) :])


class Parser(argparse.ArgumentParser):
    """A parser of the whole line, or of a command. Values may be lists of numbers that begin below 0, such as -1,1."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"formatter_class": Formatter, **options})
        self._negative_number_matcher = re.compile(r"^-\.?\d[-+.,\deE]*$")

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stderr and message.startswith(f"{self.prog}: error: "):
            complain(self.prog, "error", message.removeprefix(f"{self.prog}: error: ").rstrip("\n"))
        elif message:
            say_help(message, file)

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
