"""The demonstration: the examples that ship, the picture, and what it prints."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="needs the models extra")
pytest.importorskip("safetensors", reason="needs the models extra")

from crfrnn import demo
from crfrnn.cli import main
from crfrnn.files.classes import class_set
from crfrnn.files.sheet import GAP
from crfrnn.segment import segment

pytestmark = pytest.mark.torch


def test_it_draws_one_picture_and_says_what_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "demo.png"
    assert main(["demo", "--output", str(path)]) == 0
    header, *photos, last = capsys.readouterr().out.splitlines()
    assert header.split() == ["size", "network", "alone", "network", "+", "CRF-RNN", "pixels", "changed"]
    assert [line.split()[0] for line in photos] == list(demo.WITH_CLASSES)
    assert all(" ms" in line for line in photos)
    assert all(0 < float(line.split("%")[0].split()[-1]) < 30 for line in photos)
    assert last.endswith(str(path))
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] == 3 * demo.CELL_WIDTH + 4 * GAP
    # The first cell of each row is the photo itself.
    photo = demo.read_example("chelsea")
    top = round(1.8 * demo.TITLE_SIZE)
    cell = pixels[top:, GAP : GAP + demo.CELL_WIDTH][: round(300 * demo.CELL_WIDTH / 451)]
    np.testing.assert_allclose(cell.mean(axis=(0, 1)), photo.mean(axis=(0, 1)), atol=1)


def test_a_picture_of_another_format_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.gif"
    assert main(["demo", "-o", str(path)]) == 1
    assert f"cannot write {path}: end its name in one of .png" in capsys.readouterr().err
    assert not path.exists()


def test_the_model_knows_what_the_photos_show() -> None:
    names = class_set("voc").names
    for photo, shown in zip(demo.WITH_CLASSES, ("cat", "person"), strict=True):
        found = segment(demo.read_example(photo))
        assert found.classes.names == names
        share = np.bincount(found.labels.ravel(), minlength=len(names)) / found.labels.size
        assert 0.1 < share[names.index(shown)] < 0.9
        others = np.delete(share, [0, names.index(shown)])
        assert others.max() < 0.1


def test_the_crf_follows_edges_of_the_photo() -> None:
    """Colour changes more across borders of the labels with the CRF than without."""
    for name in demo.WITH_CLASSES:
        photo = demo.read_example(name)
        contrast = [contrast_at_borders(photo, segment(photo, crf=crf).labels) for crf in (False, True)]
        assert contrast[1] > 1.05 * contrast[0]


def contrast_at_borders(photo: np.ndarray, labels: np.ndarray) -> float:
    border = labels[:, 1:] != labels[:, :-1]
    steps = np.abs(photo[:, 1:].astype(int) - photo[:, :-1]).sum(axis=-1)
    return float(steps[border].mean())


def test_classes_that_occur_have_clear_colours_of_their_own() -> None:
    coloured = demo.in_clear_colours(class_set("voc"), [8, 15])
    assert len({tuple(colour) for colour in coloured.palette[[0, 8, 15]]}) == 3
    assert coloured.palette[[8, 15]].max(axis=1).min() > 200
