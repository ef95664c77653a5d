"""Joint bilateral upsampling by its formula, pixel by pixel: docs/algorithm.md, eq. 33."""

from itertools import product

import numpy as np

EPSILON = 0.1


def interpolation(low, grid, covers=None):
    """B: (pixels, low pixels), from where the centre of each pixel lies among those of the low ones."""
    covered = grid if covers is None else covers
    matrix = np.zeros((*grid, *low))
    for pixel in np.ndindex(*grid):
        sides = []
        for at, length, few in zip(pixel, covered, low, strict=True):
            place = min(max((at + 0.5) * few / length - 0.5, 0), few - 1)
            below = int(np.floor(place))
            sides.append([(below, 1 - (place - below)), (min(below + 1, few - 1), place - below)])
        for corner in product(*sides):
            matrix[(*pixel, *(index for index, _ in corner))] += np.prod([share for _, share in corner])
    return matrix.reshape(int(np.prod(grid)), -1)


def upsampling(low, image, theta_alpha, theta_beta, covers=None):
    """L: (pixels, low pixels), for an image (*grid, K) and deviations for each axis in their order, and channel."""
    grid = image.shape[:-1]
    covered = grid if covers is None else covers
    centres = [(np.arange(few) + 0.5) * length / few - 0.5 for few, length in zip(low, covered, strict=True)]
    there = np.stack(np.meshgrid(*centres, indexing="ij"), -1).reshape(-1, len(low))
    inside = (there <= np.array(grid) - 0.5).all(axis=1)
    # A low pixel has the colour at its centre: that of linear interpolation between the image's own pixels.
    colours = np.zeros((len(there), image.shape[-1]))
    for index, centre in enumerate(there):
        sides = []
        for at, length in zip(centre, grid, strict=True):
            place = min(at, length - 1)
            below = int(np.floor(place))
            sides.append([(below, 1 - (place - below)), (min(below + 1, length - 1), place - below)])
        for corner in product(*sides):
            share = np.prod([each for _, each in corner])
            colours[index] += share * image[tuple(at for at, _ in corner)]
    places = np.minimum(there, np.array(grid) - 1)
    pixels = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, len(grid))
    apart = ((pixels[:, None] - places) / theta_alpha) ** 2
    differ = ((image.reshape(len(pixels), 1, -1) - colours) / theta_beta) ** 2
    weights = np.exp(-0.5 * (apart.sum(-1) + differ.sum(-1))) * inside
    matrix = weights + EPSILON * interpolation(low, grid, covers)
    return matrix / (weights.sum(axis=1, keepdims=True) + EPSILON)
