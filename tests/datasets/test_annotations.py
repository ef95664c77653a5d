"""Clicks and scribbles: which pixels they label, and what is said of files that are not in order."""

import json

import numpy as np
import pytest
from PIL import Image

from crfrnn.data import SegmentationData
from crfrnn.data.annotations import Clicks, Scribbles
from crfrnn.data.layouts import Pair
from crfrnn.files.classes import class_set
from errors import raises_saying
from toy_data import CLASSES, SIZES, toy_sample, write_toy_data

NAME = "photo 0"


@pytest.fixture
def classes():
    return class_set(CLASSES)


def write_clicks(folder, clicks, name=NAME):
    path = folder / "clicks.json"
    path.write_text(json.dumps({name: clicks}))
    return path


@pytest.mark.parametrize("radius", [0, 1, 3])
def test_clicks_are_discs_and_the_nearest_counts(tmp_path, radius):
    clicks = [[3, 2, 1], [6, 2, 0], [11, 7, 2]]
    path = write_clicks(tmp_path, clicks)
    height, width = 8, 12
    found = Clicks(path, radius).labels(Pair(NAME, path, path), (height, width))
    for y, x in np.ndindex(height, width):
        distances = [(x - u) ** 2 + (y - v) ** 2 for u, v, _ in clicks]
        nearest = int(np.argmin(distances))
        assert found[y, x] == (clicks[nearest][2] if distances[nearest] <= radius**2 else 255)


def test_a_data_set_of_clicks_needs_no_label_images(tmp_path, classes):
    root = write_toy_data(tmp_path)
    (root / "labels" / f"{NAME}.png").unlink()
    (root / "train.txt").write_text(NAME)
    data = SegmentationData(root, "train", classes, annotations=Clicks(write_clicks(root, [[3, 2, 1]]), 1))
    (sample,) = data
    assert np.array_equal(sample.image, toy_sample(0)[0])
    assert (sample.labels == 1).sum() == 5
    assert (sample.labels == 255).sum() == np.prod(SIZES[0]) - 5
    assert data.pixel_counts().tolist() == [0, 5, 0]


def test_scribbles_in_a_folder_of_their_own(tmp_path, classes):
    root = write_toy_data(tmp_path)
    (root / "scribbles").mkdir()
    scribbles = np.full(SIZES[0], 255, np.uint8)
    scribbles[4, 3:9] = 2
    Image.fromarray(scribbles).save(root / "scribbles" / f"{NAME}.png")
    (root / "train.txt").write_text(NAME)
    (sample,) = SegmentationData(root, "train", classes, annotations=Scribbles(root / "scribbles"))
    assert np.array_equal(sample.labels, scribbles)
    (root / "train.txt").write_text(f"{NAME}\nphoto 1")
    with raises_saying(ValueError, "1 (photo 1) of 2", "without a label image", "scribbles"):
        SegmentationData(root, "train", classes, annotations=Scribbles(root / "scribbles"))


@pytest.mark.parametrize("listed", [False, True])
def test_photos_of_camvid(tmp_path, classes, listed):
    for folder in ("some", "someannot"):
        (tmp_path / folder).mkdir()
    for index in (0, 1):
        for folder, array in zip(("some", "someannot"), toy_sample(index), strict=True):
            Image.fromarray(array).save(tmp_path / folder / f"{index}.png")
    if listed:
        (tmp_path / "some.txt").write_text("some/1.png someannot/1.png\n")
    path = tmp_path / "clicks.json"
    path.write_text(json.dumps({"0": [], "1": [[0, 0, 2]]}))
    data = SegmentationData(tmp_path, "some", classes, annotations=Clicks(path))
    assert [sample.name for sample in data] == (["1"] if listed else ["0", "1"])


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        ("[1, 2", ["cannot read clicks"]),
        ("[]", ["holds no clicks", '{"name of a photo": [[x, y, class], …], …}']),
        ('{"photo 0": [[1, 2]]}', ["'photo 0' must be a list of clicks [x, y, class]"]),
        ('{"photo 0": [[1, 2, 0.5]]}', ["three whole numbers"]),
        ('{"photo 0": 3}', ["must be a list of clicks"]),
        ('{"photo 1": []}', ["1 (photo 0) of 1 photos have no clicks"]),
        ('{"photo 0": [[26, 2, 0]]}', ["'photo 0' has a click at x=26, y=2", "26 pixels wide and 18 high"]),
        ('{"photo 0": [[2, 2, 3]]}', ["holds 3", "0 to 2"]),
    ],
)
def test_wrong_clicks(tmp_path, classes, content, facts):
    root = write_toy_data(tmp_path)
    (root / "train.txt").write_text(NAME)
    (root / "clicks.json").write_text(content)
    with raises_saying(ValueError, str(root / "clicks.json"), *facts):
        list(SegmentationData(root, "train", classes, annotations=Clicks(root / "clicks.json")))


def test_no_files(tmp_path):
    with raises_saying(ValueError, "cannot read clicks", "nowhere.json"):
        Clicks(tmp_path / "nowhere.json")
    with raises_saying(ValueError, "there is no such folder", "nowhere"):
        Scribbles(tmp_path / "nowhere")
    with raises_saying(ValueError, "radius=-1"):
        Clicks(write_clicks(tmp_path, []), -1)
