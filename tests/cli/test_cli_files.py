"""Files as other programs write them: tensors, nnU-Net's arrays, names with endings, turned photos, GeoTIFF."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crfrnn
from commands import status
from crfrnn.cli import main
from crfrnn.cli.pairing import paired

CLASSES, HEIGHT, WIDTH = 3, 24, 36
EVERYTHING = replace(crfrnn.preset("photos"), tolerance=0)


@pytest.fixture
def logits(rng) -> np.ndarray:
    return rng.normal(0, 2, (CLASSES, HEIGHT, WIDTH)).astype(np.float32)


def refined(scores: str, options: str = "", image: str = "photo.png") -> np.ndarray:
    """The probabilities that the command writes."""
    assert status(f"refine {scores} {image} -o out.npy {options}") == 0
    return np.load("out.npy")


# Tensors.


@pytest.mark.torch
@pytest.mark.parametrize("suffix", ["pt", "pth", "safetensors"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_tensors(folder, photo, logits, suffix, dtype):
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(logits).to(getattr(torch, dtype)).requires_grad_()
    if suffix == "safetensors":
        pytest.importorskip("safetensors.torch").save_file({"logits": tensor.detach()[None]}, "scores.safetensors")
    else:
        torch.save(tensor[None], f"scores.{suffix}")
    expected = crfrnn.refine(tensor.detach().double().numpy().astype(np.float32), photo)
    np.testing.assert_allclose(refined(f"scores.{suffix}"), expected, atol=1e-5)


@pytest.mark.torch
def test_tensors_in_dictionaries(folder, photo, logits, capsys):
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(logits)
    torch.save({"epoch": 3, "outputs": [tensor + 1, tensor], "extra": {"logits": tensor}}, "known.pt")
    np.testing.assert_array_equal(refined("known.pt"), crfrnn.refine(logits, photo))
    np.testing.assert_array_equal(refined("known.pt", "--array outputs.1"), crfrnn.refine(logits, photo))
    torch.save({"one": tensor, "two": tensor}, "unknown.pt")
    assert status("refine unknown.pt photo.png -o out.npy") == 1
    assert "holds 2 tensors (one, two): name the one with the scores by --array" in capsys.readouterr().err
    assert status("refine unknown.pt photo.png -o out.npy --array three") == 1
    assert "has no tensor 'three', only one, two" in capsys.readouterr().err


class Anything:
    """What a pickle may hold besides tensors."""


@pytest.mark.torch
@pytest.mark.parametrize("content", ["pickle", "damaged", "nothing"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_tensor_files_that_cannot_be_read(folder, content, suffix, capsys):
    torch = pytest.importorskip("torch")
    path = Path(f"scores.{suffix}")
    if content == "pickle":
        torch.save({"scores": Anything()}, path)
    elif content == "nothing" and suffix == "pt":
        torch.save({"epoch": 1}, path)
    else:
        path.write_bytes(b"no tensors")
    assert status(f"refine {path} photo.png -o out.npy") == 1
    said = capsys.readouterr().err
    assert said.startswith(f"crfrnn refine: error: cannot read {path}")
    assert said.count("\n") == 1


# nnU-Net, and axes of length 1.


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=0))
    return exponentials / exponentials.sum(axis=0)


@pytest.mark.parametrize("name", ["softmax", "probabilities"])
def test_probabilities_of_nnunet(folder, photo, logits, name):
    half = softmax(logits).astype(np.float16)
    np.savez("case.npz", **{name: half[:, np.newaxis]})
    expected = crfrnn.refine(half.astype(np.float32), photo, input="probabilities")
    np.testing.assert_allclose(refined("case.npz"), expected, atol=1e-6)


def test_probabilities_of_nnunet_beside_channels_in_files_of_their_own(tmp_path, rng, monkeypatch):
    nibabel = pytest.importorskip("nibabel")
    monkeypatch.chdir(tmp_path)
    channels = rng.normal(100, 30, (2, 4, 6, 5)).astype(np.float32)  # (K, Z, Y, X)
    probabilities = softmax(rng.normal(0, 2, (CLASSES, 4, 6, 5)))
    for name in ("scores", "images"):
        Path(name).mkdir()
    np.savez("scores/case.npz", probabilities=probabilities.astype(np.float32))
    for number, channel in enumerate(channels):
        nibabel.save(nibabel.Nifti1Image(channel.T, np.diag([1, 2, 3, 1])), f"images/case_{number:04}.nii.gz")
    options = "--theta-beta 40 --theta-alpha 5"
    parameters = replace(crfrnn.preset("photos"), theta_beta=40, theta_alpha=5)
    expected = crfrnn.refine(
        probabilities.astype(np.float32),
        np.moveaxis(channels, 0, -1),
        parameters,
        input="probabilities",
        spacing=(1, 2, 3),
    )
    found = refined("scores/case.npz", options, "images/case_0000.nii.gz images/case_0001.nii.gz")
    np.testing.assert_array_equal(found, expected)
    assert status(f"refine scores images -o out --format npy {options}") == 0
    np.testing.assert_array_equal(np.load("out/case.npy"), expected)


@pytest.mark.parametrize("shape", [(1, CLASSES, HEIGHT, WIDTH), (CLASSES, 1, HEIGHT, WIDTH)])
@pytest.mark.parametrize("small", [1, 2])
def test_axes_of_length_1_are_left_out(folder, logits, shape, small):
    reduced = logits[:, ::small, ::small]
    np.save("plain.npy", reduced)
    np.save("scores.npy", reduced.reshape(shape[0], shape[1], *reduced.shape[1:]))
    np.testing.assert_array_equal(refined("scores.npy"), refined("plain.npy"))


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (HEIGHT, WIDTH, 1)])
def test_a_foreground_without_a_class_axis(folder, photo, logits, shape):
    np.save("scores.npy", logits[0].reshape(shape))
    np.testing.assert_array_equal(refined("scores.npy"), crfrnn.refine(logits[:1], photo))


def test_integers_in_two_axes_are_labels(folder, photo, logits):
    labels = logits.argmax(axis=0)
    np.save("scores.npy", labels)
    np.testing.assert_array_equal(refined("scores.npy"), crfrnn.refine(labels, photo, input="labels"))


@pytest.mark.parametrize("options", ["", "--tile 20 --overlap 40"])
@pytest.mark.parametrize("classes", [3, 7])
def test_scores_with_the_classes_last(folder, photo, rng, capsys, options, classes):
    np.save("scores.npy", rng.normal(0, 1, (HEIGHT, WIDTH, classes)))
    np.save("image.npy", photo)
    for image in ("image.npy", "photo.png"):
        assert status(f"refine scores.npy {image} -o out.npy {options}") == 1
        assert "np.moveaxis(scores, -1, 0)" in capsys.readouterr().err


def test_scores_of_fewer_pixels_by_tiles(folder, rng, capsys):
    np.save("scores.npy", rng.normal(0, 1, (CLASSES, HEIGHT // 4, WIDTH // 4)))
    assert status("refine scores.npy photo.png -o out.npy --tile 20") == 1
    assert "Without --tile, --memory and --overlap they are stretched" in capsys.readouterr().err
    assert status("refine scores.npy photo.png -o out.npy") == 0


def test_an_image_with_its_channels_first(folder, photo, logits):
    np.save("scores.npy", logits)
    np.save("image.npy", np.moveaxis(photo, -1, 0))
    np.testing.assert_array_equal(refined("scores.npy", image="image.npy"), crfrnn.refine(logits, photo))


# Names.


@pytest.mark.parametrize(
    ("scores", "images", "expected"),
    [
        (["a.npy"], ["a.jpg"], {"a": ("a.npy", "a.jpg")}),
        (["a_mask.png"], ["a.jpg"], {"a": ("a_mask.png", "a.jpg")}),
        (
            ["a_scores.npy", "b-logits.npy"],
            ["a.jpg", "b.jpg"],
            {"a": ("a_scores.npy", "a.jpg"), "b": ("b-logits.npy", "b.jpg")},
        ),
        (["a_Segmentation.png"], ["a.png"], {"a": ("a_Segmentation.png", "a.png")}),
        (["7_mask.png"], ["7_sat.jpg"], {"7": ("7_mask.png", "7_sat.jpg")}),
        (["a_mask.png"], ["a_mask.jpg", "a.jpg"], {"a_mask": ("a_mask.png", "a_mask.jpg")}),
        (["a.npz"], ["a_0001.nii.gz", "a_0000.nii.gz"], {"a": ("a.npz", "a_0000.nii.gz a_0001.nii.gz")}),
        (["a_probabilities.npz"], ["a.jpg"], {"a": ("a_probabilities.npz", "a.jpg")}),
        (["a_gtFine_labelIds.png"], ["a_leftImg8bit.png"], {"a": ("a_gtFine_labelIds.png", "a_leftImg8bit.png")}),
        (["a_mask_pred.png"], ["a.jpg"], {"a": ("a_mask_pred.png", "a.jpg")}),
        (["a.jpg.npy"], ["a.jpg"], {"a": ("a.jpg.npy", "a.jpg")}),
        (["a.jpg_mask.png"], ["a.jpg"], {"a": ("a.jpg_mask.png", "a.jpg")}),
        (["mask_7.png"], ["7.jpg"], {"7": ("mask_7.png", "7.jpg")}),
        (["mask_7.png"], ["img_7.jpg"], {"7": ("mask_7.png", "img_7.jpg")}),
        (["a_mask1.png"], ["a.jpg"], {"a": ("a_mask1.png", "a.jpg")}),
        (
            ["a_mask1.png", "a_mask_2.png", "a_mask-03.png", "mask4_a.png"],
            ["a.jpg"],
            {
                "a_mask1": ("a_mask1.png", "a.jpg"),
                "a_mask_2": ("a_mask_2.png", "a.jpg"),
                "a_mask-03": ("a_mask-03.png", "a.jpg"),
                "mask4_a": ("mask4_a.png", "a.jpg"),
            },
        ),
        (
            ["a_scores.npy", "a.png", "a_cat_mask.png", "a_left_ear_mask2.png"],
            ["a_image.jpg"],
            {
                "a": ("a.png", "a_image.jpg"),
                "a_scores": ("a_scores.npy", "a_image.jpg"),
                "a_cat_mask": ("a_cat_mask.png", "a_image.jpg"),
                "a_left_ear_mask2": ("a_left_ear_mask2.png", "a_image.jpg"),
            },
        ),
        (["a_cat_mask.png"], ["a.jpg", "a_cat.jpg"], {"a_cat": ("a_cat_mask.png", "a_cat.jpg")}),
        (
            ["a_pred.npz", "a_mask.nii.gz"],
            ["a_0000.nii.gz", "a_0001.nii.gz"],
            {
                "a_pred": ("a_pred.npz", "a_0000.nii.gz a_0001.nii.gz"),
                "a_mask": ("a_mask.nii.gz", "a_0000.nii.gz a_0001.nii.gz"),
            },
        ),
        (["a.nii.gz", "a.npz", "a.pkl", "plans.json"], ["a_0000.nii.gz"], {"a": ("a.npz", "a_0000.nii.gz")}),
    ],
)
def test_names_that_belong_together(tmp_path, scores, images, expected):
    for folder, names in (("scores", scores), ("images", images)):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    cases = paired(tmp_path / "scores", tmp_path / "images").cases
    found = {name: tuple(" ".join(files) for files in (case.scores, case.images)) for name, case in cases.items()}
    assert found == expected
    assert not any(case.problem for case in cases.values())


@pytest.mark.parametrize(
    ("scores", "images", "problem"),
    [
        (["a.npy", "a.png"], ["a.jpg"], "a.npy and a.png"),
        (["a.npy"], ["b.jpg"], "there is no photo named a"),
        (["a.npy"], ["a.jpg", "a.png"], "a.jpg and a.png"),
        (["a.npy"], ["a_image.jpg", "a_0000.png"], "share a name"),
        (["a.npy"], ["a_0000.jpg", "a_0000.png"], "share a name"),
        (["a.npz", "a.nii.gz"], ["a_0000.nii.gz"], "share a name"),
        (["a.npy"], ["A.jpg", "c.jpg"], "there is no photo named a"),
        (["a.npz"], ["a_0001.nii.gz"], "channels of a are missing: there are a_0001.nii.gz alone"),
        (["a.npz"], ["a_0000.nii.gz", "a_0002.nii.gz"], "channels of a are missing"),
        (["a.npz", "b.npz"], ["a_0000.png", "b_0000.png", "b_0001.png"], "a has 1 of the 2 channels that others have"),
    ],
)
def test_names_that_do_not(tmp_path, scores, images, problem):
    for folder, names in (("scores", scores), ("images", images)):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    assert problem in paired(tmp_path / "scores", tmp_path / "images").cases["a"].problem


def test_a_number_is_that_of_a_photo(tmp_path):
    """A photo that is missing is not another one, whose name the mask's begins with."""
    for name in ("scores/a_2_mask.png", "images/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    cases = paired(tmp_path / "scores", tmp_path / "images").cases
    assert "there is no photo named a_2_mask" in cases["a_2_mask"].problem


@pytest.mark.parametrize("together", [False, True])
def test_several_masks_of_a_photo(folder, photo, capsys, together):
    """Each is refined by itself, and its result has its name; in a folder of masks, or beside the photo."""
    masks, photos = Path("both" if together else "masks"), Path("both" if together else "photos")
    for each in (masks, photos):
        each.mkdir(exist_ok=True)
    Image.fromarray(photo).save(photos / "a.png")
    for number, name in enumerate(["a_mask1", "a_mask_2", "a_cat_mask"]):
        mask = np.zeros(photo.shape[:2], np.uint8)
        mask[2 + number : 12, 3 : 14 + number] = 255
        Image.fromarray(mask).save(masks / f"{name}.png")
        assert main(["refine", str(masks / f"{name}.png"), str(photos / "a.png"), "-o", f"{name}.png"]) == 0
    assert main(["refine", str(masks), str(photos), "-o", "out"]) == 0
    captured = capsys.readouterr()
    assert "3 refined, 0 already there, 0 failed" in captured.out
    assert "1 image: taken for the photo that the name begins with" in captured.err
    for name in ("a_mask1", "a_mask_2", "a_cat_mask"):
        np.testing.assert_array_equal(np.asarray(Image.open(f"out/{name}.png")), np.asarray(Image.open(f"{name}.png")))


@pytest.mark.parametrize("options", [[], ["--time-theta", "2"]])
def test_links_that_lead_in_a_circle(folder, photo, capsys, options):
    """One line that names them, among photos as well; the other photos are refined."""
    Path("circle").symlink_to("circle")
    Path("photos").mkdir()
    Image.fromarray(photo).save("photos/a.png")
    Image.fromarray((photo[..., 0] > 99).astype(np.uint8) * 255).save("photos/a_mask.png")
    assert main(["refine", "circle", "photos", "-o", "out", *options]) == 1
    assert "circle" in capsys.readouterr().err
    Path("photos/a_mask2.png").symlink_to("a_mask2.png")
    assert main(["refine", "photos", "photos", "-o", "out", *options]) == 1
    captured = capsys.readouterr()
    assert "a_mask2" in captured.err
    assert "Traceback" not in captured.err
    assert options or "1 refined" in captured.out


def test_a_name_that_was_meant(tmp_path):
    for name in ("scores/cat_01.npy", "images/cat_1.jpg", "images/dog.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert paired(tmp_path / "scores", tmp_path / "images").cases["cat_01"].problem.endswith("did you mean cat_1?")


def test_one_folder_of_scores_and_photos(folder, photo, logits, capsys):
    """Scores are not taken as their own image, and photos without scores are counted."""
    Path("both").mkdir()
    for name in ("a.npy", "b_scores.npy"):
        np.save(f"both/{name}", logits)
    for name in ("a.jpg", "b.png", "c.png", "d.png", "e.png"):
        Image.fromarray(photo).save(f"both/{name}")
    Image.fromarray(logits.argmax(axis=0).astype(np.uint8)).save("both/c_mask.png")
    assert status("refine both both -o out --tolerance 0") == 0
    assert "3 refined, 0 already there, 0 failed; 2 images without scores" in capsys.readouterr().out
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.png", "b.png", "c.png"]
    with Image.open("out/b.png") as found:
        np.testing.assert_array_equal(np.asarray(found), crfrnn.refine(logits, photo, EVERYTHING, return_labels=True))


def test_warnings_of_a_folder_name_the_file(folder, photo, logits, capsys):
    for name in ("s", "p"):
        Path(name).mkdir()
    shares = np.exp(logits) / np.exp(logits).sum(axis=0)
    for name, scores in (("first", logits), ("second", shares)):
        np.save(f"s/{name}.npy", scores)
        Image.fromarray(photo).save(f"p/{name}.png")
    assert status("refine s p -o out") == 0
    assert "crfrnn refine: warning: second: logits are" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("refine nowhere p -o out", 1, "there is no file or folder nowhere"),
        ("refine p nowhere -o out", 1, "there is no file or folder nowhere"),
        ("refine scores.npy p -o out", 2, "must both be files or both be folders"),
        ("refine p p -o out.png", 2, "out.png is named like a file"),
        ("refine scores.npy scores.npy -o out.png", 2, "scores.npy is given as SCORES and as IMAGE"),
        ("refine volume.npy volume.tif -o out.png", 1, "do not fit out.png: end its name in"),
        ("refine volume.npy volume.tif -o out.jpg", 1, "an overlay tints an 8-bit photo"),
        ("refine volume.npy volume.tif -o out.json", 1, "no masks of COCO"),
    ],
)
def test_what_cannot_be_is_said_before_the_work(folder, logits, rng, command, code, said, capsys, monkeypatch):
    Path("p").mkdir()
    np.save("scores.npy", logits)
    np.save("volume.npy", rng.normal(size=(2, 8, 9, 7)))
    pytest.importorskip("tifffile").imwrite("volume.tif", rng.integers(0, 256, (8, 9, 7)).astype(np.uint8))
    monkeypatch.setattr("crfrnn.cli.refinement.refine", lambda *given, **options: pytest.fail("it began"))
    assert status(command) == code
    assert said in capsys.readouterr().err
    assert not list(Path().glob("out*"))


