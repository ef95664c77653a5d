"""`segment` and `load_photo`: any image in, labels at its own size out; and the command that does so to files."""

import argparse
import io
import shlex
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crfrnn
from crfrnn.files.classes import named_classes
from crfrnn.files.legend import LINE_HEIGHT
from errors import raises_saying

torch = pytest.importorskip("torch", reason="needs the models extra")
pytest.importorskip("safetensors", reason="needs the models extra")
from crfrnn import models  # noqa: E402
from crfrnn.cli.main import Parser  # noqa: E402
from crfrnn.cli.segment import SegmentPhotos, add_segment  # noqa: E402
from crfrnn.files.rgb import load_photo, rgb_photo  # noqa: E402
from crfrnn.models import Model, Segmenter  # noqa: E402
from crfrnn.segment import enlarged_labels, segment  # noqa: E402
from crfrnn.torch import CrfRnn  # noqa: E402

pytestmark = pytest.mark.torch

CLASSES = named_classes(("red", "green", "blue"))


class Channels(torch.nn.Module):
    """A network whose logits are the channels in units of 40 levels; it remembers the size of what it saw."""

    size = (0, 0)

    def forward(self, images):
        self.size = tuple(images.shape[-2:])
        return images / 40


@pytest.fixture
def model() -> Model:
    crf = CrfRnn(3, 3, theta_alpha=4.3, theta_beta=400.0, theta_gamma=1.7)
    return Model(Segmenter(Channels(), crf).eval(), CLASSES, {})


@pytest.fixture
def photo(rng) -> np.ndarray:
    """(20, 30, 3) in blocks of colours, with every channel the brightest somewhere."""
    return rng.integers(0, 256, (4, 6, 3), dtype=np.uint8).repeat(5, axis=0).repeat(5, axis=1)


# In memory.


def test_the_classes_of_a_photo(model, photo):
    alone = segment(photo, model, crf=False)
    np.testing.assert_array_equal(alone.labels, photo.argmax(axis=-1))
    levels = np.exp(photo.transpose(2, 0, 1) / 40.0)
    np.testing.assert_allclose(alone.probabilities, levels / levels.sum(axis=0), rtol=1e-5)
    refined = segment(photo, model)
    with torch.no_grad():
        expected = model.segmenter(torch.from_numpy(photo).permute(2, 0, 1)[None].float()).softmax(dim=1)[0].numpy()
    np.testing.assert_allclose(refined.probabilities, expected, atol=1e-6)
    np.testing.assert_array_equal(refined.labels, expected.argmax(axis=0))
    assert (refined.labels != alone.labels).any()
    assert (refined.labels.dtype, refined.classes) == (np.uint8, CLASSES)


def test_a_segmentation_shows_itself(model, photo):
    found = segment(photo, model)
    shown = np.asarray(Image.open(io.BytesIO(found._repr_png_())))
    np.testing.assert_array_equal(shown, np.asarray(crfrnn.overlay(photo, found.labels, classes=CLASSES)))


