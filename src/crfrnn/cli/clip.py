"""`crfrnn refine --time-theta`: frames of a video or of a folder, refined together as one volume in time."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.cli.inputs import Pair, Reading
from crfrnn.cli.outputs import format_of
from crfrnn.cli.pairing import paired
from crfrnn.cli.refinement import Refinement
from crfrnn.cli.scores import Scores
from crfrnn.cli.usage import UsageError, real_path
from crfrnn.crf import CRF
from crfrnn.files.frames import VIDEO_SUFFIXES, Clip, read_video
from crfrnn.files.photos import IMAGE_SUFFIXES, oriented_picture, stem_of, suffix_of
from crfrnn.files.progress import progress
from crfrnn.numbers import per_axis
from crfrnn.tiles import class_count


def refine_clip(
    refinement: Refinement,
    scores: Path,
    images: Sequence[Path],
    output: Path,
    output_format: str | None,
    time_theta: float,
    quiet: bool = False,
) -> int:
    """Refine all frames together and write them. Returns the exit status."""
    if len(images) > 1:
        raise UsageError("with --time-theta, IMAGE is one video or one folder of frames")
    if refinement.spacing is not None:
        raise UsageError("--time-theta does not go with --spacing: both are for other volumes")
    if real_path(output) in (real_path(scores), real_path(images[0])):
        raise UsageError(f"{output} is one of the inputs; name another file or folder to write to")
    suffix = suffix_of(output)
    if output_format is None:
        output_format = "overlay" if suffix in VIDEO_SUFFIXES else format_of(output, None) if suffix else "labels"
    if suffix in VIDEO_SUFFIXES and output_format != "overlay":
        raise UsageError(f"{output} is a video, which holds the frames tinted by class: leave out --format")
    start = time.perf_counter()
    whole = replace(refinement.reading, mapped=False)
    pair = (clip_of_folders if images[0].is_dir() else clip_of_video)(whole, scores, images[0])
    through_time = replace(refinement, crf=with_time(refinement.crf, time_theta))
    written = through_time.write(pair, output, output_format, show=lambda tiles: progress(tiles, "refine", quiet))
    if written.warning is not None:
        print(f"crfrnn refine: warning: {output}: {written.warning}", file=sys.stderr)
    classes = max(class_count(pair.scores, pair.kind, refinement.num_classes), pair.least_classes)
    size = f"{pair.grid[2]}×{pair.grid[1]}, {pair.grid[0]} frames"
    seconds = time.perf_counter() - start
    print(f"{output}: {size}, {classes} classes{pair.remark}, {written.change.words}, {seconds:.2f} s")
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


def clip_of_folders(reading: Reading, scores: Path, frames: Path) -> Pair:
    """The frames of a folder that have scores, in the order of their names.

    Raises: ValueError: if scores and frames do not match, or frames differ in size.
    """
    if not scores.is_dir():
        photos = sorted(each for each in frames.iterdir() if suffix_of(each) in IMAGE_SUFFIXES)
        if not photos:
            raise ValueError(f"{frames} holds no frames ({', '.join(IMAGE_SUFFIXES)})")
        images = [oriented_picture(photo, "as stored" if reading.as_stored else None)[0] for photo in photos]
        return clip_of_array(reading, scores, stacked(images, photos), Clip(tuple(map(stem_of, photos))))
    cases = paired(scores, frames)
    for case in cases.values():
        if case.problem or len(case.images) > 1:
            raise ValueError(case.problem or f"{case.images[0].name} and others are the channels of one frame")
    parts = [reading.pair(case.scores[0], case.images) for case in cases.values()]
    image = stacked([part.image for part in parts], [case.images[0] for case in cases.values()])
    values = stacked([part.scores for part in parts], [case.scores[0] for case in cases.values()])
    return of_frames(parts[0], values, image, Clip(tuple(cases)))


def clip_of_video(reading: Reading, scores: Path, video: Path) -> Pair:
    """The frames of a video, with scores in a folder, in the order of their names, or in one array."""
    image, clip = read_video(video)
    if not scores.is_dir():
        return clip_of_array(reading, scores, image, clip)
    cases = paired(scores, scores)
    files = [case.scores[0] for case in cases.values()]
    if len(files) != len(image):
        raise ValueError(f"{scores} holds scores of {len(files)} frames, but {video} has {len(image)} frames")
    found = [
        reading.stretched(reading.scores(path).beside(frame), frame) for path, frame in zip(files, image, strict=True)
    ]
    first = Pair(found[0].values, found[0].kind, image[0], mask=found[0].mask, remark=found[0].remark)
    named = Clip(tuple(cases), clip.rate)
    return of_frames(first, stacked([each.values for each in found], files), image, named)


def clip_of_array(reading: Reading, path: Path, image: NDArray[Any], clip: Clip) -> Pair:
    """Frames with scores (C, T, H, W), (T, C, H, W) or labels (T, H, W) in one file."""
    scores = reading.scores(path)
    values = np.asarray(scores.values)
    if scores.kind != "labels" and values.ndim == 4 and values.shape[0] == len(image) != values.shape[1]:
        values = np.moveaxis(values, 0, 1)
    found = Scores(values, scores.kind)
    if found.grid[:1] != (len(image),):
        raise ValueError(
            f"{path} has shape {values.shape}; expected (classes, {len(image)}, H, W) for {len(image)} frames"
        )
    if scores.kind != "labels" and found.grid[1:] != image.shape[1:3]:
        each = [reading.stretched(Scores(values[:, number], scores.kind), frame) for number, frame in enumerate(image)]
        values = np.stack([part.values for part in each], axis=1)
    return Pair(values, scores.kind, image, mask=scores.mask, clip=clip, remark=scores.remark)


def of_frames(first: Pair, values: NDArray[Any], image: NDArray[Any], clip: Clip) -> Pair:
    """A clip of the scores of frames (T, …), read like those of its first frame."""
    if first.kind != "labels":
        values = np.moveaxis(values, 0, 1)
    return replace(first, scores=values, image=image, clip=clip, geometry=None, tags=())


def stacked(arrays: Sequence[NDArray[Any]], paths: Sequence[Path]) -> NDArray[Any]:
    """Arrays of frames as one. Raises ValueError if they differ in shape."""
    for array, path in zip(arrays, paths, strict=True):
        if array.shape != arrays[0].shape:
            raise ValueError(f"{path} has shape {array.shape}, but {paths[0]} {arrays[0].shape}: frames are alike")
    return np.stack(arrays)
