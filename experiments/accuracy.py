"""`python -m experiments.accuracy`: error against time of each way to filter, into docs/accuracy.md and accuracy.png.

It takes three photos of PASCAL VOC, smooth, middling and textured, at half their size with θ_α and θ_γ halved, each
with the scores a network gave it. It also times one exact iteration at full size. It runs a few minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import matplotlib
import numpy as np
from benchmarks.photos import MEDIAN, SMOOTH, TEXTURED, load_photo

from crfrnn import CRFParameters, ExactGaussian, bilateral_features
from crfrnn.accuracy import FilterAccuracy, filter_accuracy, shrunk
from crfrnn.files.progress import progress
from crfrnn.files.replacement import replacing

PHOTOS = {SMOOTH: "smooth", MEDIAN: "middling", TEXTURED: "textured"}
THETAS = ((160.0, 3.0, 3.0), (80.0, 13.0, 3.0))
CLASSES = 21
SIDE = 250
MARKERS = ("o", "s", "^", "v", "*")

Case = tuple[str, str, tuple[int, int], list[FilterAccuracy]]

INTRODUCTION = """\
# Accuracy

This page shows how far the approximate filters are from the exact one, and what the exact one costs. It is written by
`python -m experiments.accuracy`; `crfrnn accuracy IMAGE SCORES` prints the same table for your own photo.

`filter="exact"` (`CRFParameters`, `CrfRnn`, `CrfRnnLayer`, `refine`, `--filter exact`) sums the bilateral kernel over
all pairs of pixels. `ExactGaussian(features)` is the kernel by itself, for any number of features. With either filter
the spatial kernel is the separable Gaussian on the grid. It is exact except for a cut at ±⌈4σ⌉, which leaves out 6e-5
of the mass of an axis. `spatial="lattice"` and `neighbour_rounds` belong to the lattice and are refused with
`filter="exact"`.

**Precision.** Features are subtracted before they are squared, and sums of 64 terms are added up in float64. Compared
with dense float64, the float32 kernel has a relative error of at most 1e-5, the float64 one of at most 1e-12. Blocks of
pixels are left out if they are so far apart that all of them together add less than 2⁻²⁴ (float64: 2⁻⁵³) of the largest
value to a sum. Results are the same to the bit for any number of threads.

**Cost.** O(N²) time, O(N) memory. How many blocks can be left out depends on the photo and on θ.

{cost}

Twice the width and height take up to 16 times as long. {load}

**Gradients.** In `crfrnn.torch` they go to scores, weights, compatibility, mask, image and θ (`mean_field(...,
theta_alpha=tensor)`), and to the features of `gaussian_filter(..., filter="exact")`. Those to image, features and θ are
computed in blocks of plain torch, which on a CPU is many times slower than the filter. `scaled_dot_product_attention`
is not used: it computes the same message from products of features instead of differences. With a small θ_β these
cancel, and float32 has too few digits.

**On a GPU** of compute capability 8.0 and above, float32 tensors are filtered by a Triton kernel, all others by blocks
of plain torch. This kernel also leaves out blocks that are too far apart. A block has 64 points, in the order of a
Hilbert curve through the features; the order is found on the device without waiting for it. Differences, exponents and
sums are float32. Weights and values are multiplied by the TF32 matrix units. Each is split in two, and three products
replace one, which keeps at least 20 bits. These units truncate sums instead of rounding them, so each block is summed
by itself and added to the others in float32. A value that is not finite makes its whole channel NaN. All this is tested
in Triton's interpreter, which multiplies in full precision, and compiled for compute capability 9.0; neither error nor
time has been measured on a GPU.

## Error against time

![Error against time](accuracy.png)

{photos}

