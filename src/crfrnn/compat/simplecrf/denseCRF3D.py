"""SimpleCRF's `denseCRF3D`: a dense CRF on a volume."""

# ruff: noqa: N999
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn.arrays import real_shape
from crfrnn.compat.simplecrf.labelling import Kernels, Named, labels
from crfrnn.numbers import whole_number

NAMES = (
    "MaxIterations",
    *("PosRStd", "PosCStd", "PosZStd", "PosW"),
    *("BilateralRStd", "BilateralCStd", "BilateralZStd", "BilateralW", "ModalityNum", "BilateralModsStds"),
)


def densecrf3d(I: ArrayLike, P: ArrayLike, param: Mapping[str, Any]) -> NDArray[np.int8]:  # noqa: E741
    """Labels (D, H, W) of a volume.

    Deviations are along the axes of (D, H, W). SimpleCRF counts voxels as if the volume were (W, H, D), which is the
    same where D = W and mixes axes elsewhere.

    Args:
        I: (D, H, W, channels) of any real dtype, with up to 13 channels; SimpleCRF takes 8-bit levels of up to 5.
        P: (D, H, W, labels) probabilities; as they are, and 0 is 0.
        param: `MaxIterations`; `PosW` and `BilateralW`, the kernels' weights; `PosRStd`, `PosCStd`, `PosZStd` and
            `BilateralRStd`, …, their deviations in voxels along W, H and D; `ModalityNum`, the number of channels, and
            `BilateralModsStds`, a deviation for each.
    Raises:
        KeyError: if one of these is missing.
        ValueError: if shapes do not fit.
    """
    if not isinstance(param, Mapping):
        raise TypeError(f"param={param!r} must be a dict of {', '.join(NAMES)}")
    missing = [name for name in NAMES if name not in param]
    if missing:
        raise KeyError(f"param has no {', '.join(missing)}")
    shape = real_shape(I, "I")
    channels, divisors = shape[-1:], real_shape(param["BilateralModsStds"], "BilateralModsStds")
    number = whole_number(param["ModalityNum"], "ModalityNum")
    if not channels == divisors == (number,):
        raise ValueError(
            f"I has shape {shape}, ModalityNum is {number} and BilateralModsStds is "
            f"{param['BilateralModsStds']!r}; expected as many channels, the last axis, as deviations and ModalityNum"
        )
    position, both = (tuple(f"{kernel}{axis}Std" for axis in "RCZ") for kernel in ("Pos", "Bilateral"))
    return labels(
        I,
        P,
        Kernels(
            position=Named(", ".join(position), [param[name] for name in position]),
            both=Named(", ".join(both), [param[name] for name in both]),
            levels=Named("BilateralModsStds", param["BilateralModsStds"]),
            weights=(Named("PosW", param["PosW"]), Named("BilateralW", param["BilateralW"])),
        ),
        Named("MaxIterations", param["MaxIterations"]),
    )
