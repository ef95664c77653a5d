"""`crfrnn evaluate` on a data set on disk, with a stand-in for the trained model."""

import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crfrnn.cli.evaluate import add_evaluate
from crfrnn.cli.main import Parser, main
from crfrnn.files.classes import named_classes
from errors import raises_saying

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("torchmetrics", reason="needs the train extra")
from crfrnn import models  # noqa: E402
from crfrnn.models import Model, Segmenter  # noqa: E402
from crfrnn.torch import CrfRnn  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture
def folder(tmp_path: Path, rng, monkeypatch) -> Path:
    """A working folder with a data set of noisy photos, whose model takes the brightest channel."""
    for name in ("images", "labels"):
        (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "data" / "val.txt").write_text("a\nb\n")
    (tmp_path / "data" / "test.txt").write_text("b\n")
    for name in "ab":
        labels = np.repeat(np.arange(3, dtype=np.uint8), 9)[None].repeat(20, axis=0)
        painted = np.where(rng.random(labels.shape) < 0.2, (labels + 1) % 3, labels)
        Image.fromarray(np.eye(3, dtype=np.uint8)[painted] * 90 + 60).save(tmp_path / "data" / "images" / f"{name}.png")
        Image.fromarray(labels).save(tmp_path / "data" / "labels" / f"{name}.png")
    network = torch.nn.Conv2d(3, 3, 1, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.eye(3)[:, :, None, None] / 40)
    crf = CrfRnn(3, 3, theta_alpha=4.3, theta_beta=400.0, theta_gamma=1.7)
    model = Model(Segmenter(network, crf).eval(), named_classes(("red", "green", "blue")), {})
    paths = {None: model, Path("model.safetensors"): model}
    monkeypatch.setattr(models, "load_model", paths.__getitem__)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def status(command: str) -> int:
    """Exit status of `evaluate` with these arguments."""
    parser = Parser(prog="crfrnn")
    add_evaluate(parser.add_subparsers(dest="command"))
    options = parser.parse_args(["evaluate", *shlex.split(command)])
    found: int = options.run(options)
    return found


@pytest.mark.parametrize("model", ["model.safetensors", "builtin"])
def test_what_it_writes(folder: Path, model: str, capsys):
    assert status(f"{model} data -o out --edge-radius 3") == 0
    printed = capsys.readouterr().out
    found = json.loads((folder / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert found["crf"]["mean_iou"] > found["network"]["mean_iou"] + 0.1
    assert [photo["name"] for photo in found["photos"]] == ["a", "b"]
    assert (found["iterations"], found["edge_radius"]) == (3, 3)
    table = (folder / "out" / "evaluation.txt").read_text(encoding="utf-8")
    assert printed.startswith(table)
    assert "mean IoU within 3 px" in table
    assert "2 photos" in printed.splitlines()[-1]
    with Image.open(folder / "out" / "contact_sheet.png") as sheet:
        assert sheet.format == "PNG"


def test_its_options(folder: Path):
    (folder / "names.txt").write_text("rot\ngrün\nblau\n", encoding="utf-8")
    assert status("builtin data -o out --split test --iterations 0 --classes names.txt") == 0
    found = json.loads((folder / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert found["classes"] == ["rot", "grün", "blau"]
    assert len(found["photos"]) == 1
    assert found["crf"] == found["network"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("builtin data", "required: -o"),
        ("builtin -o out", "required: DATA"),
        ("builtin data -o out --edge-radius 0", "--edge-radius must be at least 1"),
        ("builtin data -o out --iterations=-1", "--iterations must be at least 0"),
        ("builtin data -o data/val.txt", "data/val.txt is a file"),
    ],
)
def test_usage(folder: Path, command: str, words: str, capsys):
    with pytest.raises(SystemExit) as end:
        status(command)
    assert end.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "facts"),
    [
        ("builtin data -o out --classes voc", ["--classes voc has 21 classes", "builtin tells 3 apart"]),
        ("builtin data -o out --split train", ["train", "val"]),
        ("builtin none -o out", ["none"]),
    ],
)
def test_failures(folder: Path, command: str, facts: list[str]):
    with raises_saying(ValueError, *facts):
        status(command)
    assert not (folder / "out").exists()


def test_ctrl_c_says_that_nothing_is_written(folder: Path, monkeypatch, capsys):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["crfrnn.evaluation.evaluate"], "measured", interrupted)
    assert main(["evaluate", "builtin", "data", "-o", "out"]) == 130
    words = "nothing is written before all photos are measured; the same command begins anew"
    assert capsys.readouterr().err == f"crfrnn evaluate: interrupted: {words}\n"
