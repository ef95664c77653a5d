"""What `crfrnn refine` writes: labels or probabilities, in the files that suit them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from crfrnn.arrays import Shape
from crfrnn.cli.inputs import Pair
from crfrnn.cli.usage import UsageError
from crfrnn.files.coco import write_results
from crfrnn.files.frames import VIDEO_SUFFIXES, Clip, write_video
from crfrnn.files.palette import overlay
from crfrnn.files.photos import (
    NIFTI_SUFFIXES,
    TIFF_SUFFIXES,
    stem_of,
    suffix_of,
    write_grey,
    write_labels,
    write_picture,
    write_probabilities,
)
from crfrnn.files.replacement import replacing
from crfrnn.files.tiff import create_tiff, write_tiff
from crfrnn.files.volumes import write_nifti
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
LABELS = ("labels", "overlay", "coco")
"""The formats that hold labels; the others hold probabilities."""


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


def write_result(
    path: Path, output_format: str, values: NDArray[Any], pair: Pair, spacing: Sequence[float] | None
) -> None:
    """Write labels (*spatial) for the formats in `LABELS`, otherwise probabilities (C, *spatial).

    Labels of a mask are written in its levels.

    Args:
        spacing: Spacing of voxels without a geometry.
    Raises: ValueError: if they do not suit the format.
    """
    suffix = suffix_of(path)
    if pair.clip is not None and suffix in ("", *VIDEO_SUFFIXES):
        write_clip(path, output_format, values, pair, pair.clip)
        return
    if output_format == "labels" and pair.mask is not None:
        values = pair.mask.levels[values]
    if output_format == "coco":
        write_results(path, values, pair.name)
    elif output_format == "overlay":
        photo = np.asarray(pair.image[:, :])
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
            raise ValueError(
                f"an overlay tints an 8-bit photo, and this image is {photo.dtype} {photo.shape}: write labels"
            )
        write_picture(path, overlay(photo, values.astype(np.intp)))
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
    elif values.ndim != 2:
        raise ValueError(f"labels of a volume {values.shape} do not fit {path}: end its name in .nii.gz, .tif or .npy")
    elif pair.mask is not None:
        write_grey(path, values)
    else:
        write_labels(path, values)


def write_clip(path: Path, output_format: str, values: NDArray[Any], pair: Pair, clip: Clip) -> None:
    """Write the frames of a clip to a folder, each as `write_result` does, or as a video tinted by class.

    Args:
        values: Labels (T, H, W), or probabilities (C, T, H, W).
    """
    if suffix_of(path):
        painted = (overlay(photo, labels.astype(np.intp)) for photo, labels in zip(pair.image, values, strict=True))
        write_video(path, painted, clip.rate)
        return
    frames = values if output_format in LABELS else np.moveaxis(values, 1, 0)
    for number, name in enumerate(clip.names):
        frame = replace(pair, image=pair.image[number], clip=None, name=name)
        write_result(path / f"{name}{folder_suffixes(output_format)[0]}", output_format, frames[number], frame, None)


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


def format_of(output: Path, output_format: str | None) -> str:
    """The format named, or the one that the output's name means: its suffix, or "overlay" before .png."""
    suffix = suffix_of(output)
    if output_format is None:
        if suffix in FORMAT_SUFFIXES["overlay"] and stem_of(output).lower().endswith("overlay"):
            return "overlay"
        output_format = next((name for name, suffixes in FORMAT_SUFFIXES.items() if suffix in suffixes), None)
        if output_format is None:
            known = sorted({suffix for suffixes in FORMAT_SUFFIXES.values() for suffix in suffixes})
            raise UsageError(f"cannot tell what to write to {output}: end its name in one of {', '.join(known)}")
    elif suffix not in FORMAT_SUFFIXES[output_format]:
        expected = " or ".join(FORMAT_SUFFIXES[output_format])
        raise UsageError(f"{output} does not suit the format {output_format}; end its name in {expected}")
    return output_format
