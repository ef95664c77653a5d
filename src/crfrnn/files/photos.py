"""Photos, class scores and results on disk.

Whatever error a decoder raises for a damaged file, callers see a ValueError that names the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from crfrnn.files.palette import NUM_COLOURS, voc_palette

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
TIFF_SUFFIXES = (".tif", ".tiff")
NIFTI_SUFFIXES = (".nii.gz", ".nii")
ARRAY_SUFFIXES = (".npy", ".npz")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
JPEG_QUALITY = 90
BITS_PER_SAMPLE = 258
"""The number of the TIFF tag."""


def suffix_of(path: Path) -> str:
    """The suffix of a file name in small letters, ".nii.gz" as one."""
    return ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()


def stem_of(path: Path) -> str:
    """The file name without `suffix_of`."""
    return path.name[: len(path.name) - len(suffix_of(path))]


def read_photo(path: Path) -> NDArray[np.uint8]:
    """An 8-bit photo as RGB (H, W, 3), grey and palette images included; pixels in the order the file stores them."""
    photo = _decoded(path)
    if _is_deep(photo):
        raise ValueError(
            f"{path} has more than 8 bits per pixel value; colour deviations are in levels 0-255: convert it"
        )
    return np.asarray(photo.convert("RGB"))


def read_picture(path: Path) -> NDArray[Any]:
    """A photo upright, as its EXIF tag says: `picture_levels` of a file."""
    return picture_levels(_decoded(path))


def picture_levels(picture: Image.Image) -> NDArray[Any]:
    """RGB (H, W, 3) of 8 bits; grey of more than 8 bits as (H, W) in its own levels. An EXIF tag turns the picture."""
    upright = ImageOps.exif_transpose(picture)
    return np.asarray(upright if _is_deep(upright) else upright.convert("RGB"))


def is_picture(path: Path) -> bool:
    """Whether Pillow reads all of a TIFF: a page of integers in channels that it knows, colours of 8 bits at most."""
    try:
        with Image.open(path) as image:
            bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))
            whole = getattr(image, "n_frames", 1) == 1 and image.mode != "F"
            return whole and (len(bits) == 1 or max(bits) <= 8)
    except Exception:  # as in _decoded
        return False


def read_labels(path: Path) -> NDArray[np.integer]:
    """Class ids (H, W) of a label image in a lossless format: palette indices or grey levels."""
    image = _decoded(path)
    if image.format == "JPEG":
        raise ValueError(f"{path} is a JPEG, which changes class ids; save the label image as PNG")
    if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
        raise ValueError(
            f"{path} holds colours ({image.mode}), not class ids; save the label image with a palette or in grey levels"
        )
    labels = np.asarray(image)
    return labels.astype(np.uint8) if labels.dtype == bool else labels


def read_array(path: Path, name: str | None = None, mapped: bool = False) -> NDArray[Any]:
    """The array of an .npy file; or that called `name` in an .npz file, or its first one if no name is given.

    Args:
        mapped: Leave the array of an .npy file on disk, as a memory map.
    """
    if not path.is_file():
        raise ValueError(f"cannot read {path}: there is no such file")
    try:
        if mapped and path.suffix.lower() == ".npy":
            mapping: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
            return mapping
        with path.open("rb") as handle:
            content = np.load(handle, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return content
            if not content.files:
                raise ValueError("it holds no array")
            if name is not None and name not in content.files:
                raise ValueError(f"it has no array {name!r}, only {', '.join(content.files)}")
            array: NDArray[Any] = content[name or content.files[0]]
            return array
    except Exception as error:  # damaged archives raise more kinds than NumPy documents
        raise ValueError(f"cannot read {path} as an {path.suffix} array: {error}") from error


def write_labels(path: Path, labels: NDArray[np.integer], palette: NDArray[np.uint8] | None = None) -> None:
    """Class ids as an indexed PNG with the colours of `palette` (256, 3); without one, those of PASCAL VOC."""
    if labels.max(initial=0) >= NUM_COLOURS:
        raise ValueError(
            f"class {labels.max()} does not fit a PNG of {NUM_COLOURS} colours; write .npy or .npz instead"
        )
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette((voc_palette() if palette is None else palette).tobytes())
    with replacing(path) as handle:
        image.save(handle, format="PNG")


def write_picture(path: Path, picture: NDArray[np.uint8] | Image.Image) -> None:
    """An RGB picture as PNG or JPEG, by its suffix."""
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise ValueError(f"cannot write {path}: end its name in one of {', '.join(PICTURE_SUFFIXES)}")
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    with replacing(path) as handle:
        if path.suffix.lower() == ".png":
            image.save(handle, format="PNG", optimize=True)
        else:
            image.save(handle, format="JPEG", quality=JPEG_QUALITY, subsampling=0)


def write_probabilities(path: Path, probabilities: NDArray[np.floating]) -> None:
    """Probabilities (C, H, W) as float32, in .npy or, compressed and under the name "probabilities", in .npz."""
    array = probabilities.astype(np.float32, copy=False)
    with replacing(path) as handle:
        if path.suffix.lower() == ".npz":
            np.savez_compressed(handle, probabilities=array)
        else:
            np.save(handle, array)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of `path` once complete, so that no reader ever sees half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("w+b") as handle:
                yield handle
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error


def _is_deep(photo: Image.Image) -> bool:
    return photo.mode == "F" or photo.mode.startswith("I")


def _decoded(path: Path) -> Image.Image:
    if not path.is_file():
        raise ValueError(f"cannot read {path}: there is no such file")
    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error and more for damaged files
        raise ValueError(f"cannot read {path} as an image: {error}") from error
    return image
