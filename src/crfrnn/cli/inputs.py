"""What `crfrnn refine` reads: class scores and the image that they belong to, from files of any supported format."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from crfrnn.arrays import Shape, score_array
from crfrnn.files import tiff
from crfrnn.files.photos import (
    ARRAY_SUFFIXES,
    IMAGE_SUFFIXES,
    NIFTI_SUFFIXES,
    TIFF_SUFFIXES,
    is_picture,
    read_array,
    read_labels,
    read_picture,
    suffix_of,
)
from crfrnn.files.resize import resize_scores, seem_square
from crfrnn.files.volumes import Geometry, check_same_grid, read_nifti
from crfrnn.upsampling import Method, upsample

ScoresInput = Literal["logits", "probabilities", "labels"]

INPUT_SUFFIXES = ARRAY_SUFFIXES + NIFTI_SUFFIXES + IMAGE_SUFFIXES


@dataclass(frozen=True, eq=False)
class Pair:
    """Scores and image as `refine` takes them.

    Attributes:
        scores: (C, *spatial), or labels (*spatial).
        kind: What the scores are.
        image: (*spatial, K) or (*spatial,).
        geometry: Geometry of the image or, if it has none, of the scores.
        remark: What was done to them, printed after the sizes.
    """

    scores: Any
    kind: ScoresInput
    image: Any
    geometry: Geometry | None
    remark: str = ""

    @property
    def grid(self) -> Shape:
        """The spatial shape."""
        return tuple(self.scores.shape if self.kind == "labels" else self.scores.shape[1:])

    @property
    def least_classes(self) -> int:
        """2 if the scores are those of the foreground alone."""
        return 2 if self.kind != "labels" and len(self.scores) == 1 else 1


def read_pair(
    scores_path: Path,
    image_path: Path,
    input: ScoresInput | None,
    array: str | None,
    square: bool = False,
    mapped: bool = False,
    upsampling: Method = "bilinear",
) -> Pair:
    """Scores and image of two files.

    Args:
        input: What the user says the scores are.
        array: The array of an .npz file.
        square: Whether scores cover a square with the photo at its top left, its longer side filling it.
        mapped: Open .npy and TIFF files as memory maps or windows without reading them, and do not resize scores.
        upsampling: How scores smaller than a photo are brought to its size.
    Raises:
        ValueError: if a file cannot be read, or they do not belong together.
        ImportError: if the library for a format is missing.
    """
    scores, kind, scores_geometry = read_scores(scores_path, input, array, mapped)
    grid = tuple(scores.shape if kind == "labels" else scores.shape[1:])
    image, image_geometry = read_image(image_path, grid, mapped)
    geometries = (scores_geometry, image_geometry)
    check_same_grid(scores_path, image_path, (grid, tuple(image.shape[: len(grid)])), geometries)
    remark = ""
    if kind != "labels" and scores.ndim == 3 and not mapped:
        scores, remark = stretch(score_array(scores, "scores"), image, square, upsampling)
    return Pair(scores, kind, image, image_geometry or scores_geometry, remark)


def read_scores(
    path: Path, input: ScoresInput | None, array: str | None, mapped: bool
) -> tuple[Any, ScoresInput, Geometry | None]:
    """The scores of a file, what they are, and where its voxels lie."""
    suffix = suffix_of(path)
    if suffix in NIFTI_SUFFIXES:
        values, geometry = read_nifti(path)
        return *_volume_scores(values, input), geometry
    if suffix in TIFF_SUFFIXES and (mapped or not is_picture(path)):
        values, axes = tiff.map_tiff(path, axes=2) if mapped else tiff.read_tiff(path)
        return *_tiff_scores(path, values, axes, input), None
    if suffix in IMAGE_SUFFIXES:
        if input not in (None, "labels"):
            raise ValueError(f"{path} is an image, which can only hold labels; {input} come in .npy or .npz")
        return read_labels(path), "labels", None
    if suffix not in ARRAY_SUFFIXES:
        raise ValueError(f"cannot read {path}: scores come in {', '.join(INPUT_SUFFIXES)}")
    return read_array(path, array, mapped), input or "logits", None


def read_image(path: Path, grid: Shape, mapped: bool) -> tuple[Any, Geometry | None]:
    """The image of a file, channels last, and where its voxels lie.

    Args:
        grid: The spatial shape of its scores.
    """
    suffix = suffix_of(path)
    if suffix in NIFTI_SUFFIXES:
        values, geometry = read_nifti(path)
        return (np.moveaxis(values, 0, -1) if values.ndim == 4 else values), geometry
    if suffix in ARRAY_SUFFIXES:
        return read_array(path, None, mapped), None
    if suffix in TIFF_SUFFIXES and mapped:
        values, axes = tiff.map_tiff(path, len(grid))
        photo = tiff.is_photo(path)
        if isinstance(values, tiff.TiffWindows):
            return replace(values, photo=photo), None
        values = tiff.channels_last(values, axes, grid)
        return tiff.rgb(values) if photo else values, None
    if suffix in TIFF_SUFFIXES and not is_picture(path):
        return tiff.channels_last(*tiff.read_tiff(path), grid), None
    return read_picture(path), None


def stretch(
    scores: NDArray[Any], image: NDArray[Any], square: bool, upsampling: Method = "bilinear"
) -> tuple[NDArray[Any], str]:
    """Scores at the image's size, and a remark if they were stretched. Larger ones are left for `refine` to refuse."""
    if scores.shape[:2] == image.shape[:2]:
        raise ValueError(f"scores have shape {scores.shape}; expected classes first: use np.moveaxis(scores, -1, 0)")
    (height, width), size = scores.shape[1:], (image.shape[0], image.shape[1])
    covered = (max(size), max(size)) if square else size
    if (height, width) == size or height > covered[0] or width > covered[1]:
        return scores, ""
    hint = "; if they cover a square, give --square-scores" if not square and seem_square(scores.shape, size) else ""
    if upsampling == "bilinear":
        return resize_scores(scores, size, square), f" (scores stretched from {width}×{height}{hint})"
    if square and height != width:
        raise ValueError(f"scores have shape {scores.shape}, which covers no square; expected (classes, side, side)")
    remark = f" (scores upsampled from {width}×{height} along the photo's edges{hint})"
    return upsample(scores, image, covers=covered), remark


