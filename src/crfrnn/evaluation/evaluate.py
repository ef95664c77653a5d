"""Measures a model on labelled photos: its network alone and with the CRF, in one pass."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.data import Sample
from crfrnn.evaluation.metrics import EDGE_RADIUS, Scores, confusion_matrix, edge_band, iou_of_classes, scores_of
from crfrnn.files.classes import VOID, ClassSet
from crfrnn.files.replacement import replacing
from crfrnn.files.table import Table
from crfrnn.jobs import Engine, Job, Share, ThisMachine, Work, one_by_one
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


Photo = TypeVar("Photo")
"""What stands for a photo until it is read."""


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
    job = MeasurePhotos(lambda: segmenter, data.__getitem__, classes, iterations, edge_radius)
    with _restored(segmenter):
        return measured(job, range(len(data)), ThisMachine(), failed=None)


def measured(
    job: MeasurePhotos[Photo], photos: Sequence[Photo], engine: Engine, failed: dict[int, Exception] | None
) -> Evaluation:
    """What a job finds out about photos, in whatever order an engine measures them.

    Args:
        failed: Receives why photos could not be measured, by their number; None raises the first such error.
    Raises: Exception: that of the first photo, if no photo can be measured.
    """
    if len(photos) == 0:
        raise ValueError("there are no photos to evaluate")
    found: dict[int, Measured] = {}
    shown = Extremes()
    totals: dict[str, Tensor] = {}

    def take(number: int, outcome: Measured | Exception) -> None:
        if isinstance(outcome, Exception):
            if failed is None:
                raise outcome
            failed[number] = outcome
            return
        for stage, confusions in outcome.confusions.items():
            totals[stage] = totals[stage] + confusions if stage in totals else confusions
        shown.offer(outcome.scores, number, outcome.shown)
        found[number] = replace(outcome, confusions={}, shown=None)

    engine.run(job, list(enumerate(photos)), take, "evaluate")
    if failed and not found:
        raise failed[min(failed)]
    best, worst = shown.best(), shown.worst()
    return Evaluation(
        job.classes,
        job.edge_radius,
        next(iter(found.values())).iterations,
        scores_of(*totals["network"]),
        scores_of(*totals["crf"]) if "crf" in totals else None,
        tuple(found[number].scores for number in sorted(found)),
        best,
        tuple(photo for photo in worst if not any(photo is other for other in best)),
    )


@dataclass(frozen=True)
class Measured:
    """What was measured on a photo.

    Attributes:
        confusions: By "network" and "crf": confusion matrices (2, C, C) of all pixels and of those near edges.
        iterations: Of the CRF; None without one.
        shown: The photo, if it is among the best or the worst that its worker has seen.
    """

    scores: PhotoScores
    confusions: Mapping[str, Tensor]
    iterations: int | None
    shown: ShownPhoto | None


class Extremes:
    """The `SHOWN` best and worst of some photos; of equal ones, the first in the data.

    Those of all photos are among those that each worker keeps.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[float, ShownPhoto | None]] = {}

    def offer(self, scores: PhotoScores, number: int, photo: ShownPhoto | None) -> bool:
        """Keep a photo if it is among them. Returns whether it is."""
        if math.isnan(scores.final):
            return False
        self._kept[number] = scores.final, photo
        chosen = {*self._best(), *self._worst()}
        self._kept = {each: kept for each, kept in self._kept.items() if each in chosen}
        return number in chosen

    def best(self) -> tuple[ShownPhoto, ...]:
        """Those with the highest score, the highest first."""
        return self._photos(self._best())

    def worst(self) -> tuple[ShownPhoto, ...]:
        """Those with the lowest score, the lowest first."""
        return self._photos(self._worst())

    def _best(self) -> list[int]:
        return sorted(self._kept, key=lambda number: (-self._kept[number][0], number))[:SHOWN]

    def _worst(self) -> list[int]:
        return sorted(self._kept, key=lambda number: (self._kept[number][0], number))[:SHOWN]

    def _photos(self, numbers: list[int]) -> tuple[ShownPhoto, ...]:
        return tuple(photo for number in numbers if (photo := self._kept[number][1]) is not None)


class MeasurePhotos(Job[tuple[int, Photo], Measured]):
    """Measures a model on photos, each of which is given with its number.

    Args:
        load: Gives the model to measure, which may be changed.
        read: Reads a photo with its labels.
    """

    def __init__(
        self,
        load: Callable[[], Segmenter],
        read: Callable[[Photo], Sample],
        classes: ClassSet,
        iterations: int | None,
        edge_radius: int,
        device: str | None = None,
    ) -> None:
        self.load, self.read, self.classes = load, read, classes
        self.iterations, self.edge_radius, self.device = iterations, edge_radius, device

    def worker(self, share: Share) -> Work[tuple[int, Photo], Measured]:
        segmenter, seen = self.load(), Extremes()
        iterations = _at_test(segmenter, self.iterations)

        def work(item: tuple[int, Photo]) -> Measured:
            number, photo = item
            sample = self.read(photo)
            labels = torch.from_numpy(sample.labels.astype(np.int64))
            near_edges = torch.where(edge_band(labels, self.edge_radius), labels, VOID)
            with torch.inference_mode():
                predicted = _predictions(segmenter, sample, self.classes)
            count = self.classes.num_classes
            confusions = {
                stage: torch.stack([confusion_matrix(labelled, each, count) for each in (labels, near_edges)])
                for stage, labelled in predicted.items()
            }
            ious = {stage: float(iou_of_classes(both[0]).nanmean()) for stage, both in confusions.items()}
            scores = PhotoScores(sample.name, ious["network"], ious.get("crf"))
            shown = None
            if seen.offer(scores, number, None):
                ids = {stage: labelled.numpy().astype(np.uint8) for stage, labelled in predicted.items()}
                shown = ShownPhoto(sample, ids["network"], ids.get("crf"), scores)
            return Measured(scores, confusions, iterations, shown)

        return one_by_one(work)


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


def _at_test(segmenter: Segmenter, iterations: int | None) -> int | None:
    """Put a segmenter in eval mode with these iterations. Returns the iterations of its CRF; None without one."""
    crf = segmenter.crf
    if iterations is not None:
        if crf is None:
            raise ValueError(f"iterations={iterations} were given, but the model has no CRF")
        crf.num_iterations = whole_number(iterations, "iterations")
    segmenter.eval()
    return None if crf is None else crf.num_iterations


@contextmanager
def _restored(segmenter: Segmenter) -> Iterator[None]:
    """Restore the mode and the iterations of a segmenter at the end."""
    modes = {module: module.training for module in segmenter.modules()}
    crf = segmenter.crf
    own = None if crf is None else crf.num_iterations
    try:
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
