"""Files with the class scores of photos: logits or probabilities (C, h, w), one file for each photo, by its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from crfrnn.arrays import score_array
from crfrnn.data.layouts import files_by_stem
from crfrnn.files.classes import ClassSet
from crfrnn.files.photos import ARRAY_SUFFIXES, SCORE_NAMES, named_array
from crfrnn.files.resize import seem_square
from crfrnn.numbers import one_of
from crfrnn.plausibility import check_logits, warn_of_input
from crfrnn.unary import unary_from_probabilities

ScoresInput = Literal["logits", "probabilities"]

NAMES_SHOWN = 3


@dataclass(frozen=True)
class Teacher:
    """What a stronger network says of photos, for another one to learn.

    Attributes:
        folder: Holds NAME.npy, NAME.npz or a file of tensors for photos: scores (C, h, w) of any size, which cover
            exactly the photo. With two classes, (1, h, w) are those of the second against the first.
        input: What the scores are, "logits" or "probabilities". None means probabilities for arrays of that name or
            called softmax, and logits for all others.
    """

    folder: Path
    input: ScoresInput | None = None

    def __post_init__(self) -> None:
        if self.input is not None:
            one_of(self.input, get_args(ScoresInput), "input")

    def probabilities(self, path: Path, classes: ClassSet) -> NDArray[np.float32]:
        """The probabilities (C, h, w) in a file of the folder; they sum to 1.

        Raises: ValueError: naming the file, if it cannot be read or its scores do not fit the classes.
        """
        scores, kind = class_scores(path, classes, self.input)
        logits = logits_of(scores, kind, path)
        powers = np.exp(logits - logits.max(axis=0))
        probabilities: NDArray[np.float32] = powers / powers.sum(axis=0)
        return probabilities

    def doubt_kind(self, path: Path, classes: ClassSet) -> None:
        """Warn if what is taken for logits in a file looks like something else. Raises as `probabilities` does."""
        scores, kind = class_scores(path, classes, self.input)
        if kind == "logits":
            if classes.num_classes == 2 and not scores[0].any():  # as `class_scores` makes it
                scores = scores[1:]
            check_logits(scores, f"give teacher_input='probabilities' if these are such ({path})")

    def doubt_cover(self, path: Path, classes: ClassSet, size: tuple[int, int]) -> bool:
        """Whether it seems that scores do not cover exactly a photo of `size` (H, W); if so, it warns.

        Raises: ValueError: as `probabilities` does.
        """
        (height, width), (h, w) = size, self.probabilities(path, classes).shape[1:]
        advice = "its cells must cover exactly the photo"
        if seem_square((h, w), size):
            warn_of_input(
                f"the teacher's scores {path} are square, {w}×{h}, and their photo is not: if they cover a photo "
                f"padded to a square, cut off what is beyond the photo; {advice}"
            )
        elif (width - height) * (w - h) < 0:
            warn_of_input(
                f"the teacher's scores {path} are {w}×{h}, and their photo is {width}×{height}: if rows and columns "
                f"are swapped, turn them; {advice}"
            )
        else:
            return False
        return True


def score_files(names: Sequence[str], folder: Path) -> dict[str, Path]:
    """The file of scores of each name that has one.

    Raises: ValueError: if there is no such folder, or two files share a name.
    """
    if not folder.is_dir():
        raise ValueError(f"cannot read scores from {folder}: there is no such folder")
    there = files_by_stem(folder, ARRAY_SUFFIXES)
    found = {name: sorted(there[name]) for name in names if name in there}
    for paths in found.values():
        if len(paths) > 1:
            raise ValueError(f"{' and '.join(path.name for path in paths)} in {folder} share a name; keep one")
    return {name: paths[0] for name, paths in found.items()}


def class_scores(
    path: Path, classes: ClassSet, input: ScoresInput | None = None, array: str | None = None
) -> tuple[NDArray[np.float32], ScoresInput]:
    """The scores of a file (C, h, w), of all classes, and what they are.

    Args:
        input, array: As for `crfrnn.data.scored.ScoredPhotos`.
    Raises: ValueError: naming the file.
    """
    values, name = named_array(path, array)
    kind: ScoresInput = input or SCORE_NAMES.get(name) or "logits"  # type: ignore[assignment]
    try:
        scores = score_array(values, "scores", np.float32).astype(np.float32, copy=False)
        if scores.ndim != 3:
            raise ValueError(f"scores have shape {scores.shape}; expected (classes, height, width)")
        if len(scores) == 1 and classes.num_classes == 2:
            first = 1 - scores if kind == "probabilities" else np.zeros_like(scores)
            scores = np.concatenate([first, scores])
        if len(scores) != classes.num_classes:
            names = ", ".join(classes.names[:NAMES_SHOWN])
            raise ValueError(
                f"scores have shape {scores.shape}, so {len(scores)} classes, but the labels are said to have "
                f"{classes.num_classes} ({names}{', …' if classes.num_classes > NAMES_SHOWN else ''}): say which, such "
                f"as classes={len(scores)}"
            )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return scores, kind


def logits_of(scores: NDArray[np.float32], kind: ScoresInput, path: Path) -> NDArray[np.float32]:
    """Logits of `class_scores`. Raises ValueError, naming the file, if they are no probabilities but said to be."""
    if kind == "logits":
        return scores
    try:
        return unary_from_probabilities(scores).astype(np.float32, copy=False)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
