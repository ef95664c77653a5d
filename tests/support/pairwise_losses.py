"""The losses over pairs of pixels by their published formulas: all pairs, as dense matrices, in float64."""

import numpy as np

from crfrnn import reference
from crfrnn.crf import CRF, Bilateral, Exact, Grid, Kernel, Lattice, Spatial

# No round numbers: on the border of two simplices rounding decides which vertices a point touches.
SMOOTH, SIMILAR = Spatial(1.57), Bilateral(5.13, 61.7)
FILTERS = {"grid": (Grid(), Exact()), "lattice": (Lattice(), Lattice()), "exact": (Exact(), Exact())}


def kernels(filters="exact", normalization="none"):
    """A spatial and a bilateral kernel."""
    smooth, similar = FILTERS[filters]
    return CRF([Kernel(SMOOTH, 0.7, smooth, normalization), Kernel(SIMILAR, 1.3, similar, normalization)])


def matrices(crf, image, mask):
    """Σ_k w_k N_k of one image as a matrix, and what it weighs the pair of a pixel with itself if K weighs that 1."""
    grid = np.stack([axis.ravel() for axis in np.indices(mask.shape)[::-1]], axis=1)
    total, own = 0, 0
    for kernel in crf.kernels:
        if isinstance(kernel.features, Spatial):
            rows = grid / kernel.features.theta_gamma
        else:
            colours = image.reshape(len(image), -1).T / kernel.features.theta_beta
            rows = np.concatenate([grid / kernel.features.theta_alpha, colours], axis=1)
        if isinstance(kernel.filter, Grid):
            K = reference.GridGaussian(mask.shape, kernel.features.theta_gamma)
        else:
            K = (reference.Lattice if isinstance(kernel.filter, Lattice) else reference.DenseGaussian)(rows)
        term = reference.Term(K, normalization=kernel.normalization, mask=mask.ravel())
        pre, post = reference.normalisation(K, len(grid), kernel.normalization, mask.ravel())
        total = total + kernel.weight * term.filter(np.eye(len(grid))).T
        own = own + kernel.weight * pre * post * np.ones(len(grid))
    return total, own


def truth(name, crf, q, image, mask, source=None, destination=None):
    """The loss of a batch of probabilities (B, C, *spatial), and its gradient to them."""
    q, image, mask = (np.asarray(each, np.float64) for each in (q, image, mask))
    s, d = (np.asarray(1.0 if gate is None else gate) * np.ones(mask.shape) for gate in (source, destination))
    counted = mask * (1 if name == "dense" else s if destination is None else d)
    images = 1 / len(q) if name == "cut" else 1 / counted.sum()
    value, gradient = 0.0, np.zeros(q.shape)
    for b in range(len(q)):
        N, own = matrices(crf, image[b], mask[b])
        for c, p in enumerate(q[b].reshape(q.shape[1], -1)):
            if name == "cut":
                one, slope = _cut(N, p)
            else:
                pairs = N - np.diag(own) if name == "gated" else N
                one, slope = _potts(pairs, p, s[b].ravel(), d[b].ravel())
            value += images * one
            gradient[b, c] = images * slope.reshape(mask.shape[1:])
    return value, gradient


def _potts(N, p, s, d):
    received = N @ (s * (1 - p))
    heard = received >= 0  # less a pixel's pair with itself, a lattice may leave less than nothing
    return (d * p) @ (heard * received), d * heard * received - s * (N.T @ (heard * d * p))


def _cut(N, p):
    cut, connected = p @ N @ (1 - p), p @ N.sum(axis=1)
    slope = N @ (1 - p) - N.T @ p
    return cut / connected, (slope - cut / connected * N.sum(axis=1)) / connected
