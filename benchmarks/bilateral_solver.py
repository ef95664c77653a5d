"""The fast bilateral solver: values that are smooth where the photo is, and near those given where these are certain.

Barron & Poole 2016, "The fast bilateral solver". It minimises λ Σ Ŵ_ij (x_i - x_j)² / 2 + Σ c_i (x_i - t_i)², with Ŵ a
bilateral affinity whose rows and columns sum to 1, on the cells of a simplified bilateral grid: as many unknowns as
there are cells that a pixel touches.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import cg

TO_YUV = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
ROUNDS = 10
"""Rounds of bistochastisation."""
ITERATIONS, ERROR = 25, 1e-5
"""Of the conjugate gradients."""


def bilateral_grid(
    image: NDArray[np.uint8], sigma_spatial: float, sigma_luma: float, sigma_chroma: float
) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Splat (cells, pixels), whose transpose slices, and blur (cells, cells) of the photo (H, W, 3)."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    luma, *chroma = TO_YUV @ image.reshape(-1, 3).T
    axes = [y.ravel() / sigma_spatial, x.ravel() / sigma_spatial, luma / sigma_luma]
    axes += [(plane + 128) / sigma_chroma for plane in chroma]
    coordinates = np.stack(axes).astype(np.int64) + 1
    # One cell is left free on either side, so that no neighbour wraps around.
    strides = np.cumprod([1, *(coordinates.max(axis=1)[:-1] + 2)])
    cells, cell_of = np.unique(strides @ coordinates, return_inverse=True)
    pixels = np.arange(cell_of.size)
    splat = sparse.csr_array((np.ones(cell_of.size), (cell_of, pixels)), (cells.size, cell_of.size))
    blur = sparse.identity(cells.size, format="csr") * (2.0 * len(strides))
    for stride in (*strides, *-strides):
        found = np.searchsorted(cells, cells + stride).clip(max=cells.size - 1)
        (here,) = np.nonzero(cells[found] == cells + stride)
        blur = blur + sparse.csr_array((np.ones(here.size), (here, found[here])), blur.shape)
    return splat, sparse.csr_array(blur)


def smoothness(splat: sparse.csr_array, blur: sparse.csr_array) -> sparse.csr_array:
    """D_m - D_n B D_n, whose rows sum to 0 (algorithm 1 there)."""
    mass = splat.sum(axis=1)
    scale = np.ones(mass.size)
    for _ in range(ROUNDS):
        scale = np.sqrt(scale * mass / (blur @ scale))
    mass = scale * (blur @ scale)
    scaling = sparse.diags_array(scale)
    return sparse.csr_array(sparse.diags_array(mass) - scaling @ blur @ scaling)


def bilateral_solver(
    targets: NDArray[np.floating],
    confidence: NDArray[np.floating],
    image: NDArray[np.uint8],
    *,
    sigma_spatial: float,
    sigma_luma: float,
    sigma_chroma: float,
    smoothing: float,
) -> NDArray[np.float64]:
    """Refine each of the targets (C, H, W), trusted by `confidence` (H, W), with the photo (H, W, 3)."""
    splat, blur = bilateral_grid(image, sigma_spatial, sigma_luma, sigma_chroma)
    trust = splat @ confidence.ravel().astype(np.float64)
    matrix = smoothing * smoothness(splat, blur) + sparse.diags_array(trust)
    preconditioner = sparse.diags_array(1 / np.maximum(matrix.diagonal(), 1e-5))
    sums = splat @ (targets * confidence).reshape(len(targets), -1).T.astype(np.float64)
    starts = sums / np.maximum(trust, 1e-10)[:, None]
    solved = [
        cg(matrix, right, start, rtol=ERROR, maxiter=ITERATIONS, M=preconditioner)[0]
        for right, start in zip(sums.T, starts.T, strict=True)
    ]
    return (np.stack(solved) @ splat).reshape(targets.shape)
