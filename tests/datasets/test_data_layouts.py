"""`SegmentationData`: what it finds in each layout, and what it says of data that is not in order."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crfrnn.data import Sample, SegmentationData
from crfrnn.data.segmentation import LOOKED_AT
from crfrnn.files.classes import CLASS_SETS, ClassSet, class_set
from errors import raises_saying
from repository import ROOT
from toy_data import CLASSES, toy_sample, write_pair, write_toy_data


@pytest.fixture
def classes() -> ClassSet:
    return class_set(CLASSES)


def write_voc(root):
    for index, name in enumerate(("2007_000001", "2007_000002")):
        write_pair(root / "JPEGImages" / f"{name}.png", root / "SegmentationClass" / f"{name}.png", index)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "trainval.txt").write_text("2007_000001\n2007_000002\n\n")
    return root, "trainval"


def write_camvid_folders(root):
    for index, name in enumerate(("0001TP_006690", "0001TP_006720")):
        write_pair(root / "test" / f"{name}.png", root / "testannot" / f"{name}.png", index)
    return root, "test"


def write_camvid_list(root):
    """As the SegNet tutorial's: the lists name files by their place on its author's machine."""
    write_camvid_folders(root)
    lines = [
        f"/SegNet/CamVid/test/{path.name} /SegNet/CamVid/testannot/{path.name}" for path in (root / "test").iterdir()
    ]
    (root / "some.txt").write_text("\n".join(sorted(lines)) + "\n")
    return root, "some"


@pytest.mark.parametrize("write", [write_voc, write_camvid_folders, write_camvid_list])
def test_layouts_of_others(tmp_path, classes, write):
    root, split = write(tmp_path)
    data = SegmentationData(root, split, classes)
    assert len(data) == 2
    for index, sample in enumerate(data):
        photo, labels = toy_sample(index)
        assert np.array_equal(sample.image, photo)
        assert np.array_equal(sample.labels, labels)


def test_folder_layout(tmp_path, classes):
    root = write_toy_data(tmp_path)
    train, val = (SegmentationData(str(root), split, classes) for split in ("train", "val"))
    assert [sample.name for sample in train] == [f"photo {index}" for index in range(7)]
    assert [sample.name for sample in val[1:]] == ["photo 8", "photo 9"]
    assert isinstance(train[-1], Sample)
    assert train[-1].image.dtype == train[-1].labels.dtype == np.uint8


def test_names_in_a_list_may_end_like_files(tmp_path, classes):
    root = write_toy_data(tmp_path)
    (root / "train.txt").write_text("photo 1.png\nphoto 0")
    assert [sample.name for sample in SegmentationData(root, "train", classes)] == ["photo 1", "photo 0"]


def test_grey_jpeg_photos(tmp_path, classes):
    root = write_toy_data(tmp_path)
    (root / "images" / "photo 0.png").unlink()
    Image.fromarray(toy_sample(0)[0]).convert("L").save(root / "images" / "photo 0.JPG")
    assert SegmentationData(root, "train", classes)[0].image.shape == (18, 26, 3)


def test_label_after_the_last_class_is_void_in_camvid_only(tmp_path, classes):
    root, split = write_camvid_folders(tmp_path)
    labels = np.full((18, 26), CLASSES, np.uint8)
    Image.fromarray(labels).save(root / "testannot" / "0001TP_006690.png")
    assert (SegmentationData(root, split, classes)[0].labels == 255).all()
    data = write_toy_data(tmp_path / "folder")
    Image.fromarray(labels).save(data / "labels" / "photo 0.png")
    with raises_saying(ValueError, "photo 0.png", " 3,", "0 to 2"):
        SegmentationData(data, "train", classes)[0]


def write_labels(root, images, colours="grey"):
    for name in ("images", "labels"):
        (root / name).mkdir()
    for number, labels in enumerate(images):
        Image.new("RGB", (3, 2)).save(root / f"images/{number}.png")
        image = Image.fromarray(np.array(labels, np.uint8))
        if colours == "palette":
            image.putpalette([9, 7, 5] * 256)
        image.save(root / f"labels/{number}.png")
    (root / "val.txt").write_text("\n".join(map(str, range(len(images)))))
    return root


MASKS = [[[0, 0, 255], [0, 255, 255]], [[0, 0, 0], [0, 0, 0]]]


@pytest.mark.parametrize(
    ("images", "colours", "count", "expected"),
    [
        (MASKS, "grey", 2, [9, 3]),
        (MASKS, "palette", 2, [9, 0]),  # void, as in PASCAL VOC
        (MASKS, "grey", 3, [9, 0, 0]),
        ([*MASKS, [[1, 0, 0], [0, 0, 255]]], "grey", 2, [13, 1]),
        ([[[255, 255, 255], [1, 1, 0]]], "grey", 2, [1, 2]),
    ],
)
def test_masks_of_0_and_255_are_labels_of_two_classes(tmp_path, images, colours, count, expected):
    """Where no label image of the split has a 1, 255 is the second class; everywhere else it is void."""
    data = SegmentationData(write_labels(tmp_path, images, colours), "val", class_set(count))
    assert data.pixel_counts().tolist() == expected


@pytest.mark.parametrize("last", [255, 1])
def test_a_foreground_that_one_of_many_masks_has(tmp_path, last):
    """It is not among the label images looked at first."""
    images = [*(200 * [MASKS[1]]), [[0, 0, 0], [0, 0, last]], MASKS[1]]
    data = SegmentationData(write_labels(tmp_path, images), "val", class_set(2))
    assert all(images[index] == images[0] for index in range(0, len(images), len(images) // LOOKED_AT))
    assert data.reader()(data.pairs[200]).labels.tolist() == [[0, 0, 0], [0, 0, 1]]


def test_pixel_counts(tmp_path, classes):
    data = SegmentationData(write_toy_data(tmp_path), "train", classes)
    every = np.concatenate([toy_sample(index)[1].ravel() for index in range(7)])
    assert data.pixel_counts().tolist() == [(every == label).sum() for label in range(CLASSES)]


def test_no_folder_no_layout(tmp_path, classes):
    with raises_saying(ValueError, "nowhere", "no such folder"):
        SegmentationData(tmp_path / "nowhere", "train", classes)
    with raises_saying(ValueError, str(tmp_path), "images/", "JPEGImages/", "SPLITannot/"):
        SegmentationData(tmp_path, "train", classes)
    root = write_toy_data(tmp_path)
    with raises_saying(ValueError, str(root), "'voc'", "JPEGImages/"):
        SegmentationData(root, "train", classes, layout="voc")
    with raises_saying(ValueError, "'cityscapes'", "camvid"):
        SegmentationData(root, "train", classes, layout="cityscapes")


@pytest.mark.parametrize("write", [write_voc, write_camvid_folders])
def test_missing_split_lists_those_there_are(tmp_path, classes, write):
    root, split = write(tmp_path)
    with raises_saying(ValueError, "'val'", f"there are {split}"):
        SegmentationData(root, "val", classes)


def test_empty_and_missing_lists(tmp_path, classes):
    root = write_toy_data(tmp_path)
    (root / "val.txt").write_text("\n\n")
    with raises_saying(ValueError, "'val'", "empty"):
        SegmentationData(root, "val", classes)
    for name in ("train.txt", "val.txt"):
        (root / name).unlink()
    with raises_saying(ValueError, "'train'", "none at all", "SPLIT.txt"):
        SegmentationData(root, "train", classes)
    (root / "train.txt").write_bytes(b"\xff\xfe\xfa")
    with raises_saying(ValueError, "train.txt", "cannot read"):
        SegmentationData(root, "train", classes)


def test_missing_pairs_are_counted_and_named(tmp_path, classes):
    root = write_toy_data(tmp_path)
    for index in (0, 2, 3, 5):
        (root / "labels" / f"photo {index}.png").unlink()
    with raises_saying(ValueError, "4 (photo 0, photo 2, photo 3, …) of 7", "label image", "labels"):
        SegmentationData(root, "train", classes)
    (root / "images" / "photo 8.png").unlink()
    with raises_saying(ValueError, "1 (photo 8) of 3", "photo in", "images"):
        SegmentationData(root, "val", classes)


def test_missing_pairs_of_camvid(tmp_path, classes):
    root, split = write_camvid_list(tmp_path)
    (root / "testannot" / "0001TP_006690.png").unlink()
    with raises_saying(ValueError, "1 (/SegNet/CamVid/testannot/0001TP_006690.png)", "some.txt"):
        SegmentationData(root, split, classes)
    with raises_saying(ValueError, "1 (0001TP_006690) of 2", "label image"):
        SegmentationData(root, "test", classes)
    with (root / "some.txt").open("a") as handle:
        handle.write("three words here\n")
    with raises_saying(ValueError, "some.txt line 3", "three words here"):
        SegmentationData(root, split, classes)


def test_two_photos_of_one_name(tmp_path, classes):
    root = write_toy_data(tmp_path)
    Image.fromarray(toy_sample(0)[0]).save(root / "images" / "photo 0.jpg")
    with raises_saying(ValueError, "1 (photo 0)", "more than once"):
        SegmentationData(root, "train", classes)


@pytest.mark.parametrize("labels", [np.full((18, 26), 7, np.uint8), np.full((18, 26), 300, np.uint16)])
def test_labels_outside_the_classes(tmp_path, classes, labels):
    root = write_toy_data(tmp_path)
    Image.fromarray(labels).save(root / "labels" / "photo 0.png")
    with raises_saying(ValueError, "photo 0.png", f"holds {labels[0, 0]}", "3 classes", "0 to 2", "255"):
        SegmentationData(root, "train", classes)[0]


def test_size_mismatch(tmp_path, classes):
    root = write_toy_data(tmp_path)
    Image.fromarray(np.zeros((26, 18), np.uint8)).save(root / "labels" / "photo 0.png")
    with raises_saying(ValueError, "images/photo 0.png", "26×18", "labels/photo 0.png", "18×26", "EXIF"):
        SegmentationData(root, "train", classes)[0]
    Image.fromarray(np.zeros((26, 26), np.uint8)).save(root / "labels" / "photo 0.png")
    with raises_saying(ValueError, "26×26: labels must have the size of their photo"):
        SegmentationData(root, "train", classes)[0]


@pytest.mark.parametrize("damaged", ["images", "labels"])
def test_damaged_file(tmp_path, classes, damaged):
    root = write_toy_data(tmp_path)
    path = root / damaged / "photo 3.png"
    path.write_bytes(path.read_bytes()[:60])
    with raises_saying(ValueError, f"{damaged}/photo 3.png"):
        SegmentationData(root, "train", classes)[3]
    with raises_saying(ValueError, f"{damaged}/photo 3.png"):
        SegmentationData(root, "train", classes).pixel_counts()


def test_nothing_but_void(tmp_path, classes):
    root = write_toy_data(tmp_path, val=1)
    Image.fromarray(np.full((26, 18), 255, np.uint8)).save(root / "labels" / "photo 7.png")
    with raises_saying(ValueError, "'val'", "void"):
        SegmentationData(root, "val", classes).pixel_counts()


def test_msrc21():
    """The figures are those of the data's README."""
    real_data = Path(os.environ.get("CRFRNN_DATA", ROOT.parent / "shared" / "data"))
    if not (real_data / "msrc21").is_dir():
        pytest.skip(f"no real data: {real_data} is not there (set CRFRNN_DATA to the folder that holds msrc21)")
    splits = {"train": 276, "val": 59, "test": 256}
    data = {split: SegmentationData(real_data / "msrc21", split, CLASS_SETS["msrc21"]) for split in splits}
    assert {split: len(samples) for split, samples in data.items()} == splits
    void = np.mean([np.mean(data["val"][index].labels == 255) for index in range(20)])
    assert 0.1 < void < 0.5
