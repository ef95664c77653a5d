"""`filter_accuracy` and `crfrnn accuracy` against the dense kernel and calls of `refine` one by one."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crfrnn import CRFParameters, PermutohedralLattice, bilateral_features, reference, refine
from crfrnn import crf as crf_module
from crfrnn.accuracy import WAYS, filter_accuracy, shrunk
from crfrnn.cli import main
from crfrnn.crf import MeanField
from crfrnn.files.resize import resize_scores
from crfrnn.inference import meanfield
from crfrnn.inference.solver import SOLVERS
from errors import raises_saying

PARAMETERS = CRFParameters(theta_alpha=6, theta_beta=40, iterations=3, tolerance=0)


def photo_and_scores(rng, size=(16, 18), classes=4):
    """A photo with coloured patches, and scores that say little."""
    patches = rng.uniform(40, 215, (4, 6, 3)).repeat(-(-size[0] // 4), 0).repeat(-(-size[1] // 6), 1)
    photo = (patches[: size[0], : size[1]] + rng.normal(size=(*size, 3)) * 12).clip(0, 255).astype(np.uint8)
    return photo, rng.normal(size=(classes, *size)).astype(np.float32) * 2


@pytest.mark.torch
def test_on_a_device(rng, tmp_path, monkeypatch, capsys):
    """The changes are those of the CPU, to rounding."""
    pytest.importorskip("torch")
    photo, scores = photo_and_scores(rng)
    for found, expected in zip(
        filter_accuracy(scores, photo, PARAMETERS, device="cpu"),
        filter_accuracy(scores, photo, PARAMETERS),
        strict=True,
    ):
        assert found.max_change == pytest.approx(expected.max_change, abs=1e-4)
        assert found.message_error == pytest.approx(expected.message_error, rel=1e-4, abs=1e-6)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo).save("photo.png")
    np.save("scores.npy", scores)
    assert main(["accuracy", "photo.png", "scores.npy", "-o", "out.json", "--device", "cpu", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert len(json.loads(Path("out.json").read_text())["settings"]) == len(WAYS)


def centred(values):
    return values - values.mean(axis=0)


def test_measures_what_it_says(rng):
    photo, scores = photo_and_scores(rng)
    found = {each.setting: each for each in filter_accuracy(scores, photo, PARAMETERS)}
    assert list(found) == list(WAYS)
    assert all(each.seconds > 0 for each in found.values())

    q = reference.softmax(scores.astype(np.float64)).reshape(4, -1).T
    features = bilateral_features(photo, 6, 40)
    dense = reference.DenseGaussian(features)
    true = centred(dense.filter(q) / dense.norm()[:, None])
    for rounds, setting in ((0, "lattice"), (1, "lattice, neighbour_rounds=1")):
        lattice = PermutohedralLattice(features, neighbour_rounds=rounds)
        error = np.linalg.norm(centred(lattice.filter(q) / lattice.norm()[:, None]) - true) / np.linalg.norm(true)
        assert found[setting].message_error == pytest.approx(error, rel=1e-3)
    assert 0 < found["exact"].message_error < 1e-5
    assert (found["exact"].mean_change, found["exact"].max_change, found["exact"].labels_changed) == (0, 0, 0)

    exact = refine(scores, photo, replace(PARAMETERS, filter="exact"))
    changes = ({}, {"neighbour_rounds": 1}, {"spatial": "lattice"}, {"class_threshold": 0.01}, {"filter": "exact"})
    for setting, changed in zip(WAYS, changes, strict=True):
        other = refine(scores, photo, replace(PARAMETERS, **changed))
        assert found[setting].mean_change == pytest.approx(np.abs(other - exact).mean(), abs=1e-7)
        assert found[setting].max_change == pytest.approx(np.abs(other - exact).max(), abs=1e-7)
        assert found[setting].labels_changed == np.mean(other.argmax(0) != exact.argmax(0))
    assert found["lattice"].mean_change > 1e-4


@pytest.mark.parametrize(("classes", "normalization"), [(1, "after"), (1, "symmetric"), (3, "none")])
def test_other_scores_and_normalisations(rng, classes, normalization):
    photo, scores = photo_and_scores(rng, classes=classes)
    weight = 0.05 if normalization == "none" else 5.0
    parameters = CRFParameters(
        theta_alpha=6, theta_beta=40, iterations=2, normalization=normalization, bilateral_weight=weight
    )
    found = filter_accuracy(scores, photo, parameters)
    assert found[-1].message_error < 1e-5 < found[0].message_error < 0.5


def test_labels_and_volumes(rng):
    labels, volume = rng.integers(0, 3, (4, 5, 6)), rng.uniform(0, 255, (4, 5, 6))
    found = filter_accuracy(labels, volume, PARAMETERS, input="labels", spacing=(1, 1, 2))
    assert [each.setting for each in found] == list(WAYS)
    assert found[-1].labels_changed == 0


def test_without_a_bilateral_filter_there_is_nothing_to_compare(rng):
    photo, scores = photo_and_scores(rng)
    with raises_saying(ValueError, "bilateral_weight=0", "no bilateral filter"):
        filter_accuracy(scores, photo, CRFParameters(bilateral_weight=0))


def test_a_solver_without_a_class_threshold_is_compared_without_it(rng, monkeypatch):
    monkeypatch.setattr(crf_module, "_SOLVERS", (MeanField, Plain))
    monkeypatch.setitem(SOLVERS, Plain, PlainSolver())
    photo, scores = photo_and_scores(rng)
    found = filter_accuracy(scores, photo, replace(PARAMETERS.crf, solver=Plain(3)))
    expected = [each for each in filter_accuracy(scores, photo, PARAMETERS) if "class_threshold" not in each.setting]
    assert [each.setting for each in found] == [each.setting for each in expected]
    assert [each.mean_change for each in found] == [each.mean_change for each in expected]


@dataclass(frozen=True)
class Plain:
    """A solver without any number but its iterations."""

    iterations: int = 10


class PlainSolver:
    def forward(self, solver, *arguments):
        return meanfield.forward(MeanField(solver.iterations, tolerance=0), *arguments)


def test_shrinking_scales_theta_along(rng):
    photo, scores = photo_and_scores(rng, (20, 40))
    smaller, image, parameters = shrunk(scores, photo, CRFParameters(theta_alpha=(80, 40), theta_gamma=4), 10)
    assert (smaller.shape, image.shape) == ((4, 5, 10), (5, 10, 3))
    assert parameters == CRFParameters(theta_alpha=(20, 10), theta_gamma=(1, 1))
    # What a pixel holds is an average of those it stands for.
    assert image.mean() == pytest.approx(photo.mean(), rel=0.02)
    assert smaller.mean() == pytest.approx(scores.mean(), abs=0.1)


def test_labels_shrink_to_labels():
    labels = np.repeat(np.repeat([[0, 7], [3, 5]], 4, 0), 4, 1)
    smaller, image, _ = shrunk(labels, np.zeros((8, 8)), PARAMETERS, 2, "labels")
    np.testing.assert_array_equal(smaller, [[0, 7], [3, 5]])
    assert image.shape == (2, 2, 1)


def test_small_photos_stay_as_they_are(rng):
    photo, scores = photo_and_scores(rng)
    same, image, parameters = shrunk(scores, photo, PARAMETERS, 18)
    assert same is scores
    assert parameters is PARAMETERS
    np.testing.assert_array_equal(image, photo)


def test_volumes_cannot_be_shrunk():
    with raises_saying(ValueError, "(2, 3, 4, 5)", "only photos"):
        shrunk(np.zeros((2, 3, 4, 5)), np.zeros((3, 4, 5)), PARAMETERS, 2)


@pytest.fixture
def files(rng, tmp_path):
    photo, scores = photo_and_scores(rng, (24, 30))
    Image.fromarray(photo).save(tmp_path / "photo.png")
    np.save(tmp_path / "scores.npy", scores)
    return tmp_path / "photo.png", tmp_path / "scores.npy"


def test_command(files, tmp_path, capsys):
    photo, scores = map(str, files)
    output = tmp_path / "new" / "accuracy.json"
    options = ["--theta-alpha", "20", "--theta-beta", "40", "--iterations", "2", "--longest-side", "15"]
    assert main(["accuracy", photo, scores, "-o", str(output), *options]) == 0
    printed = capsys.readouterr().out
    content = json.loads(output.read_text())
    assert content["size"] == [15, 12]
    assert content["parameters"]["theta_alpha"] == [10, 10]
    assert [each["setting"] for each in content["settings"]] == list(WAYS)
    assert "15×12, 2 iterations" in printed
    lines = printed.splitlines()
    for setting, line in zip(content["settings"], lines[-len(WAYS) :], strict=True):
        assert line.startswith(setting["setting"])
        assert f"{setting['message_error']:.2g}" in line.split()
        assert f"{setting['labels_changed']:.3%}" in line.split()


@pytest.mark.parametrize(
    ("options", "status", "facts"),
    [
        (["--longest-side", "0"], 2, ("--longest-side", "at least 1")),
        (["--threads", "-1"], 2, ("--threads", "at least 1")),
        (["--theta-beta", "-3"], 2, ("--theta-beta -3.0", "above 0")),
        (["-o", "."], 2, (". is a folder", "accuracy.json")),
        (["--bilateral-weight", "0"], 1, ("--bilateral-weight 0",)),
    ],
)
def test_bad_options_are_named(files, capsys, options, status, facts):
    try:
        found = main(["accuracy", *map(str, files), *options])
    except SystemExit as exit:
        found = exit.code
    assert found == status
    error = capsys.readouterr().err
    assert all(fact in error for fact in facts), error


def test_scores_of_a_padded_square(rng, tmp_path, capsys):
    """The advice that is given can be followed."""
    photo, _ = photo_and_scores(rng, (12, 18))
    square = rng.normal(size=(4, 9, 9)).astype(np.float32)
    image, padded, stretched = tmp_path / "photo.png", tmp_path / "square.npy", tmp_path / "stretched.npy"
    Image.fromarray(photo).save(image)
    np.save(padded, square)
    np.save(stretched, resize_scores(square, (12, 18), square=True))
    results = []
    for path, *options in ((stretched,), (padded, "--square-scores"), (padded,)):
        output = tmp_path / "accuracy.json"
        assert main(["accuracy", str(image), str(path), "-o", str(output), "--iterations", "2", *options]) == 0
        results.append([each["mean_change"] for each in json.loads(output.read_text())["settings"]])
        assert ("give --square-scores" in capsys.readouterr().out) == (path == padded and not options)
    assert results[0] == results[1] != results[2]
