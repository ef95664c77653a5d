"""`crfrnn.refine` on a device of torch: arrays in, arrays out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.arrays import Array, mask_array
from crfrnn.parameters import CRFParameters
from crfrnn.torch.functional import mean_field


def refine_on(
    device: str,
    unary: Array,
    image: NDArray[Any] | None,
    parameters: CRFParameters,
    mask: Any,
    spacing: float | Sequence[float] | None,
) -> Array:
    """Probabilities (C, *spatial) of a checked unary (C, *spatial) and image (*spatial, K).

    Raises: ValueError: if torch has no such device, or its mean field lacks what the parameters ask for.
    """
    grid = unary.shape[1:]
    levels = np.zeros((*grid, 1), unary.dtype) if image is None else image.astype(unary.dtype)
    try:
        there = torch.zeros(0).to(device).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise ValueError(f"device={device!r} is not to be had here: {error}") from error

    def batch(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(there)[None]

    with torch.inference_mode():
        probabilities = mean_field(
            batch(unary),
            batch(np.moveaxis(levels, -1, 0)),
            None if mask is None else batch(mask_array(mask, grid).reshape(grid)),
            parameters,
            spacing=spacing,
            return_probabilities=True,
        )
    result: Array = probabilities[0].cpu().numpy()
    return result
