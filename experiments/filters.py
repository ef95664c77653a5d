"""`python -m experiments.filters`: upsampling, the bilateral solver and other tools' filters, on PASCAL VOC's animals.

Writes docs/filters.md and its pictures; about ten minutes on one core. Settings were chosen on other photos.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.bilateral_solver import bilateral_solver as published_solver
from benchmarks.pamr import pamr
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import crfrnn
from crfrnn.compat.bilateral_solver import bilateral_solver_output
from crfrnn.compat.monai import BilateralFilter, TrainableBilateralFilter
from crfrnn.compat.pamr import PAMR
from crfrnn.evaluation import confusion_matrix, edge_band, scores_of
from crfrnn.evaluation.bootstrap import gain_interval
from crfrnn.files.classes import VOID, class_set
from crfrnn.files.legend import tinted_photo
from crfrnn.files.photos import replacing, write_picture
from crfrnn.files.progress import progress
from crfrnn.upsampling import interpolate

CLASSES = class_set("voc")
CHOSEN_ON = slice(40, 60)
"""Of the photos in an order of seed 0: those on which ε and the default θ were chosen. Here they are left out."""
TIMED, SHIMMED = 10, 40
"""How many of the others times are the median of, and how many PAMR is compared on."""
SHOWN = ("2007_000676", "2007_006171")
CRF = crfrnn.CRFParameters(
    theta_alpha=40, theta_beta=5, theta_gamma=3, spatial_weight=3, bilateral_weight=4, iterations=5
)
GAP, TITLE = 8, 34

Upsample = Callable[[NDArray[Any], NDArray[Any], tuple[int, int]], NDArray[Any]]
WAYS: dict[str, Upsample] = {
    '`"bilinear"`': lambda scores, photo, square: interpolate(scores, photo, covers=square),
    '`"joint-bilateral"`': lambda scores, photo, square: crfrnn.upsample(scores, photo, covers=square, threads=1),
}


class Photo:
    """A photo (H, W, 3), its labels (H, W), and a network's logits (21, 33, 33) over a square of its longer side."""

    def __init__(self, data: Path, name: str) -> None:
        self.image = np.array(Image.open(data / "images" / f"{name}.jpg").convert("RGB"))
        self.labels = torch.from_numpy(np.array(Image.open(data / "labels" / f"{name}.png"))).long()
        with np.load(data / "logits33" / f"{name}.npz") as archive:
            self.logits = archive["logits"].astype(np.float32)
        self.square = (max(self.image.shape),) * 2

    def confusions(self, predicted: NDArray[Any]) -> torch.Tensor:
        """(2, 21, 21), of all pixels and of those near edges."""
        near = torch.where(edge_band(self.labels), self.labels, VOID)
        ids = torch.from_numpy(predicted)
        return torch.stack([confusion_matrix(ids, each, CLASSES.num_classes) for each in (self.labels, near)])


