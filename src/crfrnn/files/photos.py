"""Photos, class scores and results on disk.

Whatever error a decoder raises for a damaged file, callers see a ValueError that names the file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from crfrnn.files.opening import opened_picture
from crfrnn.files.palette import NUM_COLOURS, voc_palette
from crfrnn.files.places import Place
from crfrnn.files.replacement import replacing
from crfrnn.files.tensors import SAFETENSORS, TORCH_SUFFIXES, read_tensors

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
TIFF_SUFFIXES = (".tif", ".tiff")
NIFTI_SUFFIXES = (".nii.gz", ".nii")
TENSOR_SUFFIXES = (*TORCH_SUFFIXES, SAFETENSORS)
ARRAY_SUFFIXES = (".npy", ".npz", *TENSOR_SUFFIXES)
SCORE_NAMES = {"logits": "logits", "scores": None, "probabilities": "probabilities", "softmax": "probabilities"}
"""Names of arrays that hold scores, and what these are; `softmax` and `probabilities` are those of nnU-Net."""
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
UPRIGHT = " (photo turned upright by its EXIF orientation; --as-stored leaves it)"
AS_STORED = " (photo as stored, without its EXIF orientation, like the scores)"
JPEG_QUALITY = 90
NAMES_SHOWN = 5
NO_NUMBERS = "it is no array of numbers; write one with numpy.save, or several with numpy.savez"
BITS_PER_SAMPLE = 258
ORIENTATION = 274
"""The numbers of the TIFF tags."""


def suffix_of(file: Place | str) -> str:
    """The suffix of a file, or of its name, in small letters, ".nii.gz" as one."""
    path = PurePath(file) if isinstance(file, str) else file
    return ".nii.gz" if path.name.lower().endswith(".nii.gz") else str(path.suffix).lower()


def stem_of(file: Place | str) -> str:
    """The name of a file without `suffix_of`."""
    name = file if isinstance(file, str) else str(file.name)
    return name[: len(name) - len(suffix_of(file))]


def read_photo(path: Path) -> NDArray[np.uint8]:
    """An 8-bit photo as RGB (H, W, 3), grey and palette images included; pixels in the order the file stores them."""
    photo = _decoded(path)
    if _is_deep(photo):
        raise ValueError(
            f"{path} has more than 8 bits per pixel value; colour deviations are in levels 0-255: convert it"
        )
    return np.asarray(photo.convert("RGB"))


def read_picture(path: Path) -> NDArray[Any]:
    """A photo turned upright as RGB (H, W, 3), or a grey image of more than 8 bits as (H, W) in its own levels."""
    return oriented_picture(path)[0]


def oriented_picture(
    path: Path, size: Sequence[int] | Literal["as stored"] | None = None, grey: bool = False
) -> tuple[NDArray[Any], str]:
    """What `read_picture` reads, beside something of its size.

    The EXIF orientation is applied, as `crfrnn.files.rgb.load_photo` does.

    Args:
        size: (H, W) of what belongs to the photo. If that has the proportions of the photo as stored, and not those of
            the photo turned upright, it is left as stored. "as stored" always leaves it.
        grey: Leave grey photos of 8 bits as (H, W) too.
    Returns: The pixels, and what was done about the orientation if there is one, for people.
    """
    photo, remark = _decoded(path), ""
    if size != "as stored" and photo.getexif().get(ORIENTATION, 1) != 1:
        upright = ImageOps.exif_transpose(photo)
        if size is None or _proportion_error(upright.size, size) <= _proportion_error(photo.size, size):
            photo, remark = upright, UPRIGHT
        else:
            remark = AS_STORED
    return (np.asarray(photo) if grey and photo.mode == "L" else _levels(photo)), remark


def picture_levels(picture: Image.Image) -> NDArray[Any]:
    """RGB (H, W, 3) of 8 bits; grey of more than 8 bits as (H, W) in its own levels. An EXIF tag turns the picture."""
    return _levels(ImageOps.exif_transpose(picture))


def is_picture(path: Path) -> bool:
    """Whether Pillow reads all of a TIFF: a page of integers in channels that it knows, colours of 8 bits at most."""
    try:
        with opened_picture(path) as image:
            bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))
            whole = getattr(image, "n_frames", 1) == 1 and image.mode != "F"
            return whole and (len(bits) == 1 or max(bits) <= 8)
    except Exception:  # as in _decoded
        return False


def read_labels(path: Path) -> NDArray[np.integer]:
    """Class ids (H, W) of a label image in a lossless format: palette indices or grey levels."""
    return read_label_image(path)[0]


def read_label_image(
    path: Path, advice: str = "--input probabilities"
) -> tuple[NDArray[np.integer], Literal["palette", "grey", "two"]]:
    """What `read_labels` reads, and what it is coloured in: a palette, grey levels, or black and white of one bit.

    Args:
        advice: How the user says that a picture holds probabilities.
    """
    image = _decoded(path)
    if image.format == "JPEG":
        raise ValueError(
            f"{path} is a JPEG, which changes class ids: save the label image as PNG; a JPEG of a mask can be read as "
            f"the probability of the foreground: {advice}"
        )
    return label_levels(image, path)


def label_levels(image: Image.Image, name: object) -> tuple[NDArray[np.integer], Literal["palette", "grey", "two"]]:
    """Class ids (H, W) of a picture, and what it is coloured in.

    Args:
        name: What it is called in messages.
    """
    indexed = _is_indexed(image)
    grey = image if indexed else _grey(name, image)
    if grey is None:
        raise ValueError(
            f"{name} holds colours ({image.mode}), not class ids; save the label image with a palette or in grey levels"
        )
    labels = np.asarray(grey)
    if labels.dtype == bool:
        return labels.astype(np.uint8), "two"
    return labels, "palette" if indexed else "grey"


def read_grey(path: Path) -> NDArray[Any]:
    """Grey levels (H, W) of a picture, 0 for black and the highest of their type for white; or in floating point.

    Raises: ValueError: if it cannot be read, or holds colours.
    """
    return grey_levels(_decoded(path), path)


def grey_levels(image: Image.Image, name: object) -> NDArray[Any]:
    """What `read_grey` reads, of a picture that is called by this name in messages."""
    grey = _grey(name, image)
    if grey is None:
        raise ValueError(f"{name} holds colours ({image.mode}), not grey levels")
    levels = np.asarray(grey)
    return levels if levels.dtype != np.int32 else levels.astype(np.uint16)


def as_shares(levels: NDArray[Any]) -> NDArray[Any]:
    """Unsigned integers as shares of the highest that their type holds; 0 and 1, and other numbers, as they are."""
    if levels.dtype.kind != "u" or levels.max(initial=0) <= 1:
        return levels
    return levels.astype(np.float32) / np.float32(np.iinfo(levels.dtype).max)


def read_array(path: Path, name: str | None = None, mapped: bool = False) -> NDArray[Any]:
    """The array of a file that holds one; or that called `name` of several, or else the one that `named_array` takes.

    Args:
        mapped: Leave the array of an .npy file on disk, as a memory map.
    """
    return named_array(path, name, mapped)[0]


def named_array(path: Path, name: str | None = None, mapped: bool = False) -> tuple[NDArray[Any], str]:
    """What `read_array` reads, and the name of that array in the file, "" if it has none.

    Without a name, that is the first array with one of `SCORE_NAMES`, else the first array of an .npz file, and a
    single tensor of other files.
    """
    if not path.is_file():
        raise ValueError(f"cannot read {path}: there is no such file")
    if path.suffix.lower() in TENSOR_SUFFIXES:
        tensors = read_tensors(path)
        chosen = _chosen(list(tensors), name, path)
        return tensors[chosen], chosen.rpartition(".")[2]
    try:
        if mapped and path.suffix.lower() == ".npy":
            mapping = np.load(path, mmap_mode="r", allow_pickle=False)
            if not isinstance(mapping, np.ndarray):
                raise ValueError("it is an archive of arrays, whose name ends in .npz")
            return mapping, ""
        with path.open("rb") as handle:
            content = np.load(handle, allow_pickle=False)
            if isinstance(content, np.ndarray):
                if name is not None:
                    raise ValueError(f"it holds one array, which has no name such as {name!r}")
                return content, ""
            if not content.files:
                raise ValueError("it holds no array")
            if name is not None and name not in content.files:
                raise ValueError(f"it has no array {name!r}, only {', '.join(content.files)}")
            chosen = name or next((each for each in content.files if each in SCORE_NAMES), content.files[0])
            array = content[chosen]
            if not isinstance(array, np.ndarray):
                raise ValueError(f"what it calls {chosen!r} is no array")
            return array, chosen
    except Exception as error:  # damaged archives raise more kinds than NumPy documents
        # NumPy advises to load anything else as pickled objects, which can run whatever a stranger put there.
        reason = NO_NUMBERS if "pickle" in str(error) or "Python objects" in str(error) else error
        raise ValueError(f"cannot read {path} as an {path.suffix} array: {reason}") from error


def _chosen(names: list[str], name: str | None, path: Path) -> str:
    """The tensor of that name; without one, the only one, or the first that is named like scores."""
    listed = ", ".join(names[:NAMES_SHOWN]) + (", …" if len(names) > NAMES_SHOWN else "")
    if name is not None:
        if name not in names:
            raise ValueError(f"cannot read {path}: it has no tensor {name!r}, only {listed or 'one without a name'}")
        return name
    if len(names) == 1:
        return names[0]
    known = [each for each in names if each.rpartition(".")[2] in SCORE_NAMES]
    if not known:
        raise ValueError(f"{path} holds {len(names)} tensors ({listed}): name the one with the scores by --array")
    return known[0]


def write_labels(path: Path, labels: NDArray[np.integer], palette: NDArray[np.uint8] | None = None) -> None:
    """Class ids as an indexed PNG with the colours of `palette` (256, 3); without one, those of PASCAL VOC."""
    _save(path, label_picture(labels, palette), format="PNG")


def label_picture(labels: NDArray[np.integer], palette: NDArray[np.uint8] | None = None) -> Image.Image:
    """Class ids (H, W) as a picture with a palette, as `write_labels` writes it."""
    if labels.max(initial=0) >= NUM_COLOURS:
        raise ValueError(
            f"class {labels.max()} does not fit a PNG of {NUM_COLOURS} colours; write .npy or .npz instead"
        )
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette((voc_palette() if palette is None else palette).tobytes())
    return image


def write_grey(path: Path, levels: NDArray[np.unsignedinteger]) -> None:
    """Grey levels (H, W) of 8 or 16 bits as PNG."""
    if levels.dtype.itemsize > 2:
        raise ValueError(f"level {levels.max()} does not fit a PNG of 16 bits; write .tif or .npy instead")
    _save(path, Image.fromarray(levels), format="PNG")


def write_picture(path: Path, picture: NDArray[np.uint8] | Image.Image) -> None:
    """An RGB picture as PNG or JPEG, by its suffix."""
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise ValueError(f"cannot write {path}: end its name in one of {', '.join(PICTURE_SUFFIXES)}")
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    if path.suffix.lower() == ".png":
        _save(path, image, format="PNG", optimize=True)
    else:
        _save(path, image, format="JPEG", quality=JPEG_QUALITY, subsampling=0)


def write_probabilities(path: Path, probabilities: NDArray[np.floating]) -> None:
    """Probabilities (C, H, W) as float32, in .npy or, compressed and under the name "probabilities", in .npz."""
    array = probabilities.astype(np.float32, copy=False)
    with replacing(path) as handle:
        if path.suffix.lower() == ".npz":
            np.savez_compressed(handle, probabilities=array)
        else:
            np.save(handle, array)


def _save(path: Path, image: Image.Image, **options: Any) -> None:
    """Encode an image and write it: Pillow itself takes a file for complete of which only a part fits on the disk."""
    encoded = BytesIO()
    image.save(encoded, **options)
    with replacing(path) as handle:
        handle.write(encoded.getbuffer())


def _grey(name: object, image: Image.Image) -> Image.Image | None:
    """An image of one channel, or one in colours that are all grey; None if some are not.

    Raises: ValueError: if they are all the same, and its opacity is not.
    """
    if image.mode in ("1", "L") or _is_deep(image):
        return image
    if image.mode not in ("LA", "P", "RGB", "RGBA"):
        return None
    red, green, blue = image.convert("RGB").split()
    same = np.array_equal(np.asarray(red), np.asarray(green)) and np.array_equal(np.asarray(red), np.asarray(blue))
    if same and image.mode in ("LA", "RGBA") and _is_flat(red) and not _is_flat(image.getchannel("A")):
        raise ValueError(f"{name} is of one colour, and what it shows is in its opacity: save that in grey levels")
    return red if same else None


def _is_flat(grey: Image.Image) -> bool:
    """Whether all pixels have the same level."""
    low, high = grey.getextrema()
    return bool(low == high)


def _is_indexed(image: Image.Image) -> bool:
    """Whether an image has a palette that is neither black and white nor the grey levels themselves."""
    if image.mode != "P":
        return False
    used = [int(index) for index in np.unique(np.asarray(image))]
    palette = image.getpalette("RGB") or []
    colours = [palette[3 * index : 3 * index + 3] for index in used]
    return sorted(colours) != [[0] * 3, [255] * 3] and colours != [[index] * 3 for index in used]


def _proportion_error(size: tuple[int, int], grid: Sequence[int]) -> float:
    """How far a picture of `size` (W, H) is from the proportions of a grid (H, W): 0 if they are equal."""
    return abs(math.log(size[0] * grid[0] / (size[1] * grid[1])))


def _levels(photo: Image.Image) -> NDArray[Any]:
    return np.asarray(photo if _is_deep(photo) else photo.convert("RGB"))


def _is_deep(photo: Image.Image) -> bool:
    return photo.mode == "F" or photo.mode.startswith("I")


def _decoded(path: Path) -> Image.Image:
    if not path.is_file():
        raise ValueError(f"cannot read {path}: there is no such file")
    try:
        with opened_picture(path) as image:
            image.load()
    except MemoryError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error and more for damaged files
        raise ValueError(f"cannot read {path} as an image: {error}") from error
    return image
