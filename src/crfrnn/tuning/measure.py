"""Confusion matrices of photos with scores, refined side by side, and the mean IoU that they give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crfrnn.data.scored import ScoredPhotos
from crfrnn.evaluation.metrics import confusion_matrix, edge_band, iou_of_classes
from crfrnn.files.classes import VOID
from crfrnn.files.progress import progress
from crfrnn.parameters import CRFParameters
from crfrnn.refine import refine

CHUNKS = 5
"""Parts of the photos, after each of which a trial may be given up."""
ALL, NEAR_EDGES = 0, 1
"""Kinds of pixels."""


@dataclass(frozen=True)
class Bench:
    """Photos that parameters are compared on, and the threads to refine them.

    Attributes:
        indices: Those of the photos to compare on.
        device: Where they are refined; None is the CPU.
    """

    photos: ScoredPhotos
    indices: Sequence[int]
    pool: Executor
    device: str | None = None

    def confusions(self, crfs: Sequence[CRFParameters | None], label: str) -> Tensor:
        """Confusion matrices (photos, crfs, 2, C, C) of all pixels and of those near label edges."""
        found = self._of_photos(self.indices, crfs)
        return torch.stack([each for _, each in zip(progress(self.indices, label), found, strict=True)])

    def values(self, crf: CRFParameters | None) -> Iterator[tuple[float, bool]]:
        """What parameters are compared by, `worth`, after each part of the photos, and whether it was the last part.

        Raises: ValueError: after the last part, if no pixel has a label.
        """
        classes = self.photos.data.classes.num_classes
        confusion = torch.zeros((2, classes, classes), dtype=torch.int64)
        chunks = np.array_split(self.indices, min(CHUNKS, len(self.indices)))
        for step, chunk in enumerate(chunks, 1):
            for found in self._of_photos(chunk.tolist(), [crf]):
                confusion += found[0]
            yield worth(confusion), step == len(chunks)
        if not confusion.any():
            raise ValueError(
                f"all pixels of the {len(self.indices)} photos to tune on are void ({VOID}); there is no truth"
            )

    def value(self, crf: CRFParameters | None) -> float:
        """The last of `values`."""
        *_, (found, _) = self.values(crf)
        return found

    def _of_photos(self, indices: Sequence[int], crfs: Sequence[CRFParameters | None]) -> Iterator[Tensor]:
        return self.pool.map(partial(photo_confusions, self.photos, crfs, device=self.device), indices)


def photo_confusions(
    photos: ScoredPhotos, crfs: Sequence[CRFParameters | None], index: int, device: str | None = None
) -> Tensor:
    """Confusion matrices (crfs, 2, C, C) of a photo, from its scores alone (None) or with a CRF.

    The first kind counts all pixels, the second those near label edges.
    """
    sample, logits = photos[index]
    truth = torch.from_numpy(sample.labels.astype(np.int64))
    kinds = [truth, torch.where(edge_band(truth), truth, VOID)]
    found = []
    options: dict[str, Any] = {"threads": 1} if device is None else {"device": device}
    for crf in crfs:
        ids = logits.argmax(axis=0) if crf is None else refine(logits, sample.image, crf, return_labels=True, **options)
        labels = torch.from_numpy(ids.astype(np.int64))
        found.append(torch.stack([confusion_matrix(labels, kind, len(logits)) for kind in kinds]))
    return torch.stack(found)


def worth(confusion: Tensor) -> float:
    """The mean of mean IoU over all pixels and near edges, of (2, C, C); NaN if no pixel has a label.

    Labels without an edge have the first alone.
    """
    kinds = [mean_iou(each) for each in confusion if bool(each.any())]
    return sum(kinds) / len(kinds) if kinds else float("nan")


def mean_iou(confusion: Tensor) -> float:
    """Over the classes that occur in the labels, of (C, C)."""
    return float(iou_of_classes(confusion).nanmean())
