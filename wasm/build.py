"""Builds the npm package `crfrnn` into build/wasm/crfrnn: the core as WebAssembly, and JavaScript around it."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from crfrnn.crf import EPSILON, MOST_NEIGHBOUR_ROUNDS, PHOTO_LEVELS, Normalization
from crfrnn.parameters import DEFAULT_PRESET, PRESETS, CRFParameters, Filter, SpatialKernel
from crfrnn.unary import GROUND_TRUTH_PROBABILITY, UNKNOWN_LABEL

FROZEN = """const frozen = (value) => {
  if (value !== null && typeof value === "object") Object.values(value).forEach(frozen);
  return Object.freeze(value);
};
"""
"""Users share the constants."""
ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "wasm"
PACKAGE = BUILD / "crfrnn"
VARIANTS = {"native": "", "native-threads": "-pthread"}
"""Modules by their name, with the flags that make the difference."""
NEEDED = {"em++": "emscripten node-acorn", "emcmake": "emscripten node-acorn", "node": "nodejs"}
# Debian's emscripten looks for acorn in a folder that its Node.js knows by itself, and others do not.
ENVIRONMENT = {"NODE_PATH": "/usr/share/nodejs"} | os.environ


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", default=os.cpu_count(), help="compilers at a time")
    jobs = parser.parse_args().jobs
    require_tools()
    for name, flags in VARIANTS.items():
        folder = BUILD / name
        definitions = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_CXX_FLAGS": flags,
            "CMAKE_MAKE_PROGRAM": tool("ninja"),
            # Emscripten's own choice is for old versions of Node.js: later ones end because of it.
            "CMAKE_CROSSCOMPILING_EMULATOR": "node;--no-experimental-fetch",
            "CRFRNN_NATIVE_TESTS": "ON",
        }
        settings = [f"-D{key}={value}" for key, value in definitions.items()]
        run("emcmake", tool("cmake"), "-S", ROOT, "-B", folder, "-G", "Ninja", "--log-level=WARNING", *settings)
        run(tool("cmake"), "--build", folder, "--parallel", jobs, "--", "--quiet")
    assemble()
    sizes = [f"{path.name} {path.stat().st_size / 1e3:.0f} kB" for path in sorted(PACKAGE.glob("*.wasm"))]
    print(f"{PACKAGE.relative_to(ROOT)}: {', '.join(sizes)}")


def require_tools() -> None:
    """Ends with what to install if a tool is missing."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        packages = " ".join(dict.fromkeys(" ".join(NEEDED[name] for name in missing).split()))
        sys.exit(
            f"make wasm needs emscripten and Node.js 18 or later; not here: {', '.join(missing)}. "
            f"Debian, Ubuntu: apt-get install {packages}; elsewhere: https://emscripten.org/docs/getting_started"
        )


def assemble() -> None:
    """The package from its sources, what was compiled, and what the Python package specifies."""
    shutil.rmtree(PACKAGE, ignore_errors=True)
    shutil.copytree(ROOT / "wasm" / "package", PACKAGE)
    for name in VARIANTS:
        for path in (BUILD / name / "wasm").glob(f"{name}*.*s*"):
            shutil.copy(path, PACKAGE)
    shutil.copy(ROOT / "LICENSE", PACKAGE)
    (PACKAGE / "parameters.js").write_text(parameters(), encoding="utf-8")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    manifest = json.loads((PACKAGE / "package.json").read_text(encoding="utf-8"))
    text = json.dumps({"name": manifest.pop("name"), "version": version} | manifest, indent=2)
    (PACKAGE / "package.json").write_text(text + "\n", encoding="utf-8")


def parameters() -> str:
    """Constants of the Python package as a module of JavaScript: they are declared there alone."""
    constants = {
        "DEFAULTS": asdict(CRFParameters()),
        "PRESETS": {name: asdict(preset) for name, preset in PRESETS.items()},
        "DEFAULT_PRESET": DEFAULT_PRESET,
        "WORDS": {
            "normalization": get_args(Normalization),
            "spatial": get_args(SpatialKernel),
            "filter": get_args(Filter),
        },
        "MOST_NEIGHBOUR_ROUNDS": MOST_NEIGHBOUR_ROUNDS,
        "PHOTO_LEVELS": PHOTO_LEVELS,
        "EPSILON": EPSILON,
        "PROBABILITY_OF_LABELS": GROUND_TRUTH_PROBABILITY,
        "UNKNOWN_LABEL": UNKNOWN_LABEL,
    }
    lines = [f"export const {name} = frozen({json.dumps(value)});" for name, value in constants.items()]
    return "// Written by wasm/build.py from the Python package.\n" + FROZEN + "\n".join(lines) + "\n"


def tool(name: str) -> Path:
    """A tool of the environment that runs this."""
    return Path(sys.executable).parent / name


def run(*command: object) -> None:
    """Runs a command; ends with its status if it fails."""
    status = subprocess.run(list(map(str, command)), env=ENVIRONMENT, check=False).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
