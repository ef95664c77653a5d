"""Class sets: those of data sets, numbered ones, lists in files, and what is no class set."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crfrnn.files.classes import CLASS_SETS, ClassSet, class_set, named_classes
from errors import raises_saying

BLACK = [0, 0, 0]


@pytest.mark.parametrize(("name", "count", "first", "last"), [
    ("voc", 21, "background", "tv monitor"),
    ("msrc21", 21, "building", "boat"),
    ("camvid", 11, "sky", "bicyclist"),
])  # fmt: skip
def test_data_sets(name: str, count: int, first: str, last: str) -> None:
    classes = class_set(name)
    assert classes.num_classes == len(classes.names) == count
    assert (classes.names[0], classes.names[-1]) == (first, last)
    assert len({tuple(colour) for colour in classes.palette.tolist()}) == count


def test_voc_has_its_own_colours() -> None:
    """From the devkit of PASCAL VOC: background, aeroplane, person, tv monitor."""
    palette = class_set("voc").palette.tolist()
    assert [palette[label] for label in (0, 1, 15, 20)] == [BLACK, [128, 0, 0], [192, 128, 128], [0, 64, 128]]


def test_black_is_for_background_only() -> None:
    assert class_set("voc").palette[0].tolist() == BLACK
    assert named_classes(("Background", "cat")).palette[0].tolist() == BLACK
    for classes in (CLASS_SETS["msrc21"], CLASS_SETS["camvid"], class_set(255)):
        assert BLACK not in classes.palette.tolist()


def test_numbers() -> None:
    assert class_set(3).names == ("class 0", "class 1", "class 2")
    assert class_set("3") == class_set(3)
    assert class_set(255).num_classes == 255


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_files(tmp_path: Path, line_end: str, end: str) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes((line_end.join(["road", " traffic sign ", "Fußgänger"]) + end).encode())
    for source in (path, str(path)):
        assert class_set(source).names == ("road", "traffic sign", "Fußgänger")


@pytest.mark.parametrize("names", [{"0": "background", "1": "cat"}, {"cat": 1, "background": 0}])
def test_objects_of_ids_and_names(tmp_path: Path, names: dict[str, Any]) -> None:
    path = tmp_path / "names.json"
    path.write_text(json.dumps(names))
    assert class_set(path).names == ("background", "cat")


def test_the_mark_that_editors_of_windows_write_is_no_part_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("background\ncat\n", encoding="utf-8-sig")
    assert class_set(path).names == ("background", "cat")
    assert class_set(path).palette[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("names", "facts"),
    [({"1": "cat"}, ["names.json", "none with the id 0"]), ({"0": 5}, ["names.json", "an id and a name"])],
)
def test_objects_that_leave_an_id_open(tmp_path: Path, names: dict[str, Any], facts: list[str]) -> None:
    path = tmp_path / "names.json"
    path.write_text(json.dumps(names))
    with raises_saying(ValueError, *facts):
        class_set(path)


def test_they_travel_between_processes() -> None:
    classes = class_set("camvid")
    again = pickle.loads(pickle.dumps(classes))
    assert again == classes
    assert hash(again) == hash(classes)
    np.testing.assert_array_equal(again.palette, classes.palette)
    assert classes != class_set(11)


@pytest.mark.parametrize(
    ("source", "facts"),
    [
        ("coco", ["'coco'", "voc, msrc21, camvid", "one class name on each line"]),
        (Path("none.txt"), ["'none.txt'", "voc"]),
        ("0", ["0 classes", "1 to 255"]),
        (256, ["256 classes", "255 means void"]),
        (-1, ["-1 classes", "1 to 255"]),
    ],
)
def test_no_class_set(source: str | int | Path, facts: list[str]) -> None:
    with raises_saying(ValueError, *facts):
        class_set(source)


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        (b"", ["names.txt", "0 classes", "1 to 255"]),
        (b"cat\n\ndog\n", ["names.txt", "class 1 has an empty name"]),
        (b"cat\ndog\ncat\n", ["names.txt", "more than once: cat"]),
        (b"\xff\xfe\x00", ["names.txt", "decode"]),
        ("\n".join(map(str, range(256))).encode(), ["names.txt", "256 classes"]),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes, facts: list[str]) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with raises_saying(ValueError, *facts):
        class_set(path)


@pytest.mark.parametrize(
    ("palette", "facts"),
    [
        (np.zeros((3, 3), np.uint8), ["(3, 3)", "uint8 (2, 3)"]),
        (np.zeros((2, 3)), ["float64 (2, 3)", "uint8 (2, 3)"]),
    ],
)
def test_bad_palettes(palette: np.ndarray, facts: list[str]) -> None:
    with raises_saying(ValueError, *facts):
        ClassSet(("cat", "dog"), palette)
