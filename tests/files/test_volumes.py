"""Volumes, deep and multispectral images from file to file: NIfTI and TIFF, as their own libraries read and write."""

import os
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crfrnn
from crfrnn.cli import main
from crfrnn.contrast import contrast_theta_beta
from crfrnn.files.tiff import channels_last
from crfrnn.files.volumes import read_nifti
from repository import ROOT
from volume_files import AFFINE, SHAPE, SHORT, ZOOMS, load, run, save, two_halves

nibabel = pytest.importorskip("nibabel")
tifffile = pytest.importorskip("tifffile")


@pytest.fixture
def image(rng):
    return two_halves(rng)


@pytest.fixture
def logits(rng):
    return rng.normal(0, 2, (3, *SHAPE)).astype(np.float32)


@pytest.fixture
def labels(logits):
    return logits.argmax(axis=0).astype(np.uint8)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# NIfTI.


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_labels_keep_the_geometry_of_the_image(image, labels, suffix, kind, capsys):
    volume = kind(image.T, AFFINE)
    volume.header.set_xyzt_units("mm", "sec")
    volume.set_qform(AFFINE, "scanner", strip_shears=True)
    volume.set_sform(AFFINE, "mni")
    volume.header["descrip"] = b"FLAIR"
    volume.header["cal_max"] = 500
    nibabel.save(volume, f"image{suffix}")
    save("labels.nii.gz", labels)
    assert run(f"labels.nii.gz image{suffix} -o new/out{suffix}") == 0
    said = capsys.readouterr().out
    spacing = volume.header.get_zooms()
    assert f"out{suffix}: 11×9×6, 3 classes (θ_α and θ_γ in mm, voxels of " in said
    written, result = load(f"new/out{suffix}")
    assert type(result) is kind
    assert result.get_data_dtype() == np.uint8
    assert result.header.get_xyzt_units() == ("mm", "sec")
    assert (int(result.header["qform_code"]), int(result.header["sform_code"])) == (1, 4)
    assert result.header["descrip"].item() == b"FLAIR"
    assert result.header["cal_max"] == 0
    np.testing.assert_allclose(result.affine, AFFINE, atol=1e-5)
    np.testing.assert_allclose(result.get_qform(), volume.get_qform(), atol=1e-5)
    np.testing.assert_allclose(result.header.get_zooms(), spacing)
    expected = crfrnn.refine(labels, image, SHORT, input="labels", spacing=spacing).argmax(axis=0)
    np.testing.assert_array_equal(written, expected)
    assert not np.array_equal(expected, crfrnn.refine(labels, image, SHORT, input="labels").argmax(axis=0))


def test_compressed_files_are_the_same_at_every_run(image, labels, folder):
    save("image.nii.gz", image)
    save("labels.nii.gz", labels)
    for name in ("a.nii.gz", "b.nii.gz"):
        assert run(f"labels.nii.gz image.nii.gz -o {name}") == 0
    assert (folder / "a.nii.gz").read_bytes() == (folder / "b.nii.gz").read_bytes()


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_scores_of_classes_and_probabilities_of_them(image, logits, kind):
    """(X, Y, Z, C), in and out."""
    exponentials = np.exp(logits - logits.max(axis=0))
    scores = logits if kind == "logits" else exponentials / exponentials.sum(axis=0)
    save("scores.nii.gz", scores)
    save("image.nii.gz", image, zooms=ZOOMS)
    assert run(f"scores.nii.gz image.nii.gz --input {kind} -o out.nii.gz --format nii --spacing 1") == 0
    written, result = load("out.nii.gz")
    assert result.shape == (*SHAPE[::-1], 3)
    assert result.get_data_dtype() == np.float32
    expected = crfrnn.refine(scores, image, SHORT, input=kind, spacing=(1, 1, 1))
    np.testing.assert_array_equal(written, expected)
    assert run(f"scores.nii.gz image.nii.gz --input {kind} -o out.npy --spacing 1") == 0
    np.testing.assert_array_equal(np.load("out.npy"), expected)