def _volume_scores(values: NDArray[Any], input: ScoresInput | None) -> tuple[NDArray[Any], ScoresInput]:
    """Voxels of a NIfTI file as scores (C, Z, Y, X). With fewer axes, whole numbers are labels and others one channel.

    Labels are saved in floating point as often as in integers.
    """
    if values.ndim == 4 and input != "labels":
        return values, input or "logits"
    whole = values.dtype.kind != "f" or bool((values == np.rint(values)).all())
    if input == "labels" or (input is None and whole):
        return (values.astype(np.int64) if whole and values.dtype.kind == "f" else values), "labels"
    return values[np.newaxis], input or "logits"


def _tiff_scores(path: Path, values: Any, axes: str, input: ScoresInput | None) -> tuple[Any, ScoresInput]:
    """A TIFF of many pages or channels as scores: labels if integers, else scores with the classes first."""
    floating = np.dtype(values.dtype).kind == "f"
    if input == "labels" or (input is None and not floating):
        if "S" in axes:
            raise ValueError(f"{path} has {values.shape[axes.index('S')]} channels; class ids come in one")
        return values, "labels"
    if isinstance(values, tiff.TiffWindows):
        raise ValueError(f"{path} is a compressed TIFF of scores: save them in .npy to read them in parts")
    if "S" in axes or "C" in axes:
        values = np.moveaxis(values, max(axes.find("S"), axes.find("C")), 0)
    elif values.ndim == 2 or "Z" in axes:
        values = values[np.newaxis]
    return values, input or "logits"
