"""Files with the class scores of photos: logits or probabilities (C, h, w), one file for each photo, by its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from crfrnn.arrays import score_array
from crfrnn.files.classes import ClassSet
from crfrnn.files.photos import ARRAY_SUFFIXES, SCORE_NAMES, named_array
from crfrnn.numbers import one_of
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


def score_files(names: Sequence[str], folder: Path) -> dict[str, Path]:
    """The file of scores of each name that has one.

    Raises: ValueError: if there is no such folder, or two files share a name.
    """
    if not folder.is_dir():
        raise ValueError(f"cannot read scores from {folder}: there is no such folder")
    found = {
        name: [path for suffix in ARRAY_SUFFIXES if (path := folder / f"{name}{suffix}").is_file()] for name in names
    }
    for paths in found.values():
        if len(paths) > 1:
            raise ValueError(f"{' and '.join(path.name for path in paths)} in {folder} share a name; keep one")
    return {name: paths[0] for name, paths in found.items() if paths}


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
