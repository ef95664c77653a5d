"""Commands as users type them, run in this process."""

import shlex

from crfrnn.cli import main


def status(command: str) -> int:
    """The exit status of a command, whose first word is not the program's name."""
    try:
        return main(shlex.split(command))
    except SystemExit as end:
        return int(end.code or 0)
