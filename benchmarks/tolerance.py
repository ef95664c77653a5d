"""What the tolerance of the mean field saves and changes: time, errors, and which pixels are evaluated."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .case import Case
from .measure import Workbench, alternating, medians, model_settings
from .photos import load_photo
from .plots import draw_activity
from .quality import VOID

TOLERANCES = (0.0, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 1e-2)
ITERATIONS = (0, 1, 2, 3, 5, 7, 10, 15, 20)
SCALES = (0.25, 0.5, 1.0, 1.5, 2.0, 2.5)
DENSE = {"tolerance": 0.0}
QUICK_PHOTOS = 4
PERCENTILE = 99.9
GRADIENT_STRIDE = 5


def over_photos(case: Case, bench: Workbench) -> list[dict]:
    """How far the default tolerance is from tolerance 0, on all photos that have scores."""
    from crfrnn import CRFParameters, refine

    names = (bench.data / "voc_animals" / "val.txt").read_text().split()
    rows = []
    for theta in case.thetas:
        default = CRFParameters(**model_settings(theta, case.iterations))
        dense = CRFParameters(**model_settings(theta, case.iterations), **DENSE)
        largest, moved, changed = [], [], []
        for name in names[: QUICK_PHOTOS if bench.quick else None]:
            logits, image = load_photo(bench.data, name, None, case.classes)
            truth, result = (refine(logits, image, each, threads=case.cores) for each in (dense, default))
            change = np.abs(result - truth).max(axis=0)
            largest.append(float(change.max()))
            moved.append(change.ravel())
            changed.append((result.argmax(0) != truth.argmax(0)).ravel())
        pixels, labels = np.concatenate(moved), np.concatenate(changed)
        rows.append(
            {
                "over_photos": len(largest),
                "thetas": theta,
                "tolerance": default.tolerance,
                "largest": max(largest),
                "largest_of_a_photo": {
                    "mean": float(np.mean(largest)),
                    "percentile": float(np.percentile(largest, PERCENTILE)),
                },
                "of_a_pixel": {"mean": float(pixels.mean()), "percentile": float(np.percentile(pixels, PERCENTILE))},
                "changed": int(np.count_nonzero(labels)),
                "pixels": labels.size,
            }
        )
    return rows


def gradients_changed(case: Case, bench: Workbench) -> list[dict]:
    """How far the gradients of the layer are from those of tolerance 0, over photos."""
    import torch

    from crfrnn.torch import CrfRnn

    names = (bench.data / "voc_animals" / "val.txt").read_text().split()[::GRADIENT_STRIDE]
    rows = []
    for theta in case.thetas:
        worst: dict[str, float] = {}
        for name in names[: QUICK_PHOTOS if bench.quick else None]:
            logits, image = load_photo(bench.data, name, None, case.classes)
            annotated = Image.open(bench.data / "voc_animals" / "labels" / f"{name}.png")
            labels = torch.from_numpy(np.array(annotated)).long()[None]
            guide = torch.from_numpy(image).movedim(-1, 0)[None].float()
            found = []
            for options in (DENSE, {}):
                sides = dict(zip(("theta_alpha", "theta_beta", "theta_gamma"), theta, strict=True))
                crf = CrfRnn(case.classes, num_iterations=case.iterations, **sides, **options)
                unary = torch.from_numpy(logits)[None].requires_grad_()
                torch.nn.functional.cross_entropy(crf(unary, guide), labels, ignore_index=VOID).backward()
                found.append({"logits": unary.grad} | {key: each.grad for key, each in crf.named_parameters()})
            for key, dense in found[0].items():
                off = float((found[1][key] - dense).abs().max() / dense.abs().max())
                worst[key] = max(off, worst.get(key, 0.0))
        rows.append({"thetas": theta, "gradients_to": worst})
    return rows


def time_saved(case: Case, bench: Workbench) -> list[dict]:
    """Seconds against iterations and against pixels, with tolerance 0 and the default one."""
    photo, theta, _ = case.rows(bench)[0]
    alpha, beta, gamma = theta
    points = [(axis, value) for axis, values in (("iterations", ITERATIONS), ("pixels", SCALES)) for value in values]
    rows = []
    for axis, value in points[:: 6 if bench.quick else 1]:
        scale = value if axis == "pixels" else 1.0
        size = bench.scaled(photo, scale)
        iterations = case.iterations if axis == "pixels" else int(value)
        settings = model_settings((alpha * scale, beta, gamma), iterations)
        variants = {"dense": settings | DENSE, "lazy": settings}
        with bench.child("crfrnn", case.cores) as child:
            seconds = alternating(child, bench.inputs(photo, case.classes, size), variants, case.rounds(bench))
        shown = size[0] * size[1] if axis == "pixels" else value
        rows.append({"axis": axis, "value": shown, "seconds": medians(seconds)})
    return rows


def error_and_time(case: Case, bench: Workbench) -> list[dict]:
    """Change against tolerance 0, and seconds, of each tolerance."""
    rows = []
    for photo, theta, settings in case.rows(bench):
        inputs = bench.inputs(photo, case.classes)
        variants = {f"{tolerance:g}": settings | {"tolerance": tolerance} for tolerance in TOLERANCES}
        with bench.child("crfrnn", case.cores) as child:
            results = {name: child.result(inputs, chosen) for name, chosen in variants.items()}
            seconds = medians(alternating(child, inputs, variants, case.rounds(bench)))
        truth = results["0"]
        for tolerance, (name, result) in zip(TOLERANCES, results.items(), strict=True):
            row = {"photo": photo, "thetas": theta, "tolerance": tolerance, "seconds": seconds[name]}
            row["largest"] = float(np.abs(result - truth).max())
            rows.append(row | {"changed": float(np.mean(result.argmax(0) != truth.argmax(0)))})
    return rows


def evaluated_pixels(case: Case, bench: Workbench) -> list[dict]:
    """The share of pixels and the classes evaluated in each iteration, and a picture of these pixels."""
    from crfrnn import CRFParameters, refine

    photo, theta, settings = case.rows(bench)[0]
    logits, image = load_photo(bench.data, photo, None, case.classes)
    _, activity = refine(logits, image, CRFParameters(**settings), threads=case.cores, return_activity=True)
    draw_activity(image, activity.evaluated, bench.pictures / "activity.png")
    return [
        {
            "photo": photo,
            "thetas": theta,
            "iteration": iteration + 1,
            "evaluated": float(activity.evaluated[iteration].mean()),
            "classes": int(activity.classes[iteration]),
        }
        for iteration in range(activity.iterations)
    ]
