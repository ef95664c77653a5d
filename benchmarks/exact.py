"""Mean field with exact Gaussian filters, as the truth that approximations are measured against.

The bilateral filter is softmax attention over all pairs of pixels; the spatial one is two dense matrices.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention


def gaussian_rows(length: int, sigma: float) -> torch.Tensor:
    """Dense (length, length) Gaussian of the distance; each row sums to 1."""
    position = torch.arange(length) / sigma
    return torch.softmax(-0.5 * (position[:, None] - position) ** 2, dim=1)


def exact_mean_field(logits: np.ndarray, image: np.ndarray, settings: dict) -> np.ndarray:
    """Probabilities of the model in `settings`, normalised "after", by O(N²) filters in float32."""
    classes, height, width = logits.shape
    y, x = np.mgrid[:height, :width]
    position = np.stack([x, y], -1) / settings["theta_alpha"]
    features = np.concatenate([position, image / settings["theta_beta"]], -1).reshape(height * width, -1)
    features = torch.from_numpy(features - features.mean(0))
    half_norm = 0.5 * (features**2).sum(1, keepdim=True)
    # Equal widths of query, key and value, multiples of 8, keep PyTorch on its blockwise kernel.
    columns = -(-max(classes, features.shape[1] + 1) // 8) * 8

    def pad(*parts: torch.Tensor) -> torch.Tensor:
        rows = torch.cat(parts, dim=1).float()
        return torch.nn.functional.pad(rows, (0, columns - rows.shape[1]))[None, None]

    query, key = pad(features, torch.ones_like(half_norm)), pad(features, -half_norm)
    down, across = gaussian_rows(height, settings["theta_gamma"]), gaussian_rows(width, settings["theta_gamma"])
    unary = torch.from_numpy(logits)
    marginals = unary.softmax(0)
    for _ in range(settings["iterations"]):
        value = pad(marginals.reshape(classes, -1).T)
        bilateral = scaled_dot_product_attention(query, key, value, scale=1.0)[0, 0, :, :classes].T
        spatial = down @ marginals @ across.T
        message = settings["spatial_weight"] * spatial
        message += settings["bilateral_weight"] * bilateral.reshape(unary.shape)
        marginals = (unary + message).softmax(0)
    return marginals.numpy()
