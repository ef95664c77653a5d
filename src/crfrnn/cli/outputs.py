"""What `crfrnn refine` writes: labels or probabilities, in the files that suit them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from crfrnn.arrays import Shape
from crfrnn.cli.inputs import Pair
from crfrnn.cli.usage import UsageError
from crfrnn.files.coco import write_results
from crfrnn.files.photos import (
    NIFTI_SUFFIXES,
    PICTURE_SUFFIXES,
    TIFF_SUFFIXES,
    stem_of,
    suffix_of,
    write_grey,
    write_labels,
    write_picture,
    write_probabilities,
)
from crfrnn.files.places import Place
from crfrnn.files.replacement import replacing
from crfrnn.files.tiff import create_tiff, write_tiff
from crfrnn.files.volumes import write_nifti
from crfrnn.pictures import MASK_CLASSES, reduced_overlay
from crfrnn.refine import label_dtype
from crfrnn.tiles import BLOCK, release_pages, tile_grid

FORMAT_SUFFIXES = {
    "npy": (".npy",),
    "npz": (".npz",),
    "labels": (".png", ".nii.gz", ".tif", ".nii", ".tiff", ".npy"),
    "overlay": (".jpg", ".jpeg", ".png"),
    "nii": (".nii.gz", ".nii"),
    "coco": (".json",),
}
"""The formats and their file suffixes. A suffix alone means the first format that has it."""
RESULT_SUFFIXES = tuple(sorted({suffix for suffixes in FORMAT_SUFFIXES.values() for suffix in suffixes}))
LABELS = ("labels", "overlay", "coco")
"""The formats that hold labels; the others hold probabilities."""
GEOTIFF_LOST = "a picture does not hold the place of a GeoTIFF"


def folder_suffixes(output_format: str) -> tuple[str, ...]:
    """The endings that file names of results in a format may have in a folder."""
    return FORMAT_SUFFIXES[output_format][: 3 if output_format == "labels" else 1]


def folder_suffix(output_format: str, pair: Pair) -> str:
    """The ending of the result's file name: labels are NIfTI where voxels lie somewhere, TIFF of GeoTIFF and stacks."""
    picture, nifti, tiff = folder_suffixes("labels")
    if output_format != "labels":
        return folder_suffixes(output_format)[0]
    if pair.geometry is not None:
        return nifti
    return tiff if len(pair.grid) > 2 or pair.tags else picture


def lost_place(path: Path, pair: Pair) -> str:
    """What to say if a picture of labels does not hold where the pixels of its image lie; "" if nothing is lost.

    Nobody expects that of arrays.
    """
    if suffix_of(path) not in PICTURE_SUFFIXES:
        return ""
    if pair.tags:
        return f"{GEOTIFF_LOST}: labels that end in .tif keep it"
    if pair.geometry is not None:
        return "a picture does not hold the place and size of the pixels of NIfTI: labels that end in .nii.gz keep them"
    return ""


def check_result(path: Path, output_format: str, pair: Pair) -> None:
    """Raise a ValueError if the result of a pair will not suit the file or the format."""
    axes, colours = len(pair.grid), tuple(pair.image.shape)
    if colours[:axes] != pair.grid:
        return  # `refine` says so
    if pair.classes is not None and output_format != "overlay":
        raise ValueError(f"--classes name the classes of an overlay, and {path} is none: leave them out")
    if output_format == "overlay" and (pair.image.dtype != np.uint8 or len(colours) != 3 or colours[2] != 3):
        raise ValueError(
            f"an overlay tints an 8-bit photo, and this image is {pair.image.dtype} {colours}: write labels"
        )
    if output_format == "coco" and axes > 2:
        raise ValueError(f"labels of a volume {pair.grid} are no masks of COCO, which have two axes: write labels")
    if output_format == "labels" and suffix_of(path) == ".png" and axes > 2:
        raise ValueError(f"labels of a volume {pair.grid} do not fit {path}: end its name in .nii.gz, .tif or .npy")


