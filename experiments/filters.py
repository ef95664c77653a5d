"""`python -m experiments.filters`: upsampling, the bilateral solver and other tools' filters, on PASCAL VOC's animals.

Writes docs/filters.md and its pictures; about ten minutes on one core. Settings were chosen on other photos.
"""

from __future__ import annotations

import argparse
import os
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
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
from crfrnn.files.legend import full_palette, tinted_photo
from crfrnn.files.photos import write_picture
from crfrnn.files.progress import progress
from crfrnn.files.replacement import replacing
from crfrnn.upsampling import interpolate
from experiments.filters_page import MEASURE, PAGE, VERDICT

CLASSES = class_set("voc")
CHOSEN_ON = slice(40, 60)
"""Of the photos in an order of seed 0: those on which ε and the default θ were chosen. Here they are left out."""
ROUNDS, SHIMMED = 5, 40
"""Of timing, and how many of the photos PAMR is compared on."""
SHOWN = ("2007_000676", "2007_006171")
CRF = crfrnn.CRFParameters(40, 5, 3, spatial_weight=3, bilateral_weight=4, iterations=5)
CRFS = {"3 and 4": CRF, "3 and 1": replace(CRF, bilateral_weight=1)}
"""By their weights: what is best after bilinear interpolation, and a lighter one."""
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
    """Confusions of each way, photo by photo."""

    def __init__(self) -> None:
        self.confusions: dict[str, list[torch.Tensor]] = {}

    def add(self, way: str, photo: Photo, scores: NDArray[Any]) -> None:
        self.confusions.setdefault(way, []).append(photo.confusions(scores.argmax(axis=0)))

    def iou(self, way: str) -> str:
        scores = scores_of(*torch.stack(self.confusions[way]).sum(0))
        return f"{100 * scores.mean_iou:.1f} | {100 * scores.edge_mean_iou:.1f}"

    def gain(self, before: str, after: str) -> str:
        """Of the mean IoU of all pixels, with the 95 % interval."""
        whole = [torch.stack(self.confusions[way])[:, 0] for way in (before, after)]
        low, high = gain_interval(*whole)
        means = [scores_of(*torch.stack(self.confusions[way]).sum(0)).mean_iou for way in (before, after)]
        return f"{100 * (means[1] - means[0]):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def fastest(ways: dict[Any, Callable[[], object]]) -> dict[Any, float]:
    """Processor seconds of each way, the least of rounds of one call each."""
    least = dict.fromkeys(ways, np.inf)
    for _ in range(ROUNDS):
        for name, work in ways.items():
            start = time.process_time()
            work()
            least[name] = min(least[name], time.process_time() - start)
    return least


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
    """Both ways of upsampling, before and after a CRF; and PAMR beside what takes its name here."""
    upsampling, shims = Tallies(), Tallies()
    for index, photo in enumerate(photos(data)):
        for way, bring in WAYS.items():
            larger = bring(photo.logits, photo.image, photo.square)
            upsampling.add(way, photo, larger)
            for weights, crf in CRFS.items():
                upsampling.add(f"{way}, {weights}", photo, crfrnn.refine(larger, photo.image, crf, threads=1))
        if index < SHIMMED:
            for way, refine in pamr_ways(photo).items():
                shims.add(way, photo, refine())
    return upsampling, shims


def pamr_ways(photo: Photo) -> dict[str, Callable[[], NDArray[Any]]]:
    q = torch.from_numpy(softmax(WAYS['`"bilinear"`'](photo.logits, photo.image, photo.square)))
    levels = torch.from_numpy(photo.image).movedim(-1, 0).float() / 255
    module = PAMR(10, [1, 2, 4, 8, 12, 24])
    return {
        "the scores alone": q.numpy,
        "PAMR (Araslanov & Roth 2020)": torch.inference_mode()(lambda: pamr(q, levels).numpy()),
        "the CRF in its place": torch.inference_mode()(lambda: module(levels[None], q[None])[0].numpy()),
    }


