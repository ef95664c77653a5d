"""Crops of nnU-Net 1, put back: its probabilities are those of a part of a volume, which a .pkl beside them names."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.arrays import Shape


def put_back(path: Path, probabilities: NDArray[Any], grid: Shape) -> NDArray[Any]:
    """Probabilities (C, *spatial) of a crop in the whole grid; around it, class 0 is certain, as in nnU-Net's labels.

    Args:
        path: The .npz file. The .pkl file of the same name has "crop_bbox", its first and last places along each axis.
    Raises: ValueError: if that file is missing or damaged, or the crop does not lie in the grid.
    """
    crop = _crop(path.with_suffix(".pkl"))
    fits = len(crop) == len(grid) and all(
        0 <= part.start < part.stop <= end for part, end in zip(crop, grid, strict=True)
    )
    if not fits or tuple(part.stop - part.start for part in crop) != probabilities.shape[1:]:
        places = " × ".join(f"{part.start}:{part.stop}" for part in crop)
        raise ValueError(
            f"{path} has shape {probabilities.shape}, but {path.with_suffix('.pkl')} places the crop at {places} in a "
            f"volume of {grid}"
        )
    whole = np.zeros((len(probabilities), *grid), probabilities.dtype)
    whole[0] = 1
    whole[(slice(None), *crop)] = probabilities
    return whole


def _crop(path: Path) -> tuple[slice, ...]:
    """The slices of a crop, [Z,] Y, X."""
    try:
        with path.open("rb") as handle:
            content = _Properties(handle).load()
        return tuple(slice(int(first), int(last)) for first, last in content["crop_bbox"])
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # damaged files raise more kinds than pickle documents
        raise ValueError(f"{path} does not say where nnU-Net cut its crop: {error}") from error


class _Properties(pickle.Unpickler):
    """Reads dictionaries of numbers, texts and NumPy's arrays: whatever else a file names is not run."""

    def find_class(self, module: str, name: str) -> Any:
        known = {("collections", "OrderedDict"): OrderedDict, ("_codecs", "encode"): str.encode}
        known |= {("numpy", "dtype"): np.dtype, ("numpy", "ndarray"): np.ndarray}
        for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
            known[core, "scalar"] = np.float64(0).__reduce__()[0]
            known[core, "_reconstruct"] = np.zeros(0).__reduce__()[0]
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array or number")
        return known[module, name]