@pytest.mark.parametrize("last_axis", [False, True])
def test_scores_of_the_foreground_alone(image, logits, last_axis):
    """A map (X, Y, Z) of a sigmoid's inputs; whole numbers would have been labels."""
    save("scores.nii.gz", logits[:1] if last_axis else logits[0])
    save("image.nii.gz", image)
    assert run("scores.nii.gz image.nii.gz -o out.nii.gz --spacing 1") == 0
    expected = crfrnn.refine(logits[:1], image, SHORT, spacing=1)
    assert expected.shape == (1, *SHAPE)
    np.testing.assert_array_equal(load("out.nii.gz")[0], expected[0] > 0.5)
    assert run("scores.nii.gz image.nii.gz -o out.nii.gz --spacing 1 --format nii") == 0
    np.testing.assert_array_equal(load("out.nii.gz")[0], expected[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_labels_in_whatever_numbers(image, labels, dtype):
    save("labels.nii.gz", labels.astype(dtype))
    save("image.nii.gz", image)
    assert run("labels.nii.gz image.nii.gz -o out.npy --format labels --spacing 1") == 0
    expected = crfrnn.refine(labels, image, SHORT, input="labels", spacing=1).argmax(axis=0)
    np.testing.assert_array_equal(np.load("out.npy"), expected)
    assert np.load("out.npy").dtype == np.uint8


def test_scaled_levels(image, labels):
    """A header's slope and intercept make the levels that θ_β is in."""
    volume = nibabel.Nifti1Image((image.T * 2.5 + 7).astype(np.float64), AFFINE)
    volume.set_data_dtype(np.int16)
    nibabel.save(volume, "image.nii.gz")
    stored = nibabel.load("image.nii.gz")
    assert stored.dataobj.slope != 1
    voxels, _ = read_nifti(Path("image.nii.gz"))
    assert voxels.dtype == np.float32
    np.testing.assert_allclose(voxels, image * 2.5 + 7, atol=0.1)


@pytest.mark.parametrize(("unit", "millimetres"), [("mm", 1), ("unknown", 1), ("micron", 0.001), ("meter", 1000)])
def test_units(image, unit, millimetres):
    save("image.nii.gz", image, np.diag([0.5, 0.75, 3, 1]), unit=unit)
    _, geometry = read_nifti(Path("image.nii.gz"))
    np.testing.assert_allclose(geometry.spacing, np.array(ZOOMS) * millimetres, rtol=1e-6)


@pytest.mark.parametrize(("option", "spacing"), [("2", 2), ("1,2,4", (1, 2, 4)), ("1", 1)])
def test_spacing_given_replaces_that_of_the_file(image, labels, option, spacing, capsys):
    save("image.nii.gz", image, zooms=ZOOMS)
    np.save("scores.npy", labels)
    assert run(f"scores.npy image.nii.gz --input labels -o out.nii.gz --spacing {option}") == 0
    assert "mm" not in capsys.readouterr().out
    expected = crfrnn.refine(labels, image, SHORT, input="labels", spacing=spacing).argmax(axis=0)
    np.testing.assert_array_equal(load("out.nii.gz")[0], expected)


def test_channels_of_a_volume(logits, rng):
    channels = rng.normal(100, 20, (2, *SHAPE)).astype(np.float32)
    save("image.nii.gz", channels)
    np.save("scores.npy", logits)
    assert run("scores.npy image.nii.gz -o out.npy --spacing 1") == 0
    expected = crfrnn.refine(logits, np.moveaxis(channels, 0, -1), SHORT, spacing=1)
    np.testing.assert_array_equal(np.load("out.npy"), expected)


def test_slices(logits, image):
    """Files of two axes, and of a third of length one."""
    save("image.nii.gz", image[0], np.diag([0.5, 2, 1, 1]))
    np.save("scores.npy", logits[:, 0])
    assert run("scores.npy image.nii.gz -o out.nii.gz") == 0
    expected = crfrnn.refine(logits[:, 0], image[0], SHORT, spacing=(0.5, 2))
    np.testing.assert_array_equal(load("out.nii.gz")[0], expected.argmax(axis=0))
    assert run("scores.npy image.nii.gz -o out.nii.gz --format nii") == 0
    np.testing.assert_array_equal(load("out.nii.gz")[0][:, 0], expected)


def test_a_nifti_result_of_other_files(image, labels):
    """Without a geometry the affine is the spacing."""
    np.save("image.npy", image)
    np.save("labels.npy", labels)
    assert run("labels.npy image.npy --input labels --spacing 0.5,2,3 -o out.nii") == 0
    written, result = load("out.nii")
    np.testing.assert_allclose(result.affine, np.diag([0.5, 2, 3, 1]))
    expected = crfrnn.refine(labels, image, SHORT, input="labels", spacing=(0.5, 2, 3)).argmax(axis=0)
    np.testing.assert_array_equal(written, expected)


def test_the_geometry_of_the_scores_will_do(image, labels):
    save("labels.nii.gz", labels)
    np.save("image.npy", image)
    assert run("labels.nii.gz image.npy -o out.nii.gz") == 0
    np.testing.assert_allclose(load("out.nii.gz")[1].affine, AFFINE, atol=1e-5)


def test_contrast(image, labels, capsys):
    save("image.nii.gz", image)
    save("labels.nii.gz", labels)
    command = "refine labels.nii.gz image.nii.gz -o out.npy --spacing 1 --theta-beta contrast"
    assert main(command.split()) == 0
    level = contrast_theta_beta(image, shape=SHAPE)
    assert f"(θ_β {level[0]:.3g})" in capsys.readouterr().out
    expected = crfrnn.refine(labels, image, theta_beta=level, input="labels", spacing=1)
    np.testing.assert_array_equal(np.load("out.npy"), expected)


def test_volumes_by_tiles(image, labels, capsys):
    save("image.nii.gz", image)
    save("labels.nii.gz", labels)
    assert run("labels.nii.gz image.nii.gz -o out.nii.gz --spacing 1 --tile 100") == 0
    assert "1 tile" in capsys.readouterr().out
    expected = crfrnn.refine(labels, image, SHORT, input="labels", spacing=1).argmax(axis=0)
    np.testing.assert_array_equal(load("out.nii.gz")[0], expected)


def test_folders(image, labels, folder, capsys):
    for kind in ("scores", "images"):
        (folder / kind).mkdir()
    save("scores/a.b.nii.gz", labels)
    save("images/a.b.nii.gz", image)
    tifffile.imwrite("scores/c.tif", labels, photometric="minisblack")
    tifffile.imwrite("images/c.tif", image, photometric="minisblack")
    np.save("scores/d.npy", np.zeros((2, 8, 10)))
    Image.fromarray(np.zeros((8, 10, 3), np.uint8)).save("images/d.png")
    assert run("scores images -o out") == 0
    assert "3 refined, 0 already there, 0 failed" in capsys.readouterr().out
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["a.b.nii.gz", "c.tif", "d.png"]
    assert run("scores images -o out") == 0
    assert "0 refined, 3 already there, 0 failed" in capsys.readouterr().out
    assert run("scores images -o maps --format nii") == 0
    assert sorted(path.name for path in (folder / "maps").iterdir()) == ["a.b.nii.gz", "c.nii.gz", "d.nii.gz"]


# TIFF.


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_pages_are_slices(image, labels, compression):
    tifffile.imwrite("image.tif", image, photometric="minisblack", compression=compression)
    tifffile.imwrite("labels.tif", labels, photometric="minisblack", compression=compression)
    assert run("labels.tif image.tif -o out.tif") == 0
    with tifffile.TiffFile("out.tif") as written:
        assert len(written.pages) == SHAPE[0]
        assert written.series[0].axes == "ZYX"
        labels_written = written.asarray()
    assert labels_written.dtype == np.uint8
    expected = crfrnn.refine(labels, image, SHORT, input="labels").argmax(axis=0)
    np.testing.assert_array_equal(labels_written, expected)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_grey_levels_are_those_of_the_file(logits, rng, dtype):
    levels = rng.integers(0, 60000, SHAPE[1:]).astype(dtype)
    tifffile.imwrite("image.tif", levels)
    np.save("scores.npy", logits[:, 0])
    assert run("scores.npy image.tif -o out.npy") == 0
    expected = crfrnn.refine(logits[:, 0], levels, SHORT)
    np.testing.assert_array_equal(np.load("out.npy"), expected)


@pytest.mark.parametrize("stored", ["rgb", "pages", "samples", "planar", "imagej"])
def test_channels_of_deep_images(logits, rng, stored):
    channels = 3 if stored == "rgb" else 5
    levels = rng.integers(0, 4000, (*SHAPE[1:], channels), dtype=np.uint16)
    first = np.moveaxis(levels, -1, 0)
    if stored == "rgb":
        tifffile.imwrite("image.tif", levels, photometric="rgb")
    elif stored == "pages":
        tifffile.imwrite("image.tif", first, photometric="minisblack", compression="zlib")
    elif stored == "samples":
        tifffile.imwrite("image.tif", levels, photometric="minisblack", planarconfig="contig")
    elif stored == "planar":
        tifffile.imwrite("image.tif", first, photometric="minisblack", planarconfig="separate")
    else:
        tifffile.imwrite("image.tif", first, imagej=True, metadata={"axes": "CYX"})
    np.save("scores.npy", logits[:, 0])
    assert run("scores.npy image.tif -o out.npy") == 0
    np.testing.assert_array_equal(np.load("out.npy"), crfrnn.refine(logits[:, 0], levels, SHORT))


def test_images_in_arrays(logits, rng):
    levels = rng.random((*SHAPE[1:], 11)).astype(np.float32)
    np.save("image.npy", levels)
    np.save("scores.npy", logits[:, 0])
    assert run("scores.npy image.npy -o out.npy") == 0
    np.testing.assert_array_equal(np.load("out.npy"), crfrnn.refine(logits[:, 0], levels, SHORT))


def test_smaller_scores_are_stretched_over_deep_images(logits, rng, capsys):
    tifffile.imwrite("image.tif", rng.integers(0, 4000, (5, 18, 22), dtype=np.uint16), photometric="minisblack")
    np.save("scores.npy", logits[:, 0])
    assert run("scores.npy image.tif -o out.npy") == 0
    assert "22×18, 3 classes (scores stretched from 11×9)" in capsys.readouterr().out


def test_scores_in_tiff(image, logits):
    tifffile.imwrite("scores.tif", logits[:, 0], photometric="minisblack")
    np.save("image.npy", image[0])
    assert run("scores.tif image.npy -o out.npy") == 0
    np.testing.assert_array_equal(np.load("out.npy"), crfrnn.refine(logits[:, 0], image[0], SHORT))
    tifffile.imwrite("one.tif", logits[0, 0])
    assert run("one.tif image.npy -o out.npy") == 0
    np.testing.assert_array_equal(np.load("out.npy"), crfrnn.refine(logits[:1, 0], image[0], SHORT))


def test_labels_of_many_classes(image, rng):
    labels = rng.integers(0, 400, SHAPE[1:]).astype(np.uint16)
    tifffile.imwrite("labels.tif", labels)
    np.save("image.npy", image[0])
    assert run("labels.tif image.npy --num-classes 400 -o out.tif") == 0
    assert tifffile.imread("out.tif").dtype == np.uint16


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((5, 9, 11), "QYX", (9, 11, 5)),
        ((9, 11, 5), "YXS", (9, 11, 5)),
        ((9, 11), "YX", (9, 11)),
        ((5, 18, 22), "QYX", (18, 22, 5)),
        ((18, 22, 5), "YXS", (18, 22, 5)),
        ((5, 18, 22), "CYX", (18, 22, 5)),
    ],
)
def test_where_channels_are(shape, axes, expected):
    assert channels_last(np.zeros(shape), axes, (9, 11)).shape == expected


