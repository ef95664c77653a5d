"""What refining changed: the share of pixels, and classes that are gone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.cli.inputs import Pair
from crfrnn.crf import CRF, Bilateral
from crfrnn.refine import Input
from crfrnn.tiles import release_pages
from crfrnn.unary import unknown_labels

WORTH_A_WARNING = 0.005
"""A class that had this share of the pixels and is gone is worth a warning; smaller ones are what a CRF removes."""
CLASSES_SHOWN = 5


@dataclass
class Change:
    """How labels differ from those of the scores; parts are counted one after the other.

    Attributes:
        classes: How many there are.
        pixels: How many were compared.
        changed: How many of them have another label.
        before, after: Pixels of each class.
    """

    classes: int
    pixels: int = 0
    changed: int = 0
    before: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    after: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def count(self, before: NDArray[Any], after: NDArray[Any]) -> None:
        """Add the labels of a part, before and after."""
        self.pixels += before.size
        self.changed += int(np.count_nonzero(before != after))
        unknown = unknown_labels(before, self.classes)
        known = before[~unknown] if unknown.any() else before
        self.before = _sum(self.before, np.bincount(known.reshape(-1)))
        self.after = _sum(self.after, np.bincount(after.reshape(-1)))

    @property
    def vanished(self) -> dict[int, float]:
        """Classes that no pixel has any more, and the share of the pixels that had them, most first."""
        after = _sum(self.after, np.zeros_like(self.before))[: len(self.before)]
        gone = np.flatnonzero((self.before > 0) & (after == 0))
        shares = {int(label): float(self.before[label]) / self.pixels for label in gone}
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    @property
    def words(self) -> str:
        """The share of changed pixels, and classes that are gone."""
        gone = self.vanished
        return f"{self.changed / self.pixels:.1%} of pixels changed" + (f", {vanished_words(gone)}" if gone else "")


def change_of(pair: Pair, result: NDArray[Any], classes: int, step: int = 1) -> Change:
    """The change from the scores of a pair to labels or probabilities, at every `step`-th pixel along each axis."""
    axes = len(pair.grid)
    every = (slice(None, None, step),) * axes
    change = Change(classes)
    leading: tuple[slice, ...] = () if pair.kind == "labels" else (slice(None),)
    labels = result if result.ndim == axes else labels_of(result[(slice(None), *every)], "probabilities")
    change.count(labels_of(pair.scores[leading + every], pair.kind), labels[every] if labels is result else labels)
    if step > 1 and change.vanished:  # between the pixels compared, a class may have stayed
        whole = result if labels is result else labels_of(result, "probabilities")
        change.after = _sum(change.after, np.bincount(whole.reshape(-1)))
    return change


def change_of_parts(pair: Pair, result: NDArray[Any], classes: int, parts: Iterable[tuple[slice, ...]]) -> Change:
    """The same for arrays that are not in memory, a part at a time."""
    change = Change(classes)
    axes, every = len(pair.grid), (slice(None),)
    for part in parts:
        before = np.asarray(pair.scores[part if pair.kind == "labels" else every + part])
        after = result[part] if result.ndim == axes else labels_of(result[every + part], "probabilities")
        change.count(labels_of(before, pair.kind), after)
        for array in (pair.scores, result):
            release_pages(array)
    return change


def labels_of(scores: NDArray[Any], kind: Input) -> NDArray[np.int64]:
    """The likeliest labels of scores (C, *spatial), and labels as they are."""
    labels: NDArray[np.int64]
    if kind == "labels":
        labels = np.asarray(scores, np.int64)
    elif len(scores) == 1:
        labels = (scores[0] > (0.5 if kind == "probabilities" else 0)).astype(np.int64)
    else:
        labels = np.asarray(scores).argmax(axis=0)
    return labels


def vanished_words(shares: dict[int, float]) -> str:
    """In words, which classes are gone and how much they had."""
    named = [f"{label} ({100 * share:.2g} % of pixels)" for label, share in shares.items()]
    listed = ", ".join(named[:CLASSES_SHOWN]) + (", …" if len(named) > CLASSES_SHOWN else "")
    return f"class {listed} is gone" if len(named) == 1 else f"classes {listed} are gone"


def vanished_warning(shares: dict[int, float], pair: Pair, image: NDArray[Any], crf: CRF) -> str | None:
    """What to tell about classes that are gone, with the cause if θ_β and the image's levels differ; None if nothing.

    Args:
        image: The image, or a part of it.
    """
    if not any(share >= WORTH_A_WARNING for share in shares.values()):
        return None
    text = vanished_words(shares)
    features = [kernel.features for kernel in crf.active.kernels]
    given = [float(np.max(each.theta_beta)) * each.level for each in features if isinstance(each, Bilateral)]
    if given and max(given) > image.std():  # in units of other levels, all pixels look alike
        low, high = image.min(), image.max()
        levels = "0,1" if low >= 0 and high <= 1 else f"{low:.3g},{high:.3g}"
        return (
            f"{text}; θ_β is {max(given):.3g} levels, but the image has levels from {low:.3g} to {high:.3g}: say their "
            f"range, such as --image-range {levels}, or give --theta-beta contrast"
        )
    return f"{text}; smaller weights, a smaller --theta-beta or --theta-alpha keep more of small classes"


def _sum(first: NDArray[np.int64], second: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts of classes added, whichever has more classes."""
    total = np.zeros(max(len(first), len(second)), np.int64)
    total[: len(first)] += first
    total[: len(second)] += second
    return total