@pytest.mark.parametrize("size", [(60, 80), (80, 20), (1, 300), (41, 40)])
def test_large_photos_are_segmented_at_a_bounded_size(model, size):
    """The left third red, the middle green, the right blue: so are the labels, at the size of the photo."""
    truth = (3 * np.arange(size[1]) // size[1])[None].repeat(size[0], axis=0)
    found = segment(np.eye(3, dtype=np.uint8)[truth] * 200, model, crf=False, longest_side=40)
    assert max(model.segmenter.network.size) == 40
    assert found.probabilities.shape == (3, *model.segmenter.network.size)
    assert found.labels.shape == size
    assert (found.labels == truth).mean() > 0.9


def test_enlarged_labels_are_those_of_enlarged_probabilities(rng, monkeypatch):
    """In strips and with classes left out that are never likely, as torch does it in one piece."""
    probabilities = rng.dirichlet(np.full(6, 0.5), (7, 9)).transpose(2, 0, 1).astype(np.float32)
    probabilities[4] *= 0.01
    probabilities /= probabilities.sum(axis=0)
    size = (61, 83)
    whole = torch.nn.functional.interpolate(torch.from_numpy(probabilities)[None], size, mode="bilinear")[0].numpy()
    two = np.sort(whole, axis=0)[-2:]
    clear = two[1] - two[0] > 1e-5
    assert clear.mean() > 0.99
    for strip in (4_000_000, 2000, 1):
        monkeypatch.setattr("crfrnn.segment.STRIP_SIZE", strip)
        np.testing.assert_array_equal(enlarged_labels(probabilities, size)[clear], whole.argmax(axis=0)[clear])


def test_memory_does_not_grow_with_classes_times_pixels(rng):
    """60 classes on 3000×600 pixels would be 432 MB of probabilities."""
    probabilities = rng.dirichlet(np.ones(60), (20, 30)).transpose(2, 0, 1).astype(np.float32)
    tracemalloc.start()
    labels = enlarged_labels(probabilities, (600, 3000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert labels.shape == (600, 3000)
    assert peak < 60_000_000


@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4])
def test_layouts(rng, channels):
    image = rng.integers(0, 256, (5, 7) if channels is None else (5, 7, channels), dtype=np.uint8)
    expected = np.empty((5, 7, 3))
    given = image[..., None] if channels is None else image
    colours = given[..., : 3 if channels in (3, 4) else 1].astype(float)
    opacity = given[..., -1:] / 255 if channels in (2, 4) else 1.0
    expected[...] = opacity * colours + (1 - opacity) * 255
    assert rgb_photo(image).dtype == np.uint8
    np.testing.assert_allclose(rgb_photo(image), expected, atol=0.5)


@pytest.mark.parametrize("dtype", [np.uint16, ">u2", np.float16, np.float32, np.float64])
def test_number_formats(photo, dtype):
    factor = 257 if np.dtype(dtype).kind == "u" else 1
    np.testing.assert_array_equal(rgb_photo(photo.astype(dtype) * np.dtype(dtype).type(factor)), photo)


def test_a_file_and_a_tensor_are_photos(tmp_path: Path, model, photo):
    Image.fromarray(photo).save(tmp_path / "photo.png")
    expected = segment(photo, model).labels
    for given in (tmp_path / "photo.png", str(tmp_path / "photo.png"), torch.from_numpy(photo).permute(2, 0, 1)):
        np.testing.assert_array_equal(segment(given, model).labels, expected)


def test_16_bits_are_rounded():
    assert rgb_photo(np.array([[0, 128, 129, 65406, 65407, 65535]], np.uint16))[0, :, 0].tolist() == [
        0, 0, 1, 254, 255, 255
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("image", "facts"),
    [
        (np.zeros(5, np.uint8), ["(5,)", "(H, W) grey", "(H, W, 3) RGB"]),
        (np.zeros((3, 5, 5), np.uint8), ["(3, 5, 5)"]),
        (np.zeros((0, 5, 3), np.uint8), ["(0, 5, 3)"]),
        (np.full((2, 2), 300.0), ["300", "0-255"]),
        (np.full((2, 2), -1.0), ["-1", "0-255"]),
        (np.full((2, 2), np.nan), ["nan", "0-255"]),
        (np.full((2, 2), 0.5), ["0.5", "image * 255"]),
    ],
)
def test_images_that_are_no_photos(model, image, facts):
    with raises_saying(ValueError, *facts):
        segment(image, model)


@pytest.mark.parametrize("dtype", [np.int64, complex, str])
def test_numbers_that_are_no_levels(model, dtype):
    image = np.full((2, 2), 256).astype(dtype)
    with raises_saying(TypeError, str(image.dtype), "expected uint8, uint16 or floating point"):
        segment(image, model)


def test_sizes_are_checked(model, photo):
    with raises_saying(ValueError, "longest_side=0"):
        segment(photo, model, longest_side=0)


@pytest.mark.parametrize("crf", [True, False])
def test_one_channel_is_the_second_of_two_classes(photo, crf):
    segmenter = Segmenter(torch.nn.Conv2d(3, 1, 1), CrfRnn(1, 1, theta_alpha=4.3, theta_beta=400.0)).eval()
    found = segment(photo, Model(segmenter, named_classes(("background", "spot")), {}), crf=crf)
    images = torch.from_numpy(photo.transpose(2, 0, 1).copy())[None].float()
    with torch.no_grad():
        foreground = (segmenter(images) if crf else segmenter.unary(images)).sigmoid()[0, 0].numpy()
    np.testing.assert_allclose(found.probabilities, np.stack([1 - foreground, foreground]), atol=1e-6)
    assert np.array_equal(found.labels, foreground > 0.5)
    with raises_saying(ValueError, "one channel", "log-odds", "names of two classes"):
        segment(photo, Model(segmenter, named_classes(("spot",)), {}), crf=crf)


# Files.


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_top_is_at_the_top(tmp_path: Path, orientation):
    """A red corner that a camera stored in each of the eight ways comes out at the top left."""
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16, 0] = 255
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = Image.fromarray(upright)
    if orientation in undo:
        stored = stored.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x112] = orientation
    stored.save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(load_photo(tmp_path / "photo.png"), upright)
    stored.save(tmp_path / "photo.jpg", exif=exif, subsampling=0, quality=95)
    np.testing.assert_allclose(load_photo(tmp_path / "photo.jpg"), upright, atol=5)


