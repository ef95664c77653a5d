"""`python -m benchmarks.gpu`: the mean field on a CUDA device, checked and timed in one run of a few minutes.

First it must give what the native core gives. Then come the speed of a copy, each kernel alone with the bytes that it
has to move, and whole calls, which build the lattice and end at logits, beside the same algorithm in plain torch and
the native core. `--smoke` goes through all of it with a tiny photo on the CPU; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import as_file, files
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from crfrnn import CRFParameters, batch
from crfrnn.demo import EXAMPLES, read_example
from crfrnn.torch import mean_field as exact_mean_field
from crfrnn.torch.device import meanfield, steps_of, twin
from crfrnn.torch.device.lattice import CELL_LIMIT
from crfrnn.torch.device.pairwise import padded_channels, pairwise_terms, rows_of

from .__main__ import commit, cpu_model
from .measure import ROOT
from .report import table

CLASSES = 21
THETAS = ((160.0, 3.0, 3.0), (80.0, 13.0, 3.0))
TOLERANCE = 1e-3  # of probabilities, and of gradients as a share of the largest
CANVAS = 513  # pixels of the square that the scores of an example cover
COPY_BYTES = 2**30


class Sizes(NamedTuple):
    """What is measured: (height, width) of photos, images of a batch, iterations, and seconds for each figure."""

    photo: tuple[int, int] = (366, 500)
    large: tuple[int, int] = (1464, 2000)
    images: int = 16
    iterations: int = 10
    trained: int = 5
    seconds: float = 1.0


SMOKE = Sizes((24, 32), (30, 40), 2, 2, 1, 0.0)


class Bench:
    """A device, and how to time on it."""

    def __init__(self, device: torch.device, sizes: Sizes) -> None:
        self.device, self.sizes = device, sizes
        self.cuda = device.type == "cuda"
        self.steps = steps_of(device)

    def milliseconds(self, call: Callable[[], object]) -> float:
        """Median over calls, after two that compile and warm up; between events on a GPU."""
        taken: list[float] = []
        for _ in range(2):
            call()
        end = time.perf_counter() + self.sizes.seconds
        while len(taken) < 3 or (time.perf_counter() < end and len(taken) < 1000):
            taken.append(self._once(call))
        return statistics.median(taken)

    def graph(self, call: Callable[[], object]) -> Callable[[], object]:
        """The call, recorded: what it takes when launching costs nothing."""
        if not self.cuda:
            return call
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return graph.replay

    def peak_bytes(self, call: Callable[[], object]) -> int | None:
        """Most memory of tensors during a call, above what there was before it."""
        if not self.cuda:
            return None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def _once(self, call: Callable[[], object]) -> float:
        if not self.cuda:
            start = time.perf_counter()
            call()
            return 1000 * (time.perf_counter() - start)
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        call()
        last.record()
        last.synchronize()
        return first.elapsed_time(last)


class Case(NamedTuple):
    """Scores and photos of a batch on the device, and the couplings: numbers, or matrices as a trained layer has."""

    logits: Tensor
    image: Tensor
    couplings: list[Tensor]

    def forward(self, steps: ModuleType, iterations: int, keep: bool = False) -> tuple[Tensor, meanfield.Record]:
        return meanfield.mean_field(self.logits, self.image, None, self.couplings, settings(iterations), keep, steps)

    def both_ways(self, steps: ModuleType, iterations: int) -> object:
        refined, record = self.forward(steps, iterations, keep=True)
        return meanfield.mean_field_vjp(refined, record, self.couplings, settings(iterations), steps)


def settings(iterations: int, thetas: tuple[float, float, float] = THETAS[0]) -> batch.Settings:
    numbers = CRFParameters(*thetas, iterations=iterations)
    alpha, beta, gamma = ([each] for each in thetas)
    return batch.Settings(
        theta_alpha=alpha,
        theta_beta=beta,
        theta_gamma=gamma,
        normalization=numbers.normalization,
        spatial=numbers.spatial,
        filter=numbers.filter,
        neighbour_rounds=0,
        iterations=iterations,
        damping=0.0,
        threads=None,
    )


def example(name: str, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Logits (1, 21, H, W) and photo (1, 3, H, W), 0 to 255, of an example, scaled to a size."""
    photo = torch.from_numpy(np.moveaxis(read_example(name), -1, 0).copy())[None].float()
    with as_file(files("crfrnn").joinpath("data", "examples", f"{name}_logits33.npz")) as path, np.load(path) as file:
        coarse = torch.from_numpy(file["logits"].astype(np.float32))[None]
    height, width = photo.shape[2:]
    covered = [round(side * CANVAS / max(height, width)) for side in (height, width)]
    canvas = interpolate(coarse, (CANVAS, CANVAS), mode="bilinear", align_corners=True)
    logits = interpolate(canvas[:, :, : covered[0], : covered[1]], size, mode="bilinear")
    return logits, interpolate(photo, size, mode="bilinear").round()


