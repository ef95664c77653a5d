"""What strangers send: photos and scores, within limits, read by the package's own readers or refused in its words."""

from __future__ import annotations

import base64
import binascii
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crfrnn.arrays import Array
from crfrnn.files.classes import VOID
from crfrnn.files.opening import opened_picture
from crfrnn.files.photos import SCORE_NAMES, named_array
from crfrnn.files.rgb import load_photo
from crfrnn.intake import taken
from crfrnn.numbers import one_of
from crfrnn.refine import Input, unary_of
from crfrnn.upsampling import are_smaller, at_image_size

MOST_BYTES = 32_000_000
"""Of a file."""
MOST_PIXELS = 50_000_000
"""Of a photo."""
MOST_NUMBERS = 64_000_000
"""Of scores: 21 classes on 3 million pixels, and 150 classes on 500×500."""
PHOTO_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
PHOTO_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP")
SCORE_SUFFIXES = (".npy", ".npz")
INPUTS = get_args(Input)
LONGEST_NAME = 80


def content_of(data: Any, name: str) -> bytes:
    """The bytes of a file that a browser sent in base64.

    Raises: ValueError: if it is too large, empty or no base64.
    """
    if not isinstance(data, str):
        raise ValueError(f"{name} did not arrive as a file")
    if len(data) * 3 // 4 > MOST_BYTES + 3:
        raise ValueError(f"{name} has {len(data) * 3 / 4e6:.0f} MB; a file may have {MOST_BYTES / 1e6:.0f} MB")
    try:
        content = base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ValueError(f"{name} did not arrive whole: {error}") from error
    if not content:
        raise ValueError(f"{name} is empty")
    return content


def plain_name(name: Any) -> str:
    """The last part of a name that a browser sent, without what no file is called."""
    last = PurePosixPath(PureWindowsPath(str(name)).as_posix()).name
    plain = re.sub(r"[^\w. ()+-]", "_", last).lstrip(".")
    return plain[-LONGEST_NAME:] or "file"


def photo_of(content: bytes, name: str) -> NDArray[np.uint8]:
    """A photo as RGB (H, W, 3), upright.

    Raises:
        ValueError: if it is no photo of `PHOTO_FORMATS`, is damaged, or has more than `MOST_PIXELS`.
        MemoryError: if there is not enough memory for it.
    """
    with _file(content, name, PHOTO_SUFFIXES, "photos") as path:
        try:
            with opened_picture(path, MOST_PIXELS) as picture:
                kind = picture.format
        except MemoryError:
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, struct.error and more for damaged files
            raise ValueError(f"cannot read {path} as an image: {error}") from error
        if kind not in PHOTO_FORMATS:
            raise ValueError(f"{path} is in the format {kind}; photos come as PNG, JPEG, WebP or BMP")
        return load_photo(path)


def scores_of(
    content: bytes, name: str, input: Input | None, photo: NDArray[np.uint8], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Logits (C, h, w) of at least two classes, at the size of a photo (h, w, 3) that stands for one of `size`.

    Scores may have either size, or be smaller; their axes are told as `crfrnn.refine` tells them.

    Args:
        input: What the scores are; None goes by the name of the array in an .npz file, and by its type.
    Raises:
        TypeError or ValueError: if the file is no array, too large, or does not go with the photo.
        MemoryError: if there is not enough memory.
    """
    with _file(content, name, SCORE_SUFFIXES, "scores") as path:
        if path.suffix.lower() == ".npz":
            _refuse_large_archive(path)
        values, found = named_array(path)
        if values.size > MOST_NUMBERS:
            raise ValueError(
                f"{path} holds {values.size / 1e6:.0f} million numbers; scores may have {MOST_NUMBERS / 1e6:.0f} "
                "million: store them smaller than the photo"
            )
        are_whole = values.dtype.kind in "biu"
        kind: Any = input or SCORE_NAMES.get(found) or ("labels" if are_whole else "logits")
        one_of(kind, INPUTS, "input")
        shown = photo
        if size != photo.shape[:2] and set(size) <= set(values.shape):  # of the photo before it was reduced
            shown = np.asarray(Image.fromarray(photo).resize(size[::-1], Image.Resampling.NEAREST))
        held, indexed = taken(values, shown, kind)
        if held.batched:
            raise ValueError(f"{path} has a batch axis, shape {values.shape}: store the scores of one photo, scores[0]")
        if kind == "labels" and held.scores.ndim != 2:
            raise ValueError(
                f"{path} holds labels of shape {values.shape}; expected (height, width). Scores in whole numbers have "
                "to be chosen as logits"
            )
        count_labels = kind == "labels" and are_whole
        classes = 1 + int(values.max(where=values != VOID, initial=0)) if count_labels else len(held.scores)
        if classes > VOID:  # which may be more than memory holds
            raise ValueError(f"{path} holds {classes} classes; expected 2 to {VOID}")
        unary, binary = unary_of(held.scores, kind, None, _at_size(photo), doubtful=True, indexed=indexed)
        with np.errstate(over="ignore"):
            unary = unary.astype(np.float32, copy=False)
        if not np.isfinite(unary).all():
            raise ValueError(f"{path} holds numbers beyond the range of float32")
        if binary:
            unary = np.concatenate([np.zeros_like(unary), unary])
        if len(unary) < 2:
            raise ValueError(f"{path} holds one class; expected 2 to {VOID}")
        return unary


def _at_size(photo: NDArray[np.uint8]) -> Callable[[Array], Array]:
    """What brings scores (C, h, w) to the size of a photo: bilinearly, as means of all pixels if they are larger."""

    def brought(scores: Array) -> Array:
        if not are_smaller(photo.shape[:2], scores.shape[1:]):
            return at_image_size(scores, photo, "bilinear", None)
        size = photo.shape[1], photo.shape[0]
        planes = [Image.fromarray(plane.astype(np.float32)) for plane in scores]
        return np.stack([np.asarray(plane.resize(size, Image.Resampling.BILINEAR)) for plane in planes])

    return brought


def _refuse_large_archive(path: Path) -> None:
    """Raise a ValueError for an archive that unpacks to more than scores may have: a few bytes can fill all memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(each.file_size for each in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ValueError(f"cannot read {path} as an .npz array: {error}") from error
    if unpacked > 8 * MOST_NUMBERS:
        raise ValueError(
            f"{path} unpacks to {unpacked / 1e6:.0f} MB; scores may have {8 * MOST_NUMBERS / 1e6:.0f} MB: store them "
            "smaller than the photo, or in float16"
        )


@contextmanager
def _file(content: bytes, name: str, suffixes: tuple[str, ...], what: str) -> Iterator[Path]:
    """A file of this content for the package's readers, gone when they are done; errors name it as the user does."""
    if Path(name).suffix.lower() not in suffixes:
        raise ValueError(f"{name} cannot be taken: {what} end in {', '.join(suffixes)}")
    with TemporaryDirectory(prefix="crfrnn-web-") as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        try:
            yield path
        except (TypeError, ValueError, MemoryError) as error:
            kind = next(each for each in (TypeError, MemoryError, ValueError) if isinstance(error, each))
            raise kind(str(error).replace(str(path), name).replace(folder, "")) from None
