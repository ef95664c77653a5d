"""Volumes in NIfTI files, with the place that their header gives to the voxels.

A file holds (X, Y, Z), or (X, Y, Z, C) of several channels or classes; here the axes are turned round, to (Z, Y, X)
and (C, Z, Y, X). Whatever error a decoder raises for a damaged file, callers see a ValueError that names the file.
"""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.arrays import Shape
from crfrnn.files.photos import suffix_of
from crfrnn.files.replacement import replacing

MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001}
"""Millimetres in each unit of length that NIfTI knows. A file without a unit is taken to be in millimetres."""
GRID_TOLERANCE = 0.1
"""How far apart two files on the same grid may place a corner of the volume, in voxels."""


CROP_HINT = ", or if nnU-Net 1 cropped the scores, put its .pkl beside them, which says where"


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where the voxels of a NIfTI file lie.

    Attributes:
        header: nibabel's header, with the units, the codes and the description of the file.
        affine: (4, 4), from voxels (x, y, z) to positions.
        spacing: Distance (x, y[, z]) between neighbouring voxels in millimetres.
    """

    header: Any
    affine: NDArray[np.float64]
    spacing: tuple[float, ...]


def nibabel_module() -> Any:
    """nibabel, or an ImportError that names the extra."""
    try:
        import nibabel
    except ImportError as error:
        raise ImportError("NIfTI files need nibabel, which is not installed: pip install 'crfrnn[volumes]'") from error
    return nibabel


def read_nifti(path: Path) -> tuple[NDArray[Any], Geometry]:
    """The voxels of a NIfTI file, (Y, X), (Z, Y, X) or (C, Z, Y, X), in the levels its header scales them to.

    Raises: ValueError: if it cannot be read, has more axes, or holds complex numbers, colours, NaN or infinities.
    """
    nibabel = nibabel_module()
    if not path.is_file():
        raise ValueError(f"cannot read {path}: there is no such file")
    try:
        image = nibabel.load(path)
        stored = image.dataobj
        scaled = (stored.slope, stored.inter) != (1, 0)
        voxels = np.asarray(stored, np.float32 if scaled else None)
        header = image.header
        unit = MILLIMETRES.get(header.get_xyzt_units()[0], 1.0)
        zooms = header.get_zooms()[:3]
    except Exception as error:  # damaged files raise more kinds than nibabel documents
        raise ValueError(f"cannot read {path} as NIfTI: {error}") from error
    if voxels.ndim == 4 and voxels.shape[3] == 1:
        voxels = voxels[..., 0]
    if not 2 <= voxels.ndim <= 4:
        raise ValueError(
            f"{path} has {voxels.ndim} axes {voxels.shape}; expected (x, y, z), or (x, y, z, channels) of an image or "
            "of class scores"
        )
    if voxels.size == 0:
        raise ValueError(f"{path} has no voxels: its axes are {voxels.shape}")
    if voxels.dtype.kind not in "biuf":
        kind = "complex numbers" if voxels.dtype.kind == "c" else "colours"
        raise ValueError(
            f"{path} holds {kind} ({voxels.dtype}); expected real numbers: save its magnitude or a channel"
        )
    _check_finite(voxels, path)
    return voxels.T, Geometry(header, image.affine, tuple(float(zoom) * unit for zoom in zooms[: voxels.ndim]))


def write_nifti(path: Path, values: NDArray[Any], geometry: Geometry | None, spacing: Sequence[float] | None) -> None:
    """Labels ([Z,] Y, X) or probabilities (C, Z, Y, X) as NIfTI, compressed if the name ends in .gz.

    Args:
        geometry: Of the image or the scores: affine, units and codes are kept. None has voxels apart by `spacing`.
        spacing: (x, y[, z]) in millimetres; None is 1.
    """
    nibabel = nibabel_module()
    if geometry is None:
        steps = [*(() if spacing is None else spacing), 1.0, 1.0, 1.0][:3]
        header, affine = nibabel.Nifti1Header(), np.diag([*steps, 1.0])
        header.set_xyzt_units("mm")
    else:
        header, affine = geometry.header.copy(), geometry.affine
    header.set_data_dtype(values.dtype)
    # How to display the image, and how to scale it, is not for labels.
    header["cal_min"] = header["cal_max"] = 0
    image_class = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    image = image_class(values.T, affine, header)
    with replacing(path) as handle:
        if suffix_of(path) == ".nii.gz":
            with gzip.GzipFile("", "wb", compresslevel=6, fileobj=handle, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(handle)


def check_same_grid(
    scores: Path, image: Path, grids: tuple[Shape, Shape], geometries: Sequence[Geometry | None]
) -> None:
    """Raise a ValueError if scores and image are not voxels of the same places.

    Args:
        grids: Their spatial shapes ([Z,] Y, X).
        geometries: None where a file has none.
    """
    first, second = geometries
    if first is None and second is None:
        return
    if grids[0] != grids[1]:
        raise ValueError(
            f"{scores} has {_sizes(grids[0])} voxels and {image} {_sizes(grids[1])} (x × y × z): resample one to the "
            "grid of the other" + (CROP_HINT if scores.name.lower().endswith(".npz") else "")
        )
    if first is None or second is None:
        return
    far = [length - 1 for length in reversed(grids[0])] + [0] * (3 - len(grids[0]))
    corners = np.array([[*corner, 1] for corner in itertools.product(*((0, end) for end in far))])
    shift = np.linalg.norm((corners @ (first.affine - second.affine).T)[:, :3], axis=1).max()
    voxel = np.linalg.norm(second.affine[:3, : len(grids[0])], axis=0).min()
    if not shift <= GRID_TOLERANCE * voxel:
        raise ValueError(
            f"{scores} and {image} are not on the same grid: their affines put a corner of the volume {shift:.3g} "
            f"apart, and voxels are {voxel:.3g}: resample one to the grid of the other"
        )


def _sizes(grid: Shape) -> str:
    return " × ".join(map(str, reversed(grid)))


def _check_finite(voxels: NDArray[Any], path: Path) -> None:
    if voxels.dtype.kind != "f" or np.isfinite(voxels).all():
        return
    bad = ~np.isfinite(voxels)
    first = np.unravel_index(int(bad.argmax()), voxels.shape)
    raise ValueError(
        f"{path} holds {np.count_nonzero(bad)} voxels that are NaN or infinite among {voxels.size}, the first at "
        f"{tuple(map(int, first))}: replace them, for example by numpy.nan_to_num"
    )
