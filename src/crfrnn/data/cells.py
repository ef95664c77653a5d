"""Probabilities as means over cells of `CELL` x `CELL` pixels, where a network meets coarse ones of another.

The borders of a coarse map are soft because its cells hold two classes, not because a pixel does. So the means over
cells are compared: a network may be as sharp within a cell as the labels teach it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

CELL = 8
"""Side of a cell in pixels: the stride at which `FcnLite` and FCN-8s compute scores."""


def means_of_coarse(coarse: Tensor, size: tuple[int, int], rows: Tensor, columns: Tensor) -> Tensor:
    """Coarse probabilities that cover a photo, stretched over it bilinearly, as means over the cells of a part of it.

    Pixels and cells have their centres at halves, as with align_corners=False. Both steps are linear along each axis,
    so that nothing of the photo's size is made.

    Args:
        coarse: (C, h, w).
        size: Height and width of the photo in pixels.
        rows: The row of the photo in each row of the part, -1 where that lies outside of the photo.
        columns: Likewise.
    Returns: (C, cells, cells); the means over the pixels that lie in the photo, 0 in cells without any.
    """
    vertical, horizontal = (
        _averaging(places, length, stored)
        for places, length, stored in zip((rows, columns), size, coarse.shape[1:], strict=True)
    )
    return vertical @ coarse @ horizontal.T


def means_of_pixels(probabilities: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities of pixels as means over the cells.

    Args:
        probabilities: (B, C, H, W).
        masks: (B, H, W), 1 for pixels that count and 0 for others.
    Returns: The means (B, C, cells, cells), and the share of each cell that counts (B, cells, cells).
    """
    counted = masks[:, None]
    shares = _pooled(counted)
    return _pooled(probabilities * counted) / torch.where(shares > 0, shares, 1), shares[:, 0]


def _pooled(values: Tensor) -> Tensor:
    """Sums over the cells, by the number of pixels in a whole one; those at the end may have fewer."""
    return functional.avg_pool2d(values, CELL, ceil_mode=True, divisor_override=CELL**2)


def _averaging(places: Tensor, length: int, stored: int) -> Tensor:
    """The matrix (cells, stored) from the values of an axis to their means over cells of its stretched version."""
    inside = places >= 0
    centres = ((places + 0.5) * (stored / length) - 0.5).clamp(0, stored - 1)
    below = centres.floor()
    share = centres - below
    weights = torch.zeros(len(places), stored)
    for taken, weight in ((below, 1 - share), (below + 1, share)):
        weights.scatter_add_(1, taken.long().clamp(max=stored - 1)[:, None], (weight * inside)[:, None].float())
    beyond = -len(places) % CELL
    sums = functional.pad(weights, (0, 0, 0, beyond)).reshape(-1, CELL, stored).sum(dim=1)
    counts = functional.pad(inside.float(), (0, beyond)).reshape(-1, CELL).sum(dim=1)
    return sums / counts.clamp(min=1)[:, None]
