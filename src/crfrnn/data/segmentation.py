"""A data set of photos and label images, read one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from crfrnn.data.annotations import Annotations
from crfrnn.data.layouts import Pair, layout_of, some
from crfrnn.data.score_files import Teacher, score_files
from crfrnn.files.classes import VOID, ClassSet
from crfrnn.files.photos import ARRAY_SUFFIXES, read_label_image, read_photo
from crfrnn.files.places import Place, fetched, is_elsewhere
from crfrnn.files.progress import progress
from crfrnn.numbers import file_path
from crfrnn.threads import default_threads

LOOKED_AT = 32
"""About how many label images of two classes tell what 255 means in all of them, if both levels are among them."""
SCORES_LOOKED_AT = 10
"""Files of a teacher that tell whether they are what they are said to be."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A photo (H, W, 3), RGB 0-255, and the class of each pixel (H, W), 255 where it has none.

    Attributes:
        teacher: Probabilities (C, h, w) of a teacher, which cover the photo; 0 if it has none of this photo, None if
            there is no teacher.
    """

    name: str
    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    teacher: NDArray[np.float32] | None = None


class SegmentationData(Sequence[Sample]):
    """The photos and labels of one split of a data set, read when asked for.

    Args:
        root: The data set's folder, arranged in one of the ways of `crfrnn.data.layouts.LAYOUTS`.
        split: Which part of it, such as "train".
        classes: What the labels stand for. The label images of two classes may be masks of 0 and 255.
        layout: "folder", "voc" or "camvid"; None chooses by what the folder holds.
        annotations: Sparse labels of the photos, which take the place of the data set's label images.
        teacher: Scores of a network for some or all of the photos. Those photos need no labels.
    Attributes:
        pairs: Name and files of each sample.
    Raises: ValueError: if the folder is not a data set, has no such split, or photos and labels do not match; on
        reading a sample, if a file is damaged, sizes differ or a label is not a class.
    """

    def __init__(
        self,
        root: Place | str,
        split: str,
        classes: ClassSet,
        layout: str | None = None,
        annotations: Annotations | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self.root: Place = root if is_elsewhere(root) else file_path(root, "root")
        self.split, self.classes = split, classes
        arranged = layout_of(self.root, layout)
        splits = arranged.splits(self.root)
        if split not in splits:
            there = f"there are {', '.join(splits)}" if splits else "there are none at all"
            raise ValueError(f"{root} has no split {split!r}; {there} (expected {arranged.description})")
        self.annotations, self.teacher = annotations, teacher
        self._are_masks: bool | None = None  # not known yet
        if annotations is None:
            self.pairs = arranged.pairs(self.root, split, teacher is None)
        else:
            self.pairs = annotations.pairs(arranged.photos(self.root, split), teacher is None)
        if not self.pairs:
            raise ValueError(f"the split {split!r} of {root} is empty")
        self._scores: dict[str, Path] = {} if teacher is None else self._scores_of(teacher)
        self._void = {VOID, classes.num_classes} if arranged.void_follows_classes else {VOID}

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return self.sample(self.pairs[index])

    def sample(self, pair: Pair) -> Sample:
        """The photo and the labels of a pair. Raises ValueError as indexing does."""
        sample = self._labelled(pair)
        if self.teacher is None:
            return sample
        path = self._scores.get(sample.name)
        nothing = np.zeros((self.classes.num_classes, 1, 1), np.float32)
        return replace(sample, teacher=nothing if path is None else self.teacher.probabilities(path, self.classes))

    def reader(self) -> Callable[[Pair], Sample]:
        """What reads the pairs without holding all of them, to be sent to other processes."""
        alone = copy(self)
        alone._are_masks = self._look_like_masks()
        alone.pairs = []
        return alone.sample

    def _labelled(self, pair: Pair) -> Sample:
        """A sample without what a teacher says of it."""
        files = [pair.photo] if pair.labels is None or self.annotations is not None else [pair.photo, pair.labels]
        with fetched(*files) as paths:
            image = read_photo(paths[0])
            labels = self._labels(pair, image.shape[:2], *paths[1:])
        if image.shape[:2] != labels.shape:
            turned = "; an EXIF orientation is not applied to it" if image.shape[1::-1] == labels.shape else ""
            raise ValueError(
                f"{pair.photo} has {_size(image)} pixels and {pair.labels} {_size(labels)}: labels must have the size "
                f"of their photo{turned}"
            )
        return Sample(pair.name, image, self._checked(labels, pair))

    def _labels(self, pair: Pair, size: tuple[int, int], file: Path | None = None) -> NDArray[np.integer]:
        """As their file on this machine holds them; void if there is none."""
        if self.annotations is not None:
            return self.annotations.labels(pair, size)
        if file is None:
            return np.full(size, VOID)
        labels = read_label_image(file)[0]
        if self._are_masks is None:
            self._are_masks = self._look_like_masks()
        return np.where(labels == VOID, 1, labels) if self._are_masks else labels

    def _scores_of(self, teacher: Teacher) -> dict[str, Path]:
        """The teacher's files of these photos by name. Some are read: errors in all of them show before training.

        Raises: ValueError: if none of the photos has one, or some have neither that nor labels.
        """
        found = score_files([pair.name for pair in self.pairs], teacher.folder)
        if not found:
            raise ValueError(
                f"{teacher.folder} has no scores ({', '.join(ARRAY_SUFFIXES)}) of any of the {len(self)} photos of the "
                f"split {self.split!r}: they have the names of the photos, such as {self.pairs[0].name}.npz"
            )
        missing = [pair.name for pair in self.pairs if pair.labels is None and pair.name not in found]
        if missing:
            raise ValueError(
                f"{some(missing)} of {len(self)} photos of the split {self.split!r} have neither labels nor scores of "
                f"the teacher in {teacher.folder}: give them one, or leave them out of the split"
            )
        taught = [pair for pair in self.pairs if pair.name in found]
        teacher.doubt_kind(found[taught[0].name], self.classes)
        for pair in taught[:SCORES_LOOKED_AT]:
            with fetched(pair.photo) as (path,):
                height, width, _ = read_photo(path).shape
            if teacher.doubt_cover(found[pair.name], self.classes, (height, width)):
                break
        return found

    def _look_like_masks(self) -> bool:
        """Whether the label images are masks of 0 and 255, where 255 is the second of two classes and not void.

        They are if those looked at are in grey levels and none holds a 1. The rest are looked at, too, while only one
        of the two levels was seen: a rare foreground is in few of them.
        """
        if self.classes.num_classes != 2:
            return False
        files = [pair.labels for pair in self.pairs if pair.labels is not None]
        levels: set[int] = set()
        first = files[:: max(1, len(files) // LOOKED_AT)]
        for number, file in enumerate(dict.fromkeys([*first, *files])):
            if number >= len(first) and levels == {0, VOID}:
                break
            with fetched(file) as (path,):
                labels, colours = read_label_image(path)
            levels |= {int(level) for level in np.unique(labels)}
            if colours != "grey" or not levels <= {0, VOID}:
                return False
        return levels == {0, VOID}

    def pixel_counts(self) -> NDArray[np.int64]:
        """How many pixels each class has, (classes,). Reads, and so checks, every photo and label image.

        Scores of a teacher are not read.

        Raises: ValueError: as reading a sample does, or if all pixels are void and there is no teacher.
        """
        return self.counts_and_sizes()[0]

    def counts_and_sizes(self) -> tuple[NDArray[np.int64], list[tuple[int, int]]]:
        """`pixel_counts`, and height and width of each photo. Raises as it does."""
        counts, sizes = np.zeros(self.classes.num_classes, np.int64), []
        with ThreadPoolExecutor(default_threads()) as pool:
            try:
                counted = pool.map(self._counts, range(len(self)))
                for _, (found, size) in zip(progress(range(len(self)), f"check {self.split}"), counted, strict=True):
                    counts += found
                    sizes.append(size)
            finally:
                pool.shutdown(cancel_futures=True)
        if not counts.any() and self.teacher is None:
            raise ValueError(f"all labels of the split {self.split!r} of {self.root} are void ({VOID})")
        return counts, sizes

    def _counts(self, index: int) -> tuple[NDArray[np.int64], tuple[int, int]]:
        labels = self._labelled(self.pairs[index]).labels
        height, width = labels.shape
        return np.bincount(labels[labels != VOID], minlength=self.classes.num_classes), (height, width)

    def _checked(self, labels: NDArray[np.integer], pair: Pair) -> NDArray[np.uint8]:
        """The labels, with 255 for everything that is not a class."""
        void = np.isin(labels, list(self._void))
        outside = ~void & ((labels < 0) | (labels >= self.classes.num_classes))
        if outside.any():
            found = np.unique(labels[outside])
            raise ValueError(
                f"{pair.labels} holds {', '.join(map(str, found[:5]))}{', …' if len(found) > 5 else ''}, but "
                f"{self.classes.num_classes} classes have labels 0 to {self.classes.num_classes - 1}, and "
                f"{' and '.join(map(str, sorted(self._void)))} mean void: choose other classes or correct the labels"
            )
        return np.where(void, VOID, labels).astype(np.uint8)


def _size(array: NDArray[np.integer]) -> str:
    return f"{array.shape[1]}×{array.shape[0]}"
