"""Samples as tensors, in batches. The seed alone decides their order and variants, from any step on.

What a training step sees depends on the seed, the epoch and the place in the epoch. It does not depend on what was
drawn before or on how many workers read ahead. An interrupted run therefore continues as if it had not stopped.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

try:
    import torch
    from torch import Tensor
    from torch.nn import functional
    from torch.utils.data import DataLoader, Dataset, DistributedSampler, get_worker_info
except ImportError as error:
    raise ImportError(f"batches of samples need PyTorch: pip install 'crfrnn[train]' ({error})") from error

from crfrnn.data.segmentation import Sample
from crfrnn.files.classes import VOID

PADDING = 127.0
"""The grey level that fills the space around a photo."""

SIZE_STEP = 32
"""Sides that round up to the same multiple of it are about the same: it is the largest stride of the networks."""


class Example(NamedTuple):
    """A sample as tensors: image (3, H, W), RGB 0-255; uint8 labels (H, W); mask (H, W), true on the photo.

    Attributes:
        teacher: The teacher's probabilities as means over cells (C, cells, cells), see `crfrnn.data.cells`; 0 where it
            says nothing, None if there is no teacher.
    """

    image: Tensor
    labels: Tensor
    mask: Tensor
    teacher: Tensor | None = None


class Batch(NamedTuple):
    """Images (B, 3, H, W), RGB 0-255; long labels (B, H, W), 255 void; masks (B, H, W), 1 on the photo, 0 beside it.

    Attributes:
        teacher: (B, C, cells, cells), as for `Example`.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor
    teacher: Tensor | None = None


@dataclass(frozen=True)
class Draw:
    """Which sample to draw, in which epoch, and whether it only fills a gap and must not count."""

    index: int
    epoch: int
    filling: bool


def example(sample: Sample) -> Example:
    """A sample as it is, without what a teacher says: networks are validated against labels."""
    labels = torch.from_numpy(sample.labels)
    photo = torch.from_numpy(sample.image.transpose(2, 0, 1).copy())
    return Example(photo.float(), labels, torch.ones_like(labels, dtype=torch.bool))


def collate(examples: Sequence[Example]) -> Batch:
    """A batch of examples, padded at the right and the bottom to the size of the largest."""
    size = _largest([one.labels for one in examples])
    taught = [one.teacher for one in examples if one.teacher is not None]
    return Batch(
        torch.stack([_widened(one.image, size, PADDING) for one in examples]),
        torch.stack([_widened(one.labels, size, VOID) for one in examples]).long(),
        torch.stack([_widened(one.mask, size, False) for one in examples]).float(),
        torch.stack([_widened(one, _largest(taught), 0) for one in taught]) if taught else None,
    )


def _collated(examples: list[Example] | Failure) -> Batch | Failure:
    return examples if isinstance(examples, Failure) else collate(examples)


def _largest(tensors: Sequence[Tensor]) -> tuple[int, int]:
    height, width = (max(tensor.shape[axis] for tensor in tensors) for axis in (-2, -1))
    return height, width


def _widened(tensor: Tensor, size: tuple[int, int], value: float) -> Tensor:
    """Padded at the right and the bottom."""
    return functional.pad(tensor, (0, size[1] - tensor.shape[-1], 0, size[0] - tensor.shape[-2]), value=value)


