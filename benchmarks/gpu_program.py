"""What `gpu.py` measures beside the mean field: `crfrnn segment` as a program, other functions, other tile sizes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from crfrnn import Bilateral
from crfrnn.arrays import padded_channels
from crfrnn.crf import CRF, Exact, FrankWolfe, Kernel, MeanField, Spatial
from crfrnn.demo import EXAMPLES, read_example
from crfrnn.torch import bilateral_solver, losses, mean_field, upsample

from .gpu_cases import CLASSES, Bench, Mode, make_case
from .measure import ROOT

PROGRAM = "import sys, crfrnn.cli; sys.exit(crfrnn.cli.main())"
CHOICES = {
    "convolve": [
        {},
        {"MOST_SOURCES": 32},
        {"MOST_SOURCES": 16},
        {"COLUMNS": 64},
        {"TARGETS": 64, "MOST_SOURCES": 16},
        {"CONVOLVE_WARPS": 8},
    ],
    "splat": [
        {},
        {"UNROLL": 4},
        {"RUN": 64},
        {"RUN_TILE": 1024, "RUN_WARPS": 8},
        {"JOINT_UNROLL": 2},
        {"JOINT_WARPS": 2, "JOINT_TILE": 1024},
    ],
    "blurs": [{}, {"BLURS": 1}, {"LARGE_TILE": 1024, "LARGE_WARPS": 4}, {"LARGE_TILE": 4096, "LARGE_WARPS": 16}],
    "update": [{}, {"LINES": 1}, {"LINES": 8}, {"LARGE_TILE": 1024, "LARGE_WARPS": 4}],
    "one photo, CUDA graph": [{}, {"EARLY": True}],
}  # attributes of `triton_steps`; {} is what it has


def folder(bench: Bench) -> dict:
    """Seconds of `crfrnn segment` for few photos and for many, start of the program included, and photos a second.

    JPEG files of 500×375, each moved along by some pixels, so that no two are the same. "whole" counts the start of the
    program, "running" does not.
    """
    height, width = bench.sizes.files
    photos = [Image.fromarray(read_example(name)).resize((width, height)) for name in EXAMPLES]
    taken = {}
    with tempfile.TemporaryDirectory() as scratch:
        for count in sorted(set(bench.sizes.photos)):
            place = Path(scratch) / str(count)
            place.mkdir()
            for index in range(count):
                moved = np.roll(np.asarray(photos[index % len(photos)]), index, axis=1)
                Image.fromarray(moved).save(place / f"{index}.jpg", quality=90)
            command = [sys.executable, "-c", PROGRAM, "segment", str(place), "-o", str(place / "out")]
            command += ["--device", bench.device.type]
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            start = time.perf_counter()
            subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
            taken[str(count)] = time.perf_counter() - start
    few, many = bench.sizes.photos
    running = taken[str(many)] - taken[str(few)]
    return {"seconds": taken, "whole": many / taken[str(many)], "running": (many - few) / running if running else 0.0}


def others(bench: Bench) -> list[dict]:
    """Milliseconds of other functions for one photo, by their public names, launched."""
    case = make_case(bench, bench.sizes.photo, 1, False)
    logits, image = case.logits, case.image
    coarse = torch.nn.functional.interpolate(logits, scale_factor=1 / 8, mode="bilinear")
    probabilities = torch.softmax(logits, 1)
    kernels = [Kernel(Spatial(3), 3), Kernel(Bilateral(160, 3), 5)]
    smooth = CRF(kernels, solver=FrankWolfe(5))
    exact = CRF([Kernel(Bilateral(160, 3), 5, Exact())])
    likely = CRF(kernels, solver=MeanField(10, class_threshold=0.01))
    near = Bilateral(4.0, 4.0)

    def slope(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> object:
        q = probabilities.clone().requires_grad_()
        return torch.autograd.grad(loss(q, image).sum(), q)

    def learned() -> object:
        thetas = {
            f"theta_{name}": logits.new_tensor(value, requires_grad=True)
            for name, value in (("alpha", 160.0), ("beta", 3.0), ("gamma", 3.0))
        }
        return torch.autograd.grad(mean_field(logits, image, **thetas).sum(), list(thetas.values()))

    calls: dict[str, Callable[[], object]] = {
        "upsample from an eighth": partial(upsample, coarse, image),
        "bilateral_solver, 25 iterations": partial(
            bilateral_solver, probabilities[:, :3], image[:, 0] + 1, image, near
        ),
        "Frank-Wolfe, 5 iterations": partial(mean_field, logits, image, None, smooth),
        "exact bilateral kernel, 10 iterations": partial(mean_field, logits, image, None, exact),
        "dense_crf_loss and its gradient": partial(slope, losses.dense_crf_loss),
        "normalized_cut_loss and its gradient": partial(slope, losses.normalized_cut_loss),
        "mean_field and gradients to θ": learned,
        "mean_field, class_threshold=0.01": partial(mean_field, logits, image, None, likely),
    }
    return [{"call": name, "ms": bench.milliseconds(call)} for name, call in calls.items()]


def choices(bench: Bench) -> list[dict]:
    """Milliseconds an image of steps with other tiles than `triton_steps` has, on a batch; and of a whole call."""
    case, steps = make_case(bench, bench.sizes.photo, bench.sizes.images, False), bench.steps
    single = make_case(bench, bench.sizes.photo, 1, False)
    shape, padded = case.image.shape[2:], torch.ones(padded_channels(CLASSES), device=bench.device)
    rows, results = steps.rows_of(case.logits, padded_channels(CLASSES), 0.0), []
    for step, variants in CHOICES.items():
        for variant in variants:
            if not all(hasattr(steps, name) for name in variant):
                continue
            with changed(steps, variant):
                spatial, bilateral = case.terms(Mode(), steps)
                lattice, grid = bilateral.kernel, spatial.kernel
                values = steps.splat(lattice, rows, None)

                calls: dict[str, Callable[[], object]] = {
                    "convolve": partial(grid.filter, rows, None, None, False, steps),
                    "splat": partial(steps.splat, lattice, rows, None),
                    "blurs": partial(steps.blur, lattice, values, range(len(lattice.vertex)), torch.float32),
                    "update": partial(
                        steps.update,
                        rows,
                        rows,
                        rows,
                        lattice,
                        values,
                        bilateral.post,
                        (padded, padded),
                        0.0,
                        torch.float32,
                    ),
                }
                if step in calls:
                    taken = bench.milliseconds(calls[step]) / bench.sizes.images
                else:
                    call = bench.graph(partial(single.forward, steps, bench.sizes.iterations, Mode()))
                    taken = bench.milliseconds(call)
                results.append({"step": step, "shape": list(shape), "choice": variant, "ms": taken})
    return results


@contextmanager
def changed(module: object, attributes: dict[str, int]) -> Iterator[None]:
    before = {name: getattr(module, name) for name in attributes}
    try:
        for name, value in attributes.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)
