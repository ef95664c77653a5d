"""Evaluation of models whose answers are known: a stand-in network tells classes by the brightest channel."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from crfrnn.data import Sample
from crfrnn.files.classes import class_set, named_classes
from errors import raises_saying

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("torchmetrics", reason="needs the train extra")
from crfrnn.evaluation import contact_sheet, evaluate  # noqa: E402
from crfrnn.evaluation.contact_sheet import CELL, GAP  # noqa: E402
from crfrnn.evaluation.evaluate import SHOWN  # noqa: E402
from crfrnn.models import Model, Segmenter  # noqa: E402
from crfrnn.torch import CrfRnn  # noqa: E402

pytestmark = pytest.mark.torch

CLASSES = named_classes(("red", "green", "blue"))


def brightest_channel(crf=None, classes=3):
    """A segmenter whose network's logits are the channels, in units of 40 levels."""
    network = torch.nn.Conv2d(3, classes, 1, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.eye(classes, 3)[:, :, None, None] / 40)
    return Segmenter(network, crf)


def smoothing(iterations=3):
    return CrfRnn(3, iterations, theta_alpha=4.3, theta_beta=400.0, theta_gamma=1.7)


def sample(rng, name="photo", wrong=0.0, size=(24, 30), void=0.0):
    """Three bands of classes, painted in their colours but for a share of wrong pixels."""
    labels = np.repeat(np.arange(3), -(-size[1] // 3))[None, : size[1]].repeat(size[0], axis=0)
    painted = np.where(rng.random(size) < wrong, (labels + 1) % 3, labels)
    image = np.eye(3, dtype=np.uint8)[painted] * 90 + 60
    labels = np.where(rng.random(size) < void, 255, labels)
    return Sample(name, image.astype(np.uint8), labels.astype(np.uint8))


def mean_iou(labels, predicted):
    """Over the pixels that are not void."""
    kept = labels != 255
    ious = []
    for c in set(labels[kept]) | set(predicted[kept]):
        true, given = (labels == c) & kept, (predicted == c) & kept
        ious.append((true & given).sum() / (true | given).sum())
    return np.mean(ious)


def test_the_network_is_compared_with_the_truth(rng):
    """Photos of different sizes, some pixels wrong, some void: the measures are those of all pixels together."""
    data = [sample(rng, "a", 0.1, void=0.2), sample(rng, "b", 0.4, (11, 17)), sample(rng, "c")]
    found = evaluate(brightest_channel(), data, CLASSES)
    predicted = [each.image.argmax(axis=-1) for each in data]
    labels = np.concatenate([each.labels.ravel() for each in data])
    assert found.network.mean_iou == pytest.approx(mean_iou(labels, np.concatenate([p.ravel() for p in predicted])))
    for scores, each, prediction in zip(found.photos, data, predicted, strict=True):
        assert scores.network == pytest.approx(mean_iou(each.labels, prediction))
        assert (scores.name, scores.crf) == (each.name, None)
    assert (found.crf, found.iterations) == (None, None)


def test_near_edges_only_pixels_near_edges_count(rng):
    """Wrong pixels far from the two label edges, at columns 10 and 20, leave the measure near edges alone."""
    right = sample(rng)
    image = right.image.copy()
    image[:, [0, 29]] = image[:, [29, 0]]
    found = evaluate(brightest_channel(), [replace(right, image=image)], CLASSES, edge_radius=2)
    assert found.network.mean_iou < 1
    assert found.network.edge_mean_iou == 1
    wider = evaluate(brightest_channel(), [replace(right, image=image)], CLASSES, edge_radius=10)
    assert wider.network.edge_mean_iou < 1


def test_the_crf_is_compared_in_the_same_pass(rng):
    data = [sample(rng, "a", 0.15), sample(rng, "b", 0.25)]
    segmenter = brightest_channel(smoothing())
    found = evaluate(Model(segmenter, CLASSES), data, CLASSES)
    assert found.network == evaluate(brightest_channel(), data, CLASSES).network
    assert found.iterations == 3
    with torch.no_grad():
        refined = [segmenter(torch.from_numpy(each.image).permute(2, 0, 1)[None].float()) for each in data]
    for scores, each, logits in zip(found.photos, data, refined, strict=True):
        assert scores.crf == pytest.approx(mean_iou(each.labels, logits.argmax(dim=1)[0].numpy()))
    assert found.crf.mean_iou > found.network.mean_iou + 0.1


def test_the_model_is_left_as_it_was(rng):
    """In eval mode with other iterations while it runs; then every part is in its own mode again."""

    class Watching(torch.nn.Conv2d):
        seen = ()

        def forward(self, images):
            self.seen += (self.training, torch.is_grad_enabled())
            return super().forward(images)

    network = Watching(3, 3, 1)
    segmenter = Segmenter(torch.nn.Sequential(network, torch.nn.BatchNorm2d(3).eval()), smoothing()).train()
    segmenter.network[1].eval()
    found = evaluate(segmenter, [sample(rng)], CLASSES, iterations=1)
    assert network.seen == (False, False)
    assert (found.iterations, segmenter.crf.num_iterations) == (1, 3)
    assert (segmenter.training, network.training, segmenter.network[1].training) == (True, True, False)
    photo = sample(rng, wrong=0.3)
    other = [evaluate(brightest_channel(smoothing()), [photo], CLASSES, iterations=count) for count in (0, 5)]
    assert other[0].crf == other[0].network
    assert other[1].crf != other[1].network


def test_the_best_and_the_worst_are_kept(rng):
    shares = rng.permutation(np.linspace(0, 0.6, 2 * SHOWN + 3))
    data = [sample(rng, f"{share:.2f}", share) for share in shares]
    data.append(sample(rng, "void", void=1.1))
    found = evaluate(brightest_channel(), data, CLASSES)
    names = [f"{share:.2f}" for share in sorted(shares)]
    assert [shown.sample.name for shown in found.best] == names[:SHOWN]
    assert [shown.sample.name for shown in found.worst] == names[::-1][:SHOWN]
    np.testing.assert_array_equal(found.worst[0].network, found.worst[0].sample.image.argmax(axis=-1))
    assert math.isnan(found.photos[-1].network)


def test_no_photo_is_shown_twice(rng):
    found = evaluate(brightest_channel(), [sample(rng, str(i), 0.1 * i) for i in range(SHOWN + 1)], CLASSES)
    assert [shown.sample.name for shown in found.worst] == [str(SHOWN)]


@pytest.mark.parametrize("crf", [True, False])
def test_numbers_as_json(rng, tmp_path, crf):
    """Class purple is nowhere, so that its IoU is unknown; so are the scores of a photo that is all void."""
    classes = named_classes((*CLASSES.names, "purple"))
    data = [sample(rng, "a", 0.2), sample(rng, "ü", void=1.1)]
    layer = CrfRnn(4, 2, theta_alpha=4.3, theta_beta=400.0, theta_gamma=1.7)
    network = brightest_channel(classes=4).network
    with torch.no_grad():
        network.weight[3] = -1
    found = evaluate(Segmenter(network, layer if crf else None), data, classes, edge_radius=3)
    path = tmp_path / "new" / "evaluation.json"
    found.write_json(path)
    read = json.loads(path.read_text(encoding="utf-8"))
    assert read["network"]["iou"] == {
        **{name: pytest.approx(found.network.iou[label]) for label, name in enumerate(CLASSES.names)}, "purple": None
    }  # fmt: skip
    assert read["network"]["mean_iou"] == pytest.approx(found.network.mean_iou)
    assert read["photos"][1] == {"name": "ü", "network": None, "crf": None}
    assert (read["num_photos"], read["edge_radius"], read["iterations"]) == (2, 3, 2 if crf else None)
    assert (read["crf"] is not None) == crf
    assert "NaN" not in path.read_text(encoding="utf-8")


def test_the_table_shows_both_side_by_side(rng):
    found = evaluate(brightest_channel(smoothing()), [sample(rng, wrong=0.2)], CLASSES, edge_radius=4)
    header, *rows = str(found.table()).splitlines()
    assert header.split() == ["network", "with", "CRF", "gain"]
    assert len({len(row) for row in [header, *rows]}) == 1
    before, after = 100 * found.network.mean_iou, 100 * found.crf.mean_iou
    assert rows[0].split() == ["mean", "IoU", f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}"]
    assert rows[1].startswith("mean IoU within 4 px of edges ")
    assert [row.split()[0] for row in rows[-3:]] == ["red", "green", "blue"]
    alone = str(evaluate(brightest_channel(), [sample(rng)], CLASSES).table()).splitlines()
    assert alone[0].split() == ["network"]
    assert alone[1].split() == ["mean", "IoU", "100.0"]


def test_the_contact_sheet_shows_photos_truth_and_labels(rng):
    data = [sample(rng, "wide", 0.3, (20, 40)), sample(rng, "high", 0.1, (40, 20))]
    sheet = np.asarray(contact_sheet(evaluate(brightest_channel(smoothing()), data, CLASSES)))
    assert sheet.shape[1] == 4 * (CELL + GAP) + GAP
    alone = contact_sheet(evaluate(brightest_channel(), data, CLASSES))
    assert alone.width == 3 * (CELL + GAP) + GAP
    for colour in CLASSES.palette:
        assert (sheet == colour).all(axis=-1).any()


def test_a_contact_sheet_of_nothing(rng):
    with raises_saying(ValueError, "no photo has a label other than void"):
        contact_sheet(evaluate(brightest_channel(), [sample(rng, void=1.1)], CLASSES))


@pytest.mark.parametrize(
    ("data", "options", "facts"),
    [
        ([], {}, ["no photos"]),
        (None, {"iterations": 3}, ["iterations=3", "no CRF"]),
        (None, {"edge_radius": 0}, ["edge radius 0"]),
        (None, {"classes": class_set("voc")}, ["3 classes", "the labels have 21"]),
    ],
)
def test_what_cannot_be_evaluated(rng, data, options, facts):
    with raises_saying(ValueError, *facts):
        evaluate(brightest_channel(), [sample(rng)] if data is None else data, **{"classes": CLASSES, **options})


def test_iterations_are_checked(rng):
    with raises_saying(ValueError, "iterations=-1"):
        evaluate(brightest_channel(smoothing()), [sample(rng)], CLASSES, iterations=-1)


def test_labels_beyond_the_classes(rng):
    wrong = sample(rng)
    wrong.labels[3, 4] = 7
    with raises_saying(ValueError, "labels hold 7", "0 to 2"):
        evaluate(brightest_channel(), [wrong], CLASSES)
