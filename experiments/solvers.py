"""`python -m experiments.solvers`: energy and mean IoU against iterations, for every solver, on photos of PASCAL VOC.

40 photos of the validation split with the logits of a network that come with the data. Writes the tables of
docs/solvers.md; about a quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from crfrnn import CRF, Bilateral, FrankWolfe, Kernel, MeanField, PairwiseTerm, Spatial, pairwise_terms
from crfrnn.crf import Normalization
from crfrnn.data import SegmentationData
from crfrnn.data.scored import ScoredPhotos
from crfrnn.evaluation import confusion_matrix, scores_of
from crfrnn.files.classes import class_set
from crfrnn.files.progress import progress
from crfrnn.files.replacement import replacing
from crfrnn.inference.energy import energy, frank_wolfe_trace
from crfrnn.inference.meanfield import mean_field

CLASSES = class_set("voc")
ITERATIONS = (0, 1, 2, 3, 5, 10)
SOLVERS: dict[str, MeanField | FrankWolfe] = {
    "mean field": MeanField(tolerance=0),
    "entropic λ = 1": FrankWolfe(tolerance=0),
    "Euclidean λ = 1": FrankWolfe(regularization="euclidean", tolerance=0),
    "Euclidean λ = 5": FrankWolfe(regularization="euclidean", strength=5, tolerance=0),
    "Euclidean λ = 5, open loop": FrankWolfe(regularization="euclidean", strength=5, step="open-loop", tolerance=0),
}
MARKS = "<!-- from `python -m experiments.solvers` -->\n", "<!-- to here -->\n"

Labels = NDArray[np.int64]


def kernels(normalization: Normalization) -> list[Kernel]:
    """Those that docs/benchmarks.md chose for these scores."""
    return [
        Kernel(Spatial(3), 3, normalization=normalization),
        Kernel(Bilateral(40, 5), 4, normalization=normalization),
    ]


def labels_along(
    solver: MeanField | FrankWolfe, logits: NDArray[np.float32], terms: Sequence[PairwiseTerm], threads: int
) -> Iterator[Labels]:
    """The labels after each of `ITERATIONS`."""
    if isinstance(solver, MeanField):
        for count in ITERATIONS:
            yield mean_field(logits, terms, iterations=count, tolerance=0, threads=threads).argmax(axis=0)
        return
    longest = FrankWolfe(max(ITERATIONS), solver.regularization, solver.strength, solver.step, tolerance=0)
    for iteration, (marginals, _) in enumerate(frank_wolfe_trace(logits, terms, longest)):
        if iteration in ITERATIONS:
            yield marginals.argmax(axis=0)


def measured(
    photos: ScoredPhotos, chosen: Sequence[int], normalization: Normalization, threads: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Energy a pixel, less that of the scores alone, and mean IoU in per cent: (solvers, iterations)."""
    shape = len(SOLVERS), len(ITERATIONS)
    energies, confusions = np.zeros(shape), torch.zeros((*shape, CLASSES.num_classes, CLASSES.num_classes))
    crf = CRF(kernels(normalization))
    for index in progress(chosen, normalization):
        sample, logits = photos[index]
        logits = np.asarray(logits, np.float32)
        terms = pairwise_terms(sample.image, crf, threads=threads)
        truth = torch.from_numpy(sample.labels.astype(np.int64))
        alone = energy(logits, logits, terms)
        for row, solver in enumerate(SOLVERS.values()):
            for column, labels in enumerate(labels_along(solver, logits, terms, threads)):
                energies[row, column] += (energy(labels, logits, terms) - alone) / labels.size / len(chosen)
                confusions[row, column] += confusion_matrix(torch.from_numpy(labels), truth, CLASSES.num_classes)
    scores = [[100 * scores_of(each, each).mean_iou for each in row] for row in confusions]
    return energies, np.array(scores)


def table(title: str, values: NDArray[np.float64], digits: int) -> list[str]:
    head = ["| iterations |", *(f" {count} |" for count in ITERATIONS)]
    rows = [
        f"| {name} |" + "".join(f" {value:.{digits}f} |" for value in row)
        for name, row in zip(SOLVERS, values, strict=True)
    ]
    return [title, "", "".join(head), "|" + " --- |" * (1 + len(ITERATIONS)), *rows, ""]


def write(path: Path, lines: Sequence[str]) -> None:
    """Put lines between the marks of a page."""
    first, last = MARKS
    text = path.read_text(encoding="utf-8")
    pattern = re.escape(first) + ".*?" + re.escape(last)
    if not re.search(pattern, text, re.DOTALL):
        raise ValueError(f"{path} lacks the lines {first.strip()} and {last.strip()} between which the tables go")
    content = first + "\n" + "\n".join(lines) + "\n" + last
    with replacing(path) as handle:
        handle.write(re.sub(pattern, lambda _: content, text, flags=re.DOTALL).encode())


def main() -> None:
    default_data = Path(os.environ.get("CRFRNN_DATA", "../shared/data")) / "voc_animals"
    parser = argparse.ArgumentParser(prog="python -m experiments.solvers", description=__doc__)
    parser.add_argument("--data", type=Path, default=default_data, help="with logits33/ (default: %(default)s)")
    parser.add_argument("--photos", type=int, default=40, help="how many (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of each call (default: %(default)s)")
    parser.add_argument(
        "--page", type=Path, help="write the tables into this page, docs/solvers.md; print if not given"
    )
    arguments = parser.parse_args()
    photos = ScoredPhotos(SegmentationData(arguments.data, "val", CLASSES), arguments.data / "logits33", square=True)
    chosen = np.random.default_rng(0).permutation(len(photos))[: arguments.photos].tolist()
    lines: list[str] = []
    normalizations: tuple[Normalization, ...] = ("symmetric", "after")
    for normalization in normalizations:
        energies, scores = measured(photos, chosen, normalization, arguments.threads)
        kind = f"with `{normalization}` normalisation, {len(chosen)} photos"
        lines += table(f"Energy of the labels a pixel, less that of the scores alone, {kind}:", energies, 4)
        lines += table(f"Mean IoU in per cent, {kind}:", scores, 2)
    if arguments.page is None:
        print("\n".join(lines))
    else:
        write(arguments.page, lines)


if __name__ == "__main__":
    main()
