"""What `crfrnn refine` reads: class scores and the image that they belong to, from files of any supported format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.arrays import Shape, label_array, score_array
from crfrnn.cli.scores import Scores, ScoresInput, read_scores
from crfrnn.files import tiff
from crfrnn.files.masks import Mask
from crfrnn.files.naming import Naming
from crfrnn.files.nnunet import put_back
from crfrnn.files.photos import (
    ARRAY_SUFFIXES,
    AS_STORED,
    NIFTI_SUFFIXES,
    TIFF_SUFFIXES,
    UPRIGHT,
    is_picture,
    oriented_picture,
    read_array,
    stem_of,
    suffix_of,
)
from crfrnn.files.resize import resize_scores, seem_square
from crfrnn.files.volumes import Geometry, check_same_grid, read_nifti
from crfrnn.refine import label_count
from crfrnn.unary import unary_from_labels
from crfrnn.upsampling import LEAST_STRIDE, Method, are_smaller, upsample

SQUARE_HINT = "; if they cover a square, give --square-scores"
NOTES = {
    SQUARE_HINT: "the scores are square and the photo is not; if they cover photos padded to a square, give "
    "--square-scores",
    UPRIGHT: "turned upright by the EXIF orientation; --as-stored leaves photos as they are",
    AS_STORED: "left as stored, without the EXIF orientation, since that has the proportions of the scores",
}
"""What remarks of single pairs mean for a folder."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Scores and image as `refine` takes them.

    Attributes:
        scores: (C, *spatial), or labels (*spatial).
        kind: What the scores are.
        image: (*spatial, K) or (*spatial,).
        geometry: Geometry of the image or, if it has none, of the scores.
        tags: Tags of the image's TIFF or, if it has none, of the scores', that say where it lies.
        mask: The mask that the scores were read from.
        name: What the image is called.
        classes: Names of the classes, if the user gives some.
        remark: What was done to them, printed after the sizes.
        notes: What of it is worth telling of a folder.
    """

    scores: Any
    kind: ScoresInput
    image: Any
    geometry: Geometry | None = None
    tags: tiff.Tags = ()
    mask: Mask | None = None
    name: str = ""
    classes: Naming | None = None
    remark: str = ""
    notes: tuple[str, ...] = ()

    @property
    def grid(self) -> Shape:
        """The spatial shape."""
        return tuple(self.scores.shape if self.kind == "labels" else self.scores.shape[1:])

    @property
    def least_classes(self) -> int:
        """2 if the scores are those of the foreground alone, or of a mask."""
        return 2 if self.mask is not None or (self.kind != "labels" and len(self.scores) == 1) else 1


@dataclass(frozen=True)
class Reading:
    """How scores and images are read.

    Attributes:
        input: What the user says the scores are; None means what their file suggests.
        array: The array of a file that holds several.
        num_classes: Classes of labels, if the user says so.
        square: Whether scores cover a square with the photo at its top left, its longer side filling it.
        mapped: Open .npy and TIFF files as memory maps or windows without reading them, and do not resize scores.
        upsampling: How scores smaller than a photo are brought to its size.
        as_stored: Leave photos as their files store them, without their EXIF orientation.
        classes: Names of the classes, if the user gives some.
    """

    input: ScoresInput | None = None
    array: str | None = None
    num_classes: int | None = None
    square: bool = False
    mapped: bool = False
    upsampling: Method = "bilinear"
    as_stored: bool = False
    classes: Naming | None = None

    def pair(self, scores_path: Path, image_paths: Sequence[Path]) -> Pair:
        """Scores and image of two files, or of more if channels of the image lie in several.

        Raises:
            ValueError: if a file cannot be read, or they do not belong together.
            ImportError: if the library for a format is missing.
        """
        scores = self.scores(scores_path)
        image, geometry, tags, remark = self._image(image_paths, scores)
        if not 0 < len(scores.grid) <= image.ndim:
            found, expected = (image_paths[0], image) if scores.grid else (scores_path, scores.values)
            what = "an image (H, W) or (H, W, K), or a volume" if scores.grid else "scores (C, H, W) or labels (H, W)"
            raise ValueError(f"{found} has shape {tuple(expected.shape)}; expected {what}")
        if 0 in scores.grid:
            raise ValueError(f"{scores_path} has shape {tuple(scores.values.shape)}, without a single pixel")
        scores = scores.beside(image)
        if (
            self.classes is not None
            and scores.kind != "labels"
            and len(scores.values) not in (1, self.classes.num_classes)
        ):
            count = self.classes.num_classes
            raise ValueError(f"{scores_path} has scores of {len(scores.values)} classes, but --classes names {count}")
        grids = scores.grid, tuple(image.shape[: len(scores.grid)])
        if is_crop(scores, grids[1]):
            scores = replace(scores, values=put_back(scores_path, scores.values, grids[1]))
            grids = grids[1], grids[1]
        check_same_grid(scores_path, image_paths[0], grids, (scores.geometry, geometry))
        if not self.mapped:
            scores = self.stretched(scores, image)
        elif are_smaller(scores.grid, grids[1]):
            sizes = [" × ".join(map(str, grid)) for grid in (scores.grid, grids[1])]
            raise ValueError(
                f"{scores_path} is {sizes[0]} pixels and {image_paths[0]} {sizes[1]}: tiles take scores at the size of "
                "the image. Without --tile, --memory and --overlap they are stretched; or give scores of that size"
            )
        return Pair(
            scores.values,
            scores.kind,
            image,
            geometry or scores.geometry,
            tags or scores.tags,
            scores.mask,
            stem_of(image_paths[0]),
            self.classes,
            remark=remark + scores.remark,
            notes=tuple(note for hint, note in NOTES.items() if hint in remark + scores.remark),
        )

    def scores(self, path: Path) -> Scores:
        """The scores of a file alone."""
        return read_scores(path, self.input, self.array, self.num_classes, self.mapped)

    def stretched(self, scores: Scores, image: Any) -> Scores:
        """Scores of a picture at its size; labels of fewer pixels as the logits that they stand for."""
        if len(scores.grid) != 2:
            return scores
        if scores.kind == "labels":
            covered = (max(image.shape[:2]),) * 2 if self.square else tuple(image.shape[:2])
            if not are_smaller(scores.grid, covered, LEAST_STRIDE):
                return scores
            labels = label_array(scores.values)
            count = 2 if scores.mask is not None else self.num_classes or label_count(labels)
            logits = unary_from_labels(labels, count, zero_unsure=False)
            scores = replace(scores, values=logits, kind="logits")
        values, remark = stretch(score_array(scores.values, "scores"), image, self.square, self.upsampling)
        return replace(scores, values=values, remark=scores.remark + remark)

    def _image(self, paths: Sequence[Path], scores: Scores) -> tuple[Any, Geometry | None, tiff.Tags, str]:
        """The image of one file, or of several as its channels; see `_image_of`."""
        if len(paths) == 1:
            return self._image_of(paths[0], scores)
        axes = len(scores.grid)
        parts = [self._image_of(path, scores, grey=True) for path in paths]
        images = [image if image.ndim > axes else np.asarray(image)[..., np.newaxis] for image, *_ in parts]
        for path, image, (_, geometry, _, _) in zip(paths, images, parts, strict=True):
            if image.shape[:-1] != images[0].shape[:-1]:
                raise ValueError(
                    f"{paths[0]} has shape {images[0].shape[:-1]} and {path} {image.shape[:-1]}; the channels of an "
                    "image have the same size"
                )
            check_same_grid(path, paths[0], (image.shape[:-1], images[0].shape[:-1]), (geometry, parts[0][1]))
        return np.concatenate(images, axis=-1), *parts[0][1:]

    def _image_of(self, path: Path, scores: Scores, grey: bool = False) -> tuple[Any, Geometry | None, tiff.Tags, str]:
        """The image of a file, channels last; where its voxels or its pixels lie; and what was done to it.

        Args:
            grey: Leave grey photos as they are, (H, W), instead of RGB.
        """
        suffix = suffix_of(path)
        if suffix in NIFTI_SUFFIXES:
            values, geometry = read_nifti(path)
            return (np.moveaxis(values, 0, -1) if values.ndim == 4 else values), geometry, (), ""
        if suffix in ARRAY_SUFFIXES:
            array = read_array(path, None, self.mapped)
            if scores.has_classes_last(array.shape):
                raise ValueError(
                    f"{scores.path} has shape {tuple(scores.values.shape)} and {path} {array.shape}: scores are stored "
                    "with the classes first, np.moveaxis(scores, -1, 0)"
                )
            return tiff.channels_last(array, "", scores.grid_beside(array.shape), last=True), None, (), ""
        if suffix in TIFF_SUFFIXES:
            tags = tiff.georeference(path) if path.is_file() else ()
            return self._tiff(path, scores, grey), None, tags, ""
        size = None if self.square or len(scores.plane) != 2 else scores.plane
        photo, remark = oriented_picture(path, "as stored" if self.as_stored else size, grey)
        return photo, None, (), remark

    def _tiff(self, path: Path, scores: Scores, grey: bool) -> Any:
        if self.mapped:
            values, axes = tiff.map_tiff(path, len(scores.grid))
            photo = tiff.is_photo(path)
            if isinstance(values, tiff.TiffWindows):
                return replace(values, photo=photo)
            values = tiff.channels_last(values, axes, scores.grid_beside(values.shape))
            return tiff.rgb(values) if photo else values
        if not is_picture(path):
            values, axes = tiff.read_tiff(path)
            return tiff.channels_last(values, axes, scores.grid_beside(values.shape))
        return oriented_picture(path, grey=grey)[0]


def is_crop(scores: Scores, grid: Shape) -> bool:
    """Whether scores are those of a part of a volume, as nnU-Net 1 writes them."""
    smaller = all(length <= whole for length, whole in zip(scores.grid, grid, strict=True)) and scores.grid != grid
    archive = suffix_of(scores.path) == ".npz" and scores.path.with_suffix(".pkl").is_file()
    return smaller and archive and scores.kind == "probabilities" and len(grid) == 3


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
    hint = SQUARE_HINT if not square and seem_square(scores.shape, size) else ""
    if upsampling == "bilinear":
        return resize_scores(scores, size, square), f" (scores stretched from {width}×{height}{hint})"
    if square and height != width:
        raise ValueError(f"scores have shape {scores.shape}, which covers no square; expected (classes, side, side)")
    remark = f" (scores upsampled from {width}×{height} along the photo's edges{hint})"
    return upsample(scores, image, covers=covered), remark
