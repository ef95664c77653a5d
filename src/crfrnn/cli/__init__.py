"""The command line: `crfrnn refine`, `crfrnn info`, `crfrnn demo`."""

from crfrnn.cli.main import main

__all__ = ["main"]
