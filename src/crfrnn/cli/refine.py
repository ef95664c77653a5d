"""`crfrnn refine`: one photo, or a folder of them."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from crfrnn.arrays import score_array
from crfrnn.files import (
    ARRAY_SUFFIXES,
    IMAGE_SUFFIXES,
    read_array,
    read_labels,
    read_photo,
    write_labels,
    write_picture,
    write_probabilities,
)
from crfrnn.palette import overlay
from crfrnn.parameters import CRFParameters
from crfrnn.progress import progress
from crfrnn.refine import refine
from crfrnn.resize import resize_scores

ScoresInput = Literal["logits", "probabilities", "labels"]

FORMAT_SUFFIXES = {
    "labels": (".png",),
    "overlay": (".jpg", ".jpeg", ".png"),
    "npy": (".npy",),
    "npz": (".npz",),
}
"""What can be written and the file names for it, the one for folders first."""


class UsageError(ValueError):
    """The arguments do not fit together, whatever the files hold."""


@dataclass(frozen=True)
class Refinement:
    """How scores are read and refined."""

    parameters: CRFParameters
    input: ScoresInput | None
    array: str | None
    num_classes: int | None
    threads: int | None

    def __post_init__(self) -> None:
        for option, number in (("--threads", self.threads), ("--num-classes", self.num_classes)):
            if number is not None and number < 1:
                raise UsageError(f"{option} must be at least 1, not {number}")

    def write(self, scores_path: Path, photo_path: Path, output: Path, output_format: str) -> str:
        """Refine one photo, write it, and say in a line what was done."""
        start = time.perf_counter()
        photo = read_photo(photo_path)
        scores, kind = self.read_scores(scores_path)
        stretched = ""
        if kind != "labels" and scores.ndim == 3:
            scores, stretched = stretch(score_array(scores, "scores"), photo)
        probabilities = refine(
            scores, photo, self.parameters, input=kind, num_classes=self.num_classes, threads=self.threads
        )
        labels = probabilities.argmax(axis=0)
        if output_format == "labels":
            write_labels(output, labels)
        elif output_format == "overlay":
            write_picture(output, overlay(photo, labels))
        else:
            write_probabilities(output, probabilities)
        before = scores if kind == "labels" else scores.argmax(axis=0)
        height, width = labels.shape
        return (
            f"{output}: {width}×{height}, {len(probabilities)} classes{stretched}, "
            f"{np.mean(labels != before):.1%} of pixels changed, {time.perf_counter() - start:.2f} s"
        )

    def read_scores(self, path: Path) -> tuple[NDArray[Any], ScoresInput]:
        """The scores of a file and what they are."""
        suffix = path.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            if self.input not in (None, "labels"):
                raise ValueError(f"{path} is an image, which can only hold labels; {self.input} come in .npy or .npz")
            return read_labels(path), "labels"
        if suffix not in ARRAY_SUFFIXES:
            raise ValueError(f"cannot read {path}: scores come in {', '.join(ARRAY_SUFFIXES + IMAGE_SUFFIXES)}")
        array = read_array(path, self.array)
        if self.input == "labels":
            return array, "labels"
        return array, self.input or "logits"


def refine_file(refinement: Refinement, scores: Path, photo: Path, output: Path, output_format: str | None) -> int:
    """Refine one photo. Returns the exit status."""
    if output.is_dir():
        raise UsageError(f"{output} is a folder; name a file in it, such as {output / photo.stem}.png")
    if output.resolve() in (scores.resolve(), photo.resolve()):
        raise UsageError(f"{output} is one of the inputs; name another file to write")
    print(refinement.write(scores, photo, output, format_of(output, output_format)))
    return 0


def refine_folder(
    refinement: Refinement, scores: Path, photos: Path, output: Path, output_format: str | None, overwrite: bool
) -> int:
    """Refine the photos of a folder that have scores, each on its own. Returns the exit status."""
    if output.resolve() in (scores.resolve(), photos.resolve()):
        raise UsageError(f"{output} is one of the inputs; name another folder to write to")
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file; with folders of scores and photos, name a folder to write to")
    output_format = output_format or "labels"
    pairs = paired(scores, photos)
    results = {stem: output / (stem + FORMAT_SUFFIXES[output_format][0]) for stem in pairs}
    todo = [stem for stem in pairs if overwrite or not results[stem].exists()]
    failures = []
    for stem in progress(todo, "refine"):
        try:
            scores_path, photo_path = pairs[stem]
            refinement.write(
                single(scores_path, stem, scores), single(photo_path, stem, photos), results[stem], output_format
            )
        except (ValueError, TypeError, OSError, MemoryError) as error:
            failures.append(f"{stem}: {' '.join(str(error).split())}")
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    print(
        f"{output}: {len(todo) - len(failures)} refined, {len(pairs) - len(todo)} already there, {len(failures)} failed"
    )
    return 1 if failures else 0


def stretch(scores: NDArray[Any], photo: NDArray[np.uint8]) -> tuple[NDArray[Any], str]:
    """Scores at the photo's size, and a remark when that took stretching; larger ones stay for `refine` to refuse."""
    if scores.shape[:2] == photo.shape[:2]:
        raise ValueError(f"scores have shape {scores.shape}; expected classes first: use np.moveaxis(scores, -1, 0)")
    (height, width), size = scores.shape[1:], photo.shape[:2]
    if (height, width) == size or height > size[0] or width > size[1]:
        return scores, ""
    return resize_scores(scores, (size[0], size[1])), f" (scores stretched from {width}×{height})"


def format_of(output: Path, output_format: str | None) -> str:
    """The format named, or the one that the output's suffix names."""
    suffix = output.suffix.lower()
    if output_format is None:
        output_format = next((name for name, suffixes in FORMAT_SUFFIXES.items() if suffix in suffixes), None)
        if output_format is None:
            known = sorted({suffix for suffixes in FORMAT_SUFFIXES.values() for suffix in suffixes})
            raise UsageError(f"cannot tell what to write to {output}: end its name in one of {', '.join(known)}")
    elif suffix not in FORMAT_SUFFIXES[output_format]:
        expected = " or ".join(FORMAT_SUFFIXES[output_format])
        raise UsageError(f"{output} does not suit the format {output_format}; end its name in {expected}")
    return output_format


def paired(scores: Path, photos: Path) -> dict[str, tuple[list[Path], list[Path]]]:
    """Scores and photos by file name without suffix, for every file of scores."""
    by_stem = files_by_stem(scores, ARRAY_SUFFIXES + IMAGE_SUFFIXES)
    if not by_stem:
        raise ValueError(f"{scores} holds no scores ({', '.join(ARRAY_SUFFIXES)}) and no label images")
    photos_by_stem = files_by_stem(photos, IMAGE_SUFFIXES)
    return {stem: (files, photos_by_stem.get(stem, [])) for stem, files in by_stem.items()}


def files_by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
    """The visible files of a folder with one of the suffixes, by name without suffix."""
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and not path.is_dir():
            by_stem.setdefault(path.stem, []).append(path)
    return by_stem


def single(paths: list[Path], stem: str, folder: Path) -> Path:
    """The only file of that name."""
    if not paths:
        raise ValueError(f"there is no photo named {stem} in {folder}")
    if len(paths) > 1:
        raise ValueError(f"{' and '.join(path.name for path in paths)} in {folder} share a name; keep one")
    return paths[0]
