"""Masks in the shell, and classes that a refinement takes away."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

import crfrnn
from commands import status

HEIGHT, WIDTH = 40, 56
EVERYTHING = replace(crfrnn.preset("photos"), tolerance=0)


@pytest.fixture
def white() -> np.ndarray:
    """A mask that lies three pixels beside the edge of the photo."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:, WIDTH // 2 - 3 :] = True
    return mask


def levels_of(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def save_mask(white: np.ndarray, kind: str) -> str:
    """Save a mask; the path, with options."""
    levels = white.astype(np.uint8)
    saved = {
        "L": Image.fromarray(255 * levels),
        "1": Image.fromarray(255 * levels).convert("1"),
        "RGB": Image.fromarray(255 * levels).convert("RGB"),
        "P": Image.fromarray(255 * levels).convert("P"),
        "128": Image.fromarray(128 * levels),
        "16 bits": Image.fromarray(levels.astype(np.uint16) * np.uint16(65535)),
        "15": Image.fromarray(15 * levels),
        "20 and 200": Image.fromarray(20 + 180 * levels),
    }
    if kind == "array":
        np.save("mask.npy", 255 * levels)
        return "mask.npy"
    saved[kind].save("mask.png")
    return "mask.png"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("L", (0, 255)),
        ("1", (0, 255)),
        ("RGB", (0, 255)),
        ("P", (0, 255)),
        ("128", (0, 128)),
        ("16 bits", (0, 65535)),
        ("15", (0, 15)),
        ("20 and 200", (20, 200)),
        ("array", (0, 255)),
    ],
)
@pytest.mark.parametrize("output", ["out.png", "out.png --tile 30 --overlap 60", "out.tif --tile 30 --overlap 60"])
def test_a_mask_is_refined_as_two_classes_and_written_as_a_mask(folder, photo, white, kind, expected, output):
    pytest.importorskip("tifffile")
    given = save_mask(white, kind)
    assert status(f"refine {given} photo.png -o {output} --tolerance 0") == 0
    labels = crfrnn.refine(white.astype(np.uint8), photo, EVERYTHING, input="labels", return_labels=True)
    assert 0 < labels.mean() < white.mean()
    np.testing.assert_array_equal(levels_of(output.split()[0]), np.array(expected)[labels])


def test_a_mask_of_fewer_pixels_is_stretched(folder, photo, white, capsys):
    small = white[::4, ::4].astype(np.uint8)
    Image.fromarray(255 * small).save("small.png")
    assert status("refine small.png photo.png -o out.png --tolerance 0") == 0
    assert "scores stretched from 14×10" in capsys.readouterr().out
    logits = np.where(np.stack([small == 0, small == 1]), np.log(0.7), np.log(0.3)).astype(np.float32)
    size = (WIDTH, HEIGHT)
    large = np.stack([np.asarray(Image.fromarray(each).resize(size, Image.Resampling.BILINEAR)) for each in logits])
    labels = crfrnn.refine(large, photo, EVERYTHING, return_labels=True)
    np.testing.assert_array_equal(levels_of("out.png"), 255 * labels)
    np.save("labels.npy", 2 * small)
    assert status("refine labels.npy photo.png -o out.npz") == 0
    assert np.load("out.npz")["probabilities"].shape == (3, HEIGHT, WIDTH)
    np.save("map.npy", logits[1] - logits[0])
    assert status("refine map.npy photo.png -o out.npy --format labels --tolerance 0") == 0
    np.testing.assert_array_equal(np.load("out.npy"), labels)


def test_two_classes_of_a_mask_may_be_said(folder, white):
    save_mask(white, "L")
    assert status("refine mask.png photo.png -o out.png --num-classes 2") == 0
    assert set(np.unique(levels_of("out.png"))) == {0, 255}


def test_a_mask_that_is_all_foreground(folder, white):
    save_mask(np.ones_like(white), "L")
    assert status("refine mask.png photo.png -o out.png") == 0
    assert (levels_of("out.png") == 255).all()


