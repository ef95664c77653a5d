"""The command line, run in this process as users run it: arguments in, files, lines and an exit status out."""

import io
import shlex
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crfrnn
from commands import status
from crfrnn import _native
from crfrnn.parameters import CRFParameters

CLASSES, HEIGHT, WIDTH = 4, 18, 26


@pytest.fixture
def logits(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0, 2, (CLASSES, HEIGHT, WIDTH)).astype(np.float32)


@pytest.fixture
def files(tmp_path: Path, photo: np.ndarray, logits: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with photo.png and scores.npy."""
    Image.fromarray(photo).save(tmp_path / "photo.png")
    np.save(tmp_path / "scores.npy", logits)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def folders(files: Path, photo: np.ndarray, logits: np.ndarray) -> Path:
    """Folders scores/ and photos/ with a, b and c in each."""
    for folder in ("scores", "photos"):
        (files / folder).mkdir()
    for name in "abc":
        np.save(files / "scores" / f"{name}.npy", logits)
        Image.fromarray(photo).save(files / "photos" / f"{name}.png")
    return files


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=0))
    return exponentials / exponentials.sum(axis=0)


def error_of(command: str, expected: int, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr of a command that must fail with that exit status."""
    capsys.readouterr()
    assert status(command) == expected
    written = capsys.readouterr().err
    assert written.count("\n") == 1, written
    assert "Traceback" not in written
    return written


def labels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.asarray(image)


# What is written.


def test_labels_are_an_indexed_png_with_the_voc_palette(files: Path, photo: np.ndarray, logits: np.ndarray) -> None:
    assert status("refine scores.npy photo.png -o labels.png") == 0
    expected = crfrnn.refine(logits, photo).argmax(axis=0)
    np.testing.assert_array_equal(labels_of(files / "labels.png"), expected)
    with Image.open(files / "labels.png") as image:
        palette = image.getpalette()
    assert palette[: 3 * 4] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
    assert palette[3 * 15 : 3 * 16] == [192, 128, 128]
    assert palette[3 * 255 :] == [224, 224, 192]


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_probabilities_are_float32_arrays(files: Path, logits: np.ndarray, suffix: str) -> None:
    assert status(f"refine scores.npy photo.png -o out.{suffix} --iterations 0") == 0
    written = np.load(files / f"out.{suffix}")
    probabilities = written["probabilities"] if suffix == "npz" else written
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, softmax(logits), atol=1e-6)


