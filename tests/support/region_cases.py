"""Regions of every kind on tiny grids, and their truth: loops over pixels, and sums over all labellings."""

import re
from itertools import product
from typing import Any

import numpy as np

from crfrnn.crf import CRF, Exact, Kernel, MeanField, Regions, Spatial
from repository import ROOT

ORDERS = (2, 3, None)
CLASSES, GRID = 3, (3, 4)
IDS = np.array([[7, 7, 0, 0], [7, -1, 0, 2], [7, 7, -3, 2]])
"""Gaps between ids, pixels in no segment, and a segment of two pixels."""


def memberships_of(ids: Any) -> Any:
    """The same segments as memberships of 0 and 1, (S, *grid)."""
    return np.stack([ids == each for each in np.unique(ids) if each >= 0]).astype(float)


def soft(rng: Any, grid: tuple[int, ...] = GRID) -> Any:
    """Memberships of overlapping segments, some of them 0."""
    shares = rng.uniform(size=(4, *grid))
    return np.where(shares < 0.4, 0, shares)


class RegionOracle:
    """What `reference.mean_field` takes as a term, for memberships (S, N): loops over segments and pixels."""

    def __init__(self, memberships: Any, weight: Any, order: int | None, mask: Any = None) -> None:
        shares = np.reshape(memberships, (len(memberships), -1))
        self.shares = shares if mask is None else shares * np.minimum(np.reshape(mask, -1), 1)
        self.weight, self.order = weight, order

    def filter(self, q: Any) -> Any:
        received = np.zeros(q.shape)
        for share in self.shares:
            for i in np.flatnonzero(share):
                received[:, i] += share[i] * (self._alone(q, share, i) if self.order is None else self._mean(q, share))
        return received

    def _alone(self, q: Any, share: Any, i: int) -> Any:
        """Π over the other pixels of the probability that each is of the class, or no member."""
        others = [j for j in range(len(share)) if j != i]
        return np.prod([1 - share[j] * (1 - q[:, j]) for j in others], axis=0)

    def _mean(self, q: Any, share: Any) -> Any:
        return ((q * share).sum(axis=1) / share.sum()) ** (self.order - 1)


def labellings(classes: int, points: int) -> Any:
    """All of them, (classes**points, points)."""
    return np.array(list(product(range(classes), repeat=points)))


def potts(labels: Any, memberships: Any, gamma: Any, gamma_max: float) -> Any:
    """The P^n Potts potential of labellings (L, N): γ_l if all members are of class l, else γ_max (Kohli 2007)."""
    total = np.zeros(len(labels))
    for member in memberships.reshape(len(memberships), -1).astype(bool):
        inside = labels[:, member]
        agree = (inside == inside[:, :1]).all(axis=1)
        total += np.where(agree, np.asarray(gamma)[inside[:, 0]], gamma_max)
    return total


def crf_of(order: int | None, weight: Any = (0.9, 0.5, 1.3), **more: Any) -> CRF:
    """A kernel and regions of both kinds."""
    regions = [Regions("ids", weight, order), Regions("shares", 0.7, order)]
    return CRF(
        [Kernel(Spatial(1.3), 0.6, Exact())],
        **{"solver": MeanField(3, 0.1, tolerance=0), "regions": regions, **more},
    )


def page_blocks() -> list[str]:
    """The Python of docs/regions.md."""
    text = (ROOT / "docs" / "regions.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
