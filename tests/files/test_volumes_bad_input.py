"""Volumes and TIFF files that cannot be refined, and what the command says of them."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from volume_files import AFFINE, SHAPE, failure, run, save, two_halves

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


def test_files_that_do_not_belong_together(image, labels, logits, capsys):
    save("labels.nii.gz", labels)
    save("image.nii.gz", image)
    save("smaller.nii.gz", image[:, :, 1:])
    moved = AFFINE.copy()
    moved[0, 3] += 0.4
    save("moved.nii.gz", image, moved)
    turned = AFFINE @ np.diag([1, 1, -1, 1])
    save("turned.nii.gz", image, turned)
    failure("labels.nii.gz smaller.nii.gz -o o.nii", capsys, "11 × 9 × 6 voxels", "10 × 9 × 6 (x × y × z)", "resample")
    for name in ("moved", "turned"):
        failure(f"labels.nii.gz {name}.nii.gz -o o.nii", capsys, "not on the same grid", "apart", "resample")
    nearly = AFFINE.copy()
    nearly[0, 3] += 0.01
    save("nearly.nii.gz", image, nearly)
    assert run("labels.nii.gz nearly.nii.gz -o out.nii.gz") == 0
    np.save("scores.npy", logits[:, 1:])
    failure("scores.npy image.nii.gz -o o.nii", capsys, "scores.npy has 11 × 9 × 5 voxels", "11 × 9 × 6")


def test_values_that_cannot_be_refined(image, labels, capsys):
    save("image.nii.gz", image)
    save("labels.nii.gz", labels)
    holes = image.astype(np.float32)
    holes[2, 3, 4] = np.nan
    save("holes.nii.gz", holes)
    failure("labels.nii.gz holes.nii.gz -o o.nii", capsys, "holes.nii.gz holds 1 voxels that are NaN", "(4, 3, 2)")
    save("waves.nii.gz", image.astype(np.complex64))
    failure("labels.nii.gz waves.nii.gz -o o.nii", capsys, "waves.nii.gz holds complex numbers", "magnitude")
    colours = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    save("colours.nii.gz", colours)
    failure("labels.nii.gz colours.nii.gz -o o.nii", capsys, "colours.nii.gz holds colours")
    nibabel.save(nibabel.Nifti1Image(np.zeros((*SHAPE[::-1], 1, 3), np.float32), AFFINE), "five.nii.gz")
    failure(
        "labels.nii.gz five.nii.gz -o o.nii", capsys, "five.nii.gz has 5 axes (11, 9, 6, 1, 3)", "(x, y, z, channels)"
    )
    np.save("waves.npy", image.astype(np.complex64))
    failure("labels.nii.gz waves.npy -o o.nii", capsys, "image must hold real numbers")
    save("flat.nii", image)
    content = bytearray(Path("flat.nii").read_bytes())
    content[88:92] = np.float32(np.nan).tobytes()  # pixdim[3]
    Path("flat.nii").write_bytes(content)
    failure("labels.nii.gz flat.nii -o o.nii", capsys, "a size of 0.502 × 0.757 × nan mm", "give --spacing")


def test_damaged_and_foreign_files(image, labels, folder, capsys):
    save("labels.nii.gz", labels)
    save("image.nii.gz", image)
    save("image.nii", image)
    tifffile.imwrite("image.tif", image, photometric="minisblack", compression="zlib")
    for whole, half in (("image.nii.gz", "half.nii.gz"), ("image.nii", "half.nii"), ("image.tif", "half.tif")):
        content = (folder / whole).read_bytes()
        (folder / half).write_bytes(content[: len(content) // 2])
    (folder / "text.nii.gz").write_text("plain words")
    (folder / "text.tif").write_text("plain words")
    for name in ("half.nii.gz", "half.nii", "text.nii.gz"):
        failure(f"labels.nii.gz {name} -o o.nii", capsys, f"cannot read {name} as NIfTI")
        failure(f"{name} image.nii.gz -o o.nii", capsys, f"cannot read {name} as NIfTI")
    for name in ("half.tif", "text.tif"):
        failure(f"labels.nii.gz {name} -o o.nii", capsys, f"cannot read {name} as TIFF")
        failure(f"{name} image.nii.gz -o o.nii", capsys, f"cannot read {name} as TIFF")
    for name in ("none.nii.gz", "none.tif"):
        failure(f"labels.nii.gz {name} -o o.nii", capsys, f"cannot read {name}: there is no such file")
    tifffile.imwrite("colours.tif", np.zeros((2, 9, 11, 3), np.uint8), photometric="rgb")
    failure("colours.tif image.nii.gz -o o.nii", capsys, "colours.tif has 3 channels; class ids come in one")


@pytest.mark.parametrize(
    ("command", "status", "facts"),
    [
        ("labels.nii.gz image.nii.gz -o out.png", 1, ["labels of a volume (6, 9, 11) do not fit out.png", ".nii.gz"]),
        ("labels.nii.gz image.nii.gz -o out.jpg", 1, ["an overlay tints an 8-bit photo", "int16 (6, 9, 11)"]),
        ("labels.nii.gz image.nii.gz -o out.gz", 2, ["cannot tell what to write to out.gz", ".nii.gz"]),
        ("labels.nii.gz image.nii.gz -o out.npy --format nii", 2, ["end its name in .nii.gz or .nii"]),
        ("labels.nii.gz image.nii.gz -o out.nii --spacing 0", 2, ["'0' is no distance above 0"]),
        ("labels.nii.gz image.nii.gz -o out.nii --spacing 1,x", 2, ["'1,x' is no distance"]),
        (
            "labels.nii.gz image.nii.gz -o out.nii --spacing 1,2",
            1,
            ["--spacing 1.0,2.0 has 2 values", "3 spatial axes"],
        ),
        ("labels.nii.gz image.nii.gz -o out.nii --input probabilities", 1, ["probabilities"]),
        ("labels.nii.gz image.nii.gz -o image.nii.gz", 2, ["image.nii.gz is one of the inputs"]),
    ],
)
def test_commands_that_cannot_be(image, labels, capsys, command, status, facts):
    save("image.nii.gz", image)
    save("labels.nii.gz", labels)
    failure(command, capsys, *facts, status=status)


@pytest.mark.parametrize(("module", "name"), [("nibabel", "image.nii.gz"), ("tifffile", "image.tif")])
def test_a_missing_library_names_the_extra(image, labels, capsys, monkeypatch, module, name):
    save("image.nii.gz", image)
    tifffile.imwrite("image.tif", image, photometric="minisblack")
    np.save("scores.npy", labels)
    monkeypatch.setitem(sys.modules, module, None)
    failure(f"scores.npy {name} --input labels -o out.npy", capsys, module, "pip install 'crfrnn[volumes]'")


def test_photos_need_neither_library(folder, capsys, monkeypatch, rng):
    for module in ("nibabel", "tifffile"):
        monkeypatch.setitem(sys.modules, module, None)
    np.save("scores.npy", rng.normal(size=(2, 8, 10)))
    Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)).save("photo.tif")
    assert run("scores.npy photo.tif -o out.png") == 0