# Photos that are stored turned.


@pytest.mark.parametrize("orientation", range(2, 9))
def test_photos_are_turned_upright_as_by_segment(folder, photo, logits, orientation, capsys):
    """Scores of the upright photo, or of the photo as stored where that has another shape."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # what Pillow's transpositions are called
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(photo).transpose(Image.Transpose(undo)).save("turned.png", exif=exif)
    np.save("scores.npy", logits)
    np.testing.assert_array_equal(refined("scores.npy", image="turned.png"), crfrnn.refine(logits, photo))
    assert "turned upright by its EXIF orientation" in capsys.readouterr().out

    with Image.open("turned.png") as image:
        stored = np.asarray(image)
    scores = logits if orientation < 5 else np.ascontiguousarray(logits.swapaxes(1, 2))
    np.save("scores.npy", scores)
    options = "--as-stored" if orientation < 5 else ""
    np.testing.assert_array_equal(refined("scores.npy", options, "turned.png"), crfrnn.refine(scores, stored))
    if orientation >= 5:
        assert "photo as stored" in capsys.readouterr().out
        Path("s").mkdir()
        Path("i").mkdir()
        Path("scores.npy").rename("s/a.npy")
        Path("turned.png").rename("i/a.png")
        assert status("refine s i -o o") == 0
        assert "1 image: left as stored" in capsys.readouterr().err


def test_folders_say_that_scores_seem_square(folder, photo, logits, capsys):
    for name in ("scores", "photos"):
        Path(name).mkdir()
    for name in "ab":
        np.save(f"scores/{name}.npy", logits[:, :8, :8])
        Image.fromarray(photo).save(f"photos/{name}.png")
    assert status("refine scores photos -o out") == 0
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "--square-scores" in line and "2 images" in line]
    assert status("refine scores photos -o out --square-scores --overwrite") == 0
    assert "--square-scores" not in capsys.readouterr().err


# GeoTIFF and compressed TIFF.

GEOTIFF = [
    (33550, 12, 3, (0.5, 0.5, 0.0), True),
    (33922, 12, 6, (0.0, 0.0, 0.0, 500000.0, 4000000.0, 0.0), True),
    (34735, 3, 8, (1, 1, 0, 1, 3072, 0, 1, 32633), True),
]


@pytest.mark.parametrize("options", ["", "--tile 20 --overlap 40"])
@pytest.mark.parametrize("place", ["image", "scores"])
def test_labels_lie_where_the_image_does(folder, photo, logits, options, place):
    tifffile = pytest.importorskip("tifffile")
    tags = {"extratags": GEOTIFF}
    tifffile.imwrite("image.tif", photo, photometric="rgb", **(tags if place == "image" else {}))
    tifffile.imwrite("scores.tif", logits, photometric="minisblack", **(tags if place == "scores" else {}))
    assert status(f"refine scores.tif image.tif -o out.tif --tolerance 0 {options}") == 0
    np.testing.assert_array_equal(
        tifffile.imread("out.tif"), crfrnn.refine(logits, photo, EVERYTHING, return_labels=True)
    )
    with tifffile.TiffFile("out.tif") as file:
        written = file.pages[0].tags
        assert [written[code].value for code, *_ in GEOTIFF] == [value for _, _, _, value, _ in GEOTIFF]


@pytest.mark.parametrize("output", ["out.png", "overlay.png", "out.jpg"])
@pytest.mark.parametrize("kind", ["tif", "nii.gz"])
def test_a_picture_that_holds_no_place(folder, photo, logits, capsys, output, kind):
    """Said once, for a file and for a folder; not of files that keep the place, nor of arrays."""
    np.save("scores.npy", logits)
    if kind == "tif":
        pytest.importorskip("tifffile").imwrite("image.tif", photo, photometric="rgb", extratags=GEOTIFF)
    else:
        nibabel = pytest.importorskip("nibabel")
        nibabel.save(nibabel.Nifti1Image(photo[..., 0].T.astype(np.int16), np.diag([2.0, 2, 2, 1])), "image.nii.gz")
    if kind == "tif" or output == "out.png":
        assert status(f"refine scores.npy image.{kind} -o {output}") == 0
        said = capsys.readouterr().err
        assert said.count(f"labels that end in .{kind} keep") == 1
        assert f"warning: {output}: a picture does not hold the place" in said
    for kept in (f"labels.{kind}", "out.npy"):
        assert status(f"refine scores.npy image.{kind} -o {kept}") == 0
        assert "place" not in capsys.readouterr().err
    for name in ("a", "b"):
        Path("scores").mkdir(exist_ok=True)
        Path("images").mkdir(exist_ok=True)
        np.save(f"scores/{name}.npy", logits)
        Path(f"images/{name}.{kind}").write_bytes(Path(f"image.{kind}").read_bytes())
    if kind == "tif":
        assert status("refine scores images -o out --format overlay") == 0
        assert "2 images: a picture does not hold the place of a GeoTIFF" in capsys.readouterr().err


def test_folders_of_geotiff_write_geotiff(folder, photo, logits):
    tifffile = pytest.importorskip("tifffile")
    for name in ("scores", "images"):
        Path(name).mkdir()
    np.save("scores/a.npy", logits)
    tifffile.imwrite("images/a.tif", photo, photometric="rgb", extratags=GEOTIFF)
    assert status("refine scores images -o out") == 0
    with tifffile.TiffFile("out/a.tif") as file:
        assert file.pages[0].tags[33550].value == GEOTIFF[0][3]
    assert status("refine scores images -o out") == 0


@pytest.mark.parametrize("compression", ["lzw", "zstd", "packbits", "jpeg", "zlib"])
@pytest.mark.parametrize("what", ["image", "scores"])
def test_compressed_tiffs_by_tiles(folder, photo, logits, compression, what):
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    np.save("scores.npy", logits)
    scores, levels = "scores.npy", photo
    if what == "scores":
        if compression == "jpeg":
            pytest.skip("JPEG holds no floating-point numbers")
        scores = "scores.tif"
        tifffile.imwrite(scores, logits, photometric="minisblack", compression=compression, tile=(16, 16))
        tifffile.imwrite("image.tif", photo, photometric="rgb")
    else:
        tifffile.imwrite("image.tif", photo, photometric="rgb", compression=compression, tile=(16, 16))
        levels = tifffile.imread("image.tif")
    options = "--tile 20 --overlap 40 --tolerance 0"
    np.testing.assert_allclose(
        refined(scores, options, "image.tif"), crfrnn.refine(logits, levels, EVERYTHING), atol=1e-6
    )
