"""Pixel-adaptive mask refinement: probabilities averaged over neighbours of similar colour, a few times.

Araslanov & Roth 2020, "Single-stage semantic segmentation from image labels", 3.4.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

DILATIONS = (1, 2, 4, 8, 12, 24)
STEPS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]


def shifted(planes: Tensor, dilations: tuple[int, ...], centre: bool) -> Iterator[Tensor]:
    """Planes (K, H, W) as seen from each neighbour of a pixel; beyond the edge is what lies on it."""
    height, width = planes.shape[1:]
    reach = max(dilations)
    padded = pad(planes[None], [reach] * 4, mode="replicate")[0]
    for dilation in dilations:
        for y, x in STEPS:
            if centre or (y, x) != (0, 0):
                top, left = reach + dilation * y, reach + dilation * x
                yield padded[:, top : top + height, left : left + width]


def affinities(photo: Tensor, dilations: tuple[int, ...], width: float) -> Tensor:
    """Weights (P, H, W) of a pixel's neighbours, which sum to 1: softmax of -|difference| / (width × deviation).

    The deviation is that of the colour channel over the neighbours. A width of 0.1 is that of the program that the
    authors published.
    """
    count, total, squares = 0, torch.zeros_like(photo), torch.zeros_like(photo)
    for neighbour in shifted(photo, dilations, centre=True):
        count += 1
        total += neighbour
        squares += neighbour**2
    deviation = ((squares - total**2 / count) / (count - 1)).clamp_min(0).sqrt()
    scale = width * deviation + 1e-6
    distances = [((photo - neighbour).abs() / scale).mean(0) for neighbour in shifted(photo, dilations, centre=False)]
    return torch.softmax(-torch.stack(distances), dim=0)


def pamr(
    probabilities: Tensor,
    photo: Tensor,
    dilations: tuple[int, ...] = DILATIONS,
    iterations: int = 10,
    width: float = 0.1,
) -> Tensor:
    """Refine probabilities (C, H, W) with a photo (K, H, W)."""
    weights = affinities(photo, dilations, width)
    for _ in range(iterations):
        refined = torch.zeros_like(probabilities)
        for weight, neighbour in zip(weights, shifted(probabilities, dilations, centre=False), strict=True):
            refined.addcmul_(weight, neighbour)
        probabilities = refined
    return probabilities
