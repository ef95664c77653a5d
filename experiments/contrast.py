"""`python -m experiments.contrast`: θ_β from each photo's contrast beside one θ_β for all, on PASCAL VOC's animals.

Every fourth photo of the validation split, with the logits of a network that come with the data. Prints the table of
docs/images.md; about two minutes on one core.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crfrnn import CRFParameters, contrast_theta_beta, refine
from crfrnn.data import SegmentationData
from crfrnn.data.scored import ScoredPhotos
from crfrnn.evaluation import confusion_matrix, scores_of
from crfrnn.evaluation.metrics import edge_band
from crfrnn.files.classes import VOID, class_set
from crfrnn.files.progress import progress

CLASSES = class_set("voc")
FIRST, STEP = 2, 4  # the constant of `contrast_theta_beta` was chosen on other photos: 0, 4, 8, …
FIXED = (3.0, 5.0, 10.0, 13.0, 20.0)
GRABCUT = 8  # times the helper's θ_β is that of GrabCut
REST: dict[str, Any] = {"theta_gamma": 3, "spatial_weight": 3, "bilateral_weight": 5, "class_threshold": 0.01}

Choice = Callable[[NDArray[np.uint8]], tuple[float, ...]]


def multiple(factor: float) -> Choice:
    """Of the helper's θ_β."""
    return lambda image: tuple(factor * theta for theta in contrast_theta_beta(image))


def constant(theta_beta: float) -> Choice:
    return lambda _: (theta_beta,)


CHOICES = {f"θ_β = {theta:g}": constant(theta) for theta in FIXED} | {
    "`contrast_theta_beta`": multiple(1),
    f"{GRABCUT} × `contrast_theta_beta`, as in GrabCut": multiple(GRABCUT),
}


def measured(photos: ScoredPhotos, theta_alpha: float) -> dict[str, tuple[float, float]]:
    """Mean IoU and mean IoU near edges, in per cent, of the network alone and of each choice."""
    totals: dict[str, torch.Tensor] = {}
    for index in progress(range(FIRST, len(photos), STEP), f"θ_α = {theta_alpha:g}"):
        sample, logits = photos[index]
        labels = torch.from_numpy(sample.labels.astype(np.int64))
        near_edges = labels.where(edge_band(labels), VOID)
        predictions = {"network alone": logits.argmax(axis=0)}
        for name, choose in CHOICES.items():
            parameters = CRFParameters(theta_alpha=theta_alpha, theta_beta=choose(sample.image), **REST)
            predictions[name] = refine(logits, sample.image, parameters).argmax(axis=0)
        for name, predicted in predictions.items():
            ids = torch.from_numpy(predicted)
            confusion = [confusion_matrix(ids, truth, CLASSES.num_classes) for truth in (labels, near_edges)]
            totals[name] = totals.get(name, 0) + torch.stack(confusion)
    scores = {name: scores_of(*total) for name, total in totals.items()}
    return {name: (100 * each.mean_iou, 100 * each.edge_mean_iou) for name, each in scores.items()}


def main() -> None:
    default_data = Path(os.environ.get("CRFRNN_DATA", "../shared/data")) / "voc_animals"
    parser = argparse.ArgumentParser(prog="python -m experiments.contrast", description=__doc__)
    parser.add_argument("--data", type=Path, default=default_data, help="with logits33/ (default: %(default)s)")
    parser.add_argument("--theta-alpha", type=float, nargs="+", default=[50.0, 80.0])
    arguments = parser.parse_args()
    photos = ScoredPhotos(SegmentationData(arguments.data, "val", CLASSES), arguments.data / "logits33", square=True)
    tables = [measured(photos, theta_alpha) for theta_alpha in arguments.theta_alpha]
    thetas = [np.mean(contrast_theta_beta(photos[index][0].image)) for index in range(FIRST, len(photos), STEP)]
    low, median, high = np.percentile(thetas, [0, 50, 100])
    print(f"{len(thetas)} photos; `contrast_theta_beta` from {low:.1f} to {high:.1f}, median {median:.1f}\n")
    print("|", *(f"| θ_α = {theta_alpha:g}: mean IoU | near edges" for theta_alpha in arguments.theta_alpha), "|")
    print("|", "--- |" * (1 + 2 * len(tables)))
    for name in tables[0]:
        print(f"| {name} |", *(f"{value:.1f} |" for table in tables for value in table[name]))


if __name__ == "__main__":
    main()
