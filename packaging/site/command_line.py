"""The reference of the command line, from its parsers."""

import argparse
import html
import re
from inspect import cleandoc
from itertools import groupby
from unittest.mock import patch

from crfrnn.cli.main import command_parser

IN_COLUMNS = re.compile(r" {2}|\S+ {2,}\S")
"""A line that is set with spaces: one with an indent, or of a name and its meaning."""


def command_line_page() -> str:
    """Every command with its arguments and options, as Markdown."""
    with patch.dict("os.environ", {"NO_COLOR": "1", "COLUMNS": "100"}):
        commands = parsers()
        rows = [f"| [`crfrnn {name}`](#crfrnn-{name}) | {cell(help)} |" for name, (_, help) in commands.items()]
        parts = ["# The command line", "\n".join(["| command | what it does |", "| --- | --- |", *rows])]
        for name, (parser, help) in commands.items():
            parts += section(name, parser, help)
    return "\n\n".join(parts) + "\n"


def parsers() -> dict[str, tuple[argparse.ArgumentParser, str]]:
    """The parser of each command, and what it does in a line."""
    (commands,) = (each for each in command_parser()._actions if isinstance(each, argparse._SubParsersAction))
    return {each.dest: (commands.choices[each.dest], each.help or "") for each in commands._choices_actions}


def section(name: str, parser: argparse.ArgumentParser, help: str) -> list[str]:
    """A command: how it is written, what it does, its options and examples."""
    parts = [f"## crfrnn {name} {{ #crfrnn-{name} }}", fenced(parser.format_usage().removeprefix("usage: "), "text")]
    parts += [prose(parser.description or f"{help[:1].upper()}{help[1:]}.")]
    for group in parser._action_groups:
        actions = [each for each in group._group_actions if each.dest != "help" and each.help != argparse.SUPPRESS]
        if actions:
            title = str(group.title)
            anchor = re.sub(r"\W+", "-", f"crfrnn {name} {title}")
            parts += [f"### {title[:1].upper()}{title[1:]} {{ #{anchor} }}", *filter(None, [prose(group.description)])]
            parts += ["\n".join(["| | |", "| --- | --- |", *(row(parser, action) for action in actions)])]
    examples = (parser.epilog or "").partition("examples:\n")[2]
    return [*parts, f"### Examples {{ #crfrnn-{name}-examples }}", fenced(examples, "sh")] if examples else parts


def row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """How an argument or option is written, and what it means, as a row of a table."""
    formatter = parser._get_formatter()
    written = formatter._format_action_invocation(action)
    meaning = formatter._expand_help(action) if action.help else ""
    return f"| <code>{cell(written)}</code> | {cell(meaning)} |"


def prose(text: str | None) -> str:
    """Paragraphs; lines set in columns stay as they are."""
    blocks = groupby(cleandoc(text or "").splitlines(), key=lambda line: bool(IN_COLUMNS.match(line)))
    parts = [(columns, "\n".join(lines)) for columns, lines in blocks]
    return "\n\n".join(fenced(each, "text") if columns else html.escape(each, quote=False) for columns, each in parts)


def fenced(text: str, language: str) -> str:
    """A block of code."""
    return f"```{language}\n{cleandoc(text)}\n```"


def cell(text: str) -> str:
    """Text in one cell of a table."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")
