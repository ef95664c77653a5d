"""A folder of photos refined by whole programs: the command line, and a script for pydensecrf in a pool."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from .case import Case
from .measure import ROOT, WEIGHTS, Workbench, medians, ratio

QUICK_PHOTOS = 8
MOST_CHANGED = 1e-3
PEER, COMPAT, OURS, LIKELY = "pydensecrf", "compat", "refine", "refine-likely"


def throughput(case: Case, bench: Workbench) -> list[dict]:
    """Seconds of each program for the folder, and the share of labels in which it differs from filtering all classes.

    There are no figures unless `crfrnn refine` on pydensecrf2's own model gives its labels, except for rounding.
    """
    photos, scores = bench.data / "voc_animals" / "images", bench.scratch / "logits33"
    scores.mkdir(exist_ok=True)
    every = sorted((bench.data / "voc_animals" / "logits33").glob("*.npz"))
    for path in every[: QUICK_PHOTOS if bench.quick else None]:
        if not (scores / path.name).exists():
            (scores / path.name).symlink_to(path)
    count = len(list(scores.iterdir()))
    rows = []
    for thetas in case.thetas[:1] if bench.quick else case.thetas:
        programs = {
            name: command(scores, photos, bench.scratch / name, thetas, case)
            for name, command in COMMANDS.items()
            if name in case.sides and (name != PEER or PEER in bench.pythons)
        }
        same = refine_command(scores, photos, bench.scratch / "same", thetas, case)
        run([*same, "--spatial", "lattice", "--normalization", "symmetric"], case.cores)
        row = {"photos": count, "thetas": thetas}
        rows.append(row)
        taken: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(case.rounds(bench)):
            for name, program in programs.items():
                taken[name].append(run(program, case.cores))
        if PEER in programs:
            row["difference"] = changed(bench.scratch / PEER, bench.scratch / "same")
            if row["difference"] > MOST_CHANGED:
                continue
        row["seconds"] = medians(taken)
        row["ratios"] = {name: ratio(taken, PEER, name) for name in programs if PEER in programs}
        row["changed"] = {name: changed(bench.scratch / OURS, bench.scratch / name) for name in programs}
    return rows


def peer_command(scores: Path, photos: Path, output: Path, thetas: tuple, case: Case) -> list[str]:
    numbers = [*map(str, thetas), str(case.iterations), str(case.cores)]
    return [sys.executable, "-m", "benchmarks.peer_folder", str(scores), str(photos), str(output), *numbers]


def compat_command(*arguments: object) -> list[str]:
    return [*peer_command(*arguments), "crfrnn"]


def refine_command(scores: Path, photos: Path, output: Path, thetas: tuple, case: Case) -> list[str]:
    alpha, beta, gamma = map(str, thetas)
    program = "import sys, crfrnn.cli; sys.exit(crfrnn.cli.main())"
    command = [sys.executable, "-c", program, "refine", str(scores), str(photos), "-o", str(output), "--overwrite"]
    command += ["--square-scores", "--theta-alpha", alpha, "--theta-beta", beta, "--theta-gamma", gamma]
    command += ["--iterations", str(case.iterations)]
    return command + [part for name, weight in WEIGHTS.items() for part in (f"--{name.replace('_', '-')}", str(weight))]


def likely_command(*arguments: object) -> list[str]:
    return [*refine_command(*arguments), "--class-threshold", "0.01"]


COMMANDS: dict[str, Callable[..., list[str]]] = {
    PEER: peer_command,
    COMPAT: compat_command,
    OURS: refine_command,
    LIKELY: likely_command,
}


def run(command: list[str], cores: int) -> float:
    """Seconds of a program from its start to its end. A program with a pool uses one thread in each process."""
    threads = 1 if "benchmarks.peer_folder" in command else cores
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT, env=environment)
    return time.perf_counter() - start


def changed(before: Path, after: Path) -> float:
    """The share of pixels in which two folders of labels differ."""
    pixels, different = 0, 0
    for path in sorted(before.glob("*.png")):
        labels = [np.asarray(Image.open(folder / path.name)) for folder in (before, after)]
        pixels += labels[0].size
        different += int(np.count_nonzero(labels[0] != labels[1]))
    return different / pixels
