"""Measures a model on labelled photos: its network alone and with the CRF, in one pass."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.data import Sample
from crfrnn.evaluation.metrics import EDGE_RADIUS, Scores, confusion_matrix, edge_band, iou_of_classes, scores_of
from crfrnn.files.classes import VOID, ClassSet
from crfrnn.files.progress import progress
from crfrnn.files.replacement import replacing
from crfrnn.files.table import Table
from crfrnn.models import Model, Segmenter
from crfrnn.models.segmenter import of_classes
from crfrnn.numbers import whole_number
from crfrnn.segment import image_batch

SHOWN = 4
"""How many of the best and of the worst photos are kept to be shown."""

MEASURES: tuple[tuple[str, Callable[[Scores], float]], ...] = (
    ("mean IoU", lambda scores: scores.mean_iou),
    ("mean IoU within {radius} px of edges", lambda scores: scores.edge_mean_iou),
    ("pixel accuracy", lambda scores: scores.pixel_accuracy),
    ("mean class accuracy", lambda scores: scores.mean_accuracy),
)


class LabelledPhotos(Protocol):
    """A list of samples, or a data set such as `crfrnn.data.SegmentationData`."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Sample: ...


@dataclass(frozen=True)
class PhotoScores:
    """Mean IoU of one photo over the classes that occur in it; NaN if all is void. `crf` is None without a CRF."""

    name: str
    network: float
    crf: float | None

    @property
    def final(self) -> float:
        """The mean IoU of the whole model: with the CRF, if it has one."""
        return self.network if self.crf is None else self.crf