def test_letters_decide_between_equal_axes():
    levels = np.zeros((9, 9, 9))
    levels[4] = 1
    assert channels_last(levels, "CYX", (9, 9))[0, 0].sum() == 1
    assert channels_last(levels, "YXS", (9, 9))[4].sum() == 81


@pytest.fixture
def volume3d() -> Path:
    """An MRI volume with a rough segmentation."""
    path = Path(os.environ.get("CRFRNN_DATA", ROOT.parent / "shared" / "data")) / "volume3d"
    if not path.is_dir():
        pytest.skip(f"no real data: {path} is not there (set CRFRNN_DATA to the folder that holds volume3d)")
    return path


def test_the_real_volume(volume3d, capsys):
    """A rough segmentation of a tumour lies on the edges of the image better once it is refined."""
    names = [shlex.quote(str(volume3d / f"2013_12_1_{name}.nii.gz")) for name in ("init", "img")]
    options = "--theta-alpha 5 --theta-beta 30 --theta-gamma 2 --spatial-weight 5 --bilateral-weight 5"
    options += " --normalization symmetric"
    assert main(shlex.split(f"refine {' '.join(names)} -o out.nii.gz {options} --iterations 2")) == 0
    assert "120×150×100, 2 classes (θ_α and θ_γ in mm, voxels of 1 × 1 × 1 mm)" in capsys.readouterr().out
    before, image, after = (load(shlex.split(name)[0])[0].astype(int) for name in (*names, "out.nii.gz"))

    def step(labels):
        """The mean step of the image where labels change."""
        pairs = [(np.diff(labels, axis=axis) != 0, np.abs(np.diff(image, axis=axis))) for axis in range(3)]
        return np.concatenate([steps[border] for border, steps in pairs]).mean()

    assert 0.001 < np.mean(before != after) < 0.03
    assert step(after) > 1.2 * step(before)
