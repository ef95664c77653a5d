"""The frames that `crfrnn refine --time-theta` reads, with their scores: of videos, folders and arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.arrays import Shape
from crfrnn.cli.inputs import Pair, Reading
from crfrnn.cli.pairing import files_by_stem, paired
from crfrnn.cli.scores import Scores
from crfrnn.cli.usage import UsageError, counted
from crfrnn.files.frames import RATE, Video
from crfrnn.files.masks import Mask
from crfrnn.files.photos import ARRAY_SUFFIXES, IMAGE_SUFFIXES, NIFTI_SUFFIXES, oriented_picture, stem_of, suffix_of
from crfrnn.files.places import real_place
from crfrnn.tiles import class_count


@dataclass(eq=False)
class Clip:
    """Frames with their scores, which are read a few at a time.

    Attributes:
        names: What the frames are called, in the order of time.
        read: Reads the scores and the image of a frame.
        rate: Frames in a second.
        classes: How many there are.
        mask: The mask that the scores of all frames are.
    Raises: ValueError: on construction, if a frame cannot be read.
    """

    names: Sequence[str]
    read: Callable[[int], Pair]
    rate: Fraction = RATE
    classes: int = 0
    mask: Mask | None = None

    def __post_init__(self) -> None:
        self.first = self.read(0)
        self._kept = {0: self.first}

    @property
    def grid(self) -> Shape:
        """(T, H, W)."""
        return (len(self.names), *self.first.grid)

    def part(self, time: slice) -> Pair:
        """Scores (C, t, H, W), or labels (t, H, W), and image (t, H, W, K) of some frames. They stay in memory.

        Raises: ValueError: if a frame cannot be read, or differs from the first one in size.
        """
        numbers = range(*time.indices(len(self.names)))
        self._kept = {number: self._kept.get(number) or self._like_first(number) for number in numbers}
        pairs = list(self._kept.values())
        axis = 0 if self.first.kind == "labels" else 1
        scores = np.stack([np.asarray(pair.scores) for pair in pairs], axis)
        return replace(
            self.first, scores=scores, image=np.stack([pair.image for pair in pairs]), geometry=None, tags=()
        )

    def count_classes(self, num_classes: int | None) -> None:
        """Find the classes, and the mask if the scores are one, for which labels of all frames are read."""
        first = self.first
        if first.kind != "labels":
            self.classes, self.mask = len(first.scores), first.mask
            return
        for number in range(len(self.names)):
            pair = self._like_first(number)
            self.mask = self.mask or pair.mask
            self.classes = max(self.classes, class_count(pair.scores, pair.kind, num_classes))

    def _like_first(self, number: int) -> Pair:
        pair = self.read(number)
        for what in ("image", "scores"):
            shape, expected = getattr(pair, what).shape, getattr(self.first, what).shape
            if shape != expected:
                raise ValueError(
                    f"frame {self.names[number]} has {what} of shape {shape}, and frame {self.names[0]} of {expected}: "
                    "frames are alike"
                )
        return pair


def clip_of(reading: Reading, scores: Path, image: Path) -> Clip:
    """The frames of a video or of a folder, with scores in a folder or in one array.

    Raises:
        UsageError: if the image is neither.
        ValueError: if they cannot be read, or do not belong together.
    """
    if not image.is_dir() and suffix_of(image) in (*IMAGE_SUFFIXES, *ARRAY_SUFFIXES, *NIFTI_SUFFIXES):
        raise UsageError(f"{image} is neither a video nor a folder, which --time-theta is for")
    if image.is_dir() and scores.is_dir():
        return clip_of_folders(reading, scores, image)
    frames = Photos(reading, image) if image.is_dir() else Video(image)
    if scores.is_dir():
        return clip_of_files(reading, scores, frames)
    return clip_of_array(reading, scores, frames)


class Photos:
    """The photos of a folder as frames, 2 before 10."""

    def __init__(self, reading: Reading, folder: Path) -> None:
        found = files_by_stem(folder)
        self.paths = [path for paths in found.values() for path in paths if suffix_of(path) in IMAGE_SUFFIXES]
        self.as_stored, self.path, self.rate = reading.as_stored, folder, RATE
        if len({stem_of(path) for path in self.paths}) < len(self.paths):
            raise ValueError(f"{folder} holds several frames of one name; keep one of each")
        if not self.paths:
            raise ValueError(f"{folder} holds no frames ({', '.join(IMAGE_SUFFIXES)})")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> NDArray[Any]:
        return oriented_picture(self.paths[number], "as stored" if self.as_stored else None)[0]


def clip_of_folders(reading: Reading, scores: Path, frames: Path) -> Clip:
    """The frames of a folder that have scores."""
    cases = list(paired(scores, frames).cases.items())
    for _, case in cases:
        if case.problem or len(case.images) > 1:
            raise ValueError(case.problem or f"{case.images[0]} and others are the channels of one frame")
    used: dict[str, str] = {}
    for name, case in cases:
        if (other := used.setdefault(case.images[0], name)) != name:
            raise ValueError(f"{other} and {name} in {scores} are both scores of {case.images[0]}: keep one")
    inside = [path.name for paths in files_by_stem(frames).values() for path in paths]
    order = {name: place for place, name in enumerate(inside)}
    places = sorted(order[name] for name in used)
    for name in inside[places[0] : places[-1]] if real_place(scores) != real_place(frames) else ():
        if name not in used:
            raise ValueError(
                f"{frames / name} has no scores in {scores}, but frames before and after it have: time has no gaps"
            )
    cases.sort(key=lambda case: order[case[1].images[0]])

    def read(number: int) -> Pair:
        case = cases[number][1]
        return reading.pair(scores / case.scores[0], [frames / name for name in case.images])

    return Clip([name for name, _ in cases], read)


def clip_of_files(reading: Reading, folder: Path, frames: Video | Photos) -> Clip:
    """Frames with a file of scores for each, in the order of their names."""
    files = files_by_stem(folder)
    if len(files) != len(frames):
        raise ValueError(f"{folder} holds scores of {len(files)} frames, but {frames.path} has {len(frames)} frames")
    if several := [paths for paths in files.values() if len(paths) > 1]:
        raise ValueError(f"{' and '.join(path.name for path in several[0])} in {folder} share a name; keep one")
    paths = [path for each in files.values() for path in each]

    def read(number: int) -> Pair:
        frame = frames[number]
        found = reading.stretched(reading.scores(paths[number]).beside(frame), frame)
        return Pair(found.values, found.kind, frame, mask=found.mask, classes=reading.classes, remark=found.remark)

    return Clip([*files], read, frames.rate)


def clip_of_array(reading: Reading, path: Path, frames: Video | Photos) -> Clip:
    """Frames with scores (C, T, H, W), (T, C, H, W), or of one class or labels (T, H, W) in one file."""
    scores = replace(reading, mapped=path.suffix.lower() == ".npy").scores(path)
    values = scores.values
    if scores.kind != "labels" and values.ndim == 4 and values.shape[0] == len(frames) != values.shape[1]:
        scores = replace(scores, values=np.moveaxis(values, 0, 1))
    elif scores.kind != "labels" and values.ndim == 3 and len(values) == len(frames):
        scores = scores.of_one_class()
    if scores.grid[:1] != (len(frames),) or len(scores.grid) != 3:
        raise ValueError(
            f"{path} has shape {tuple(values.shape)}; expected (classes, {len(frames)}, H, W) for "
            f"{counted(len(frames), 'frame')}"
        )

    def read(number: int) -> Pair:
        frame = frames[number]
        if scores.kind == "labels":
            mask, remark = scores.mask, scores.remark
            values = scores.values[number]
            return Pair(values, scores.kind, frame, mask=mask, classes=reading.classes, remark=remark)
        found = Scores(np.asarray(scores.values[:, number]), scores.kind, remark=scores.remark)
        found = reading.stretched(found, frame)
        return Pair(found.values, found.kind, frame, classes=reading.classes, remark=found.remark)

    names = [stem_of(each) for each in frames.paths] if isinstance(frames, Photos) else None
    return Clip(names or [f"{number:06}" for number in range(len(frames))], read, frames.rate)
