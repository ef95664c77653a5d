"""The scores that `crfrnn refine` reads: logits, probabilities, labels and masks, from files of many formats."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from crfrnn.arrays import Shape
from crfrnn.files import tiff
from crfrnn.files.masks import Foreground, Mask, mask_of, refuse_soft_mask
from crfrnn.files.photos import (
    ARRAY_SUFFIXES,
    IMAGE_SUFFIXES,
    NIFTI_SUFFIXES,
    SCORE_NAMES,
    TIFF_SUFFIXES,
    as_shares,
    is_picture,
    named_array,
    read_grey,
    read_label_image,
    suffix_of,
)
from crfrnn.files.volumes import Geometry, read_nifti
from crfrnn.tiles import BLOCK, levels_present, tile_grid
from crfrnn.unary import is_alone, written_unknown
from crfrnn.upsampling import are_proportional, are_smaller

ScoresInput = Literal["logits", "probabilities", "labels"]

INPUT_SUFFIXES = ARRAY_SUFFIXES + NIFTI_SUFFIXES + IMAGE_SUFFIXES
FAINTEST = 32
"""Levels of probabilities below this everywhere, of 8 bits, are taken to be class ids, or of fewer bits than stored."""
MOST_CHANNELS = 4
"""An array with more along its last axis is a volume, not a picture."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Class scores of a file.

    Attributes:
        values: (C, *spatial), or labels (*spatial).
        kind: What they are.
        geometry: Where its voxels lie.
        tags: Tags of a TIFF that say where its pixels lie.
        mask: The mask that they were read from.
        indexed: Whether labels are indices of a palette.
        remark: How they were read, for people.
        path: The file.
        num_classes: Classes of labels, if the user says so.
        guessed: Whether neither the user nor the file says what they are.
    """

    values: Any
    kind: ScoresInput
    geometry: Geometry | None = None
    tags: tiff.Tags = ()
    mask: Mask | None = None
    indexed: bool = False
    remark: str = ""
    path: Path = Path()
    num_classes: int | None = None
    guessed: bool = False

    @property
    def grid(self) -> Shape:
        """The spatial shape."""
        return tuple(self.values.shape if self.kind == "labels" else self.values.shape[1:])

    @property
    def plane(self) -> Shape:
        """The spatial shape if they belong to a picture: without the axis of a batch of one, or of a single slice."""
        return self.grid[-2:]

    def beside(self, image: Any) -> Scores:
        """The same, with the axes that fit an image.

        Scores (1, C, H, W) and (C, 1, H, W) of a picture become (C, H, W), those of one class are `of_one_class`, for a
        picture also if they have fewer pixels.
        """
        values, shape = self.values, tuple(self.values.shape)
        if self.kind == "labels":
            if _has_single_axis(shape, image, 3):
                values = values[0]
            return replace(self, values=values[..., 0] if shape == (*image.shape[:2], 1) else values)
        if _has_single_axis(shape, image, 4):
            values = values[0] if shape[0] == 1 else values[:, 0]
        elif len(shape) == 2 or (shape == image.shape[: len(shape)] and not _is_picture(image)):
            return replace(self, values=values).of_one_class()
        elif shape == (*image.shape[:2], 1):
            return replace(self, values=values[..., 0]).of_one_class()
        elif _is_small_map(shape, image):
            return replace(self, values=np.asarray(values).reshape(shape[:2])).of_one_class()
        if len(values) == 1:
            return replace(self, values=_of_first_class(values)).of_one_class()
        return replace(self, values=values)

    def of_one_class(self) -> Scores:
        """Scores (*spatial) as those of the foreground, (1, *spatial).

        Numbers that are class ids are labels, where nothing says what they are.
        """
        if self.guessed and _are_ids(self.values):
            ids = np.asarray(self.values[(slice(None),) * self.values.ndim])
            ids = ids if ids.dtype.kind in "iu" else ids.astype(np.uint8 if ids.dtype == bool else np.int64)
            return as_mask(replace(self, values=ids, kind="labels"))
        whole = isinstance(self.values, tiff.TiffWindows)
        return replace(self, values=tiff.ClassesFirst(self.values) if whole else self.values[np.newaxis])

    def grid_beside(self, stored: Shape) -> Shape:
        """The spatial shape, beside an image whose file has this shape.

        An array of many slices beside another of the same shape has no classes: both are volumes.
        """
        shape: Shape = tuple(self.values.shape)
        volumes = self.kind != "labels" and len(shape) == 3 and min(shape[0], shape[-1]) > MOST_CHANNELS
        return shape if volumes and shape == stored else self.grid

    def has_classes_last(self, image: Shape) -> bool:
        """Whether these are (H, W, C) beside an array of the picture, (H, W, K)."""
        shape: Shape = tuple(self.values.shape)
        beside = len(shape) == len(image) == 3 and shape[:2] == image[:2] and shape[2] > 1
        return self.kind != "labels" and beside and image[2] <= MOST_CHANNELS < min(image[:2])


def _is_picture(image: Any) -> bool:
    """Whether an image is (H, W), or (H, W, K) of few channels."""
    return bool(image.ndim == 2 or (image.ndim == 3 and image.shape[-1] <= MOST_CHANNELS < image.shape[0]))


def _of_first_class(values: Any) -> Any:
    """Scores (*spatial) of (1, *spatial)."""
    return values.windows if isinstance(values, tiff.ClassesFirst) else values[0]


def _are_ids(values: Any) -> bool:
    """Whether numbers of any type are whole and, in floating point, not below 0; read a block at a time."""
    if np.dtype(values.dtype).kind in "biu":
        return True
    for block in tile_grid(tuple(values.shape), (0,) * len(values.shape), BLOCK):
        part = np.asarray(values[block.core])
        if part.dtype.kind != "f" or not ((part >= 0) & (part == np.rint(part))).all():
            return False
    return True


def _is_small_map(shape: Shape, image: Any) -> bool:
    """Whether scores (h, w) or (h, w, 1) are a foreground of fewer pixels than their picture."""
    flat, grid = shape[:2], tuple(image.shape[:2])
    if len(shape) > 2 and shape[2:] != (1,):
        return False
    return _is_picture(image) and are_smaller(flat, grid) and (image.ndim == 3 or are_proportional(flat, grid))


def _has_single_axis(shape: Shape, image: Any, axes: int) -> bool:
    """Whether scores of this many axes have one of length 1 that their picture does not have."""
    single = len(shape) == axes and 1 in shape[: axes - 2] and shape[-3:] != image.shape[:3]
    return single and _is_picture(image)


def read_scores(
    path: Path, input: ScoresInput | None, array: str | None, num_classes: int | None, mapped: bool
) -> Scores:
    """The scores of a file; see `Reading` for the arguments."""
    suffix = suffix_of(path)
    if suffix not in INPUT_SUFFIXES:
        raise ValueError(f"cannot read {path}: scores come in {', '.join(INPUT_SUFFIXES)}")
    if suffix in NIFTI_SUFFIXES:
        values, geometry = read_nifti(path)
        found = replace(_volume(path, values, input), geometry=geometry)
    elif suffix in TIFF_SUFFIXES and (mapped or not is_picture(path)):
        values, axes = tiff.map_tiff(path, axes=2) if mapped else tiff.read_tiff(path)
        found = _tiff(path, values, axes, input)
    elif suffix in IMAGE_SUFFIXES:
        found = _picture(path, input)
    else:
        found = _array(path, input, array, mapped)
    if suffix in TIFF_SUFFIXES:
        found = replace(found, tags=tiff.georeference(path))
    found = replace(found, path=path, num_classes=num_classes)
    return as_mask(found) if found.kind == "labels" else found


def as_mask(labels: Scores) -> Scores:
    """Labels; as 0 and 1 if they are those of a mask. A ValueError for a soft mask, and for labels of one class."""
    if labels.mask is not None or np.dtype(labels.values.dtype).kind not in "iu":
        return labels
    path, num_classes = labels.path, labels.num_classes
    if num_classes == 1:
        raise ValueError(
            f"{path} holds labels, which --num-classes 1 would make class 0 everywhere; a mask has 2 classes, of which "
            "one is the background: leave the option out"
        )
    present = levels_present(labels.values)
    if num_classes not in (None, 2):
        return labels
    found = mask_of(present, labels.indexed, suffix_of(path) in IMAGE_SUFFIXES)
    if found is not None:
        values = Foreground(labels.values, found.foreground)
        in_memory = not isinstance(labels.values, np.memmap | tiff.TiffWindows)
        remark = f" (a mask, {found.foreground} is the foreground)"
        return replace(labels, values=values[...] if in_memory else values, mask=found, remark=remark)
    if num_classes is None and is_alone(present.tolist()):
        hint = "" if labels.indexed else "; for a mask store 0 and 255"
        raise ValueError(
            f"{path} holds one class alone, and {written_unknown(present.tolist())}: give --num-classes{hint}"
        )
    if not labels.indexed and isinstance(labels.values, np.ndarray):
        refuse_soft_mask(path, labels.values, present)
    return labels


def _picture(path: Path, input: ScoresInput | None) -> Scores:
    """Labels of a label image, or the probability of the foreground in grey."""
    if input == "probabilities":
        remark = " (grey levels are the foreground's probability)"
        return Scores(_probabilities(path, read_grey(path))[np.newaxis], input, mask=Mask(), remark=remark)
    if input == "logits":
        raise ValueError(
            f"{path} is an image, which can only hold labels, a mask, or with --input probabilities the probability of "
            "the foreground; logits come in .npy or .npz"
        )
    labels, colours = read_label_image(path)
    if colours == "two":
        return Scores(labels, "labels", mask=Mask())
    return Scores(labels, "labels", indexed=colours == "palette")


def _array(path: Path, input: ScoresInput | None, name: str | None, mapped: bool) -> Scores:
    values, found = named_array(path, name, mapped)
    known: Any = SCORE_NAMES.get(found)
    kind: ScoresInput = input or known or "logits"
    if kind == "probabilities" and values.dtype.kind in "biu":
        return Scores(_probabilities(path, values), kind)
    if kind == "labels" and values.dtype == bool:
        values = values.astype(np.uint8)
    return Scores(values, kind, guessed=not (input or known))


def _probabilities(path: Path, values: Any) -> Any:
    """Probabilities, of levels such as 0 to 255 too. A ValueError for what are class ids."""
    if np.dtype(values.dtype).kind == "u":
        highest, white = values.max(), np.iinfo(values.dtype).max
        if 1 < highest < FAINTEST * (white / 255):
            raise ValueError(
                f"{path} holds whole numbers up to {highest}; probabilities are 0 to 1, or levels of which the highest "
                f"is {white}: for class ids or a mask of two levels give --input labels, otherwise bring them to that"
            )
    return as_shares(values)


def _volume(path: Path, values: NDArray[Any], input: ScoresInput | None) -> Scores:
    """Voxels of a NIfTI file as scores (C, Z, Y, X). With fewer axes, whole numbers are labels and others one channel.

    Labels are saved in floating point as often as in integers.
    """
    if values.ndim == 4 and input != "labels":
        return Scores(values, input or "logits")
    whole = values.dtype.kind != "f" or bool((values == np.rint(values)).all())
    if input == "labels" or (input is None and whole):
        return Scores(values.astype(np.int64) if whole and values.dtype.kind == "f" else values, "labels")
    values = _probabilities(path, values) if input == "probabilities" else values
    return Scores(values[np.newaxis], input or "logits")


def _tiff(path: Path, values: Any, axes: str, input: ScoresInput | None) -> Scores:
    """A TIFF of many pages or channels as scores: labels if integers, else scores with the classes first."""
    floating = np.dtype(values.dtype).kind == "f"
    if input == "labels" or (input is None and not floating):
        if "S" in axes:
            raise ValueError(f"{path} has {values.shape[axes.index('S')]} channels; class ids come in one")
        if isinstance(values, tiff.TiffWindows) and values.ndim > 2:  # the pages of a volume
            values, _ = tiff.read_tiff(path)
        return Scores(values, "labels")
    if isinstance(values, tiff.TiffWindows):
        if not floating:
            raise ValueError(f"{path} holds whole numbers; scores that are read in parts are in floating point")
        return Scores(tiff.ClassesFirst(values), input or "logits", guessed=input is None)
    if "S" in axes or "C" in axes:
        values = np.moveaxis(values, max(axes.find("S"), axes.find("C")), 0)
    elif values.ndim == 2 or "Z" in axes:
        values = values[np.newaxis]
    values = _probabilities(path, values) if input == "probabilities" else values
    return Scores(values, input or "logits", guessed=input is None)
