"""Files and sizes: what a picture or an array may be, and what is said of one that may not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crfrnn.cli import main
from crfrnn.files.photos import read_array, read_labels, read_photo, read_picture, stem_of, suffix_of
from errors import raises_saying


@pytest.fixture
def labels(rng):
    return rng.integers(0, 5, (8, 10), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
@pytest.mark.parametrize("palette", [False, True])
def test_lossless_label_images(tmp_path: Path, labels, suffix, palette):
    picture = Image.fromarray(labels)
    if palette:
        picture.putpalette(list(range(256)) * 3)
    picture.save(tmp_path / f"labels{suffix}")
    np.testing.assert_array_equal(read_labels(tmp_path / f"labels{suffix}"), labels)


def test_deep_label_images(tmp_path: Path, labels):
    deep = labels.astype(np.uint16) + 300
    Image.fromarray(deep).save(tmp_path / "labels.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "labels.png"), deep)


def test_lossy_label_images(tmp_path: Path, labels):
    Image.fromarray(labels).save(tmp_path / "labels.jpg")
    with raises_saying(ValueError, "labels.jpg is a JPEG", "changes class ids", "PNG"):
        read_labels(tmp_path / "labels.jpg")


def test_photos_are_read_as_stored(tmp_path: Path, rng):
    """Scores belong to the pixels that a decoder hands out: an EXIF orientation (6: turned) changes nothing."""
    photo = np.full((8, 10, 3), rng.integers(0, 256, 3), np.uint8)
    orientation = Image.Exif()
    orientation[0x112] = 6
    Image.fromarray(photo).save(tmp_path / "photo.jpg", exif=orientation)
    assert read_photo(tmp_path / "photo.jpg").shape == (8, 10, 3)


def test_pictures_keep_more_than_8_bits(tmp_path: Path, rng):
    deep = rng.integers(0, 60000, (8, 10), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "deep.png"), deep)
    with raises_saying(ValueError, "deep.png has more than 8 bits"):
        read_photo(tmp_path / "deep.png")


@pytest.mark.parametrize(
    ("name", "suffix", "stem"),
    [("a.b.NII.GZ", ".nii.gz", "a.b"), ("a.nii", ".nii", "a"), ("a.b.Tif", ".tif", "a.b"), ("a", "", "a")],
)
def test_suffixes(name, suffix, stem):
    assert suffix_of(Path("folder.x") / name) == suffix
    assert stem_of(Path("folder.x") / name) == stem


def test_transparency_is_dropped(tmp_path: Path, rng):
    photo = rng.integers(0, 256, (8, 10, 4), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "photo.png"), photo[..., :3])


@pytest.mark.parametrize("content", [b"no array at all", b"objects"])
@pytest.mark.parametrize("mapped", [False, True])
def test_nobody_is_told_to_load_pickled_objects(tmp_path: Path, content, mapped):
    path = tmp_path / "scores.npy"
    if content == b"objects":
        np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="no array of numbers; write one") as caught:
        read_array(path, mapped=mapped)
    assert "pickle" not in str(caught.value)


@pytest.mark.filterwarnings("error::ResourceWarning", "error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["half.npy", "half.npz", "half.png"])
def test_damaged_files_are_closed(tmp_path: Path, rng, name):
    noise = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    path = tmp_path / name
    if path.suffix == ".png":
        Image.fromarray(noise).save(path)
    else:
        {".npy": np.save, ".npz": np.savez}[path.suffix](path, noise)
    path.write_bytes(path.read_bytes()[:700])
    with raises_saying(ValueError, "cannot read", name):
        read_photo(path) if path.suffix == ".png" else read_array(path)


@pytest.mark.parametrize(
    ("scores", "facts"),
    [
        (np.zeros((3, 4, 5), complex), ["real numbers", "complex128"]),
        (np.zeros((3, 4, 5)).astype(str), ["real numbers", "<U"]),
        (np.full((3, 4, 5), np.nan), ["60 NaN among 60"]),
    ],
)
def test_scores_are_checked_before_they_are_stretched(tmp_path: Path, capsys, scores, facts):
    np.save(tmp_path / "scores.npy", scores)
    Image.fromarray(np.zeros((8, 10, 3), np.uint8)).save(tmp_path / "photo.png")
    arguments = [tmp_path / "scores.npy", tmp_path / "photo.png", "-o", tmp_path / "out.png"]
    assert main(["refine", *map(str, arguments)]) == 1
    said = capsys.readouterr().err
    assert all(fact in said for fact in facts), said
    assert not (tmp_path / "out.png").exists()


def test_folders_among_the_scores_are_no_scores(tmp_path: Path, capsys, rng):
    for folder in ("scores/deep.npy", "photos"):
        (tmp_path / folder).mkdir(parents=True)
    np.save(tmp_path / "scores" / "ü 测.npy", rng.normal(size=(3, 8, 10)).astype(np.float16))
    Image.fromarray(np.zeros((8, 10, 3), np.uint8)).save(tmp_path / "photos" / "ü 测.png")
    assert main(["refine", *(str(tmp_path / name) for name in ("scores", "photos")), "-o", str(tmp_path / "out")]) == 0
    assert "1 refined, 0 already there, 0 failed" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["ü 测.png"]
