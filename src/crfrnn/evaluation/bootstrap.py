"""How much a gain in mean IoU, measured on some photos, may owe to the choice of those photos."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from crfrnn.evaluation.metrics import iou_of_classes

RESAMPLES = 2000
LEVEL = 0.95
BLOCK = 50
"""How many resamples have their confusion matrices in memory at a time."""


def gain_interval(before: Tensor, after: Tensor, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of mean IoU after minus before, by 2000 paired bootstrap resamples of the photos.

    A resample draws as many photos as there are, with replacement, the same ones before and after, and adds up their
    confusion matrices. The interval reaches from the 2.5th to the 97.5th percentile of the differences.

    Args:
        before, after: Confusion matrices of each photo (photos, C, C).
        seed: Seed of the draws.
    References: Efron & Tibshirani 1993, "An introduction to the bootstrap", 13.3: the percentile interval.
    """
    count = len(before)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    gains = []
    for first in range(0, RESAMPLES, BLOCK):
        times = torch.from_numpy(drawn[first : first + BLOCK].astype(np.float64))
        of_before, of_after = (
            iou_of_classes(torch.tensordot(times, confusions.double(), dims=1)).nanmean(dim=-1)
            for confusions in (before, after)
        )
        gains.append(of_after - of_before)
    low, high = np.nanquantile(torch.cat(gains).numpy(), ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)