def write_result(
    path: Path, output_format: str, values: NDArray[Any], pair: Pair, spacing: Sequence[float] | None
) -> None:
    """Write labels (*spatial) for the formats in `LABELS`, otherwise probabilities (C, *spatial).

    Labels of a mask are written in its levels.

    Args:
        spacing: Spacing of voxels without a geometry.
    Raises: ValueError: if a class id does not fit the file; `check_result` says before what else does not suit.
    """
    suffix = suffix_of(path)
    if output_format == "labels" and pair.mask is not None:
        values = pair.mask.levels[values]
    if output_format == "coco":
        write_results(path, values, pair.name)
    elif output_format == "overlay":
        classes = MASK_CLASSES if pair.classes is None and pair.least_classes == 2 else pair.classes
        write_picture(path, reduced_overlay(np.asarray(pair.image[:, :]), values, classes))
    elif output_format in ("npy", "npz"):
        write_probabilities(path, values)
    elif output_format == "nii":
        # The class axis is the fourth in a file. A picture has no third axis, so one is added; one class needs neither.
        volume = values[:, np.newaxis] if values.ndim == 3 and len(values) > 1 else values
        write_nifti(path, volume[0] if len(volume) == 1 else volume, pair.geometry, spacing)
    elif suffix in NIFTI_SUFFIXES:
        write_nifti(path, values, pair.geometry, spacing)
    elif suffix in TIFF_SUFFIXES:
        write_tiff(path, values, pair.tags)
    elif suffix == ".npy":
        with replacing(path) as handle:
            np.save(handle, values)
    elif pair.mask is not None:
        write_grey(path, values)
    else:
        write_labels(path, values)


def result_dtype(output_format: str, classes: int, pair: Pair) -> np.dtype[Any]:
    """The type of the numbers that `write_result` writes."""
    if output_format not in LABELS:
        return np.dtype(np.float32)
    return label_dtype(classes) if pair.mask is None else pair.mask.levels.dtype


def is_mapped(path: Path) -> bool:
    """Whether a result in this file is written a part at a time."""
    return suffix_of(path) in (".npy", *TIFF_SUFFIXES)


@contextmanager
def result_array(
    path: Path, output_format: str, shape: Shape, dtype: DTypeLike, pair: Pair, spacing: Sequence[float] | None
) -> Iterator[NDArray[Any]]:
    """An array to be filled with what `write_result` writes: on disk where the file allows it, else in memory.

    The file takes the place of `path` once the array is complete.
    """
    if not is_mapped(path):
        array = np.empty(shape, dtype)
        yield array
        write_result(path, output_format, array, pair, spacing)
        return
    with replacing(path) as handle:
        if suffix_of(path) in TIFF_SUFFIXES:
            mapping: Any = create_tiff(handle, shape, dtype, pair.tags)
        else:
            header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(handle, header)
            mapping = np.memmap(handle, dtype, "r+", handle.tell(), shape)
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here, but a crash on writing to the map
            os.posix_fallocate(handle.fileno(), 0, mapping.offset + mapping.nbytes)
        yield mapping
        if output_format == "labels" and pair.mask is not None:
            for block in tile_grid(shape, (0,) * len(shape), BLOCK):
                mapping[block.core] = pair.mask.levels[mapping[block.core]]
                release_pages(mapping)
        mapping.flush()


def format_of(output: Place, output_format: str | None) -> str:
    """The format named, or the one that the output's name means: its suffix, or "overlay" before .png."""
    suffix = suffix_of(output)
    if output_format is None:
        if suffix in FORMAT_SUFFIXES["overlay"] and stem_of(output).lower().endswith("overlay"):
            return "overlay"
        output_format = next((name for name, suffixes in FORMAT_SUFFIXES.items() if suffix in suffixes), None)
        if output_format is None:
            raise UsageError(
                f"cannot tell what to write to {output}: end its name in one of {', '.join(RESULT_SUFFIXES)}"
            )
    elif suffix not in FORMAT_SUFFIXES[output_format]:
        expected = " or ".join(FORMAT_SUFFIXES[output_format])
        raise UsageError(f"{output} does not suit the format {output_format}; end its name in {expected}")
    return output_format
