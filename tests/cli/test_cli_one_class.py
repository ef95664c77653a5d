"""Files of one class: labels of any type and shape, foregrounds, and volumes among them."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crfrnn
from commands import status

PLANE = HEIGHT, WIDTH = 24, 36
DEPTH = 10
EVERYTHING = replace(crfrnn.preset("photos"), tolerance=0)


@pytest.fixture
def ids(rng) -> np.ndarray:
    """Three classes in stripes beside the edge of the photo, with a few wrong pixels."""
    found = np.repeat([0, 1, 2], WIDTH // 3)[np.newaxis].repeat(HEIGHT, axis=0)
    found[rng.random(found.shape) < 0.1] = 1
    return found.astype(np.uint8)


def save(array: np.ndarray, suffix: str) -> str:
    path = f"given{suffix}"
    if suffix == ".npy":
        np.save(path, array)
    elif suffix == ".pt":
        pytest.importorskip("torch").save(array, path)
    else:
        pytest.importorskip("tifffile").imwrite(path, array, photometric="minisblack")
    return path


def labels_in(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize(
    ("suffix", "dtype", "shape"),
    [
        *product([".npy", ".pt"], [np.uint8, np.int64, np.float32], [PLANE, (1, *PLANE), (*PLANE, 1)]),
        *product([".tif"], [np.uint8, np.float32, np.float64], [PLANE]),
    ],
)
@pytest.mark.parametrize("tiles", ["", "--tile 20 --overlap 60"])
def test_whole_numbers_of_one_class_are_labels(folder, photo, ids, suffix, dtype, shape, tiles):
    given = save(ids.astype(dtype).reshape(shape), suffix)
    assert status(f"refine {given} photo.png -o out.png --tolerance 0 {tiles}") == 0
    expected = crfrnn.refine(ids, photo, EVERYTHING, input="labels", return_labels=True)
    np.testing.assert_array_equal(labels_in("out.png"), expected)


@pytest.mark.parametrize("shape", [PLANE, (1, *PLANE), (*PLANE, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.uint16])
def test_masks_of_any_shape_and_type(folder, photo, ids, shape, dtype):
    given = save((255 * (ids == 2)).astype(dtype).reshape(shape), ".npy")
    assert status(f"refine {given} photo.png -o out.png --tolerance 0") == 0
    expected = crfrnn.refine((ids == 2).astype(np.uint8), photo, EVERYTHING, input="labels", return_labels=True)
    np.testing.assert_array_equal(labels_in("out.png"), 255 * expected)


@pytest.mark.parametrize("said", ["", "--input logits"])
def test_other_numbers_of_one_class_are_logits_of_the_foreground(folder, photo, ids, said):
    """Those below 0, fractions, and what the user says are logits."""
    logits = np.where(ids == 2, 2.0, -3.0 if not said else 1.0)
    assert status(f"refine {save(logits, '.npy')} photo.png -o out.npy --tolerance 0 {said}") == 0
    np.testing.assert_allclose(np.load("out.npy"), crfrnn.refine(logits[np.newaxis], photo, EVERYTHING), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("image", ["volume.npy", "volume.tif"])
def test_labels_of_volumes(folder, rng, dtype, image):
    """(D, H, W) beside (D, H, W) are no D classes of a picture with D channels."""
    pytest.importorskip("tifffile")
    labels = np.zeros((DEPTH, HEIGHT, WIDTH), np.uint8)
    labels[3:7, 8:16, 10:30] = 1
    volume = (60 * labels + 90 + rng.integers(-5, 6, labels.shape)).astype(np.uint8)
    np.save("volume.npy", volume)
    pytest.importorskip("tifffile").imwrite("volume.tif", volume, photometric="minisblack")
    assert status(f"refine {save(labels.astype(dtype), '.npy')} {image} -o out.tif --tolerance 0") == 0
    expected = crfrnn.refine(labels, volume, EVERYTHING, input="labels", return_labels=True)
    np.testing.assert_array_equal(pytest.importorskip("tifffile").imread("out.tif"), expected)
    np.save("logits.npy", 4.0 * labels - 2.5)
    assert status(f"refine logits.npy {image} -o out.npy --tolerance 0") == 0
    expected = crfrnn.refine(4.0 * labels[None] - 2.5, volume, EVERYTHING)
    np.testing.assert_allclose(np.load("out.npy"), expected, atol=1e-6)


def test_classes_beside_channels_first_stay_classes(folder, photo, rng):
    """(3, H, W) beside (3, H, W) are three classes and three colours."""
    logits = rng.normal(0, 2, (3, HEIGHT, WIDTH))
    np.save("image.npy", np.moveaxis(photo, -1, 0))
    assert status(f"refine {save(logits, '.npy')} image.npy -o out.npy --tolerance 0") == 0
    np.testing.assert_allclose(np.load("out.npy"), crfrnn.refine(logits, photo, EVERYTHING), atol=1e-6)


def test_class_ids_are_no_probabilities(folder, ids, capsys):
    Image.fromarray(ids).save("ids.png")
    assert status("refine ids.png photo.png -o out.png --input probabilities") == 1
    assert "ids.png holds whole numbers up to 2" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_a_mask_that_lies_in_the_opacity(folder, ids, mode, kind, capsys):
    """Its colours say nothing, so it is refused, not taken as empty."""
    levels = [np.full_like(ids, 7)] * (len(mode) - 1)
    Image.fromarray(np.stack([*levels, 255 * (ids == 1)], axis=-1).astype(np.uint8), mode).save("mask.png")
    assert status(f"refine mask.png photo.png -o out.png --input {kind}") == 1
    assert "mask.png is of one colour, and what it shows is in its opacity" in capsys.readouterr().err
    assert not Path("out.png").exists()


@pytest.mark.torch
def test_tensor_files_that_cannot_be(folder, capsys):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Conv2d(1, 1, 1), "model.pt")
    Path("damaged.pt").write_bytes(b"no tensors")
    for path, said in (("model", "it holds more than tensors"), ("damaged", "it is damaged, or no file of torch.save")):
        assert status(f"refine {path}.pt photo.png -o out.png") == 1
        assert said in capsys.readouterr().err