def make_case(bench: Bench, size: tuple[int, int], images: int, matrices: bool) -> Case:
    chosen = [example(EXAMPLES[index % len(EXAMPLES)], size) for index in range(images)]
    logits, image = (torch.cat(parts).to(bench.device) for parts in zip(*chosen, strict=True))
    weights = [torch.tensor(-3.0), torch.tensor(-5.0)]
    if matrices:
        weights = [weight * torch.eye(CLASSES) + 0.1 for weight in weights]
    return Case(logits, image, [weight.to(bench.device) for weight in weights])


def check(bench: Bench) -> list[dict]:
    """Largest differences to the native core: of probabilities, and of gradients as a share of the largest one."""
    rows = []
    generator = np.random.default_rng(0)
    for thetas in THETAS:
        for matrices in (False, True):
            case = make_case(bench, bench.sizes.photo, 2, matrices)
            arrays = [tensor.cpu().numpy() for tensor in (case.logits, case.image, *case.couplings)]
            numbers = settings(bench.sizes.trained, thetas)
            given = generator.normal(size=arrays[0].shape).astype(np.float32)
            expected, records = batch.mean_field(*arrays[:2], None, arrays[2:], numbers, True)
            gradients = batch.mean_field_vjp(given, records, arrays[2:], numbers)
            refined, record = meanfield.mean_field(*case[:2], None, case.couplings, numbers, True, bench.steps)
            cotangent = torch.from_numpy(given).to(bench.device)
            ours = meanfield.mean_field_vjp(cotangent, record, case.couplings, numbers, bench.steps)
            moved = (torch.softmax(refined.cpu(), 1) - torch.softmax(torch.from_numpy(expected), 1)).abs().max()
            pairs = zip((ours[0], *ours[1]), (gradients[0], *gradients[1]), strict=True)
            shares = [float(np.abs(a.cpu().numpy() - b).max() / np.abs(b).max()) for a, b in pairs]
            rows.append(
                {"thetas": thetas, "matrices": matrices, "probabilities": float(moved), "gradients": max(shares)}
            )
    return rows