@pytest.mark.parametrize("name", ["out.jpg", "out.png --format overlay"])
def test_overlay_tints_the_photo(files: Path, photo: np.ndarray, name: str) -> None:
    scores = np.zeros((2, HEIGHT, WIDTH), np.float32)
    scores[1, :, : WIDTH // 2] = 50
    scores[0, :, WIDTH // 2 :] = 50
    np.save("scores.npy", scores)
    assert status(f"refine scores.npy photo.png -o {name}") == 0
    with Image.open(files / name.split()[0]) as image:
        whole = np.asarray(image.convert("RGB")).astype(float)
    start = (whole.shape[1] - WIDTH) // 2  # the legend below is wider
    tinted = whole[:HEIGHT, start : start + WIDTH]
    left, right = tinted[2:-2, 2:10].mean(axis=(0, 1)), tinted[2:-2, -10:-2].mean(axis=(0, 1))
    # Class 1 is (128, 0, 0) and class 0 black, 55 parts in a hundred.
    np.testing.assert_allclose(left, 0.45 * photo[2:-2, 2:10].mean(axis=(0, 1)) + [70.4, 0, 0], atol=4)
    np.testing.assert_allclose(right, 0.45 * photo[2:-2, -10:-2].mean(axis=(0, 1)), atol=4)


def test_it_says_what_it_did(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("scores.npy", np.arange(2.0)[:, None, None] * np.ones((2, HEIGHT, WIDTH)))
    assert status("refine scores.npy photo.png -o new/folder/labels.png --tolerance 0") == 0
    assert "labels.png: 26×18, 2 classes, 10 iterations, 0.0% of pixels changed, " in capsys.readouterr().out
    assert (labels_of(files / "new/folder/labels.png") == 1).all()


@pytest.fixture
def three_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    """A native core that says it ran three iterations, and one more each time."""
    native, more = _native.mean_field_labels32, count(3)

    def labels(*arguments: object) -> object:
        found, (_, classes, evaluated) = native(*arguments)
        return found, (next(more), classes, evaluated)

    monkeypatch.setattr(_native, "mean_field_labels32", labels)


def test_it_says_how_many_iterations_ran(files: Path, capsys: pytest.CaptureFixture[str], three_iterations) -> None:
    assert status("refine scores.npy photo.png -o out.png") == 0
    assert "4 classes, 3 of 10 iterations, " in capsys.readouterr().out
    assert status("refine scores.npy photo.png -o out.png --tile 20") == 0
    assert "iterations" not in capsys.readouterr().out
    assert status("refine scores.npy photo.png -o out.npy --iterations 1") == 0
    assert "4 classes, 1 iteration, " in capsys.readouterr().out


def test_folders_say_how_many_iterations_ran(
    folders: Path, capsys: pytest.CaptureFixture[str], three_iterations
) -> None:
    assert status("refine scores photos -o out") == 0
    expected = "3 refined, 0 already there, 0 failed; 4.0 of 10 iterations on average, at most 5\n"
    assert capsys.readouterr().out.endswith(expected)
    assert status("refine scores photos -o out") == 0
    assert capsys.readouterr().out.endswith("already there, 0 failed; --overwrite redoes what is there\n")


# What is read.


def test_probabilities_and_named_arrays(files: Path, logits: np.ndarray) -> None:
    np.savez("scores.npz", other=logits[:, ::-1], wanted=softmax(logits))
    assert status("refine scores.npz photo.png --input probabilities --array wanted -o out.npy --iterations 0") == 0
    np.testing.assert_allclose(np.load("out.npy"), softmax(logits), atol=1e-4)
    assert status("refine scores.npz photo.png -o first.npy --iterations 0") == 0
    np.testing.assert_allclose(np.load("first.npy"), softmax(logits[:, ::-1]), atol=1e-6)


@pytest.mark.parametrize("name", ["given.png", "given.npy --input labels"])
def test_label_images(files: Path, logits: np.ndarray, name: str) -> None:
    labels = logits.argmax(axis=0).astype(np.uint8)
    Image.fromarray(labels).save("given.png")
    np.save("given.npy", labels)
    assert status(f"refine {name} photo.png -o out.npy --iterations 0 --num-classes 6") == 0
    probabilities = np.load("out.npy")
    assert probabilities.shape == (6, HEIGHT, WIDTH)
    np.testing.assert_array_equal(probabilities.argmax(axis=0), labels)


def test_void_pixels_of_a_label_image_take_the_label_around_them(files: Path) -> None:
    labels = np.full((HEIGHT, WIDTH), 2, np.uint8)
    labels[:, WIDTH // 2 :] = 1
    labels[5:9, 3:7] = 255
    Image.fromarray(labels).save("given.png")
    assert status("refine given.png photo.png -o out.png") == 0
    labels[labels == 255] = 2
    np.testing.assert_array_equal(labels_of(files / "out.png"), labels)


def test_smaller_scores_are_stretched_bilinearly(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, columns = np.meshgrid(np.arange(6.0), np.arange(13.0), indexing="ij")
    np.save("scores.npy", np.stack([rows, columns, 0 * rows]))
    assert status("refine scores.npy photo.png -o out.npy --iterations 0") == 0
    assert "(scores stretched from 13×6)" in capsys.readouterr().out
    # Pixel centres: pixel i of n lies at (i + ½) m/n - ½ among m scores; beyond the outermost score it is constant.
    fine_rows = ((np.arange(HEIGHT) + 0.5) / 3 - 0.5).clip(0, 5)
    fine_columns = ((np.arange(WIDTH) + 0.5) / 2 - 0.5).clip(0, 12)
    expected = np.zeros((3, HEIGHT, WIDTH))
    expected[0] = fine_rows[:, None]
    expected[1] = fine_columns
    np.testing.assert_allclose(np.load("out.npy"), softmax(expected), atol=1e-5)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_photos_of_any_8_bit_kind(files: Path, mode: str) -> None:
    with Image.open("photo.png") as photo:
        photo.convert(mode).save("kind.tif")
    assert status("refine scores.npy kind.tif -o out.png") == 0


def test_deep_grey_images_keep_their_levels(files: Path, photo: np.ndarray, logits: np.ndarray) -> None:
    deep = photo[..., 0].astype(np.uint16) * 200
    Image.fromarray(deep).save("deep.png")
    assert status("refine scores.npy deep.png -o out.npy --theta-beta 600") == 0
    np.testing.assert_array_equal(np.load("out.npy"), crfrnn.refine(logits, deep, theta_beta=600))


def test_contrast_of_the_photo(files: Path, photo: np.ndarray, logits: np.ndarray) -> None:
    assert status("refine scores.npy photo.png -o out.npy --theta-beta contrast") == 0
    parameters = replace(crfrnn.preset("photos"), theta_beta=crfrnn.contrast_theta_beta(photo))
    np.testing.assert_array_equal(np.load("out.npy"), crfrnn.refine(logits, photo, parameters))


def test_scores_of_the_foreground_alone(files: Path, photo: np.ndarray, logits: np.ndarray) -> None:
    np.save("scores.npy", logits[:1])
    assert status("refine scores.npy photo.png -o out.png") == 0
    np.testing.assert_array_equal(labels_of(files / "out.png"), crfrnn.refine(logits[:1], photo)[0] > 0.5)


# Parameters.


def test_the_parameters_reach_the_refinement(files: Path, photo: np.ndarray, logits: np.ndarray) -> None:
    assert status("refine scores.npy photo.png -o out.npy --preset pydensecrf --theta-beta 4,5,6 --threads 1") == 0
    parameters = CRFParameters(80, (4, 5, 6), 3, 3, 10, normalization="symmetric", iterations=5)
    np.testing.assert_array_equal(np.load("out.npy"), crfrnn.refine(logits, photo, parameters, threads=1))


def test_the_solver_reaches_the_refinement(
    files: Path, photo: np.ndarray, logits: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    frank_wolfe = "--solver frank-wolfe --regularization euclidean --strength 3 --iterations 40 --tolerance 0.1"
    assert status(f"refine scores.npy photo.png -o out.npy {frank_wolfe} --threads 1") == 0
    values = {"solver": "frank-wolfe", "regularization": "euclidean", "strength": 3, "iterations": 40, "tolerance": 0.1}
    refined, activity = crfrnn.refine(logits, photo, **values, threads=1, return_activity=True)
    np.testing.assert_array_equal(np.load("out.npy"), refined)
    assert activity.iterations < 40
    assert f"{activity.iterations} of 40 iterations" in capsys.readouterr().out


# Folders.


def test_folders_resume_and_redo(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("refine scores photos -o out") == 0
    assert "3 refined, 0 already there, 0 failed" in capsys.readouterr().out
    assert sorted(path.name for path in (folders / "out").iterdir()) == ["a.png", "b.png", "c.png"]

    (folders / "out" / "b.png").unlink()
    (folders / "out" / "a.png").write_bytes(b"kept as it is")
    assert status("refine scores photos -o out") == 0
    assert "1 refined, 2 already there, 0 failed" in capsys.readouterr().out
    assert (folders / "out" / "a.png").read_bytes() == b"kept as it is"

    assert status("refine scores photos -o out --overwrite") == 0
    assert "3 refined, 0 already there, 0 failed" in capsys.readouterr().out
    assert labels_of(folders / "out" / "a.png").shape == (HEIGHT, WIDTH)


def test_folders_survive_bad_files(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (folders / "scores" / "a.npy").read_bytes()
    (folders / "scores" / "a.npy").write_bytes(whole[: len(whole) // 2])
    (folders / "photos" / "b.png").unlink()
    Image.new("RGB", (WIDTH, HEIGHT)).save(folders / "photos" / "c.jpg")
    np.save("scores/d.npy", np.zeros((CLASSES, HEIGHT, WIDTH)))
    Image.new("RGB", (WIDTH, HEIGHT)).save(folders / "photos" / "d.JPG")
    (folders / "scores" / "notes.txt").write_text("not scores")
    (folders / "scores" / ".hidden.npy").write_text("not scores")

    assert status("refine scores photos -o out") == 1
    written = capsys.readouterr()
    assert "1 refined, 0 already there, 3 failed" in written.out
    failures = written.err.splitlines()
    assert len(failures) == 3
    assert failures[0].startswith("failed: a: cannot read scores/a.npy")
    assert failures[1] == "failed: b: there is no photo named b in photos"
    assert failures[2] == "failed: c: c.jpg and c.png in photos share a name; keep one"
    assert [path.name for path in (folders / "out").iterdir()] == ["d.png"]


@pytest.mark.parametrize(("output_format", "suffix"), [("npz", "npz"), ("npy", "npy"), ("overlay", "jpg")])
def test_folders_of_other_formats(folders: Path, output_format: str, suffix: str) -> None:
    assert status(f"refine scores photos -o out --format {output_format}") == 0
    assert sorted(path.name for path in (folders / "out").iterdir()) == [f"{name}.{suffix}" for name in "abc"]


def test_progress_appears_on_terminals_only(
    folders: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crfrnn.files.progress.QUIET_SECONDS", -1)
    assert status("refine scores photos -o out") == 0
    assert capsys.readouterr().err == ""


# Nothing is ever half-written.


def test_a_failed_write_leaves_the_old_file(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (files / "out.npy").write_bytes(b"old")

    def full_disk(handle: io.BufferedWriter, array: np.ndarray) -> None:
        handle.write(b"half of i")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full_disk)
    before = sorted(path.name for path in files.iterdir())
    assert status("refine scores.npy photo.png -o out.npy") == 1
    assert (files / "out.npy").read_bytes() == b"old"
    assert sorted(path.name for path in files.iterdir()) == before


def test_interrupted(files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", interrupted)
    assert error_of("refine scores.npy photo.png -o out.npy", 130, capsys) == "crfrnn refine: interrupted\n"
    assert sorted(path.name for path in files.iterdir()) == ["photo.png", "scores.npy"]


# Errors, in the user's terms.


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("refine", "required: SCORES, IMAGE, -o/--output"),
        ("refine scores.npy photo.png", "required: -o/--output"),
        ("refine scores.npy photo.png -o out", "cannot tell what to write to out: end its name in one of"),
        ("refine scores.npy photo.png -o out.gif", "cannot tell what to write to out.gif"),
        ("refine scores.npy photo.png -o out.png --format npz", "end its name in .npz"),
        ("refine scores.npy photo.png -o folder", "folder is a folder; name a file in it"),
        ("refine scores.npy photo.png -o photo.png", "photo.png is one of the inputs"),
        ("refine scores.npy photo.png -o out.png --preset vgg", "invalid choice: 'vgg'"),
        ("refine scores.npy photo.png -o out.png --iterations many", "--iterations: invalid int value: 'many'"),
        ("refine scores.npy photo.png -o out.png --iterations=-1", "--iterations -1 must be at least 0"),
        ("refine scores.npy photo.png -o out.png --theta-alpha 0", "--theta-alpha 0"),
        ("refine scores.npy photo.png -o out.png --spatial-weight nan", "--spatial-weight nan; expected a finite"),
        ("refine scores.npy photo.png -o out.png --theta-beta 1;2", "'1;2' is no number"),
        ("refine scores.npy photo.png -o out.png --normalization l2", "--normalization l2 is unknown"),
        ("refine scores.npy photo.png -o out.png --compatibility no.npy", "cannot read no.npy: there is no such file"),
        ("tune photo.png --theta-beta contrast -o out.json", "'contrast' is no number"),
        ("refine scores.npy photo.png -o out.png --theta-alpha contrast", "'contrast' is no number"),
        ("refine scores.npy photo.png -o out.png --threads 0", "--threads must be at least 1"),
        ("refine scores.npy photo.png -o out.png --num-classes 0", "--num-classes must be at least 1"),
        ("refine folder photo.png -o out.png", "must both be files or both be folders"),
        ("refine folder folder -o folder", "folder is one of the inputs"),
        ("refine folder folder -o photo.png", "photo.png is a file; with folders"),
        ("sharpen", "invalid choice: 'sharpen'"),
        ("", "required: COMMAND"),
    ],
)
def test_usage_errors(files: Path, command: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "folder").mkdir()
    command = " ".join(shlex.quote(word) for word in command.split())
    assert words in error_of(command, 2, capsys)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("refine none others -o out", "there is no file or folder none"),
        ("refine none.npy photo.png -o out.png", "cannot read none.npy: there is no such file"),
        ("refine scores.npy none.png -o out.png", "cannot read none.png: there is no such file"),
        ("refine scores.npy text.png -o out.png", "cannot read text.png as an image"),
        ("refine scores.npy half.png -o out.png", "cannot read half.png as an image"),
        ("refine text.npy photo.png -o out.png", "cannot read text.npy"),
        ("refine half.npy photo.png -o out.png", "cannot read half.npy"),
        ("refine half.npz photo.png -o out.png", "cannot read half.npz"),
        ("refine empty.npz photo.png -o out.png", "it holds no array"),
        ("refine empty.npy photo.png -o out.png", "cannot read empty.npy"),
        ("refine objects.npy photo.png -o out.png", "cannot read objects.npy"),
        ("refine scores.npz photo.png --array b -o out.png", "it has no array 'b', only a"),
        ("refine scores.txt photo.png -o out.png", "scores come in .npy, .npz"),
        ("refine other.png photo.png -o out.png", "other.png holds colours (RGB), not class ids"),
        (
            "refine other.png photo.png --input logits -o out.png",
            "is an image, which can only hold labels, a mask",
        ),
        ("refine vector.npy photo.png -o out.png", "(7,)"),
        ("refine last.npy photo.png -o out.png", "scores have shape (18, 26, 4); expected classes first"),
        ("refine turned.npy photo.png -o out.png", "did you swap height and width?"),
        ("refine larger.npy photo.png -o out.png", "image has shape (18, 26, 3)"),
        ("refine nan.npy photo.png -o out.png", "NaN"),
        ("refine scores.npy photo.png -o out.png --spatial-weight 1,2", "4 classes"),
        ("refine scores.npy photo.png -o out.png --theta-beta 1,2", "--theta-beta 1.0,2.0 has 2 values"),
        ("refine many.npy photo.png -o out.png --iterations 0", "class 256 does not fit a PNG of 256 colours"),
        ("refine scores.npy photo.png -o photo.png/out.png", "cannot write photo.png/out.png"),
        ("refine folder folder -o out", "folder holds no scores"),
    ],
)
def test_failures(
    files: Path, photo: np.ndarray, logits: np.ndarray, command: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "folder").mkdir()
    for name in ("text.png", "text.npy"):
        (files / name).write_text("plain words")
    (files / "other.png").write_bytes((files / "photo.png").read_bytes())
    (files / "scores.txt").write_text("1 2 3")
    (files / "empty.npy").write_bytes(b"")
    np.savez("scores.npz", a=logits)
    np.savez("empty.npz")
    for name, whole in (("half.png", "photo.png"), ("half.npy", "scores.npy"), ("half.npz", "scores.npz")):
        content = (files / whole).read_bytes()
        (files / name).write_bytes(content[: len(content) // 2])
    np.save("objects.npy", np.array([{}]), allow_pickle=True)
    np.save("vector.npy", np.zeros(7))
    np.save("last.npy", np.moveaxis(logits, 0, -1))
    np.save("turned.npy", logits.swapaxes(1, 2))
    np.save("larger.npy", np.zeros((CLASSES, HEIGHT + 1, WIDTH)))
    np.save("nan.npy", np.where(logits > 5, np.nan, logits) + np.where(np.arange(WIDTH) == 3, np.nan, 0))
    many = np.random.default_rng(0).normal(0, 1, (257, HEIGHT, WIDTH)).astype(np.float32)
    many[256] += 9
    np.save("many.npy", many)
    assert words in error_of(command, 1, capsys)
    assert not (files / "out.png").exists()
