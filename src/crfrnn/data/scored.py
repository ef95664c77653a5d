"""A data set whose photos come with the class scores of a network."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from crfrnn.data.score_files import NAMES_SHOWN, ScoresInput, class_scores, logits_of, score_files
from crfrnn.data.segmentation import Sample, SegmentationData
from crfrnn.files.photos import ARRAY_SUFFIXES
from crfrnn.files.resize import resize_scores, seem_square
from crfrnn.numbers import one_of

PHOTOS_LOOKED_AT = 10


class ScoredPhotos:
    """Labelled photos and the logits that a network has for each, read when asked for.

    Args:
        data: The photos and labels.
        folder: Holds NAME.npy, NAME.npz or a file of tensors for each photo: scores (C, h, w), stretched over the photo
            if they are smaller. With two classes, (1, h, w) are those of the second against the first.
        input: What the scores are, "logits" or "probabilities". None means probabilities for arrays of that name or
            called softmax, and logits for all others.
        array: The array of a file of several; as `crfrnn.files.photos.named_array` chooses when not given.
        square: The scores cover a square with the photo at its top left: see `crfrnn.files.resize.resize_scores`.
    Attributes:
        files: The file with the scores of each photo.
    Raises: ValueError: if a photo has no scores or two files of them; on reading a photo, if its scores do not fit it
        or the classes.
    """

    def __init__(
        self,
        data: SegmentationData,
        folder: Path,
        *,
        input: ScoresInput | None = None,
        array: str | None = None,
        square: bool = False,
    ) -> None:
        if input is not None:
            one_of(input, get_args(ScoresInput), "input")
        self.data, self.folder, self.input, self.array, self.square = data, folder, input, array, square
        found = score_files([pair.name for pair in data.pairs], folder)
        missing = [pair.name for pair in data.pairs if pair.name not in found]
        if missing:
            shown = ", ".join(missing[:NAMES_SHOWN]) + (", …" if len(missing) > NAMES_SHOWN else "")
            raise ValueError(
                f"{len(missing)} of {len(data)} photos of the split {data.split!r} have no scores in {folder} "
                f"({', '.join(ARRAY_SUFFIXES)}): {shown}"
            )
        self.files = [found[pair.name] for pair in data.pairs]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Sample, NDArray[np.float32]]:
        """A photo with its labels, and its logits (C, H, W)."""
        sample, (scores, kind) = self.data[index], self._scores(index)
        height, width = size = sample.labels.shape
        most = (max(size), max(size)) if self.square else size
        try:
            if scores.shape[1] > most[0] or scores.shape[2] > most[1]:
                raise ValueError(
                    f"scores have shape {scores.shape}; expected (classes, height, width), of at most {most[0]} rows "
                    f"and {most[1]} columns for a photo of {width}×{height} pixels"
                )
            if self.square or scores.shape[1:] != size:
                scores = resize_scores(scores, (height, width), self.square)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.files[index]}: {error}") from error
        return sample, logits_of(scores, kind, self.files[index])

    def seem_square(self) -> bool:
        """Whether the first photos suggest that scores cover a square although `square` is not set."""
        first = range(min(len(self), PHOTOS_LOOKED_AT))
        return not self.square and any(
            seem_square(self._scores(index)[0].shape, self.data[index].labels.shape) for index in first
        )

    def _scores(self, index: int) -> tuple[NDArray[np.float32], ScoresInput]:
        return class_scores(self.files[index], self.data.classes, self.input, self.array)
