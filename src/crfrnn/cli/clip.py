"""`crfrnn refine --time-theta`: frames of a video or of a folder, refined together as one volume in time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.cli.changes import Change, labels_of, vanished_warning
from crfrnn.cli.clip_files import Clip, clip_of
from crfrnn.cli.inputs import Pair
from crfrnn.cli.outputs import (
    LABELS,
    check_result,
    folder_suffixes,
    format_of,
    result_array,
    result_dtype,
    write_result,
)
from crfrnn.cli.printing import complain, say
from crfrnn.cli.refinement import Refinement
from crfrnn.cli.usage import UsageError, counted, one_line
from crfrnn.crf import CRF
from crfrnn.files.frames import VIDEO_SUFFIXES, write_video
from crfrnn.files.palette import overlay
from crfrnn.files.photos import suffix_of
from crfrnn.files.places import real_place
from crfrnn.files.progress import progress
from crfrnn.memory import half_of_memory, tile_bytes
from crfrnn.numbers import per_axis
from crfrnn.tiles import REACH, Tile, image_lattices, tile_grid


def refine_clip(
    refinement: Refinement,
    scores: Path,
    images: Sequence[Path],
    output: Path,
    output_format: str | None,
    time_theta: float,
) -> int:
    """Refine all frames together and write them. Returns the exit status."""
    if len(images) > 1:
        raise UsageError("with --time-theta, IMAGE is one video or one folder of frames")
    if refinement.spacing is not None:
        raise UsageError("--time-theta does not go with --spacing: both are for other volumes")
    if real_place(output) in (real_place(scores), real_place(images[0])):
        raise UsageError(f"{output} is one of the inputs; name another file or folder to write to")
    suffix = suffix_of(output)
    if output_format is None:
        output_format = "overlay" if suffix in VIDEO_SUFFIXES else format_of(output, None) if suffix else "labels"
    if suffix in VIDEO_SUFFIXES and output_format != "overlay":
        raise UsageError(f"{output} is a video, which holds the frames tinted by class: leave out --format")
    start = time.perf_counter()
    clip = clip_of(replace(refinement.reading, mapped=False), scores, images[0])
    clip.count_classes(refinement.num_classes)
    check_clip(clip, output, output_format)
    through_time = replace(refinement, crf=with_time(refinement.crf, time_theta), tiling=None)
    tiles = windows(clip, refinement, math.ceil(REACH * time_theta))
    change = Change(clip.classes)
    frames = refined_frames(clip, through_time, tiles, output_format in LABELS, change)
    write_frames(clip, frames, output, output_format)
    if change.vanished:
        warning = vanished_warning(change.vanished, clip.first, clip.first.image, through_time.crf)
        if warning is not None:
            complain("crfrnn refine", "warning", one_line(output), warning)
    size = f"{clip.grid[2]}×{clip.grid[1]}, {counted(clip.grid[0], 'frame')}"
    done = [f"{len(tiles)} windows in time"] if len(tiles) > 1 else []
    done += [change.words, f"{time.perf_counter() - start:.2f} s"]
    classes = max(clip.classes, clip.first.least_classes)
    say(f"{size}, {classes} classes{clip.first.remark}, {', '.join(done)}", output)
    return 0


def with_time(crf: CRF, theta: float) -> CRF:
    """The same CRF with kernels over (x, y, t), whose deviation along t is theta."""
    kernels = []
    for kernel in crf.kernels:
        names = kernel.features.positions
        deviations = {
            name: (*per_axis(getattr(kernel.features, name), 2, name, "spatial axes"), theta) for name in names
        }
        kernels.append(replace(kernel, features=replace(kernel.features, **deviations)))
    return replace(crf, kernels=kernels)


def windows(clip: Clip, refinement: Refinement, margin: int) -> list[Tile]:
    """The parts of a clip in time that are refined one after the other, as long as memory allows.

    Args:
        margin: Frames around each that are refined with it, where the options say nothing else.
    Raises: MemoryError: if there is too little memory for one frame with its margin.
    """
    duration, height, width = clip.grid
    tiling = refinement.tiling
    if tiling is not None and tiling.overlap is not None:
        margin = tiling.overlap
    image = clip.first.image
    features = 3 + (image.shape[2] if image.ndim == 3 else 1)
    itemsize = 8 if clip.first.scores.dtype == np.float64 else 4
    frame_bytes = tile_bytes(height * width, max(2, clip.classes), features, itemsize, image_lattices(refinement.crf))
    memory = half_of_memory() if tiling is None or tiling.memory is None else tiling.memory_left(0)
    assert memory is not None
    whole = duration * frame_bytes <= memory
    longest = duration if whole else int(memory // frame_bytes) - 2 * margin
    if longest < 1 or (refinement.device is not None and not whole):
        raise MemoryError(
            f"{counted(duration, 'frame')} of {width}×{height} pixels and {clip.classes} classes need about "
            f"{duration * frame_bytes / 1e9:.3g} GB together, and a frame with the {2 * margin} around it "
            f"{(1 + 2 * margin) * frame_bytes / 1e9:.3g} GB, but memory is {memory / 1e9:.3g} GB: give smaller frames, "
            "a smaller --time-theta or --overlap, or more --memory"
        )
    if tiling is not None and tiling.tile is not None:
        longest = min(longest, tiling.tile)
    return tile_grid((duration,), (margin,), longest)


def refined_frames(
    clip: Clip, refinement: Refinement, tiles: Sequence[Tile], labelled: bool, change: Change
) -> Iterator[tuple[Pair, NDArray[Any]]]:
    """Each frame, and its labels (H, W) or probabilities (C, H, W); what changed is counted."""
    fitted: Refinement | None = None
    for tile in progress(tiles, "refine"):
        ((context,), (inner,)) = tile.context, tile.inner
        pair = clip.part(context)
        fitted = fitted or refinement.fitted(pair)[0]
        result = fitted.refined(pair, labelled, origin=None if len(tiles) == 1 else (0, 0, context.start))[0]
        for number in range(inner.start, inner.stop):
            scores = pair.scores[number] if pair.kind == "labels" else pair.scores[:, number]
            values = result[number] if labelled else result[:, number]
            change.count(labels_of(scores, pair.kind), values if labelled else labels_of(values, "probabilities"))
            yield replace(pair, scores=scores, image=pair.image[number], mask=clip.mask), values


def check_clip(clip: Clip, output: Path, output_format: str) -> None:
    """Raise a UsageError or ValueError if results do not suit the file or the folder."""
    if suffix_of(output) in VIDEO_SUFFIXES and clip.first.classes is not None:
        raise UsageError(f"{output} is a video, which has no legend: leave out --classes")
    if suffix_of(output) in ("", *VIDEO_SUFFIXES):
        check_result(output, output_format, clip.first)
    elif output_format in ("overlay", "coco") or suffix_of(output) == ".png":
        raise UsageError(
            f"{output} is one picture for {counted(clip.grid[0], 'frame')}: name a folder, a video, or a volume that "
            "ends in .npy, .npz, .nii.gz or .tif"
        )


def write_frames(clip: Clip, frames: Iterator[tuple[Pair, NDArray[Any]]], output: Path, output_format: str) -> None:
    """Write frames to a folder, each as `write_result` does, as a video tinted by class, or as a volume."""
    if suffix_of(output) in VIDEO_SUFFIXES:
        tinted = (overlay(frame.image, labels.astype(np.intp)) for frame, labels in frames)
        write_video(output, tinted, clip.rate)
    elif not suffix_of(output):
        ending, complete = folder_suffixes(output_format)[0], 0
        try:
            for name, (frame, values) in zip(clip.names, frames, strict=True):
                write_result(output / f"{name}{ending}", output_format, values, replace(frame, name=name), None)
                complete += 1
        except BaseException:
            if complete:
                complain(
                    "crfrnn refine",
                    f"{counted(complete, 'frame')} of {clip.grid[0]}, {clip.names[0]} to {clip.names[complete - 1]}, "
                    f"are complete in {output}; the others are not new",
                )
            raise
    else:
        labelled = output_format in LABELS
        whole = replace(clip.first, mask=clip.mask, geometry=None, tags=())
        dtype = result_dtype(output_format, clip.classes, whole)
        shape = clip.grid if labelled else (clip.classes, *clip.grid)
        with result_array(output, output_format, shape, dtype, whole, None) as array:
            for number, (_, values) in enumerate(frames):
                array[number if labelled else (slice(None), number)] = values
