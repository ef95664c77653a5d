"""What strangers send to the page: files within limits, and hostile ones."""

import base64
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crfrnn import InputWarning, unary_from_labels
from crfrnn.web import uploads
from crfrnn.web.uploads import content_of, photo_of, plain_name, scores_of

PHOTO = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)


def encoded(kind: str, picture: Image.Image | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(PHOTO) if picture is None else picture).save(file, kind, **options)
    return file.getvalue()


def stored(values: object, **archived: object) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **archived) if archived else np.save(file, values)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it has this size, and has few pixels."""
    parts = (
        b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0),
        b"IDAT" + zlib.compress(bytes(999)),
        b"IEND",
    )
    chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go; nothing may stay there."""
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "JPEG"])
def test_photos_are_read(kind: str) -> None:
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    found = photo_of(encoded(kind, **options), f"photo.{kind.lower()}")
    np.testing.assert_allclose(found.astype(int), PHOTO, atol=12 if kind == "JPEG" else 0)


def test_photos_are_turned_upright() -> None:
    exif = Image.Exif()
    exif[274] = 6
    np.testing.assert_array_equal(photo_of(encoded("PNG", exif=exif), "p.png"), np.rot90(PHOTO, -1))


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (b"hello", "photo.png", "^cannot read photo.png as an image: cannot identify"),
        (encoded("JPEG")[:200], "photo.jpg", "^cannot read photo.jpg as an image"),
        (encoded("PNG")[:100], "photo.png", "^cannot read photo.png as an image"),
        (bomb(60_000, 60_000), "photo.png", "60000×60000 pixels, 3600 million; a photo may have 50 million"),
        (encoded("GIF"), "photo.png", "in the format GIF; photos come as PNG, JPEG, WebP or BMP"),
        (encoded("TIFF"), "photo.tif", "cannot be taken: photos end in .png, .jpg"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "photo.png", "in the format EPS|cannot identify"),
    ],
)
def test_other_files_are_refused_as_photos(content: bytes, name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        photo_of(content, name)
    assert "crfrnn-web-" not in str(refused.value)


def test_content_comes_in_base64() -> None:
    assert content_of(base64.b64encode(b"abc").decode(), "f") == b"abc"
    for data, words in ((None, "did not arrive as a file"), ("a*b=", "did not arrive whole"), ("", "is empty")):
        with pytest.raises(ValueError, match=words):
            content_of(data, "f")
    with pytest.raises(ValueError, match="has 33 MB; a file may have 32 MB"):
        content_of("A" * (33_000_000 * 4 // 3), "f")


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("cat.png", "cat.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\cat.png", "cat.png"),
        ("<script>.png", "_script_.png"),
        ("Zoë 1.jpg", "Zoë 1.jpg"),
        ("a\0b.png", "a_b.png"),
        ("..", "file"),
        (".png", "png"),
        (None, "None"),
        ("n" * 500 + ".png", "n" * 76 + ".png"),
    ],
)
def test_names_are_plain(given: object, plain: str) -> None:
    assert plain_name(given) == plain


def test_scores_of_every_kind(rng: np.random.Generator) -> None:
    logits = rng.normal(size=(3, 12, 16)).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=0)
    labels = rng.integers(0, 4, (12, 16), np.uint8)
    labels[0, 0] = 3
    size = PHOTO.shape[:2]
    for content, name, kind, truth in (
        (stored(logits), "s.npy", None, logits),
        (stored(None, logits=logits), "s.npz", None, logits),
        (stored(None, probabilities=probabilities), "s.npz", None, np.log(probabilities)),
        (stored(probabilities), "s.npy", "probabilities", np.log(probabilities)),
        (stored(labels), "s.npy", None, unary_from_labels(labels, 4, zero_unsure=False)),
        (stored(logits[:1]), "s.npy", None, np.stack([0 * logits[0], logits[0]])),
    ):
        found = scores_of(content, name, kind, PHOTO, size)
        np.testing.assert_allclose(found, truth, atol=1e-5)
        assert found.dtype == np.float32


