"""The demonstration: the examples that ship, the picture, and what it prints."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crfrnn import demo
from crfrnn.cli import main


def test_it_draws_one_picture_and_says_what_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "demo.png"
    assert main(["demo", "--output", str(path)]) == 0
    *photos, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in photos] == list(demo.EXAMPLES)
    for line in photos:
        assert " ms " in line
        assert 0 < float(line.split("%")[0].split()[-1]) < 30
    assert last.endswith(str(path))
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] == 3 * demo.CELL_WIDTH + 4 * demo.GAP
    # The first cell of each row is the photo itself.
    photo, _ = demo.read_example("chelsea")
    cell = pixels[demo.TITLE_HEIGHT :, demo.GAP : demo.GAP + demo.CELL_WIDTH][: round(300 * demo.CELL_WIDTH / 451)]
    np.testing.assert_allclose(cell.mean(axis=(0, 1)), photo.mean(axis=(0, 1)), atol=1)


def test_the_crf_follows_edges_of_the_photo() -> None:
    """Colour changes more across borders of the labels after the CRF than before."""
    for name in demo.EXAMPLES:
        example, _ = demo.refined(name)
        contrast = [contrast_at_borders(example.photo, labels) for labels in (example.before, example.after)]
        assert contrast[1] > 1.1 * contrast[0]


def contrast_at_borders(photo: np.ndarray, labels: np.ndarray) -> float:
    border = labels[:, 1:] != labels[:, :-1]
    steps = np.abs(photo[:, 1:].astype(int) - photo[:, :-1]).sum(axis=-1)
    return float(steps[border].mean())


def test_examples_are_photos_with_scores_of_their_size() -> None:
    for name in demo.EXAMPLES:
        photo, scores = demo.read_example(name)
        assert photo.dtype == np.uint8
        assert scores.shape == (len(demo.CLASS_NAMES), *photo.shape[:2])


def test_the_photo_is_the_top_left_part_of_the_scores() -> None:
    """Scores that say where they are on the 513×513 canvas say it in the photo, too."""
    canvas = np.arange(demo.CANVAS, dtype=np.float32)
    rows, columns = np.meshgrid(canvas, canvas, indexing="ij")
    height, width = 684, 1026
    found = demo.photo_part(np.stack([rows, columns]), height, width)
    scale = demo.CANVAS / width
    inside = slice(2, -2)
    expected_rows = (np.arange(height) + 0.5) * scale - 0.5
    expected_columns = (np.arange(width) + 0.5) * scale - 0.5
    np.testing.assert_allclose(found[0, inside, 0], expected_rows[inside], atol=0.01)
    np.testing.assert_allclose(found[1, 0, inside], expected_columns[inside], atol=0.01)


def test_every_class_that_occurs_has_a_colour_of_its_own() -> None:
    photo = np.zeros((2, 2, 3), np.uint8)
    examples = [demo.Example(photo, np.array([[0, 8], [0, 0]]), np.array([[0, 0], [15, 15]]))]
    colours = demo.colours_of(examples)
    assert list(colours) == [8, 15]
    assert colours[8] != colours[15]