def solver_lines(data: Path) -> list[str]:
    """The solver beside the published grid of cells, on foregrounds."""
    lines, settings = [], {"sigma_spatial": 24, "sigma_luma": 4, "sigma_chroma": 4}
    for name in SHOWN:
        photo = Photo(data, name)
        mask = (1 - softmax(WAYS['`"bilinear"`'](photo.logits, photo.image, photo.square))[0]).astype(np.float64)
        trust = np.full(mask.shape, 0.999)

        def published(mask: Any = mask, trust: Any = trust, photo: Photo = photo) -> NDArray[Any]:
            return published_solver(mask[None], trust, photo.image, smoothing=256, **settings)[0]

        def output(mask: Any = mask, photo: Photo = photo) -> NDArray[Any]:
            return bilateral_solver_output(photo.image, mask, **settings)[0]

        ours, theirs, seconds = output(), published(), fastest({"ours": output, "theirs": published})
        lines.append(
            f"| {name} | {np.abs(ours - mask).mean():.3f} | {np.abs(ours - theirs).mean():.3f} | "
            f"{np.mean((ours > 0.5) != (theirs > 0.5)):.1%} | {seconds['ours'] / seconds['theirs']:.1f} |"
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
    ways = {fast: partial(BilateralFilter.apply, noisy[here], space, color, fast) for fast in (True, False)}
    results, times = [way() for way in ways.values()], fastest(ways)
    errors = [float((each - clean[here]).square().mean().sqrt()) for each in (noisy[here], *results)]
    return [255 * each[0, 0].numpy() for each in (noisy[here], *results, clean[here])], (
        f"Trained on the lattice, on a patch of 48×48 pixels with noise of 0.1 and from deviations of 1 and 0.5, a "
        f"filter ends at {space:.2f} pixels and {color:.2f}. On another patch, of 128×128, it takes the root mean "
        f"square error from {errors[0]:.3f} to {errors[1]:.3f}, and over all pairs to {errors[2]:.3f}. That sum takes "
        f"{times[False] / times[True]:.0f} times as long as the lattice there, and at twice the width and height 16 "
        "times as long again."
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
            return np.asarray(tinted_photo(photo.image, scores.argmax(axis=0), full_palette(CLASSES), None))

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


def table(upsampling: Tallies, photo: Photo) -> str:
    refined = "bilinear, CRF"
    larger = WAYS['`"bilinear"`'](photo.logits, photo.image, photo.square)
    works = {way: partial(bring, photo.logits, photo.image, photo.square) for way, bring in WAYS.items()}
    seconds = fastest({**works, refined: partial(crfrnn.refine, larger, photo.image, CRF, threads=1)})
    after = "".join(f" after, {weights} | near edges |" for weights in CRFS)
    lines = [f"| | before a CRF | near edges |{after} time |"]
    lines.append("| --- " * (lines[0].count("|") - 1) + "|")
    for way in WAYS:
        after = " | ".join(upsampling.iou(f"{way}, {weights}") for weights in CRFS)
        lines.append(f"| {way} | {upsampling.iou(way)} | {after} | {seconds[way] / seconds[refined]:.2f} |")
    return "\n".join(lines)


def shim_table(shims: Tallies, photo: Photo) -> str:
    seconds = fastest(pamr_ways(photo))
    unit = seconds["PAMR (Araslanov & Roth 2020)"]
    lines = ["| | mean IoU | near edges | time |", "| --- | --- | --- | --- |"]
    for way in shims.confusions:
        lines.append(f"| {way} | {shims.iou(way)} | {seconds[way] / unit:.2f} |")
    return "\n".join(lines)


def solves(photo: Photo) -> float:
    """How many times as long as a lattice and one filter the solver takes."""
    values = photo.image[..., 0].astype(np.float32)

    def filtered() -> object:
        lattice = crfrnn.PermutohedralLattice(crfrnn.bilateral_features(photo.image, 4, 4), threads=1)
        return crfrnn.PairwiseTerm(lattice).filter(values.ravel(), threads=1)

    solved = partial(crfrnn.bilateral_solver, values, np.ones_like(values), photo.image, threads=1)
    seconds = fastest({"filter": filtered, "solver": solved})
    return seconds["solver"] / seconds["filter"]


def markdown(data: Path, upsampling: Tallies, shims: Tallies, monai: str) -> str:
    linear, along = WAYS
    photo = Photo(data, SHOWN[1])
    gains = [upsampling.gain(f"{linear}{after}", f"{along}{after}") for after in ("", ", 3 and 4")]
    measure = MEASURE.format(count=len(upsampling.confusions[linear]), before=gains[0], after=gains[1])
    return PAGE.format(
        upsampling=table(upsampling, photo),
        measure=textwrap.fill(measure, 120, break_on_hyphens=False),
        verdict=VERDICT,
        solver="\n".join(solver_lines(data)),
        solves=solves(photo),
        monai=textwrap.fill(monai, 120, break_on_hyphens=False),
        shimmed=len(shims.confusions["the CRF in its place"]),
        shims=shim_table(shims, photo),
    )


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
    page = markdown(options.data, *measured(options.data), monai)
    with replacing(options.docs / "filters.md") as handle:
        handle.write(page.encode())


if __name__ == "__main__":
    main()
