"""`python -m benchmarks.gpu`: the mean field on a CUDA device, checked and timed in one run of a few minutes.

First, the results must agree with the native core's. The parts that follow are the goals, which are whole calls from
photo to logits, launched and as CUDA graphs, and `crfrnn segment` of a folder; the time of building and of an
iteration; all kernels by name; each step alone with the bytes that it has to move, compared with the speed of a copy;
other functions; whole calls compared with the same algorithm in plain torch and with the native core; and steps with
other tile sizes. Results are written after each part. Parts that fail are named at the
end, and no part begins after `--seconds`. `--check` stops after the comparison; without a GPU it uses plain torch on
the CPU. `--smoke` goes through all of it with a tiny photo on the CPU; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from crfrnn.arrays import padded_channels
from crfrnn.inference import batch
from crfrnn.inference.backend import Execution, Inputs
from crfrnn.torch import exact_filter as exact
from crfrnn.torch.gpu import meanfield, plain
from crfrnn.torch.gpu.lattice import Lattice, embedded

from .gpu_cases import CLASSES, MODES, SMOKE, THETAS, Bench, Case, Mode, Sizes, crf_of, make_case
from .gpu_profile import goals, kernel_times, megabytes, parts, summary
from .gpu_program import choices, folder, others
from .machine import commit, cpu_model
from .measure import ROOT
from .report import table

# Labels that may change, as a share, and the relative error of gradients: as computed, and stored in 16 bits.
LIMITED = ("labels", "gradients")
BOUNDS, ROUNDED_BOUNDS = (1e-4, 1e-3), (5e-4, 1e-2)
EXACT_BOUND = 1e-5  # relative error of exact filters
COPY_BYTES = 2**30


def check(bench: Bench) -> list[dict]:
    """Differences to the native core: the largest of probabilities, labels that change, and errors of gradients."""
    rows = []
    generator = np.random.default_rng(0)
    for thetas in THETAS:
        for matrices in (False, True):
            case = make_case(bench, bench.sizes.photo, 2, matrices)
            arrays = [tensor.cpu().numpy() for tensor in (case.logits, case.image, *case.couplings)]
            crf = crf_of(bench.sizes.trained, thetas)
            given = generator.normal(size=arrays[0].shape).astype(np.float32)
            expected, records = batch.forward(crf, Inputs(*arrays[:2]), arrays[2:], True, Execution())
            gradients = batch.vjp(crf, Inputs(*arrays[:2]), given, records, arrays[2:], Execution(), False)
            probabilities = torch.softmax(torch.from_numpy(expected), 1)
            cotangent = torch.from_numpy(given).to(bench.device)
            for mode in (*MODES, Mode(storage=torch.float16)):
                refined, record = meanfield.forward(
                    crf, Inputs(*case[:2]), case.couplings, True, mode.execution, bench.steps
                )
                arguments = record, case.couplings, mode.execution, False, bench.steps
                ours = meanfield.vjp(crf, Inputs(*case[:2]), cotangent, *arguments)
                moved = (torch.softmax(refined.cpu(), 1) - probabilities).abs()
                labels = refined.cpu().argmax(1) != probabilities.argmax(1)
                pairs = zip((ours[0], *ours[1]), (gradients[0], *gradients[1]), strict=True)
                errors = [float(np.linalg.norm(a.cpu().numpy() - b) / np.linalg.norm(b)) for a, b in pairs]
                rows.append(
                    {
                        "thetas": thetas,
                        "matrices": matrices,
                        "mode": mode.name,
                        "probabilities": float(moved.max()),
                        "labels": float(labels.float().mean()),
                        "gradients": max(errors),
                        "bounds": BOUNDS if mode.storage is None else ROUNDED_BOUNDS,
                    }
                )
    return rows


def copy_speed(bench: Bench) -> float:
    """Bytes read and written a second by a copy on the device."""
    size = COPY_BYTES if bench.cuda else 2**20
    source = torch.ones(size, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    return 2 * size / (bench.milliseconds(lambda: target.copy_(source)) / 1000)


def each_step(bench: Bench, ceiling: float) -> list[dict]:
    """Each step of a batch alone: milliseconds, bytes of its inputs and output, once each, and their share of a copy.

    A batch is larger than the cache of a GPU, so that what a step reads has not been left there by the last call.
    """
    case, steps = make_case(bench, bench.sizes.photo, bench.sizes.images, False), bench.steps
    channels = padded_channels(CLASSES)
    results = []

    def add(name: str, call: Callable[[], object], moved: int) -> None:
        taken = bench.milliseconds(call)
        results.append({"step": name, "ms": taken, "bytes": moved, "share": moved / (taken / 1000) / ceiling})

    _, record = case.forward(steps, 1, MODES[0], keep=True)
    spatial, bilateral = record.terms
    lattice, grid, post = bilateral.kernel, spatial.kernel, bilateral.post
    corners, points = lattice.vertex.shape
    vertices = int(lattice.num_vertices)
    features = torch.rand(corners - 1, points, device=bench.device) * 30
    corner_bytes = 8 * points * corners
    add("embed", lambda: embedded(features, steps), 4 * points * (4 * corners - 3))
    for mode in (Mode(), Mode(deterministic=False)):
        add(
            f"both kernels and their norms, {mode.name}",
            lambda mode=mode: case.terms(mode, steps),
            4 * case.image.numel() + corner_bytes,
        )
    shape, padded = tuple(case.image.shape[2:]), torch.ones(channels, device=bench.device)
    unary = steps.rows_of(case.logits, channels, 0.0)
    classes = 4 * (case.logits.numel() + unary.numel())
    add("classes to rows", lambda: steps.rows_of(case.logits, channels, 0.0), classes)
    add("rows to classes", lambda: steps.planes_of(unary, case.logits), classes)
    total = torch.zeros_like(unary)
    to_weight, to_factor = torch.zeros_like(lattice.weight), torch.zeros_like(lattice.weight[0])
    for storage in (torch.float32, torch.bfloat16):
        rows = unary.to(storage)
        values = steps.blur(lattice, steps.splat(lattice, rows, None), (0,), storage)
        kind = str(storage).removeprefix("torch.")
        row, value = (n * channels * storage.itemsize for n in (points, vertices))

        def splat(of: Lattice = lattice, rows: Tensor = rows) -> object:
            return steps.splat(of, rows, None)

        def update(values: Tensor = values, rows: Tensor = rows) -> object:
            scale, couplings = post, (padded, padded)
            return steps.update(unary, unary, rows, lattice, values, scale, couplings, 0.0, rows.dtype)

        def backstep(rows: Tensor = rows, messages: tuple[Tensor, ...] = (rows.clone(), rows.clone())) -> object:
            return steps.backstep(rows, total, rows, messages, (padded, padded), 0.0, 1.0)

        add(f"splat, fixed order, {kind}", splat, row + corner_bytes + value)
        unordered = lattice._replace(runs=None)
        add(f"splat, any order, {kind}", lambda splat=splat, of=unordered: splat(of), row + corner_bytes + value)
        add(
            f"two blurs, {kind}",
            lambda values=values, storage=storage: steps.blur(lattice, values, (0, 1), storage),
            2 * value + 8 * vertices,
        )
        add(
            f"slice, {kind}",
            lambda values=values: steps.slice_values(lattice, values, post),
            value + corner_bytes + row,
        )
        add(
            f"gradients to weights, {kind}",
            lambda rows=rows, values=values: steps.add_corner_products(
                lattice, values, rows, post, to_weight, to_factor
            ),
            value + corner_bytes + row + 8 * points * (corners + 1),
        )
        add(
            f"convolve, {kind}",
            lambda rows=rows: steps.convolve(rows, shape[0], shape[1], grid.taps[0], None, None),
            2 * row,
        )
        add(f"update, {kind}", update, 4 * unary.numel() + 2 * row + value + corner_bytes)
        add(f"backstep, {kind}", backstep, 8 * unary.numel() + 4 * row)
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
            for mode in MODES:

                def forward(case: Case = case, mode: Mode = mode, steps: ModuleType = bench.steps) -> object:
                    return case.forward(steps, sizes.iterations, mode)

                add(name, f"crfrnn, {mode.name}", images, forward, memory=True)
                add(name, f"crfrnn, {mode.name}, CUDA graph", images, bench.graph(forward))
            if not matrices:
                add(name, "plain torch", images, lambda call=forward: call(mode=MODES[0], steps=plain), memory=True)
    case = make_case(bench, sizes.photo, 1, False)
    arrays = [tensor.cpu().numpy() for tensor in (case.logits, case.image, *case.couplings)]
    core = Bench(torch.device("cpu"), sizes)
    name = f"{size_name(sizes.photo)}, T = {sizes.iterations}, batch 1, numbers"
    crf = crf_of(sizes.iterations)
    native = core.milliseconds(lambda: batch.forward(crf, Inputs(*arrays[:2]), arrays[2:], False, Execution()))
    results.append({"case": name, "side": f"native core, {cpu_model()}", "ms": native, "bytes": None})

    case = make_case(bench, sizes.photo, sizes.images, True)
    name = f"{size_name(sizes.photo)}, T = {sizes.trained}, batch {sizes.images}, matrices, forward + backward"
    for mode in MODES:
        both = partial(case.both_ways, bench.steps, sizes.trained, mode)
        add(name, f"crfrnn, {mode.name}", sizes.images, both, memory=True)
    add(name, "plain torch", sizes.images, partial(case.both_ways, plain, sizes.trained, MODES[0]), memory=True)
    for mode in MODES:
        if mode.deterministic:
            everything = partial(case.both_ways, bench.steps, sizes.trained, mode, guide=True)
            add(f"{name}, to image and θ too", f"crfrnn, {mode.name}", sizes.images, everything, memory=True)
    return results


def exact_inputs(case: Case, thetas: tuple[float, float, float], step: int = 1) -> tuple[Tensor, Tensor]:
    """Marginals (1, 21, N) and features (1, 5, N) of a photo, every `step`-th pixel along both axes of a larger one."""
    alpha, beta, _ = thetas
    height, width = case.image.shape[2:]
    y, x = (torch.arange(side, device=case.image.device) * step / alpha for side in (height, width))
    places = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])
    features = torch.cat([places[None], case.image / beta], dim=1).flatten(2)
    return torch.softmax(case.logits, 1).flatten(2), features


def exact_error(bench: Bench) -> float:
    """Relative error of exact filters of a small photo to the native core's in float64."""
    height, width = bench.sizes.photo
    case = make_case(bench, (height // 4, width // 4), 1, False)
    errors = []
    for thetas in THETAS:
        values, features = exact_inputs(case, thetas, step=4)
        arrays = [tensor.double().cpu().numpy() for tensor in (values, features)]
        expected = batch.exact_filtered(*arrays, None)
        found = exact.exact_filter(values, features, None).double().cpu().numpy()
        errors.append(float(np.linalg.norm(found - expected) / np.linalg.norm(expected)))
    return max(errors)


def exact_filters(bench: Bench) -> list[dict]:
    """Milliseconds of one exact filter, nearly all of an iteration; θ decides how many pairs of pixels count."""
    case = make_case(bench, bench.sizes.photo, 1, False)
    results = []
    for thetas in THETAS:
        inputs = exact_inputs(case, thetas)
        ours = bench.milliseconds(lambda inputs=inputs: exact.exact_filter(*inputs, None))
        results.append({"thetas": thetas, "ms": ours})
    return results


def machine(device: torch.device) -> dict[str, object]:
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = "none"
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else "none: plain torch on the CPU, whose times mean nothing"
    )
    return {
        "device": name,
        "torch": torch.__version__,
        "CUDA": torch.version.cuda,
        "triton": triton,
        "commit": commit(),
    }


def checked(rows: list[dict]) -> str:
    """The check as a table."""
    return table(
        ["θ", "couplings", "mode", "probabilities, max Δ", "labels changed", "gradients, relative error"],
        [
            [
                "/".join(f"{theta:g}" for theta in row["thetas"]),
                "matrices" if row["matrices"] else "numbers",
                row["mode"],
                f"{row['probabilities']:.1e}",
                f"{100 * row['labels']:.4f} %",
                f"{row['gradients']:.1e}",
            ]
            for row in rows
        ],
    )


def timed(results: dict) -> str:
    """Steps, kernels and calls, as tables."""
    tables = []
    for name, found in results.get("kernels", {}).items():
        rows = [[kernel, str(count), f"{microseconds:.1f}"] for kernel, count, microseconds in found["kernels"]]
        tables.append(table([f"{name}: {found['launches']} launches", "", f"{found['microseconds']} µs"], rows))
    if "steps" in results:
        rows = [
            [row["step"], f"{row['ms']:.3f}", f"{row['bytes'] / 1e6:.0f}", f"{100 * row['share']:.0f} %"]
            for row in results["steps"]
        ]
        tables.append(f"A copy moves {results['copy'] / 1e9:.0f} GB/s.\n")
        tables.append(table(["step", "ms", "MB", "of a copy's speed"], rows))
    if "others" in results:
        tables.append(table(["one photo", "ms"], [[row["call"], f"{row['ms']:.2f}"] for row in results["others"]]))
    if "choices" in results:
        rows = [[row["step"], str(row["choice"] or "as it is"), f"{row['ms']:.4f}"] for row in results["choices"]]
        tables.append(table(["step", "choice", "ms an image"], rows))
    if "calls" in results:
        rows = [[row["case"], row["side"], f"{row['ms']:.2f}", megabytes(row)] for row in results["calls"]]
        tables.append(table(["call", "side", "ms an image", "peak memory"], rows))
    return "\n".join(tables)


def within_bounds(results: dict) -> bool:
    found = [(row[name], bound) for row in results["check"] for name, bound in zip(LIMITED, row["bounds"], strict=True)]
    return all(error <= bound for error, bound in [*found, (results["exact_error"], EXACT_BOUND)])


def main() -> int:
    begin = time.perf_counter()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--check", action="store_true", help="time nothing; without a GPU, check plain torch on the CPU")
    only.add_argument("--smoke", action="store_true", help="a tiny case on the CPU, to see that this script runs")
    parser.add_argument("--seconds", type=float, default=600, help="begin no part later (default: %(default)s)")
    parser.add_argument(
        "-o", "--output", type=Path, help="JSON (default: benchmarks/results/DEVICE.json if all is timed on a GPU)"
    )
    arguments = parser.parse_args()
    there = torch.cuda.is_available()
    if not (there or arguments.check or arguments.smoke):
        parser.error(
            "torch finds no CUDA device; --check and --smoke do without, the first to compare, the second to see that "
            "this script runs"
        )
    device = torch.device("cuda", 0) if there and not arguments.smoke else torch.device("cpu")
    bench = Bench(device, SMOKE if arguments.smoke else Sizes())
    results: dict = {"machine": machine(bench.device), "failed": {}}
    output = arguments.output
    if output is None and not (arguments.check or arguments.smoke):
        name = re.sub(r"\W+", "-", str(results["machine"]["device"]).lower())
        output = ROOT / "benchmarks" / "results" / f"{name}.json"

    def part(name: str, measure: Callable[[], object]) -> None:
        if time.perf_counter() - begin > arguments.seconds:
            results["failed"][name] = "no time was left"
        else:
            try:
                results[name] = measure()
            except Exception:  # the next part may well succeed
                results["failed"][name] = traceback.format_exc()
                print(results["failed"][name], file=sys.stderr)
            print(f"{name}: done after {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
        if output is not None:
            output.write_text(json.dumps(results, indent=1) + "\n")

    print(table(["machine", ""], [[name, str(value)] for name, value in results["machine"].items()]))
    part("check", lambda: check(bench))
    part("exact_error", lambda: exact_error(bench))
    if results["failed"]:
        print(summary(results))
        return 1
    print(checked(results["check"]))
    print(f"Exact filters: relative error {results['exact_error']:.1e}.\n", flush=True)
    if not within_bounds(results):
        print(
            f"labels or gradients are further from the native core's than {BOUNDS}, in 16 bits {ROUNDED_BOUNDS}, or "
            f"exact filters than {EXACT_BOUND}",
            file=sys.stderr,
        )
        return 1
    if not arguments.check:
        part("goals", lambda: goals(bench))
        part("folder", lambda: folder(bench))
        part("exact", lambda: exact_filters(bench))
        part("parts", lambda: parts(bench))
        part("kernels", lambda: kernel_times(bench))
        part("copy", lambda: copy_speed(bench))
        part("steps", lambda: each_step(bench, results["copy"]))
        part("others", lambda: others(bench))
        part("calls", lambda: whole_calls(bench))
        part("choices", lambda: choices(bench))
        print(timed(results))
        print(summary(results))
    return 1 if results["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