def saved(path: Path, image: Image.Image, **options) -> np.ndarray:
    image.save(path, **options)
    return load_photo(path)


def test_kinds_of_images(tmp_path: Path, photo):
    picture = Image.fromarray(photo)
    grey = np.asarray(picture.convert("L"))
    np.testing.assert_array_equal(saved(tmp_path / "rgb.png", picture), photo)
    np.testing.assert_array_equal(saved(tmp_path / "palette.png", picture.quantize(24)), photo)
    np.testing.assert_allclose(saved(tmp_path / "cmyk.tif", picture.convert("CMYK")), photo, atol=1)
    np.testing.assert_array_equal(saved(tmp_path / "grey.png", Image.fromarray(grey))[..., 2], grey)
    ink = saved(tmp_path / "ink.png", Image.fromarray(grey > 127))
    np.testing.assert_array_equal(ink[..., 1], np.where(grey > 127, 255, 0))
    for name in ("deep.png", "deep.tif"):
        deep = Image.fromarray(grey.astype(np.uint16) * 257)
        np.testing.assert_array_equal(saved(tmp_path / name, deep)[..., 0], grey)
    for dtype in (np.float32, np.int32):
        numbers = Image.fromarray(grey.astype(dtype) * dtype(1 if dtype is np.float32 else 257))
        np.testing.assert_array_equal(saved(tmp_path / "numbers.tif", numbers)[..., 0], grey)


def test_transparent_parts_are_white(tmp_path: Path, photo):
    opacity = np.zeros((20, 30, 1), np.uint8)
    opacity[:, :10] = 255
    opacity[:, 10:20] = 51
    found = saved(tmp_path / "photo.png", Image.fromarray(np.concatenate([photo, opacity], axis=-1)))
    np.testing.assert_array_equal(found[:, :10], photo[:, :10])
    np.testing.assert_allclose(found[:, 10:20], 0.2 * photo[:, 10:20] + 0.8 * 255, atol=0.51)
    assert (found[:, 20:] == 255).all()
    palette = Image.fromarray(photo).quantize(24)
    first = np.asarray(palette) == 0
    cut = saved(tmp_path / "palette.png", palette, transparency=0)
    assert (cut[first] == 255).all()
    np.testing.assert_array_equal(cut[~first], photo[~first])


def test_huge_photos_are_not_refused_for_their_size(tmp_path: Path, monkeypatch, photo):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    np.testing.assert_array_equal(load_photo(tmp_path / "photo.png"), photo)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_photos_beyond_memory_are(tmp_path: Path, monkeypatch, photo):
    monkeypatch.setattr("crfrnn.memory.available_memory", lambda: 1000)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    with raises_saying(MemoryError, "photo.png", "30×20 pixels", "smaller image"):
        load_photo(tmp_path / "photo.png")