def leave_signals_to_parent(worker: int) -> None:
    """Ignore Ctrl-C and the end of a terminal, which reach workers too: their parent ends them once it is done."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(signal.Signals[name], signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Failure(NamedTuple):
    """An error with words for users in a worker, for the process that asked: a loader would add a traceback to them."""

    error: Exception


class Examples(Dataset[Example]):
    """Examples of samples, augmented if there is an augmentation.

    Args:
        samples: Such as `SegmentationData`.
        augment: Makes an example from a sample and a seed.
        seed: Of the augmentation.
    """

    def __init__(
        self, samples: Sequence[Sample], augment: Callable[[Sample, int], Example] | None = None, seed: int = 0
    ) -> None:
        self.samples, self.augment, self.seed = samples, augment, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> Example:
        sample = self.samples[draw.index]
        if self.augment is None:
            drawn = example(sample)
        else:
            state = np.random.SeedSequence([self.seed, draw.epoch, draw.index]).generate_state(1, np.uint64)
            drawn = self.augment(sample, int(state[0]))
        if not draw.filling:
            return drawn
        nothing = None if drawn.teacher is None else torch.zeros_like(drawn.teacher)
        return drawn._replace(labels=torch.full_like(drawn.labels, VOID), teacher=nothing)

    def __getitems__(self, draws: list[Draw]) -> list[Example] | Failure:
        """The examples of a batch, as loaders ask for them; in a worker, what went wrong with one."""
        try:
            return [self[draw] for draw in draws]
        except (ValueError, TypeError, OSError, MemoryError) as error:
            if get_worker_info() is None:
                raise
            return Failure(error)


class PhotoSampler(DistributedSampler[Example]):
    """The samples that a process sees in an epoch. Each carries the epoch's number, so workers need not be told it.

    If the samples do not divide evenly among the processes, some are drawn again as filling. Where the sizes of the
    samples are known, those of about the same size come in batches, and the batches in any order.
    """

    def __init__(
        self,
        data: Examples,
        shuffle: bool,
        seed: int,
        rank: int,
        num_processes: int,
        batch_size: int,
        sizes: Sequence[tuple[int, int]] | None,
    ) -> None:
        super().__init__(data, num_processes, rank, shuffle=shuffle, seed=seed)
        self.batch_size = batch_size
        self.kinds = None if sizes is None else [tuple(-(-side // SIZE_STEP) for side in size) for size in sizes]
        self.skip = 0

    def __iter__(self) -> Iterator[Draw]:  # type: ignore[override]
        first, self.skip = self.skip, 0
        places = range(self.rank, self.num_replicas * len(self), self.num_replicas)
        draws = [
            Draw(index, self.epoch, filling=place >= len(self.dataset))  # type: ignore[arg-type]
            for place, index in zip(places, super().__iter__(), strict=True)
        ]
        yield from (draws if self.kinds is None else self._alike(draws, self.kinds))[first:]

    def _alike(self, draws: list[Draw], kinds: list[tuple[int, ...]]) -> list[Draw]:
        """The draws of an epoch, without those that fill no batch, in batches of about the same size."""
        count = max(1, len(draws) // self.batch_size)
        alike = sorted(draws[: count * self.batch_size], key=lambda draw: kinds[draw.index])
        order = np.random.default_rng([self.seed, self.epoch, self.rank]).permutation(count)
        return [draw for turn in order for draw in alike[turn * self.batch_size :][: self.batch_size]]


class ResumableLoader(DataLoader[Example]):
    """Batches of examples; after `load_state_dict` the next epoch starts where the state was taken.

    Args:
        examples: What is drawn from.
        batch_size: Examples in a batch. An incomplete batch of shuffled examples is left out, unless it is the only
            one.
        shuffle: Whether to shuffle, in an order that the seed and the epoch decide.
        seed: Of the order.
        sizes: Height and width of each sample. Shuffled batches are then of samples of about the same size.
        workers: Processes that read ahead; 0 reads in this one.
        rank: Number of this process among those that train together.
        num_processes: How many processes train together.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        sizes: Sequence[tuple[int, int]] | None = None,
        workers: int = 0,
        rank: int = 0,
        num_processes: int = 1,
    ) -> None:
        self.photos = PhotoSampler(examples, shuffle, seed, rank, num_processes, batch_size, sizes)
        self.given = 0
        super().__init__(
            examples,
            batch_size=batch_size,
            sampler=self.photos,
            num_workers=workers,
            collate_fn=_collated,
            drop_last=shuffle and len(self.photos) >= batch_size,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=leave_signals_to_parent,
            generator=torch.Generator(),  # for the workers' own seeds, which nothing depends on
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.photos.skip = self.given * (self.batch_size or 1)
        for batch in super().__iter__():
            if isinstance(batch, Failure):
                raise batch.error
            self.given += 1
            if self.given == len(self):
                self.given = 0
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many batches of the epoch were given out; 0 at its end."""
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches that were given out."""
        self.given = state["given"]
