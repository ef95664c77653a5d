"""`python -m experiments.regions`: what superpixels add to the CRF on PASCAL VOC's people and animals.

Superpixels are those of scikit-image's SLIC (`pip install scikit-image`), which the package itself does not need.
Weights are chosen on 20 photos of the validation split and measured on 40 others, the photos of docs/benchmarks.md.
Prints the tables of docs/regions.md; with --picture it draws the picture there instead. Some minutes on one core.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from crfrnn import CRF, Bilateral, Kernel, MeanField, Regions, RegionTerm, Spatial, mean_field, pairwise_terms, refine
from crfrnn.data import SegmentationData
from crfrnn.data.scored import ScoredPhotos
from crfrnn.evaluation import confusion_matrix, scores_of
from crfrnn.evaluation.bootstrap import gain_interval
from crfrnn.evaluation.metrics import edge_band
from crfrnn.files.classes import VOID, class_set
from crfrnn.files.progress import progress
from crfrnn.files.replacement import replacing
from crfrnn.inference.meanfield import softmax

CLASSES = class_set("voc")
MEASURED, CHOSEN_ON = slice(0, 40), slice(40, 60)
PAIRS = CRF([Kernel(Spatial(3), weight=3), Kernel(Bilateral(40, 5), weight=4)], solver=MeanField(5))
"""The setting that benchmarks/quality.py chose on the same 20 photos."""
LIKELY = 1e-3
WITH_REGIONS = replace(PAIRS, regions=[Regions("superpixels", 3)])
OBJECTS = -1
"""In the place of a number of superpixels: one segment for each class of the labels, the best that segments can be."""
COUNTS = (200, 600)
ORDERS = (2, 4, 8, None)
WEIGHTS = (1, 3, 8)
PICTURED = "2007_000332"


class Choice(NamedTuple):
    """A CRF and how many superpixels of about one size it has."""

    name: str
    crf: CRF | None
    count: int = 0


def choices(weights: Iterable[float]) -> Iterator[Choice]:
    for order, count, weight in product(ORDERS, COUNTS, weights):
        name = f"order {order or 'all'}, {count} superpixels, weight {weight:g}"
        regions = (Regions("superpixels", weight, order),)
        yield Choice(name, replace(PAIRS, regions=regions), count)
        yield Choice(f"{name}, no kernels", replace(PAIRS, kernels=(), regions=regions), count)


def bounds() -> Iterator[Choice]:
    """What regions can do at most: with segments made of the labels."""
    for order in (4, None):
        crf = replace(PAIRS, regions=[Regions("superpixels", 3, order)])
        yield Choice(f"order {order or 'all'}, segments of the labels, weight 3", crf, OBJECTS)


def superpixels(image: NDArray[np.uint8], count: int) -> NDArray[Any]:
    """SLIC of an image (H, W, 3), about so many segments: (H, W) ids."""
    from skimage.segmentation import slic

    ids: NDArray[Any] = slic(image, n_segments=count, compactness=10, start_label=0)
    return ids


def confusions(photos: ScoredPhotos, indices: Sequence[int], tried: Sequence[Choice]) -> list[torch.Tensor]:
    """For each choice, (photos, 2, C, C): over all pixels, and over those near edges."""
    found: list[list[torch.Tensor]] = [[] for _ in tried]
    for index in progress(indices, "photos"):
        sample, logits = photos[int(index)]
        labels = torch.from_numpy(sample.labels.astype(np.int64))
        near_edges = labels.where(edge_band(labels), VOID)
        kernels = pairwise_terms(sample.image, PAIRS)
        segments = {count: superpixels(sample.image, count) for count in COUNTS}
        segments[OBJECTS] = np.where(sample.labels == VOID, -1, sample.labels.astype(int))
        for choice, total in zip(tried, found, strict=True):
            ids = torch.from_numpy(predicted(logits, choice, kernels, segments))
            each = [confusion_matrix(ids, truth, CLASSES.num_classes) for truth in (labels, near_edges)]
            total.append(torch.stack(each))
    return [torch.stack(total) for total in found]


def predicted(
    logits: NDArray[np.floating[Any]], choice: Choice, kernels: list[Any], segments: dict[int, NDArray[Any]]
) -> NDArray[np.int64]:
    """The labels of a choice. Classes that are nowhere likely are left out, which takes a third of the time."""
    if choice.crf is None:
        return logits.argmax(axis=0)
    likely = np.flatnonzero(softmax(logits, axis=0).max(axis=(1, 2)) > LIKELY)
    terms = [RegionTerm(segments[choice.count], each.weight, each.order) for each in choice.crf.regions]
    terms = [*(kernels if choice.crf.kernels else ()), *terms]
    refined = mean_field(logits[likely], terms, iterations=choice.crf.solver.iterations)
    return likely[refined.argmax(axis=0)]


def best(tried: Sequence[Choice], measured: Sequence[torch.Tensor]) -> list[Choice]:
    """Of each order, with kernels and without, the choice with the highest mean IoU."""
    scores = [scores_of(*total.sum(0)).mean_iou for total in measured]
    chosen: dict[Any, tuple[float, Choice]] = {}
    for choice, score in zip(tried, scores, strict=True):
        kind = (choice.name.split(",")[0], bool(choice.crf and choice.crf.kernels))
        chosen[kind] = max(chosen.get(kind, (-1.0, choice)), (score, choice), key=lambda pair: pair[0])
    return [choice for _, choice in chosen.values()]


def show(photos: ScoredPhotos, indices: Sequence[int], tried: Sequence[Choice]) -> list[torch.Tensor]:
    """Print mean IoU, that near edges, and the gain over the second choice with its 95 % interval."""
    measured = confusions(photos, indices, tried)
    print(f"{len(indices)} photos\n")
    print("| | mean IoU | within 5 px of edges | gain over the CRF of pairs |")
    print("| --- | --- | --- | --- |")
    for choice, each in zip(tried, measured, strict=True):
        scores = scores_of(*each.sum(0))
        gain = scores.mean_iou - scores_of(*measured[1].sum(0)).mean_iou
        low, high = gain_interval(measured[1][:, 0], each[:, 0])
        cells = (f"{100 * scores.mean_iou:.2f}", f"{100 * scores.edge_mean_iou:.2f}")
        print(f"| {choice.name} | {' | '.join(cells)} | {100 * gain:+.2f} ({100 * low:+.2f} to {100 * high:+.2f}) |")
    return measured


def draw(photos: ScoredPhotos, index: int, choice: Choice, path: Path) -> None:
    """The photo with its superpixels, and the labels of the network, of the CRF of pairs, and with regions."""
    from skimage.segmentation import mark_boundaries

    sample, logits = photos[index]
    segments = superpixels(sample.image, choice.count)
    marked = (255 * mark_boundaries(sample.image, segments)).astype(np.uint8)
    pairs = refine(logits, sample.image, PAIRS, return_labels=True)
    with_regions = refine(logits, sample.image, choice.crf, given={"superpixels": segments}, return_labels=True)
    panels = [marked]
    for labels in (logits.argmax(axis=0), pairs, with_regions, sample.labels):
        colours = np.where((labels == VOID)[..., None], 255, CLASSES.palette[np.where(labels == VOID, 0, labels)])
        panels.append((0.4 * sample.image + 0.6 * colours).astype(np.uint8))
    gap = np.full((len(marked), 6, 3), 255, np.uint8)
    row = np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)
    with replacing(path) as handle:
        Image.fromarray(row).resize((row.shape[1] // 2, row.shape[0] // 2)).save(handle, format="jpeg", quality=88)


def time_ratio(photos: ScoredPhotos, index: int) -> float:
    """How many times as long `refine` takes with regions as without, in CPU time of one thread, superpixels given."""
    sample, logits = photos[index]
    given = {"superpixels": superpixels(sample.image, COUNTS[0])}
    fastest = {PAIRS: np.inf, WITH_REGIONS: np.inf}
    for crf in [*fastest] * 4:
        start = time.process_time()
        refine(logits, sample.image, crf, given=given, threads=1)
        fastest[crf] = min(fastest[crf], time.process_time() - start)
    return fastest[WITH_REGIONS] / fastest[PAIRS]


def main() -> None:
    default_data = Path(os.environ.get("CRFRNN_DATA", "../shared/data")) / "voc_animals"
    parser = argparse.ArgumentParser(prog="python -m experiments.regions", description=__doc__)
    parser.add_argument("--data", type=Path, default=default_data, help="with logits33/ (default: %(default)s)")
    parser.add_argument("--picture", type=Path, help="draw this file and measure nothing")
    arguments = parser.parse_args()
    data = SegmentationData(arguments.data, "val", CLASSES)
    photos = ScoredPhotos(data, arguments.data / "logits33", square=True)
    order = np.random.default_rng(0).permutation(len(photos))
    pictured = (arguments.data / "val.txt").read_text().split().index(PICTURED)
    if arguments.picture is not None:
        draw(photos, pictured, Choice("regions", WITH_REGIONS, COUNTS[0]), arguments.picture)
        return
    print(f"With regions refine takes {time_ratio(photos, pictured):.1f} times as long.\n", flush=True)
    baselines = [Choice("the scores alone", None), Choice("the CRF of pairs", PAIRS)]
    tried = list(choices(WEIGHTS))
    print("To choose:\n")
    measured = show(photos, order[CHOSEN_ON], [*baselines, *tried])
    print("\nMeasured:\n")
    show(photos, order[MEASURED], [*baselines, *best(tried, measured[2:]), *bounds()])


if __name__ == "__main__":
    main()
