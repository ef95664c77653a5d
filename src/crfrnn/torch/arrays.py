"""`crfrnn.refine` on a device of torch: arrays in, arrays out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.arrays import Array, num_points, region_array
from crfrnn.crf import CRF
from crfrnn.inference.backend import Execution
from crfrnn.kernels.features import Guide, given_count
from crfrnn.kernels.matrix import matrix_kernel
from crfrnn.kernels.native import Output
from crfrnn.torch.functional import refine
from crfrnn.torch.scene import Scene


def device_named(device: str) -> torch.device:
    """The device that torch calls so. Raises ValueError if it is not there."""
    try:
        there = torch.zeros(0).to(torch.device(device))
        there.cpu()  # what torch calls "meta" holds no numbers
    except TypeError:
        raise TypeError(f"device={device!r} must be the name of a device of torch, such as 'cuda'") from None
    except (RuntimeError, AssertionError, ValueError) as error:  # torch without CUDA asserts
        raise ValueError(f"device={device!r} is not available: {error}") from error
    return there.device


def refine_on(
    device: str,
    unary: Array,
    crf: CRF,
    guide: Guide,
    spacing: float | Sequence[float] | None,
    output: Output,
) -> NDArray[Any]:
    """Probabilities (C, *spatial) or labels (*spatial) of a unary (C, *spatial) and a guide that have been checked.

    Raises: ValueError: if torch has no such device, or no backend on it supports what the CRF asks for.
    """
    if guide.origin is not None and any(guide.origin):
        raise ValueError(f"origin={tuple(guide.origin)} is for the native core: leave out device={device!r}")
    there = device_named(device)

    def batch(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.require(array, requirements=("C", "W"))).to(there)[None]

    def features(name: str, rows: Any) -> Tensor:
        if name in crf.region_names:
            return batch(region_array(rows, f"given[{name!r}]", guide.grid))
        if hasattr(rows, "filter") or matrix_kernel(rows, num_points(guide.grid)) is not None:
            raise ValueError(f"given[{name!r}] is a kernel in NumPy: leave out device={device!r}, or give its features")
        count = given_count(name, guide.given, guide.grid)
        columns = np.moveaxis(np.asarray(rows, unary.dtype).reshape(*guide.grid, count), -1, 0)
        return batch(columns)

    with torch.inference_mode():
        scene = Scene(
            batch(unary),
            None if guide.image is None else batch(np.moveaxis(guide.image.astype(unary.dtype), -1, 0)),
            None if guide.mask is None else batch(guide.mask.reshape(guide.grid)),
            {name: features(name, guide.given[name]) for name in crf.given_names if name in guide.given},
            spacing,
        )
        weights = [term.weight for term in crf.terms]
        probabilities = refine(crf, scene, weights, crf.compatibility, True, Execution(count_vertices=True))
    result = probabilities[0].argmax(dim=0) if output == "labels" else probabilities[0]
    array: NDArray[Any] = result.cpu().numpy()
    return array
