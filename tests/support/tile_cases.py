"""An image of patches with scores, for the tests of tiles."""

from dataclasses import replace

import numpy as np

from crfrnn.parameters import DEFAULT_PRESET, preset
from crfrnn.tiles import refine_tiled

HEIGHT, WIDTH, CLASSES = 90, 130, 3
SHORT = replace(
    preset(DEFAULT_PRESET), theta_alpha=8, theta_beta=20, theta_gamma=2, normalization="symmetric", iterations=4
)


def patches(rng):
    """(HEIGHT, WIDTH, 3): several colours with noise."""
    colours = rng.integers(0, 256, (6, 8, 3)).repeat(15, axis=0).repeat(17, axis=1)[:HEIGHT, :WIDTH]
    return np.clip(colours + rng.normal(0, 6, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8)


def coarse_logits(rng):
    """(CLASSES, HEIGHT, WIDTH)."""
    coarse = rng.normal(0, 2, (CLASSES, 10, 14)).repeat(9, axis=1).repeat(10, axis=2)[:, :HEIGHT, :WIDTH]
    return (coarse + rng.normal(0, 1, (CLASSES, HEIGHT, WIDTH))).astype(np.float32)


def tiled_probabilities(logits, image, *arguments, **options):
    output = np.full(logits.shape, np.nan, np.float32)
    assert refine_tiled(logits, image, *arguments, output=output, **options) is output
    return output