class Tallies:
    """Confusions and processor seconds of each way, photo by photo."""

    def __init__(self) -> None:
        self.confusions: dict[str, list[torch.Tensor]] = {}
        self.seconds: dict[str, list[float]] = {}

    def add(self, way: str, photo: Photo, work: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        start = time.process_time()
        result = work()
        self.seconds.setdefault(way, []).append(time.process_time() - start)
        self.confusions.setdefault(way, []).append(photo.confusions(result.argmax(axis=0)))
        return result

    def iou(self, way: str) -> str:
        scores = scores_of(*torch.stack(self.confusions[way]).sum(0))
        return f"{100 * scores.mean_iou:.1f} | {100 * scores.edge_mean_iou:.1f}"

    def gain(self, before: str, after: str) -> str:
        """Of the mean IoU of all pixels, with the 95 % interval."""
        whole = [torch.stack(self.confusions[way])[:, 0] for way in (before, after)]
        low, high = gain_interval(*whole)
        means = [scores_of(*torch.stack(self.confusions[way]).sum(0)).mean_iou for way in (before, after)]
        return f"{100 * (means[1] - means[0]):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"

    def time(self, way: str) -> float:
        return float(np.median(self.seconds[way][:TIMED]))


def photos(data: Path) -> Iterator[Photo]:
    names = (data / "val.txt").read_text().split()
    shuffled = [names[index] for index in np.random.default_rng(0).permutation(len(names))]
    del shuffled[CHOSEN_ON]
    for name in progress(shuffled, "filters"):
        yield Photo(data, name)


def softmax(logits: NDArray[Any]) -> NDArray[Any]:
    exponentials = np.exp(logits - logits.max(axis=0))
    return exponentials / exponentials.sum(axis=0)


def measured(data: Path) -> tuple[Tallies, Tallies]:
    """Both ways of upsampling, before and after the CRF; and PAMR beside what takes its name here."""
    upsampling, shims = Tallies(), Tallies()
    module = PAMR(10, [1, 2, 4, 8, 12, 24])
    for index, photo in enumerate(photos(data)):
        for way, bring in WAYS.items():
            larger = upsampling.add(way, photo, lambda: bring(photo.logits, photo.image, photo.square))  # noqa: B023
            upsampling.add(f"{way}, CRF", photo, lambda: crfrnn.refine(larger, photo.image, CRF, threads=1))  # noqa: B023
        if index < SHIMMED:
            q = torch.from_numpy(softmax(WAYS['`"bilinear"`'](photo.logits, photo.image, photo.square)))
            levels = torch.from_numpy(photo.image).movedim(-1, 0).float() / 255
            shims.add("before", photo, lambda: q.numpy())  # noqa: B023
            with torch.inference_mode():
                shims.add("PAMR", photo, lambda: pamr(q, levels).numpy())  # noqa: B023
                shims.add("shim", photo, lambda: module(levels[None], q[None])[0].numpy())  # noqa: B023
    return upsampling, shims


def solver_lines(data: Path) -> list[str]:
    """The solver beside the published grid of cells, on foregrounds."""
    lines = []
    for name in SHOWN:
        photo = Photo(data, name)
        q = softmax(WAYS['`"bilinear"`'](photo.logits, photo.image, photo.square))
        mask = (1 - q[0]).astype(np.float64)
        settings = {"sigma_spatial": 24, "sigma_luma": 4, "sigma_chroma": 4}
        start = time.process_time()
        ours, _ = bilateral_solver_output(photo.image, mask, **settings)
        middle = time.process_time()
        theirs = published_solver(mask[None], np.full(mask.shape, 0.999), photo.image, smoothing=256, **settings)[0]
        ratio = (middle - start) / (time.process_time() - middle)
        lines.append(
            f"| {name} | {np.abs(ours - mask).mean():.3f} | {np.abs(ours - theirs).mean():.3f} | "
            f"{np.mean((ours > 0.5) != (theirs > 0.5)):.1%} | {ratio:.1f} |"
        )
    return lines


def trained_filter(data: Path) -> tuple[list[NDArray[Any]], str]:
    """A filter trained on a noisy patch, and another patch that it filters: pictures, and a sentence with figures."""
    grey = np.asarray(Image.fromarray(Photo(data, SHOWN[0]).image).convert("L"), np.float32) / 255
    noise = np.random.default_rng(0).normal(0, 0.1, grey.shape).astype(np.float32)
    clean, noisy = (torch.from_numpy(each)[None, None] for each in (grey, grey + noise))
    there, here = (slice(None), slice(None), slice(60, 108), slice(60, 108)), (..., slice(100, 228), slice(120, 248))
    module = TrainableBilateralFilter([1.0, 1.0], 0.5)
    optimizer = torch.optim.Adam(module.parameters(), 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        (module(noisy[there]) - clean[there]).square().mean().backward()
        optimizer.step()
    space, color = float((module.sigma_x + module.sigma_y).detach() / 2), float(module.sigma_color.detach())
    times, results = [], []
    for fast in (True, False):
        start = time.process_time()
        results.append(BilateralFilter.apply(noisy[here], space, color, fast))
        times.append(time.process_time() - start)
    errors = [float((each - clean[here]).square().mean().sqrt()) for each in (noisy[here], *results)]
    return [255 * each[0, 0].numpy() for each in (noisy[here], *results, clean[here])], (
        f"Trained on a patch of 48×48 pixels with noise of 0.1, from deviations of 1 and 0.5, it ends at {space:.2f} "
        f"pixels and {color:.2f}. On another patch, of 128×128, it takes the root mean square error from "
        f"{errors[0]:.3f} to {errors[2]:.3f}; `BilateralFilter` with these deviations on a lattice reaches "
        f"{errors[1]:.3f}. The sum over all pairs takes {times[1] / times[0]:.0f} times as long as the lattice there, "
        "and at twice the width and height 16 times as long again."
    )


def row(cells: list[tuple[str, NDArray[Any]]], width: int) -> Image.Image:
    """Pictures side by side, each with a title."""
    shown = [Image.fromarray(np.clip(cell, 0, 255).astype(np.uint8)).convert("RGB") for _, cell in cells]
    height = round(shown[0].height * width / shown[0].width)
    picture = Image.new("RGB", (len(cells) * (width + GAP) + GAP, height + TITLE + GAP), (255, 255, 255))
    pen = ImageDraw.Draw(picture)
    for index, ((title, _), cell) in enumerate(zip(cells, shown, strict=True)):
        left = GAP + index * (width + GAP)
        pen.text((left + width / 2, TITLE / 2), title, (34, 34, 34), ImageFont.load_default(18), anchor="mm")
        picture.paste(cell.resize((width, height), Image.Resampling.LANCZOS), (left, TITLE))
    return picture


def below(rows: list[Image.Image]) -> Image.Image:
    picture = Image.new("RGB", (max(each.width for each in rows), sum(each.height for each in rows)), (255, 255, 255))
    for index, each in enumerate(rows):
        picture.paste(each, (0, sum(before.height for before in rows[:index])))
    return picture


def draw(data: Path, patches: list[NDArray[Any]], docs: Path) -> None:
    upsampled, solved = [], []
    for name in SHOWN:
        photo = Photo(data, name)
        linear, along = (bring(photo.logits, photo.image, photo.square) for bring in WAYS.values())

        def tinted(scores: NDArray[Any], photo: Photo = photo) -> NDArray[Any]:
            return np.asarray(tinted_photo(photo.image, scores.argmax(axis=0), CLASSES, max(photo.image.shape)))

        cells = [("bilinear", linear), ("joint bilateral", along)]
        cells += [(f"{title}, CRF", crfrnn.refine(scores, photo.image, CRF)) for title, scores in cells]
        upsampled.append(row([(title, tinted(scores)) for title, scores in cells], 300))
        q = softmax(linear)
        mask, trust = 1 - q[0], q.max(axis=0) ** 4
        solution = crfrnn.bilateral_solver(mask, trust, photo.image)
        planes = {"target": mask, "confidence": trust, "solution": solution}
        solved.append(row([("photo", photo.image), *((title, 255 * each) for title, each in planes.items())], 300))
    write_picture(docs / "filters-upsampling.jpg", below(upsampled))
    write_picture(docs / "filters-solver.jpg", below(solved))
    titles = ("noisy", "on the lattice", "over all pairs", "clean")
    write_picture(docs / "filters-monai.jpg", row(list(zip(titles, patches, strict=True)), 256))


PAGE = """\
# One filter, other jobs

The lattice under the CRF does more than pass messages. This page is written by `python -m experiments.filters`. Times
are of one core of an AMD EPYC, as multiples of one `refine` (21 classes, 5 iterations) unless it says otherwise.

## Scores smaller than the photo

Networks score a grid that is 4 to 16 times coarser than the photo. `upsampling=` says how `refine`, `CrfRnn`,
`crfrnn.torch.mean_field` and Keras' `CrfRnnLayer` bring such scores to the size of the photo, and `--upsampling` the
same for `crfrnn refine`. Without it, scores of another size are an error.

```python
refined = crfrnn.refine(scores, photo, upsampling="joint-bilateral")  # (21, 33, 33) and (366, 500, 3)
larger = crfrnn.upsample(scores, photo)  # the first half of that: features of a network, depth, anything
```

`"bilinear"` interpolates. `"joint-bilateral"` lets each pixel average the low pixels around it that have its colour
([algorithm.md](algorithm.md), eq. 33; Kopf et al. 2007). A pixel unlike all of these keeps the interpolated value.

{upsampling}

{count} photos of voc_animals/val with a DeepLab's 33×33 logits, θ 40/5/3, weights 3 and 4. Mean IoU in per cent, of all
pixels and of those within 5 pixels of edges. The gain of joint bilateral upsampling over bilinear is {before} points
before the CRF and {after} after it (95 % intervals over photos).

![Bilinear and joint bilateral upsampling, without and with the CRF](filters-upsampling.jpg)

**When to take which.** {verdict}

**Alignment.** The corners of both grids coincide (`align_corners=False` in other libraries). With s the distance
between low pixels, low pixel i has its centre at (i + ½) s - ½ in pixels of the photo, and the photo's colour there. If
the network saw a photo that was padded below and to the right, give `upsample` the size of what it saw in pixels of the
photo, `covers=(513, 513)`. For scores over a square, `crfrnn refine` has `--square-scores`.

**Deviations.** θ_α is s and θ_β is 4 × `contrast_theta_beta(photo)`, so that levels may have any range;
`upsample(scores, photo, Bilateral(theta_alpha, theta_beta))` takes others. `Exact()` in the place of the lattice sums
over all pairs of pixels, in O(N²) time. In torch, gradients go to the scores and, through `Exact()`, to the photo. Any
channels of scores and image and 1 to 3 spatial axes work; a lattice takes at most 16 axes and channels together.

## The bilateral solver

`crfrnn.bilateral_solver(target, confidence, photo)` finds values that are near the target where it is certain, and
smooth along the photo's edges everywhere (Barron & Poole 2016; [algorithm.md](algorithm.md), eq. 34 and 35). It fills
in what has no confidence, across any distance: depth with holes, a mask known in places, colours from strokes.

![Target, confidence and solution](filters-solver.jpg)

The published program quantises pixels into cells of a grid; here they lie on the lattice, and a cell of side σ becomes
a Gaussian of deviation σ/2. `crfrnn.compat.bilateral_solver` has the signatures of OpenCV's `fastBilateralSolverFilter`
and of `bilateral_solver_output`. Their solutions are near the published ones, not equal: with σ of 24, 4 and 4 and
λ = 256, on the foreground of

| photo | mean change of the target | mean difference to the published | pixels on the other side of ½ | time, of its |
| --- | --- | --- | --- | --- |
{solver}

**When to take which.** The CRF for class scores: it has a model of labels, and [benchmarks](benchmarks.md) has both
side by side. The solver for quantities, and where large parts are unknown. One filter where a local mean will do: the
solver takes about {solves:.0f} times as long as building a lattice and filtering with it once.

## MONAI's bilateral filters

`crfrnn.compat.monai` has `BilateralFilter`, `TrainableBilateralFilter` and `TrainableJointBilateralFilter`. The
trainable ones learn their deviations, by sums over all pairs of pixels.

![A noisy patch, filtered on the lattice and over all pairs](filters-monai.jpg)

{monai}

**When to take which.** `BilateralFilter` with `fast_approx=True` for images, with `False` for small patches. The
trainable filters for patches. MONAI cuts its windows at 2.5 deviations; nothing is cut here.

## PAMR's signature

`crfrnn.compat.pamr.PAMR(num_iter, dilations)(image, mask)` is a dense CRF behind PAMR's call: another method, for code
that wants to try it. θ_α is the largest dilation, θ_β comes from each image's contrast, the weights are 3 and 5. On
{shimmed} of the photos, with 10 iterations and dilations 1 to 24, times as multiples of PAMR's:

{shims}

**When to take which.** For scores of a network, `crfrnn.refine` with parameters of your own, which the shim has none
of. PAMR itself where results must be PAMR's.
"""


def markdown(upsampling: Tallies, shims: Tallies, solver: list[str], monai: str, solves: float) -> str:
    linear, along = WAYS
    unit = upsampling.time(f"{linear}, CRF")
    lines = [
        "| | before the CRF: mean IoU | near edges | after it: mean IoU | near edges | time of the upsampling |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for way in WAYS:
        lines.append(
            f"| {way} | {upsampling.iou(way)} | {upsampling.iou(f'{way}, CRF')} | {upsampling.time(way) / unit:.2f} |"
        )
    rows = ["| | mean IoU | near edges | time |", "| --- | --- | --- | --- |"]
    names = {"before": "the scores alone", "PAMR": "PAMR (Araslanov & Roth 2020)", "shim": "the CRF in its place"}
    for way, name in names.items():
        ratio = "" if way == "before" else f"{shims.time(way) / shims.time('PAMR'):.2f}"
        rows.append(f"| {name} | {shims.iou(way)} | {ratio} |")
    return PAGE.format(
        upsampling="\n".join(lines),
        count=len(upsampling.confusions[linear]),
        before=upsampling.gain(linear, along),
        after=upsampling.gain(f"{linear}, CRF", f"{along}, CRF"),
        verdict=VERDICT,
        solver="\n".join(solver),
        solves=solves,
        monai=monai,
        shimmed=len(shims.confusions["shim"]),
        shims="\n".join(rows),
    )


VERDICT = """TO BE WRITTEN"""


def solver_filters(data: Path) -> float:
    """How many times as long as one filter the solver takes."""
    photo = Photo(data, SHOWN[1]).image
    values = photo[..., 0].astype(np.float32)
    start = time.process_time()
    term = crfrnn.PairwiseTerm(crfrnn.PermutohedralLattice(crfrnn.bilateral_features(photo, 4, 4), threads=1))
    term.filter(values.ravel(), threads=1)
    middle = time.process_time()
    crfrnn.bilateral_solver(values, np.ones_like(values), photo, threads=1)
    return (time.process_time() - middle) / (middle - start)


def main() -> None:
    root = Path(__file__).resolve().parent.parent
    data = Path(os.environ.get("CRFRNN_DATA", root.parent / "shared" / "data")) / "voc_animals"
    parser = argparse.ArgumentParser(prog="python -m experiments.filters", description=__doc__)
    parser.add_argument("--data", type=Path, default=data, help="with logits33/; %(default)s")
    parser.add_argument("--docs", type=Path, default=root / "docs", help="folder to write to; %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(1)
    patches, monai = trained_filter(options.data)
    draw(options.data, patches, options.docs)
    solver, solves = solver_lines(options.data), solver_filters(options.data)
    page = markdown(*measured(options.data), solver, monai, solves)
    with replacing(options.docs / "filters.md") as handle:
        handle.write(page.encode())


if __name__ == "__main__":
    main()