def copy_speed(bench: Bench) -> float:
    """Bytes read and written a second by a copy on the device."""
    size = COPY_BYTES if bench.cuda else 2**20
    source = torch.ones(size, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    return 2 * size / (bench.milliseconds(lambda: target.copy_(source)) / 1000)


def kernels(bench: Bench, ceiling: float) -> list[dict]:
    """Each step of a batch alone: milliseconds, bytes of its inputs and output, once each, and their share of a copy.

    A batch is larger than the cache of a GPU, so that what a step reads has not been left there by the last call.
    """
    case, steps = make_case(bench, bench.sizes.photo, bench.sizes.images, False), bench.steps
    channels = padded_channels(CLASSES)
    _, record = case.forward(steps, 1, keep=True)
    lattice, grid = record.bilateral.kernel, record.spatial.kernel
    rows = rows_of(case.logits, channels, 0.0)
    corners, points = lattice.vertex.shape
    vertices = int(lattice.num_vertices)
    features = torch.rand(corners - 1, points, device=bench.device) * 30
    values = steps.splat(lattice, rows, None)
    shape, padded = tuple(case.image.shape[2:]), rows.new_ones(channels)
    row_bytes, value_bytes, corner_bytes = (
        4 * n for n in (points * channels, vertices * channels, 2 * points * corners)
    )
    total = torch.zeros_like(rows)
    post = record.bilateral.post
    measured: dict[str, tuple[Callable[[], object], int]] = {
        "embed": (lambda: steps.embed(features, CELL_LIMIT[torch.float32]), 4 * points * (4 * corners - 3)),
        "both kernels and their norms": (
            lambda: pairwise_terms(case.image, None, settings(1), torch.float32, steps),
            4 * case.image.numel() + corner_bytes,
        ),
        "splat": (lambda: steps.splat(lattice, rows, None), row_bytes + corner_bytes + value_bytes),
        "blur": (lambda: steps.blur(lattice, values, 0), 2 * value_bytes + 8 * vertices),
        "slice": (lambda: steps.slice_values(lattice, values, post), value_bytes + corner_bytes + row_bytes),
        "convolve": (lambda: steps.convolve(rows, shape[0], shape[1], grid.taps[0], None, None), 2 * row_bytes),
        "update": (
            lambda: steps.update(rows, rows, rows, lattice, values, post, (padded, padded), 0.0, False),
            3 * row_bytes + value_bytes + corner_bytes,
        ),
        "backstep": (
            lambda: steps.backstep(rows, total, rows, (rows, rows), (padded, padded), 0.0, 1.0),
            6 * row_bytes,
        ),
    }
    results = []
    for name, (call, moved) in measured.items():
        taken = bench.milliseconds(call)
        results.append({"step": name, "ms": taken, "bytes": moved, "share": moved / (taken / 1000) / ceiling})
    return results


def whole_calls(bench: Bench) -> list[dict]:
    """Milliseconds of whole calls for each image, and memory."""
    sizes, results = bench.sizes, []

    def add(name: str, side: str, images: int, call: Callable[[], object], memory: bool = False) -> None:
        row = {"case": name, "side": side, "ms": bench.milliseconds(call) / images}
        results.append(row | {"bytes": bench.peak_bytes(call) if memory else None})

    def size_name(size: tuple[int, int]) -> str:
        return f"{size[1]}×{size[0]}×{CLASSES}"

    for size, images in ((sizes.photo, 1), (sizes.photo, sizes.images), (sizes.large, 1)):
        for matrices in (False, True):
            case = make_case(bench, size, images, matrices)
            name = f"{size_name(size)}, T = {sizes.iterations}, batch {images}, {'matrices' if matrices else 'numbers'}"

            def forward(case: Case = case, steps: ModuleType = bench.steps) -> object:
                return case.forward(steps, sizes.iterations)

            add(name, "crfrnn", images, forward, memory=True)
            add(name, "crfrnn, CUDA graph", images, bench.graph(forward))
            if not matrices:
                add(name, "plain torch", images, lambda case=case: case.forward(twin, sizes.iterations), memory=True)
    case = make_case(bench, sizes.photo, 1, False)
    arrays = [tensor.cpu().numpy() for tensor in (case.logits, case.image, *case.couplings)]
    core = Bench(torch.device("cpu"), sizes)
    name = f"{size_name(sizes.photo)}, T = {sizes.iterations}, batch 1, numbers"
    numbers = settings(sizes.iterations)
    native = core.milliseconds(lambda: batch.mean_field(*arrays[:2], None, arrays[2:], numbers, False))
    results.append({"case": name, "side": f"native core, {cpu_model()}", "ms": native, "bytes": None})

    case = make_case(bench, sizes.photo, sizes.images, True)
    name = f"{size_name(sizes.photo)}, T = {sizes.trained}, batch {sizes.images}, matrices, forward + backward"
    for side, steps in (("crfrnn", bench.steps), ("plain torch", twin)):
        add(name, side, sizes.images, lambda steps=steps: case.both_ways(steps, sizes.trained), memory=True)
    return results


def exact_iteration(bench: Bench) -> float:
    """Milliseconds of one more iteration with exact filters."""
    case = make_case(bench, bench.sizes.photo, 1, False)
    taken = []
    for iterations in (1, 2):
        parameters = CRFParameters(filter="exact", iterations=iterations)
        with torch.no_grad():
            taken.append(bench.milliseconds(lambda numbers=parameters: exact_mean_field(*case[:2], None, numbers)))
    return taken[1] - taken[0]


def machine(device: torch.device) -> dict[str, object]:
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = "none"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU: the figures mean nothing"
    return {
        "device": name,
        "torch": torch.__version__,
        "CUDA": torch.version.cuda,
        "triton": triton,
        "commit": commit(),
    }


def report(results: dict) -> str:
    gigabytes = results["copy"] / 1e9
    megabytes = [f"{row['bytes'] / 1e6:.0f} MB" if row["bytes"] else "" for row in results["calls"]]
    parts = [
        table(["machine", ""], [[name, str(value)] for name, value in results["machine"].items()]),
        table(
            ["θ", "couplings", "probabilities, max Δ", "gradients, max Δ"],
            [
                [
                    "/".join(f"{theta:g}" for theta in row["thetas"]),
                    "matrices" if row["matrices"] else "numbers",
                    f"{row['probabilities']:.1e}",
                    f"{row['gradients']:.1e}",
                ]
                for row in results["check"]
            ],
        ),
        f"A copy moves {gigabytes:.0f} GB/s.\n",
        table(
            ["step", "ms", "MB", "of a copy's speed"],
            [
                [row["step"], f"{row['ms']:.3f}", f"{row['bytes'] / 1e6:.0f}", f"{100 * row['share']:.0f} %"]
                for row in results["kernels"]
            ],
        ),
        table(
            ["call", "side", "ms an image", "peak memory"],
            [
                [row["case"], row["side"], f"{row['ms']:.2f}", size]
                for row, size in zip(results["calls"], megabytes, strict=True)
            ],
        ),
        f"One iteration with exact filters: {results['exact_iteration']:.1f} ms.\n",
    ]
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a tiny case on the CPU, to see that this script runs")
    parser.add_argument(
        "-o", "--output", type=Path, help="JSON (default: benchmarks/results/DEVICE.json; none for smoke)"
    )
    arguments = parser.parse_args()
    if not arguments.smoke and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --smoke runs a tiny case on the CPU, whose figures mean nothing")
    bench = Bench(torch.device("cpu"), SMOKE) if arguments.smoke else Bench(torch.device("cuda", 0), Sizes())
    results: dict = {"machine": machine(bench.device), "check": check(bench)}
    worst = max(max(row["probabilities"], row["gradients"]) for row in results["check"])
    if not worst <= TOLERANCE:
        print(json.dumps(results, indent=1))
        print(f"not timed: the results differ from the native core's by {worst:.2g}", file=sys.stderr)
        return 1
    results["copy"] = copy_speed(bench)
    results["kernels"] = kernels(bench, results["copy"])
    results["calls"] = whole_calls(bench)
    results["exact_iteration"] = exact_iteration(bench)
    print(report(results))
    name = re.sub(r"\W+", "-", str(results["machine"]["device"]).lower())
    output = arguments.output or (None if arguments.smoke else ROOT / "benchmarks" / "results" / f"{name}.json")
    if output is not None:
        output.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
