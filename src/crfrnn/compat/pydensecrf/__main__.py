"""`python -m crfrnn.compat.pydensecrf script.py …` runs a program that imports pydensecrf on this package's modules."""

import runpy
import sys
from pathlib import Path
from types import ModuleType

from crfrnn.compat.pydensecrf import install

USAGE = """\
usage: python -m crfrnn.compat.pydensecrf [-m MODULE | -c PROGRAM | SCRIPT] [ARGUMENT ...]

Run a Python program as `python` does, with crfrnn's modules in the place of pydensecrf, which need not be installed.
Processes that it spawns, rather than forks, import pydensecrf as they would without.
"""


def main(arguments: list[str]) -> None:
    """Run what the arguments name. What the program raises or exits with goes on to the caller."""
    first, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if first in ("-h", "--help"):
        print(USAGE, end="")
        return
    if not first or (first.startswith("-") and (first not in ("-m", "-c") or not rest)):
        raise SystemExit(f"{USAGE}\nexpected a script, -m MODULE or -c PROGRAM, not {' '.join(arguments)!r}")
    if first not in ("-m", "-c") and not Path(first).exists():
        raise SystemExit(f"cannot run {first}: there is no such file")
    install()
    if first == "-m":
        sys.argv, sys.path[0] = rest, ""
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        program = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), program.__dict__)
    else:
        sys.argv, sys.path[0] = arguments, str(Path(first).resolve().parent)
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
