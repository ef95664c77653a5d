"""The goals, which `gpu.py` measures first; where the time goes, by parts and by kernels; and the table at its end."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
from torch.profiler import ProfilerActivity, profile

from .gpu_cases import MODES, Bench, Mode, make_case
from .report import table

PROFILED = 20  # kernels of a call that are listed, those that take most
HOST_CALLS = 5
STORED = (Mode(), Mode(storage=torch.bfloat16))


def both_ways(bench: Bench, iterations: int, mode: Mode) -> Callable[[], object]:
    """Forward and backward of a batch, with matrices for couplings."""
    case = make_case(bench, bench.sizes.photo, bench.sizes.images, True)
    return partial(case.both_ways, bench.steps, iterations, mode)


def forward(bench: Bench, images: int, iterations: int, mode: Mode) -> Callable[[], object]:
    case = make_case(bench, bench.sizes.photo, images, False)
    return partial(case.forward, bench.steps, iterations, mode)


def goals(bench: Bench) -> list[dict]:
    """Whole calls, lattice included: milliseconds an image launched, as a graph, and of the host alone; memory."""
    sizes, rows = bench.sizes, []
    for name, images, make in (
        (f"T = {sizes.iterations}, one photo", 1, partial(forward, bench, 1, sizes.iterations)),
        (
            f"T = {sizes.iterations}, batch {sizes.images}",
            sizes.images,
            partial(forward, bench, sizes.images, sizes.iterations),
        ),
        (
            f"T = {sizes.trained}, batch {sizes.images}, forward + backward",
            sizes.images,
            partial(both_ways, bench, sizes.trained),
        ),
    ):
        for mode in (*MODES, Mode(counted=True)):
            call = make(mode)
            row = {"case": name, "mode": mode.name, "launched": bench.milliseconds(call) / images}
            row |= {"host": host_milliseconds(bench, call) / images, "bytes": bench.peak_bytes(call)}
            graph = None if mode.counted else bench.milliseconds(bench.graph(call)) / images  # for it would wait
            rows.append(row | {"graph": graph})
    return rows


def parts(bench: Bench) -> list[dict]:
    """Milliseconds an image of building both kernels, and of an iteration, the difference between T and half of it."""
    sizes, rows = bench.sizes, []
    for images in (1, sizes.images):
        case = make_case(bench, sizes.photo, images, False)
        for mode in STORED:
            build = partial(case.terms, mode, bench.steps)
            long, short = (
                bench.milliseconds(bench.graph(partial(case.forward, bench.steps, count, mode)))
                for count in (sizes.iterations, sizes.iterations // 2)
            )
            iteration = (long - short) / (sizes.iterations - sizes.iterations // 2) / images
            row = {"images": images, "mode": mode.name, "build": bench.milliseconds(bench.graph(build)) / images}
            rows.append(row | {"iteration": iteration})
    return rows


def kernel_times(bench: Bench) -> dict[str, dict]:
    """Microseconds an image of each kernel in whole calls, by name, with its launches."""
    sizes, found = bench.sizes, {}
    for mode in STORED:
        for name, images, call in (
            ("one photo", 1, forward(bench, 1, sizes.iterations, mode)),
            (f"batch {sizes.images}", sizes.images, forward(bench, sizes.images, sizes.iterations, mode)),
            (f"batch {sizes.images}, forward + backward", sizes.images, both_ways(bench, sizes.trained, mode)),
        ):
            call()
            bench.wait()
            with profile(activities=[ProfilerActivity.CUDA if bench.cuda else ProfilerActivity.CPU]) as profiler:
                call()
                bench.wait()
            taken, count = Counter(), Counter()
            for event in profiler.events():
                if not bench.cuda or "CUDA" in str(event.device_type):
                    taken[event.name] += event.time_range.elapsed_us() / images
                    count[event.name] += 1
            most = [[kernel[:80], count[kernel], round(time, 1)] for kernel, time in taken.most_common(PROFILED)]
            found[f"{name}, {mode.name}"] = {
                "microseconds": round(sum(taken.values()), 1),
                "launches": sum(count.values()),
                "kernels": most,
            }
    return found


def host_milliseconds(bench: Bench, call: Callable[[], object]) -> float:
    """What it takes to launch a call, on a device that has nothing else to do."""
    taken = []
    for _ in range(HOST_CALLS):
        bench.wait()
        start = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - start))
    bench.wait()
    return statistics.median(taken)


def summary(results: dict) -> str:
    """The goals, in a few lines, and what failed."""
    tables = []
    if results.get("goals"):
        rows = [
            [
                row["case"],
                row["mode"],
                *("" if row[name] is None else f"{row[name]:.2f}" for name in ("graph", "launched", "host")),
                megabytes(row),
            ]
            for row in results["goals"]
        ]
        tables.append(table(["ms an image", "mode", "graph", "launched", "host alone", "peak memory"], rows))
    if results.get("folder"):
        found = results["folder"]
        tables.append(
            f"crfrnn segment: {found['whole']:.0f} photos a second with its start, {found['running']:.0f} without.\n"
        )
    if results.get("parts"):
        rows = [
            [str(row["images"]), row["mode"], f"{row['build']:.3f}", f"{row['iteration']:.4f}"]
            for row in results["parts"]
        ]
        tables.append(table(["images", "mode", "build, ms an image", "an iteration"], rows))
    if results.get("exact"):
        rows = [["/".join(f"{theta:g}" for theta in row["thetas"]), f"{row['ms']:.1f}"] for row in results["exact"]]
        tables.append(table(["θ", "one exact filter, ms"], rows))
    tables += [f"{name}: {why.strip().splitlines()[-1]}" for name, why in results["failed"].items()]
    return "\n".join(tables)


def megabytes(row: dict) -> str:
    return f"{row['bytes'] / 1e6:.0f} MB" if row["bytes"] else ""
