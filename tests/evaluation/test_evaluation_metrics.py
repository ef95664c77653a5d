"""Measures against counting pixels one by one."""

import math

import numpy as np
import pytest

from errors import raises_saying

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("torchmetrics", reason="needs the train extra")
from crfrnn.evaluation import confusion_matrix, edge_band, iou_of_classes, scores_of  # noqa: E402

pytestmark = pytest.mark.torch

NAN = math.nan


def pixels(labels, predicted):
    """Sets of pixels that are truly of each class and that were given it; void is in neither."""
    truth, found = {}, {}
    for place, (true, given) in enumerate(zip(labels.ravel().tolist(), predicted.ravel().tolist(), strict=True)):
        if true != 255:
            truth.setdefault(true, set()).add(place)
            found.setdefault(given, set()).add(place)
    return truth, found


def band_by_hand(labels, radius):
    """Whether any pixel of the square around each pixel has another label."""
    height, width = labels.shape
    band = np.zeros(labels.shape, bool)
    for y in range(height):
        for x in range(width):
            square = labels[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
            band[y, x] = (square != labels[y, x]).any()
    return band


def test_scores_count_pixels(rng):
    """Class 3 occurs only in predictions, class 4 nowhere, and a fifth of the pixels is void."""
    labels = rng.choice([0, 1, 2], (30, 40))
    predicted = np.where(rng.random(labels.shape) < 0.7, labels, rng.choice([0, 1, 2, 3], labels.shape))
    labels = np.where(rng.random(labels.shape) < 0.2, 255, labels)
    truth, found = pixels(labels, predicted)
    iou = [len(truth.get(c, set()) & found[c]) / len(truth.get(c, set()) | found[c]) for c in range(3)]
    recall = [len(truth[c] & found[c]) / len(truth[c]) for c in range(3)]
    right = sum(len(truth[c] & found[c]) for c in range(3))
    confusion = confusion_matrix(torch.from_numpy(predicted), torch.from_numpy(labels), 5)
    scores = scores_of(confusion, confusion)
    np.testing.assert_allclose(scores.iou, [*iou, NAN, NAN])
    assert scores.mean_iou == pytest.approx(np.mean(iou))
    assert scores.mean_accuracy == pytest.approx(np.mean(recall))
    assert scores.pixel_accuracy == pytest.approx(right / (labels != 255).sum())
    assert scores.edge_mean_iou == scores.mean_iou


def test_a_known_case():
    """Two pixels of class 0, one of them found; class 1 is found and is given once too often."""
    labels, predicted = torch.tensor([0, 0, 1, 255]), torch.tensor([0, 1, 1, 0])
    confusion = confusion_matrix(predicted, labels, 2)
    assert confusion.tolist() == [[1, 1], [0, 1]]
    assert iou_of_classes(confusion).tolist() == [0.5, 0.5]


def test_all_void_is_not_a_number():
    void = torch.full((4, 4), 255)
    empty = confusion_matrix(torch.zeros_like(void), void, 3)
    assert empty.sum() == 0
    scores = scores_of(empty, empty)
    measures = [scores.mean_iou, scores.edge_mean_iou, scores.pixel_accuracy, scores.mean_accuracy]
    assert all(map(math.isnan, measures + list(scores.iou)))


@pytest.mark.parametrize("radius", [1, 2, 5])
def test_the_edge_band_is_near_other_labels(rng, radius):
    labels = np.kron(rng.choice([0, 1, 7, 255], (3, 4)), np.ones((9, 11), int))
    labels[0, 0] = 3
    band = edge_band(torch.from_numpy(labels), radius).numpy()
    by_hand = band_by_hand(labels, radius)
    assert 0.1 < by_hand.mean() < 0.95
    np.testing.assert_array_equal(band, by_hand)


def test_there_is_no_band_without_edges():
    assert not edge_band(torch.full((20, 20), 4)).any()


@pytest.mark.parametrize(
    ("predicted", "labels", "num_classes", "facts"),
    [
        ([0, 1], [0, 1, 1], 2, ["(2,)", "(3,)"]),
        ([0, 2], [0, 1], 2, ["predictions hold 2", "0 to 1"]),
        ([0, 1], [0, 21], 21, ["labels hold 21", "0 to 20"]),
        ([0, 1], [0, -1], 2, ["labels hold -1"]),
        ([0, 0], [0, 0], 1, ["num_classes=1", "fewer than 2"]),
    ],
)
def test_what_cannot_be_compared(predicted, labels, num_classes, facts):
    with raises_saying(ValueError, *facts):
        confusion_matrix(torch.tensor(predicted), torch.tensor(labels), num_classes)


def test_a_band_without_width():
    with raises_saying(ValueError, "edge radius 0", "at least 1"):
        edge_band(torch.zeros(3, 3), 0)