@dataclass(frozen=True)
class ShownPhoto:
    """A photo with its true labels and those of the network and the CRF, (H, W) uint8."""

    sample: Sample
    network: NDArray[np.uint8]
    crf: NDArray[np.uint8] | None
    scores: PhotoScores


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        classes: The classes of the labels.
        edge_radius: Radius of the band of `Scores.edge_mean_iou`, in pixels.
        iterations: Iterations of the CRF; None without one.
        network: Scores of the network alone.
        crf: Scores of the network with its CRF; None without one.
        photos: Scores of each photo, in the order of the data.
        best: The photos with the highest mean IoU, the highest first.
        worst: Those with the lowest, the lowest first, except those that are among the best.
    """

    classes: ClassSet
    edge_radius: int
    iterations: int | None
    network: Scores
    crf: Scores | None
    photos: tuple[PhotoScores, ...]
    best: tuple[ShownPhoto, ...]
    worst: tuple[ShownPhoto, ...]

    def as_json(self) -> dict[str, Any]:
        """All numbers as JSON values; None for what could not be measured."""
        return {
            "classes": list(self.classes.names),
            "num_photos": len(self.photos),
            "edge_radius": self.edge_radius,
            "iterations": self.iterations,
            "network": _scores_json(self.network, self.classes),
            "crf": None if self.crf is None else _scores_json(self.crf, self.classes),
            "photos": [
                {"name": photo.name, "network": _known(photo.network), "crf": _known(photo.crf)}
                for photo in self.photos
            ],
        }

    def write_json(self, path: Path) -> None:
        """Write `as_json` to a file."""
        with replacing(path) as handle:
            handle.write((json.dumps(self.as_json(), indent=1, ensure_ascii=False) + "\n").encode())

    def table(self) -> Table:
        """The measures and the IoU of each class in per cent, a row each, network and CRF side by side."""
        rows = [(name.format(radius=self.edge_radius), value) for name, value in MEASURES]
        rows += [(name, _iou_of(label)) for label, name in enumerate(self.classes.names)]
        columns = ("network",) if self.crf is None else ("network", "with CRF", "gain")
        return Table(("", *columns), [self._row(name, value) for name, value in rows])

    def _row(self, name: str, value: Callable[[Scores], float]) -> list[str]:
        before = value(self.network)
        if self.crf is None:
            return [name, _per_cent(before)]
        after = value(self.crf)
        return [name, _per_cent(before), _per_cent(after), _per_cent(after - before, "+z")]


def evaluate(
    model: Model | Segmenter,
    data: LabelledPhotos,
    classes: ClassSet,
    *,
    iterations: int | None = None,
    edge_radius: int = EDGE_RADIUS,
) -> Evaluation:
    """Measure a model on labelled photos, each at its own size.

    Args:
        model: What `load_model` returns, or a segmenter. It is evaluated in eval mode, whichever mode it is in.
        data: Photos with labels.
        classes: The classes of the labels and of the model, in the same order.
        iterations: Iterations of the CRF; its own number when not given.
        edge_radius: Width of the band on either side of label edges, in pixels.
    Raises: ValueError: if there are no photos, or labels or the model do not fit the classes.
    """
    segmenter = model.segmenter if isinstance(model, Model) else model
    if len(data) == 0:
        raise ValueError("there are no photos to evaluate")
    totals = {name: torch.zeros((2, classes.num_classes, classes.num_classes), dtype=torch.int64) for name in _STAGES}
    photos: list[PhotoScores] = []
    best: list[ShownPhoto] = []
    worst: list[ShownPhoto] = []
    with _at_test(segmenter, iterations):
        for index in progress(range(len(data)), "evaluate"):
            sample = data[index]
            labels = torch.from_numpy(sample.labels.astype(np.int64))
            near_edges = torch.where(edge_band(labels, edge_radius), labels, VOID)
            predicted = _predictions(segmenter, sample, classes)
            ious = {}
            for name, prediction in predicted.items():
                confusion = confusion_matrix(prediction, labels, classes.num_classes)
                totals[name] += torch.stack([confusion, confusion_matrix(prediction, near_edges, classes.num_classes)])
                ious[name] = float(iou_of_classes(confusion).nanmean())
            scores = PhotoScores(sample.name, ious["network"], ious.get("crf"))
            photos.append(scores)
            if not math.isnan(scores.final):
                ids = {name: prediction.numpy().astype(np.uint8) for name, prediction in predicted.items()}
                shown = ShownPhoto(sample, ids["network"], ids.get("crf"), scores)
                best = sorted([*best, shown], key=lambda each: -each.scores.final)[:SHOWN]
                worst = sorted([*worst, shown], key=lambda each: each.scores.final)[:SHOWN]
    crf = segmenter.crf
    return Evaluation(
        classes,
        edge_radius,
        None if crf is None else crf.num_iterations if iterations is None else iterations,
        scores_of(*totals["network"]),
        None if crf is None else scores_of(*totals["crf"]),
        tuple(photos),
        tuple(best),
        tuple(shown for shown in worst if not any(shown is other for other in best)),
    )


_STAGES = ("network", "crf")


def _predictions(segmenter: Segmenter, sample: Sample, classes: ClassSet) -> dict[str, Tensor]:
    """Labels (H, W) by the network and, if there is one, by the CRF."""
    images = image_batch([sample.image], segmenter)
    unary = segmenter.unary(images)
    if of_classes(unary).shape[1] != classes.num_classes:
        raise ValueError(
            f"the model tells {unary.shape[1]} classes apart and the labels have {classes.num_classes}; "
            "evaluate it on data of the classes it was trained for"
        )
    predicted = {"network": of_classes(unary).argmax(dim=1)[0].cpu()}
    if segmenter.crf is not None:
        predicted["crf"] = of_classes(segmenter.refined(unary, images)).argmax(dim=1)[0].cpu()
    return predicted


@contextmanager
def _at_test(segmenter: Segmenter, iterations: int | None) -> Iterator[None]:
    """Put the segmenter in eval mode, without gradients and with these iterations, and restore it afterwards."""
    crf = segmenter.crf
    if iterations is not None:
        if crf is None:
            raise ValueError(f"iterations={iterations} were given, but the model has no CRF")
        whole_number(iterations, "iterations")
    modes = {module: module.training for module in segmenter.modules()}
    own = None if crf is None else crf.num_iterations
    try:
        segmenter.eval()
        if crf is not None and iterations is not None:
            crf.num_iterations = iterations
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        if crf is not None and own is not None:
            crf.num_iterations = own


def _scores_json(scores: Scores, classes: ClassSet) -> dict[str, Any]:
    return {
        "mean_iou": _known(scores.mean_iou),
        "edge_mean_iou": _known(scores.edge_mean_iou),
        "pixel_accuracy": _known(scores.pixel_accuracy),
        "mean_accuracy": _known(scores.mean_accuracy),
        "iou": {name: _known(iou) for name, iou in zip(classes.names, scores.iou, strict=True)},
    }


def _known(number: float | None) -> float | None:
    return None if number is None or math.isnan(number) else number


def _iou_of(label: int) -> Callable[[Scores], float]:
    return lambda scores: scores.iou[label]


def _per_cent(share: float, sign: str = "") -> str:
    return "-" if math.isnan(share) else f"{100 * share:{sign}.1f}"
