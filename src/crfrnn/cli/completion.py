"""`crfrnn completion`: what a shell needs to complete commands, options and their values."""

from __future__ import annotations

import argparse
from typing import Any

from crfrnn.cli.parser import add_command
from crfrnn.cli.printing import say_raw

COMPLETION_HELP = """\
Print a script that lets a shell complete the commands and options of crfrnn. It needs the package shtab.
"""
EXAMPLES = """\
  crfrnn completion bash > ~/.local/share/bash-completion/completions/crfrnn
  crfrnn completion zsh > ~/.zfunc/_crfrnn      # a folder in $fpath
"""


def add_completion(commands: Any, parser: argparse.ArgumentParser) -> None:
    """Add the command `completion` for the whole `parser`."""
    command = add_command(commands, "completion", "print a script for completion in a shell", COMPLETION_HELP, EXAMPLES)
    command.add_argument("shell", choices=("bash", "zsh", "tcsh"), metavar="SHELL", help="%(choices)s")
    command.set_defaults(run=lambda options: run_completion(parser, options.shell))


def run_completion(parser: argparse.ArgumentParser, shell: str) -> int:
    """Print the script. Returns the exit status."""
    try:
        import shtab
    except ImportError as error:
        raise ImportError("completion needs shtab, which is not installed: pip install 'crfrnn[completion]'") from error
    say_raw(shtab.complete(parser, shell))
    return 0
