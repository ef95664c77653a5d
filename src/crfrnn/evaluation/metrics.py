"""Measures of a segmentation, all of them from confusion matrices. Void (255) pixels are never counted."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

from torch import Tensor
from torch.nn.functional import max_pool2d
from torchmetrics.functional.classification import multiclass_confusion_matrix

from crfrnn.files.classes import VOID

EDGE_RADIUS = 5


@dataclass(frozen=True)
class Scores:
    """Measures from 0 to 1; NaN where no pixel is counted.

    Attributes:
        mean_iou: Mean of `iou` over the classes that occur in the labels.
        edge_mean_iou: The same, counting only pixels near edges of the labels: `edge_band`.
        pixel_accuracy: Share of pixels with the right class.
        mean_accuracy: Share of a class's pixels that are found, averaged over the classes that occur in the labels.
        iou: Intersection over union of each class; NaN for classes that do not occur in the labels.
    """

    mean_iou: float
    edge_mean_iou: float
    pixel_accuracy: float
    mean_accuracy: float
    iou: tuple[float, ...]


def confusion_matrix(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Pixels of each class (row) that were given each class (column), (C, C) int64.

    Args:
        predicted: Class ids (*spatial).
        labels: True class ids (*spatial); 255 is void and not counted.
        num_classes: C, at least 2.
    Raises: ValueError: if shapes differ, or ids are outside the classes.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes}; there is nothing to measure with fewer than 2 classes")
    if predicted.shape != labels.shape:
        raise ValueError(f"predictions have shape {tuple(predicted.shape)} and labels {tuple(labels.shape)}")
    for name, ids in (("predictions", predicted), ("labels", labels[labels != VOID])):
        outside = ids[(ids < 0) | (ids >= num_classes)]
        if outside.numel():
            raise ValueError(
                f"{name} hold {int(outside[0])}; expected 0 to {num_classes - 1} for {num_classes} classes"
            )
    confusion: Tensor = multiclass_confusion_matrix(
        predicted.long(), labels.long(), num_classes, ignore_index=VOID, validate_args=False
    )
    return confusion


def edge_band(labels: Tensor, radius: int = EDGE_RADIUS) -> Tensor:
    """Where a pixel with another label lies within `radius` pixels, horizontally and vertically: bool (H, W).

    Void counts as a label: in data sets that leave the border between two objects void, the band begins beside it.

    Args:
        labels: Class ids (H, W), 255 is void.
        radius: At least 1.
    References: Kohli et al. 2009, "Robust higher order potentials", 5: accuracy in a trimap around label edges.
    """
    if radius < 1:
        raise ValueError(f"edge radius {radius} must be at least 1 pixel")
    ids = labels[None, None].float()
    size = 2 * radius + 1
    highest = max_pool2d(ids, size, stride=1, padding=radius)
    lowest = -max_pool2d(-ids, size, stride=1, padding=radius)
    return (highest != lowest)[0, 0]


def iou_of_classes(confusion: Tensor) -> Tensor:
    """Intersection over union of each class, (..., C) float64, of confusion matrices (..., C, C).

    It is NaN for classes that do not occur in the labels, so that a mean is over the same classes for any prediction.
    Pixels wrongly given such a class still count against their true class.
    """
    matches, labelled = confusion.diagonal(dim1=-2, dim2=-1).double(), confusion.sum(dim=-1)
    iou: Tensor = matches / (confusion.sum(dim=-2) + labelled - matches)
    return iou.where(labelled > 0, nan)


def scores_of(confusion: Tensor, edge_confusion: Tensor) -> Scores:
    """The measures from a confusion matrix (C, C) of all pixels and one of the pixels in the edge band."""
    matches = confusion.diagonal().double()
    accuracy = matches / confusion.sum(dim=1)
    iou = iou_of_classes(confusion)
    return Scores(
        mean_iou=float(iou.nanmean()),
        edge_mean_iou=float(iou_of_classes(edge_confusion).nanmean()),
        pixel_accuracy=float(matches.sum() / confusion.sum()),
        mean_accuracy=float(accuracy.nanmean()),
        iou=tuple(iou.tolist()),
    )
