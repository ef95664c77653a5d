"""The photos that a run trains and validates on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor

from crfrnn.data.annotations import Annotations, Clicks, Scribbles
from crfrnn.data.augmentation import Augmentation
from crfrnn.data.batches import Examples, ResumableLoader
from crfrnn.data.score_files import Teacher
from crfrnn.data.segmentation import SegmentationData
from crfrnn.files.classes import ClassSet
from crfrnn.training.config import TrainingConfig
from crfrnn.training.task import balanced_weights


def annotations_of(config: TrainingConfig) -> Annotations | None:
    """The sparse labels of the training photos; None where all pixels have one.

    Raises: ValueError: if they cannot be read.
    """
    if config.supervision == "labels":
        return None
    default = {"clicks": "clicks.json", "scribbles": "scribbles"}[config.supervision]
    path = Path(default if config.annotations is None else config.annotations)
    if config.annotations is None or not path.exists():
        path = Path(config.data) / path
    return Clicks(path, config.click_radius) if config.supervision == "clicks" else Scribbles(path)


def teacher_of(config: TrainingConfig) -> Teacher | None:
    """The teacher of the training photos, if there is one."""
    if config.teacher is None:
        return None
    folder = Path(config.teacher)
    folder = folder if folder.is_dir() else Path(config.data) / folder
    return Teacher(folder, cast(Any, config.teacher_input))


class TrainingPhotos(LightningDataModule):
    """The two splits and their batches. Reads every photo once, so that errors in the data show before training."""

    def __init__(self, config: TrainingConfig, classes: ClassSet) -> None:
        super().__init__()
        self.config = config
        self.train_split = SegmentationData(
            config.data,
            config.train_split,
            classes,
            annotations=annotations_of(config),
            teacher=teacher_of(config),
        )
        self.val_split = SegmentationData(config.data, config.val_split, classes)
        self.counts, self.sizes = self.train_split.counts_and_sizes()
        self._require_lessons()
        self.val_split.pixel_counts()

    def _require_lessons(self) -> None:
        """Raise a ValueError if there are no labels, and a stage leaves out the teacher as well."""
        if self.counts.any():
            return
        where = f"no photo of the split {self.config.train_split!r} has labels"
        if not self.config.teacher_weight:
            raise ValueError(f"{where}, and teacher_weight=0 leaves out the teacher: raise it, or give labels")
        if self.config.freeze_network and self.config.crf_epochs:
            raise ValueError(
                f"{where}, and with freeze_network a teacher has nothing to teach in stage 2: leave it out, or give "
                "labels or crf_epochs=0"
            )

    def class_weights(self) -> Tensor | None:
        """Weights of the classes in the loss, (classes,), or None if all weigh the same."""
        weights = self.config.class_weights
        if weights == "balanced":
            return balanced_weights(self.counts)
        return None if weights is None else torch.tensor(weights)

    def train_dataloader(self) -> ResumableLoader:
        """Augmented photos, all of the same size, or whole ones in batches of about the same size."""
        config = self.config
        scale = (1.0, 1.0) if config.crop is None else config.scale
        augmentation = Augmentation(config.crop, scale, config.flip, config.colour)
        sizes = self.sizes if config.crop is None else None
        return self._loader(Examples(self.train_split, augmentation, config.seed), config.batch_size, True, sizes)

    def val_dataloader(self) -> ResumableLoader:
        """Photos as they are, one by one: the padding around a photo in a batch would change a network's answer."""
        return self._loader(Examples(self.val_split), 1, False)

    def _loader(
        self, examples: Examples, batch_size: int, shuffle: bool, sizes: list[tuple[int, int]] | None = None
    ) -> ResumableLoader:
        trainer: Trainer = self.trainer  # type: ignore[assignment]
        return ResumableLoader(
            examples,
            batch_size,
            shuffle=shuffle,
            seed=self.config.seed,
            sizes=sizes,
            workers=self.config.workers,
            rank=trainer.global_rank,
            num_processes=trainer.world_size,
        )