`message error` is the relative error of the bilateral message of the first iteration, without the mean of each class,
compared with the exact one in float64. `mean` and `max change` are those of the probabilities after T = 10, and
`labels changed` is the share of pixels whose likeliest class differs, both compared with the exact filter. All runs use
one thread, float32, weights 3 and 5, normalisation `after` and 21 classes.
"""


def exact_seconds(data: Path, name: str, theta: tuple[float, float, float], threads: int) -> float:
    """One exact filter of a full-size photo."""
    logits, photo = load_photo(data, name, None, CLASSES)
    kernel = ExactGaussian(bilateral_features(photo, *theta[:2]), threads=threads)
    values = np.ascontiguousarray(logits.reshape(CLASSES, -1).T)
    start = time.perf_counter()
    kernel.filter(values)
    return time.perf_counter() - start


def measured(data: Path) -> tuple[list[Case], list[str]]:
    """Every photo with every θ, and the lines of a table of what the exact filter takes."""
    cases: list[Case] = []
    lines = [
        f"| photo, full size, {CLASSES} classes | θ | one exact filter, one thread | two threads |",
        "| --- | --- | --- | --- |",
    ]
    for name, theta in progress([(name, theta) for name in PHOTOS for theta in THETAS], "accuracy"):
        logits, photo = load_photo(data, name, None, CLASSES)
        parameters = CRFParameters(*theta, iterations=10)
        label = "/".join(f"{number:g}" for number in theta)
        scores, image, smaller = shrunk(logits, photo, parameters, SIDE)
        cases.append((name, label, image.shape[1::-1], filter_accuracy(scores, image, smaller, threads=1)))
        seconds = " | ".join(f"{exact_seconds(data, name, theta, threads):.1f} s" for threads in (1, 2))
        lines.append(f"| {name}, {photo.shape[1]}×{photo.shape[0]} | {label} | {seconds} |")
    return cases, lines


def markdown(cases: list[Case], cost: list[str], load: str) -> str:
    described = ", ".join(f"{name} ({how})" for name, how in PHOTOS.items())
    photos = f"Photos {described} of PASCAL VOC 2012 at half size, θ_α and θ_γ halved."
    lines = [INTRODUCTION.format(cost="\n".join(cost), photos=photos, load=load)]
    for name, theta, (width, height), found in cases:
        lines += [
            f"**{name}, {width}×{height}, θ {theta}**",
            "",
            "| filter | message error | mean change | max change | labels changed | time |",
            "| --- | --- | --- | --- | --- | --- |",
            *(
                f"| {each.setting} | {each.message_error:.2g} | {each.mean_change:.2g} | {each.max_change:.2g} | "
                f"{each.labels_changed:.2%} | {each.seconds * 1000:.0f} ms |"
                for each in found
            ),
            "",
        ]
    return "\n".join(lines)


def draw(cases: list[Case], path: Path) -> None:
    """A point for every photo and setting; settings by marker, θ by colour."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    colours = {"/".join(f"{number:g}" for number in theta): f"C{index}" for index, theta in enumerate(THETAS)}
    for _, theta, _, found in cases:
        for marker, each in zip(MARKERS, found, strict=True):
            style = {"marker": marker, "color": colours[theta], "alpha": 0.7}
            panels[0].scatter(each.seconds, each.message_error, **style)
            panels[1].scatter(each.seconds, 100 * each.labels_changed, **style)
    for marker, each in zip(MARKERS, cases[0][3], strict=True):
        panels[1].scatter([], [], marker=marker, color="grey", label=each.setting)
    for theta, colour in colours.items():
        panels[1].scatter([], [], marker="s", color=colour, label=f"θ {theta}")
    panels[0].set_yscale("log")
    panels[0].set_ylabel("relative error of the bilateral message")
    panels[1].set_ylabel("labels changed, % of pixels")
    for panel in panels:
        panel.set_xscale("log")
        panel.set_xlabel("seconds for 10 iterations, one thread")
        panel.grid(alpha=0.3)
    panels[1].legend(fontsize=8)
    with replacing(path) as handle:
        figure.savefig(handle, format="png", dpi=100)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.accuracy", description=__doc__)
    root = Path(__file__).resolve().parent.parent
    data = Path(os.environ.get("CRFRNN_DATA", root.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=data, help="folder with voc_animals; %(default)s")
    parser.add_argument("--docs", type=Path, default=root / "docs", help="folder to write to; %(default)s")
    options = parser.parse_args()
    load = (
        f"The machine, of {os.cpu_count()} cores, had a load of {os.getloadavg()[0]:.1f} before this began. "
        "With a load above 0, all times on this page are longer than on an idle machine."
    )
    cases, cost = measured(options.data)
    draw(cases, options.docs / "accuracy.png")
    with replacing(options.docs / "accuracy.md") as handle:
        handle.write(markdown(cases, cost, load).encode())


if __name__ == "__main__":
    main()
