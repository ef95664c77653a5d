"""Writes images, scores and what the Python package makes of them into a folder, for the tests of the npm package."""

import json
import sys
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import crfrnn
from crfrnn.demo import read_example
from crfrnn.files.resize import resize_scores
from crfrnn.parameters import DEFAULT_PRESET, PRESETS

SEED = 20110615


def photo_and_scores(name: str, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The top left of an example photo, and a network's scores (21, height, width) for it."""
    photo = read_example(name)
    with (
        as_file(files("crfrnn").joinpath("data", "examples", f"{name}_logits33.npz")) as path,
        np.load(path) as archive,
    ):
        scores = resize_scores(archive["logits"].astype(np.float32), photo.shape[:2], square=True)
    return photo[:height, :width].copy(), scores[:, :height, :width].copy()


def write_cases(folder: Path) -> None:
    """cases.json lists the cases, and which files hold their arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    cases: list[dict[str, Any]] = []

    def add(name: str, image: NDArray[Any], scores: NDArray[Any], output: str = "probabilities", **values: Any) -> None:
        expected = crfrnn.refine(scores, image, return_labels=output == "labels", **values)
        if output == "logits":
            parameters = replace(PRESETS[DEFAULT_PRESET], **values)
            terms = crfrnn.pairwise_terms(image, parameters)
            expected = crfrnn.mean_field(scores, terms, iterations=parameters.iterations)
        arrays = {"image": image, "scores": scores, "expected": expected}
        for kind, array in arrays.items():
            np.ascontiguousarray(array).tofile(folder / f"{name}.{kind}")
        height, width = image.shape[:2]
        types = {kind: array.dtype.name for kind, array in arrays.items()}
        plain = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in values.items()}
        cases.append(
            {"name": name, "width": width, "height": height, "types": types, "parameters": plain, "output": output}
        )

    photo, scores = photo_and_scores("coffee", 375, 500)
    two = scores[[0, scores[1:].max(axis=(1, 2)).argmax() + 1]]  # the background and the likeliest class
    add("two-classes", photo, two)
    add("two-classes-all-work", photo, two, tolerance=0)
    add("21-classes", photo, scores)
    add("21-classes-all-work", photo, scores, tolerance=0)
    add("labels", photo, scores, "labels")
    add("published", photo, scores, **{n: getattr(PRESETS["crfrnn"], n) for n in ("theta_alpha", "theta_beta")})
    photo, scores = photo[100:220, 150:310], scores[:5, 100:220, 150:310]
    for normalization in ("none", "before", "symmetric"):
        weight = 0.01 if normalization == "none" else 2
        add(normalization, photo, scores, normalization=normalization, bilateral_weight=weight, spatial_weight=weight)
    add("lattices", photo, scores, spatial="lattice", neighbour_rounds=1)
    add("axes", photo, scores, theta_alpha=(30, 60), theta_beta=(9, 12, 15), theta_gamma=(2, 4))
    add("damping", photo, scores, damping=0.3, iterations=4)
    add("threshold", photo, scores, class_threshold=0.01)
    add("no-iterations", photo, scores, iterations=0)
    add("bilateral-alone", photo, scores, spatial_weight=0)
    add("no-kernels", photo, scores, spatial_weight=0, bilateral_weight=0)
    vector, matrix = rng.uniform(0.5, 3, 5), rng.uniform(0, 1, (5, 5))
    add("vectors", photo, scores, bilateral_weight=vector, compatibility=-rng.uniform(0.5, 1, 5))
    add("matrices", photo, scores, bilateral_weight=matrix, spatial_weight=vector, compatibility=1 - np.eye(5))
    add("exact", photo[:40, :50], scores[:, :40, :50], filter="exact")
    add("foreground", photo, scores[1:2] - scores[:1])
    add("foreground-labels", photo, scores[1:2] - scores[:1], "labels")
    add("grey", photo[:, :, 0].copy(), scores)
    levels = (photo / 255).astype(np.float32)
    add("range", levels, scores, image_range=(0, 1))
    add("logits", photo, scores, "logits")
    add("one-pixel", photo[:1, :1], scores[:, :1, :1])
    add("one-row", photo[:1], scores[:, :1])
    (folder / "cases.json").write_text(json.dumps(cases, indent=1), encoding="utf-8")


if __name__ == "__main__":
    write_cases(Path(sys.argv[1]))