def test_files_that_are_no_photos(tmp_path: Path, photo):
    with raises_saying(ValueError, "none.png", "no such file"):
        load_photo(tmp_path / "none.png")
    Image.fromarray(photo).save(tmp_path / "half.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "half.png").read_bytes()[:80])
    (tmp_path / "text.png").write_text("plain words")
    for name in ("half.png", "text.png"):
        with raises_saying(ValueError, "cannot read", name, "as an image"):
            load_photo(tmp_path / name)
    Image.fromarray(np.full((2, 2), 70_000, np.int32)).save(tmp_path / "deep.tif")
    with raises_saying(ValueError, "deep.tif", "70000", "0-65535"):
        load_photo(tmp_path / "deep.tif")


# The command.


@pytest.fixture
def folder(tmp_path: Path, photo, model, monkeypatch) -> Path:
    """A working folder with photos/a.png, photos/b.jpg and other.png; models are the stand-in."""
    (tmp_path / "photos").mkdir()
    Image.fromarray(photo).save(tmp_path / "photos" / "a.png")
    Image.fromarray(photo).save(tmp_path / "photos" / "b.jpg")
    Image.fromarray(photo).save(tmp_path / "other.png")
    monkeypatch.setattr(models, "load_model", lambda path=None: model)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def status(command: str) -> int:
    """Exit status of `segment` with these arguments."""
    parser = Parser(prog="crfrnn")
    add_segment(parser.add_subparsers(dest="command"))
    options: argparse.Namespace = parser.parse_args(["segment", *shlex.split(command)])
    found: int = options.run(options)
    return found


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out").iterdir())


def test_a_folder_and_a_photo(folder: Path, model, photo, capsys):
    assert status("photos other.png -o out") == 0
    assert written(folder) == [f"{name}{end}" for name in ("a", "b", "other") for end in (".png", "_overlay.jpg")]
    assert capsys.readouterr().out == "out: 3 segmented, 0 already there, 0 failed\n"
    with Image.open(folder / "out" / "a.png") as labels:
        assert labels.mode == "P"
        np.testing.assert_array_equal(np.asarray(labels), segment(photo, model).labels)
        np.testing.assert_array_equal(labels.getpalette()[:9], CLASSES.palette.ravel())
    with Image.open(folder / "out" / "a_overlay.jpg") as overlay:
        assert overlay.height >= 20 + LINE_HEIGHT


def test_without_an_output_it_says_where(folder: Path, model, photo, capsys):
    assert status("photos/b.jpg") == 0
    said = capsys.readouterr().out
    assert said == "segmented/b.png, segmented/b_overlay.jpg: 1 segmented, 0 already there, 0 failed\n"
    assert sorted(path.name for path in (folder / "segmented").iterdir()) == ["b.png", "b_overlay.jpg"]


@pytest.mark.parametrize(("name", "mode"), [("labels.png", "P"), ("overlay.png", "RGB"), ("new/b_overlay.jpg", "RGB")])
def test_one_file_of_one_photo(folder: Path, model, name, mode, capsys):
    assert status(f"photos/b.jpg -o {name}") == 0
    assert capsys.readouterr().out == f"{name}: 1 segmented, 0 already there, 0 failed\n"
    with Image.open(name) as image:
        assert image.mode == mode
    Path(name).write_bytes(b"old")
    assert status(f"photos/b.jpg -o {name}") == 0
    assert Path(name).read_bytes() != b"old"


def test_iterations_and_device_are_those_of_the_command(folder: Path, model, photo):
    iterations, before = model.segmenter.crf.num_iterations, segment(photo, model).labels
    assert status("other.png -o labels.png --iterations 0 --device cpu") == 0
    with Image.open("labels.png") as labels:
        np.testing.assert_array_equal(np.asarray(labels), segment(photo, model, crf=False).labels)
    assert status(f"other.png -o labels.png --iterations {iterations}") == 0
    with Image.open("labels.png") as labels:
        np.testing.assert_array_equal(np.asarray(labels), before)
    with pytest.raises(ValueError, match="device='nowhere' is not available"):
        status("other.png -o labels.png --device nowhere")


def test_photos_of_one_size_go_together(folder: Path, model, photo, monkeypatch):
    """On a device; labels are those of each photo alone."""
    monkeypatch.setattr("crfrnn.cli.segment.BATCH", 3)
    monkeypatch.setattr(SegmentPhotos, "accelerated", True)
    turned = np.ascontiguousarray(photo.transpose(1, 0, 2)[:, ::-1])
    photos = {
        f"{kind}{index}": np.roll(given, index)
        for index in range(4)
        for kind, given in zip("ab", (photo, turned), strict=True)
    }
    for name, each in photos.items():
        Image.fromarray(each).save(folder / "photos" / f"{name}.png")
    batches = []
    forward = model.segmenter.network.forward
    monkeypatch.setattr(
        model.segmenter.network, "forward", lambda images: batches.append(len(images)) or forward(images)
    )
    assert status("photos -o out") == 0
    assert sum(batches) == len(photos) + 2
    assert max(batches) == 3
    assert model.segmenter.crf.count_vertices
    for name, each in photos.items():
        with Image.open(folder / "out" / f"{name}.png") as labels:
            np.testing.assert_array_equal(np.asarray(labels), segment(each, model).labels)


def test_the_network_alone_and_its_probabilities(folder: Path, model, photo):
    assert status("other.png -o out --no-crf --probabilities --longest-side 15") == 0
    assert model.segmenter.network.size == (10, 15)
    with np.load(folder / "out" / "other_probabilities.npz") as archive:
        expected = segment(photo, model, crf=False, longest_side=15)
        np.testing.assert_array_equal(archive["probabilities"], expected.probabilities)
    with Image.open(folder / "out" / "other.png") as labels:
        np.testing.assert_array_equal(np.asarray(labels), expected.labels)


def test_what_is_there_is_not_done_again(folder: Path, capsys, monkeypatch):
    assert status("photos -o out") == 0
    (folder / "out" / "a_overlay.jpg").unlink()
    (folder / "out" / "b.png").write_bytes(b"kept")
    assert status("photos -o out") == 0
    assert "1 segmented, 1 already there" in capsys.readouterr().out
    assert (folder / "out" / "b.png").read_bytes() == b"kept"
    assert status("photos -o out --overwrite") == 0
    assert (folder / "out" / "b.png").read_bytes() != b"kept"

    def unwanted(path=None):
        raise AssertionError("a model was loaded with nothing to do")

    monkeypatch.setattr(models, "load_model", unwanted)
    assert status("photos -o out") == 0


def test_bad_photos_do_not_stop_the_others(folder: Path, capsys):
    (folder / "photos" / "aa.png").write_text("plain words")
    Image.fromarray(np.full((2, 2), 0.5, np.float32)).save(folder / "photos" / "dim.tif")
    assert status("photos none.jpg -o out") == 1
    said = capsys.readouterr()
    assert written(folder) == ["a.png", "a_overlay.jpg", "b.png", "b_overlay.jpg"]
    failures = said.err.splitlines()
    assert len(failures) == 3
    for line, facts in zip(failures, (("aa.png",), ("dim.tif", "image * 255"), ("none.jpg", "no such")), strict=True):
        assert line.startswith("failed: ")
        assert all(fact in line for fact in facts), line
    assert said.out == "out: 2 segmented, 0 already there, 3 failed\n"


def test_namesakes(folder: Path, capsys):
    (folder / "other").mkdir()
    Image.open(folder / "other.png").save(folder / "other" / "a.jpg")
    assert status("photos other -o out") == 1
    errors = capsys.readouterr().err
    assert "a.png and other/a.jpg share a name" in errors
    assert written(folder) == ["b.png", "b_overlay.jpg"]


def test_photos_are_never_replaced(folder: Path, photo, capsys):
    assert status("photos -o photos --overwrite") == 1
    assert "photos/a.png is one of the photos" in capsys.readouterr().err
    np.testing.assert_array_equal(load_photo(folder / "photos" / "a.png"), photo)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("-o out", "required: PHOTO"),
        ("photos -o other.png", "other.png is one file for 2 photos"),
        ("photos/a.png -o other.txt", "other.txt is a file"),
        ("photos/a.png -o out --iterations=-1", "--iterations must be at least 0"),
        ("photos/a.png -o out --no-crf --iterations 1", "--no-crf leaves out"),
        ("empty -o out", "empty holds no photos (.png"),
        ("photos -o out --longest-side 0", "--longest-side must be at least 1"),
    ],
)
def test_usage(folder: Path, command: str, words: str, capsys):
    (folder / "empty").mkdir()
    (folder / "other.txt").touch()
    with pytest.raises(SystemExit) as end:
        status(command)
    assert end.value.code == 2
    assert words in capsys.readouterr().err