def test_void_beside_a_palette_is_no_foreground(folder, white, capsys):
    image = Image.fromarray((255 * white).astype(np.uint8))
    palette = np.zeros((256, 3), np.uint8)
    palette[255] = 224, 224, 192
    image.putpalette(palette.tobytes())
    image.save("labels.png")
    assert status("refine labels.png photo.png -o out.png") == 1
    assert "one class alone, and 255, which stands for unknown: give --num-classes" in capsys.readouterr().err
    assert status("refine labels.png photo.png -o out.png --num-classes 3") == 0
    assert (levels_of("out.png") == 0).all()


def soft_masks(white: np.ndarray) -> dict[str, Image.Image]:
    image = Image.fromarray((255 * white).astype(np.uint8))
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(2)))
    trimap = np.where((blurred > 0) & (blurred < 255), np.uint8(128), blurred)
    return {
        "blurred": Image.fromarray(blurred),
        "faint": Image.fromarray(blurred // 4),
        "trimap": Image.fromarray(trimap),
        "colours": Image.fromarray(blurred).convert("RGB"),
    }


@pytest.mark.parametrize("kind", ["blurred", "faint", "trimap", "colours"])
def test_a_soft_mask_is_a_probability_when_the_user_says_so(folder, white, photo, kind, capsys):
    image = soft_masks(white)[kind]
    image.save("soft.png")
    assert status("refine soft.png photo.png -o out.png") == 1
    said = capsys.readouterr().err
    assert "--input probabilities" in said
    assert "--num-classes" in said
    assert not (folder / "out.png").exists()

    assert status("refine soft.png photo.png -o out.png --input probabilities --tolerance 0") == 0
    foreground = (np.asarray(image.convert("L")) / np.float32(255))[np.newaxis]
    labels = crfrnn.refine(foreground, photo, EVERYTHING, input="probabilities", return_labels=True)
    np.testing.assert_array_equal(levels_of("out.png"), 255 * labels)


@pytest.mark.parametrize(("kind", "white"), [("png", 65535), ("npy", 65535), ("npy", 255), ("tif", 65535)])
def test_advice_for_a_soft_mask_can_be_typed(folder, photo, capsys, kind, white):
    """Of any depth and in any file: options of the command, no code."""
    shares = np.clip(1.2 - np.hypot(*(np.indices(photo.shape[:2]) - 11)) / 15, 0, 1)
    levels = np.round(white * shares).astype(np.min_scalar_type(white))
    if kind == "npy":
        np.save("soft.npy", levels)
    elif kind == "tif":
        pytest.importorskip("tifffile").imwrite("soft.tif", levels)
    else:
        Image.fromarray(levels).save("soft.png")
    assert status(f"refine soft.{kind} photo.png -o out.png") == 1
    said = capsys.readouterr().err
    assert "give --input probabilities" in said
    assert "--num-classes, at least" in said
    assert "mask >" not in said
    assert status(f"refine soft.{kind} photo.png -o out.png --input probabilities") == 0


@pytest.mark.parametrize("levels", [(-1, 0), (-1, 1), (-128, 127)])
def test_a_mask_with_negative_levels(folder, photo, capsys, levels):
    np.save("mask.npy", np.where(photo[..., 0] > 99, levels[1], levels[0]).astype(np.int16))
    assert status("refine mask.npy photo.png -o out.png") == 1
    assert f"one class alone, and {levels[0]}, which stands for unknown: give --num-classes" in capsys.readouterr().err


def test_levels_of_fewer_bits_than_stored(folder, photo, capsys):
    """10 bits in 16 would be probabilities of 0.016 at most."""
    levels = np.linspace(0, 1000, photo[..., 0].size).reshape(photo.shape[:2]).astype(np.uint16)
    Image.fromarray(levels).save("soft.png")
    assert status("refine soft.png photo.png -o out.png --input probabilities") == 1
    assert "whole numbers up to 1000; probabilities are 0 to 1, or levels of which the highest is 65535" in (
        capsys.readouterr().err
    )


def test_a_jpeg_of_a_mask(folder, white, capsys):
    Image.fromarray((255 * white).astype(np.uint8)).save("mask.jpg")
    assert status("refine mask.jpg photo.png -o out.png") == 1
    assert "--input probabilities" in capsys.readouterr().err
    assert status("refine mask.jpg photo.png -o out.png --input probabilities") == 0


def test_class_ids_in_grey_levels_stay_ids(folder, rng):
    labels = rng.integers(0, 21, (HEIGHT, WIDTH)).astype(np.uint8)
    Image.fromarray(labels).save("labels.png")
    assert status("refine labels.png photo.png -o out.npz --iterations 0") == 0
    assert np.load("out.npz")["probabilities"].shape == (21, HEIGHT, WIDTH)
    many = np.repeat(np.repeat(np.arange(0, 140, 10, dtype=np.uint8)[:, None], 4, axis=1)[None], HEIGHT, axis=0)
    many = np.ascontiguousarray(many.reshape(HEIGHT, WIDTH))
    Image.fromarray(many).save("labels.png")
    assert status("refine labels.png photo.png -o out.png --num-classes 150 --iterations 0") == 0
    np.testing.assert_array_equal(levels_of("out.png"), many)


# Classes that are gone.


@pytest.fixture
def square(folder) -> np.ndarray:
    """Probabilities of a square that a photo in levels from 0 to 1 shows, in p.npy and image.npy."""
    image = np.full((64, 64, 3), (40, 60, 50)) / 255
    image[20:40, 20:40] = np.array([200, 150, 120]) / 255
    foreground = np.full((64, 64), 0.3)
    foreground[20:40, 20:40] = 0.7
    np.save("image.npy", image)
    np.save("p.npy", np.stack([1 - foreground, foreground]))
    return image


@pytest.mark.parametrize("options", ["", "--tile 40", "--format npz"])
def test_a_class_that_is_gone_is_told(square, capsys, options):
    output = "out.npz" if "npz" in options else "out.npy --format labels"
    assert status(f"refine p.npy image.npy -o {output} --preset pydensecrf --input probabilities {options}") == 0
    said = capsys.readouterr()
    assert "class 1 (9.8 % of pixels) is gone" in said.out
    told = [line for line in said.err.splitlines() if "gone" in line]
    assert len(told) == 1
    for fact in (
        "class 1 (9.8 % of pixels) is gone",
        "θ_β is 13 levels",
        "from 0.157 to 0.784",
        "--image-range",
        "--theta-beta contrast",
    ):
        assert fact in told[0]


def test_no_class_is_gone_where_the_range_is_said(square, capsys):
    command = "refine p.npy image.npy -o out.npy --format labels --preset pydensecrf --input probabilities"
    assert status(f"{command} --image-range 0,1") == 0
    said = capsys.readouterr()
    assert "gone" not in said.out + said.err
    assert np.load("out.npy").sum() == 400


def test_folders_tell_which_photos_lost_classes(square, capsys):
    for name in ("scores", "images"):
        Path(name).mkdir()
    for name in "abcdefg":
        np.save(f"scores/{name}.npy", np.load("p.npy"))
        np.save(f"images/{name}.npy", square if name != "b" else 255 * square)
    assert status("refine scores images -o out --preset pydensecrf --input probabilities") == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "gone" in line]
    assert [line.split(": ")[2] for line in told[:5]] == ["a", "c", "d", "e", "f"]
    assert "1 more image" in told[5]
    assert len(told) == 6


@pytest.mark.parametrize("name", ["mask.png", "mask.npy"])
def test_a_mask_is_not_of_one_class(square, white, capsys, name):
    """255 would be unknown, and all of the result 0."""
    mask = np.where(white, 255, 0).astype(np.uint8)
    np.save(name, mask) if name.endswith(".npy") else Image.fromarray(mask).save(name)
    assert status(f"refine {name} photo.png -o out.png --input labels --num-classes 1") == 1
    said = capsys.readouterr().err
    assert f"{name} holds labels" in said
    assert "--num-classes 1" in said
    assert not Path("out.png").exists()


def test_advice_can_be_typed(square, white, capsys):
    assert status("refine p.npy image.npy -o out.npy --preset pydensecrf") == 0
    said = capsys.readouterr().err
    assert "--input probabilities" in said
    assert "--image-range 0,1" in said
    assert "--theta-beta contrast" in said
    np.save("labels.npy", np.where(white, 7, 0))
    assert status("refine labels.npy photo.png -o out.npy --num-classes 3") == 1
    assert "labels hold 7" in capsys.readouterr().err
