"""`with_crf`, and `--parameters` of the commands that run a model: its CRF is the one of `crfrnn.refine`."""

import argparse
import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crfrnn
from crfrnn import CRFParameters
from crfrnn.cli.evaluate import add_evaluate
from crfrnn.cli.main import Parser
from crfrnn.cli.segment import add_segment
from crfrnn.files.classes import named_classes
from errors import raises_saying

torch = pytest.importorskip("torch", reason="needs the models extra")
pytest.importorskip("safetensors", reason="needs the models extra")
from crfrnn import models  # noqa: E402
from crfrnn.models import Model, Segmenter, with_crf  # noqa: E402
from crfrnn.torch import CrfRnn  # noqa: E402

pytestmark = pytest.mark.torch

CLASSES = named_classes(("red", "green", "blue"))
KERNELS = CRFParameters(theta_alpha=(4.5, 3), theta_beta=400, theta_gamma=1.7, iterations=3)


class Channels(torch.nn.Module):
    """A network whose logits are the channels in units of 40 levels."""

    def forward(self, images):
        return images / 40


@pytest.fixture
def photo(rng) -> np.ndarray:
    """(20, 30, 3), blocks of colours under noise."""
    blocks = rng.integers(60, 190, (4, 6, 3)).repeat(5, axis=0).repeat(5, axis=1)
    return (blocks + rng.integers(-60, 61, blocks.shape)).astype(np.uint8)


def model(crf: CrfRnn | None) -> Model:
    return Model(Segmenter(Channels(), crf, mean=(1, 2, 3), std=2).eval(), CLASSES, {"a": "note"})


@pytest.mark.parametrize("own", [None, CrfRnn(3, 7)], ids=["none", "another"])
@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"spatial_weight": 2, "bilateral_weight": (1, 0.5, 3)},
        {"spatial_weight": (1, 2, 3), "bilateral_weight": np.array([[2, 0.1, 0], [0.3, 1, 0], [0, 0.2, 4]])},
        {"bilateral_weight": 2 * np.eye(3), "compatibility": (-1, -0.5, -2)},
        {"compatibility": -0.7},
        {"compatibility": np.array([[-1, 0.2, 0], [0.1, -2, 0.3], [0, 0, -1]]), "damping": 0.3, "spatial": "lattice"},
        {"normalization": "symmetric", "iterations": 1},
        {"filter": "exact", "theta_beta": 40},
        {"neighbour_rounds": 1},
    ],
    ids=lambda weights: "-".join(weights) or "numbers",
)
def test_the_crf_is_that_of_the_parameters(photo, own, weights):
    parameters = replace(KERNELS, **weights)
    changed = with_crf(model(own), parameters)
    assert not changed.segmenter.training
    assert (changed.classes, changed.notes) == (CLASSES, {"a": "note"})
    images = torch.from_numpy(photo.transpose(2, 0, 1)[None].astype(np.float32))
    with torch.inference_mode():
        unary = changed.segmenter.unary(images)
        found = torch.softmax(changed.segmenter(images), dim=1)[0].numpy()
    np.testing.assert_array_equal(unary, model(None).segmenter.unary(images))
    np.testing.assert_allclose(found, crfrnn.refine(unary[0].numpy(), photo, parameters), atol=2e-6)


def test_the_model_itself_stays_as_it_is():
    own = CrfRnn(3, 7)
    given = model(own)
    with_crf(given, KERNELS)
    assert given.segmenter.crf is own


@pytest.mark.parametrize(
    ("parameters", "facts"),
    [
        (CRFParameters(spatial_weight=(1, 2)), ["spatial_weight", "(2,)", "3 classes"]),
        (CRFParameters(compatibility=-np.eye(4)), ["compatibility", "(4, 4)", "3 classes"]),
        (CRFParameters(class_threshold=0.01), ["class_threshold=0.01", "model has no class_threshold", "0.0"]),
    ],
)
def test_parameters_that_do_not_fit(parameters, facts):
    with raises_saying(ValueError, *facts):
        with_crf(model(None), parameters)


@pytest.fixture
def folder(tmp_path: Path, photo, monkeypatch) -> Path:
    """A working folder with photo.png, a data set of it, and a model without a CRF."""
    for name in ("images", "labels"):
        (tmp_path / "data" / name).mkdir(parents=True)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    Image.fromarray(photo).save(tmp_path / "data" / "images" / "a.png")
    Image.fromarray(photo.argmax(axis=-1).astype(np.uint8)).save(tmp_path / "data" / "labels" / "a.png")
    (tmp_path / "data" / "val.txt").write_text("a\n")
    crfrnn.save_parameters(tmp_path / "p.json", KERNELS)
    crfrnn.save_parameters(tmp_path / "wrong.json", CRFParameters(spatial_weight=(1, 2)))
    monkeypatch.setattr(models, "load_model", lambda path=None: model(None))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def status(add, command: str) -> int:
    parser = Parser(prog="crfrnn")
    add(parser.add_subparsers(dest="command"))
    options: argparse.Namespace = parser.parse_args(shlex.split(command))
    found: int = options.run(options)
    return found


def test_segment(folder: Path, photo):
    assert status(add_segment, "segment photo.png -o out --parameters p.json --probabilities") == 0
    unary = ((photo.transpose(2, 0, 1) - np.array([1, 2, 3])[:, None, None]) / 2 / 40).astype(np.float32)
    expected = crfrnn.refine(unary, photo, KERNELS)
    with np.load("out/photo_probabilities.npz") as found:
        np.testing.assert_allclose(found["probabilities"], expected, atol=2e-6)


def test_segment_without_and_with_a_crf(folder: Path, capsys):
    with pytest.raises(SystemExit) as end:
        status(add_segment, "segment photo.png -o out --parameters p.json --no-crf")
    assert end.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


def test_evaluate(folder: Path):
    pytest.importorskip("torchmetrics", reason="needs the train extra")
    assert status(add_evaluate, "evaluate m.safetensors data -o out --parameters p.json") == 0
    found = json.loads((folder / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert (found["iterations"], found["network"] != found["crf"]) == (3, True)


@pytest.mark.parametrize(
    ("file", "facts"), [("wrong.json", ["spatial_weight", "3 classes"]), ("none.json", ["no such file"])]
)
def test_wrong_files(folder: Path, file: str, facts: list[str]):
    with raises_saying(ValueError, file, *facts):
        status(add_segment, f"segment photo.png -o out --parameters {file}")
    assert not (folder / "out").exists()
