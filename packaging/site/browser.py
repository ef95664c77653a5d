"""What docs/browser.md needs besides docs/browser/: examples, and the npm package, if `make wasm` has built it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from crfrnn.files.classes import CLASS_SETS
from crfrnn.files.palette import CLEAR_COLOURS

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "build" / "wasm" / "crfrnn"
EXAMPLES = ROOT / "src" / "crfrnn" / "data" / "examples"
TITLES = {"chelsea": "Cat", "astronaut": "Astronaut", "coffee": "Coffee"}


def browser_files() -> dict[str, dict[str, Any]]:
    """By their name in the folder of the page: the content or the path of each file."""
    files: dict[str, dict[str, Any]] = {}
    photos = []
    for name, title in TITLES.items():
        with np.load(EXAMPLES / f"{name}_logits33.npz") as archive:
            scores = archive["logits"]
        photos.append({"name": name, "title": title, "shape": scores.shape, "classes": CLASS_SETS["voc"].names})
        files[f"{name}.png"] = {"abs_src_path": str(EXAMPLES / f"{name}.png")}
        files[f"{name}.scores"] = {"content": scores.astype("<f4").tobytes()}
    listed = {"photos": photos, "colours": CLEAR_COLOURS.tolist()}
    files["examples.json"] = {"content": json.dumps(listed)}
    for path in sorted(PACKAGE.glob("*.*s*")):  # scripts and modules; none if the package was not built
        files[f"crfrnn/{path.name}"] = {"abs_src_path": str(path)}
    return files