def test_scores_of_a_larger_photo_and_smaller_ones() -> None:
    """Those of the photo before it was reduced become means; smaller ones are brought to its size."""
    rows, columns = np.mgrid[:24, :32].astype(np.float32)
    found = scores_of(stored(np.stack([rows, columns])), "s.npy", None, PHOTO, (24, 32))
    inner = found[:, 2:-2, 2:-2]
    np.testing.assert_allclose(inner[0], rows[::2, ::2][2:-2, 2:-2] + 0.5, atol=1e-4)
    np.testing.assert_allclose(inner[1], columns[::2, ::2][2:-2, 2:-2] + 0.5, atol=1e-4)
    small = np.stack([np.zeros((3, 4)), np.full((3, 4), 7)])
    np.testing.assert_allclose(scores_of(stored(small), "s.npy", None, PHOTO, (12, 16))[1], 7, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (b"hello", "s.npy", "^cannot read s.npy as an .npy array"),
        (b"hello", "s.npz", "^cannot read s.npz as an .npz array"),
        (b"\x80\x04K\x01.", "s.npy", "it is no array of numbers"),
        (stored(np.zeros((2, 5, 5, 5, 5), np.float32)), "s.npy", "(2, 5, 5, 5, 5)"),
        (stored(np.zeros((12, 16, 7), np.float32)), "s.npy", "np.moveaxis"),
        (stored(np.zeros((2, 9, 70), np.float32)), "s.npy", "(2, 9, 70)"),
        (stored(np.full((2, 12, 16), np.nan, np.float32)), "s.npy", "NaN|finite"),
        (stored(np.zeros((300, 12, 16), np.float32)), "s.npy", "300 classes; expected 2 to 255"),
        (stored(np.zeros((9000, 2, 2), np.float32)), "s.npy", "9000 classes; expected 2 to 255"),
        (stored(np.full((12, 16), 20_000)), "s.npy", "20001 classes; expected 2 to 255"),
        (stored(np.zeros((12, 16), int)), "s.npy", "one class; expected 2 to 255"),
        (stored(np.full((2, 12, 16), 1e300)), "s.npy", "beyond the range of float32"),
        (stored(np.zeros((1, 2, 12, 16), np.float32)), "s.npy", "has a batch axis"),
        (stored(np.zeros((12, 16, 3), np.uint8)), "s.npy", "one class"),  # a picture of labels
        (stored(np.zeros((3, 12, 16), np.int8)), "s.npy", "labels of shape .3, 12, 16.; expected .height, width"),
        (stored(np.array(["a"])), "s.npy", "numbers"),
        (stored(np.zeros((2, 12, 16), np.float32)), "s.pt", "scores end in .npy, .npz"),
    ],
)
def test_other_files_are_refused_as_scores(content: bytes, name: str, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words.replace("(2", r"\(2").replace(")", r"\)")) as refused:
        scores_of(content, name, None, PHOTO, (12, 16))
    assert "crfrnn-web-" not in str(refused.value)


@pytest.mark.parametrize("value", [np.inf, np.nan, 3e38])
def test_labels_are_whole_numbers(value: float) -> None:
    with pytest.raises(TypeError, match=r"^labels must be integer class ids, got dtype float32"):
        scores_of(stored(np.full((12, 16), value, np.float32)), "s.npy", "labels", PHOTO, (12, 16))


def test_archives_that_unpack_to_all_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MOST_NUMBERS", 1_000_000)
    content = stored(None, logits=np.zeros(9_000_000, np.uint8))
    assert len(content) < 100_000
    with pytest.raises(ValueError, match="unpacks to 9 MB; scores may have 8 MB"):
        scores_of(content, "s.npz", None, PHOTO, (12, 16))
    with pytest.raises(ValueError, match="holds 2 million numbers; scores may have 1 million"):
        scores_of(stored(np.zeros((2, 1000, 1000), np.uint8)), "s.npy", None, PHOTO, (12, 16))


def test_what_looks_like_something_else_is_said(rng: np.random.Generator) -> None:
    probabilities = rng.dirichlet(np.ones(3), (12, 16)).transpose(2, 0, 1)
    with pytest.warns(InputWarning, match="as probabilities do"):
        scores_of(stored(probabilities), "s.npy", None, PHOTO, (12, 16))


def test_limits_are_those_of_the_page() -> None:
    assert uploads.MOST_PIXELS == 50_000_000
    assert uploads.MOST_BYTES == 32_000_000
