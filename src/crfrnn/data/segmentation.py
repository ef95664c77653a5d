"""A data set of photos and label images, read one by one."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from crfrnn.data.annotations import Annotations
from crfrnn.data.layouts import Pair, layout_of
from crfrnn.files.classes import VOID, ClassSet
from crfrnn.files.photos import read_label_image, read_photo
from crfrnn.files.progress import progress
from crfrnn.numbers import file_path
from crfrnn.threads import default_threads

LOOKED_AT = 32
"""About how many label images of two classes tell what 255 means in all of them."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A photo (H, W, 3), RGB 0-255, and the class of each pixel (H, W), 255 where it has none."""

    name: str
    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]


class SegmentationData(Sequence[Sample]):
    """The photos and labels of one split of a data set, read when asked for.

    Args:
        root: The data set's folder, arranged in one of the ways of `crfrnn.data.layouts.LAYOUTS`.
        split: Which part of it, such as "train".
        classes: What the labels stand for. The label images of two classes may be masks of 0 and 255.
        layout: "folder", "voc" or "camvid"; None chooses by what the folder holds.
        annotations: Sparse labels of the photos, which take the place of the data set's label images.
    Attributes:
        pairs: Name and files of each sample.
    Raises: ValueError: if the folder is not a data set, has no such split, or photos and labels do not match; on
        reading a sample, if a file is damaged, sizes differ or a label is not a class.
    """

    def __init__(
        self,
        root: Path | str,
        split: str,
        classes: ClassSet,
        layout: str | None = None,
        annotations: Annotations | None = None,
    ) -> None:
        self.root, self.split, self.classes = file_path(root, "root"), split, classes
        arranged = layout_of(self.root, layout)
        splits = arranged.splits(self.root)
        if split not in splits:
            there = f"there are {', '.join(splits)}" if splits else "there are none at all"
            raise ValueError(f"{root} has no split {split!r}; {there} (expected {arranged.description})")
        self.annotations = annotations
        self._are_masks: bool | None = None  # not known yet
        if annotations is None:
            self.pairs = arranged.pairs(self.root, split)
        else:
            self.pairs = annotations.pairs(arranged.photos(self.root, split))
        if not self.pairs:
            raise ValueError(f"the split {split!r} of {root} is empty")
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
        pair = self.pairs[index]
        image = read_photo(pair.photo)
        sparse = self.annotations
        labels = read_label_image(pair.labels)[0] if sparse is None else sparse.labels(pair, image.shape[:2])
        if self._are_masks is None:
            self._are_masks = sparse is None and self._look_like_masks()
        if self._are_masks:
            labels = np.where(labels == VOID, 1, labels)
        if image.shape[:2] != labels.shape:
            raise ValueError(
                f"{pair.photo} has {_size(image)} pixels and {pair.labels} {_size(labels)}: labels must have the size "
                "of their photo"
            )
        return Sample(pair.name, image, self._checked(labels, pair))

    def _look_like_masks(self) -> bool:
        """Whether the label images are masks of 0 and 255, where 255 is the second of two classes and not void.

        They are if those looked at are in grey levels and none holds a 1.
        """
        if self.classes.num_classes != 2:
            return False
        images = (read_label_image(pair.labels) for pair in self.pairs[:: max(1, len(self) // LOOKED_AT)])
        levels: set[int] = set()
        for labels, colours in images:
            levels |= {int(level) for level in np.unique(labels)}
            if colours != "grey" or not levels <= {0, VOID}:
                return False
        return levels == {0, VOID}

    def pixel_counts(self) -> NDArray[np.int64]:
        """How many pixels each class has, (classes,). Reads, and so checks, every photo and label image.

        Raises: ValueError: as reading a sample does, or if all pixels are void.
        """
        counts = np.zeros(self.classes.num_classes, np.int64)
        with ThreadPoolExecutor(default_threads()) as pool:
            try:
                counted = pool.map(self._counts, range(len(self)))
                for _, found in zip(progress(range(len(self)), f"check {self.split}"), counted, strict=True):
                    counts += found
            finally:
                pool.shutdown(cancel_futures=True)
        if not counts.any():
            raise ValueError(f"all labels of the split {self.split!r} of {self.root} are void ({VOID})")
        return counts

    def _counts(self, index: int) -> NDArray[np.int64]:
        labels = self[index].labels
        return np.bincount(labels[labels != VOID], minlength=self.classes.num_classes)

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
