"""Signatures of the fast bilateral solver that other code is written for, over `crfrnn.bilateral_solver`.

The published programs quantise pixels into the cells of a grid; here they lie on the permutohedral lattice, so results
are near theirs, not equal. One application of that grid's blur reaches about half a cell along each axis, so a
deviation here is half of the σ there.
"""

from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from crfrnn.arrays import float_array, plain_array
from crfrnn.bilateral_solver import bilateral_solver
from crfrnn.crf import Bilateral
from crfrnn.numbers import positive_number
from crfrnn.terms import speaking

# ruff: noqa: N802

REACH = 0.5
"""The deviation of a kernel for cells of side 1."""
LUMA = (0.299, 0.587, 0.114)
SCALES = {"u1": (0.0, 255.0), "u2": (0.0, 65535.0), "i2": (-32768.0, 65535.0), "f4": (0.0, 1.0)}
"""Of each type that OpenCV takes: what stands for 0, and how much more for 1."""

TERMS = {"smoothness": "lambda_", "iterations": "num_iter", "tolerance": "max_tol", "target": "src"}


@speaking(TERMS)
def fastBilateralSolverFilter(
    guide: ArrayLike,
    src: ArrayLike,
    confidence: ArrayLike,
    dst: NDArray[Any] | None = None,
    sigma_spatial: float = 8.0,
    sigma_luma: float = 8.0,
    sigma_chroma: float = 8.0,
    lambda_: float = 128.0,
    num_iter: int = 25,
    max_tol: float = 1e-5,
) -> NDArray[Any]:
    """OpenCV's `cv2.ximgproc.fastBilateralSolverFilter`, with its order, defaults and types.

    Args:
        guide: uint8, (H, W) or BGR (H, W, 3).
        src: uint8, uint16, int16 or float32, (H, W) or (H, W, channels).
        confidence: uint8, 255 for 1, or float32, (H, W).
        dst: Array of the shape and type of src to write to; None makes one.
        sigma_spatial: Side of a grid cell in pixels.
        sigma_luma: Its side in levels of brightness.
        sigma_chroma: Its side in levels of colour.
        lambda_: Strength of the smoothness.
        num_iter: Most iterations of the conjugate gradients.
        max_tol: Relative residual at which they end.
    Returns: What was solved for, in the shape and type of src; whole numbers are rounded.
    Raises:
        TypeError: for other types.
        ValueError: if shapes do not fit.
    """
    photo, values, trust = (plain_array(*each) for each in ((guide, "guide"), (src, "src"), (confidence, "confidence")))
    if photo.dtype != np.uint8 or values.dtype.str[1:] not in SCALES or trust.dtype.str[1:] not in ("u1", "f4"):
        raise TypeError(
            f"guide is {photo.dtype}, src {values.dtype} and confidence {trust.dtype}; expected uint8, then uint8, "
            "uint16, int16 or float32, then uint8 or float32"
        )
    fits = trust.ndim == 2 and values.size and photo.shape in (trust.shape, (*trust.shape, 3))
    if not fits or values.shape[:2] != trust.shape:
        raise ValueError(
            f"guide has shape {photo.shape}, src {values.shape} and confidence {trust.shape}; expected (H, W) or "
            "(H, W, 3), then (H, W) or (H, W, channels), then (H, W), and at least one value"
        )
    if dst is not None and (not isinstance(dst, np.ndarray) or (dst.shape, dst.dtype) != (values.shape, values.dtype)):
        raise ValueError(f"dst must be an array of shape {values.shape} and dtype {values.dtype}, as src is")
    zero, one = SCALES[values.dtype.str[1:]]
    planes = np.moveaxis(values.reshape(*trust.shape, -1), -1, 0)
    solved = bilateral_solver(
        (planes.astype(np.float32) - np.float32(zero)) / np.float32(one),
        trust / np.float32(255) if trust.dtype == np.uint8 else trust,
        photo if photo.ndim == 2 else luma_and_chroma(photo[..., ::-1]),
        cells(sigma_spatial, sigma_luma, sigma_chroma, photo.ndim == 2),
        smoothness=lambda_,
        iterations=num_iter,
        tolerance=max_tol,
    )
    result = np.moveaxis(solved, 0, -1).reshape(values.shape)
    if values.dtype.kind != "f":
        limits = np.iinfo(values.dtype)
        result = np.rint(result.astype(np.float64) * one + zero).clip(limits.min, limits.max)
    written = np.empty(values.shape, values.dtype) if dst is None else dst
    written[...] = result
    return written


def bilateral_solver_output(
    img: ArrayLike | Image.Image | str | PathLike[str],
    target: ArrayLike,
    sigma_spatial: float = 24,
    sigma_luma: float = 4,
    sigma_chroma: float = 4,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """A mask refined as programs that find objects without labels do it: λ = 256 and a confidence of 0.999.

    Args:
        img: The photo's path, or the photo, RGB uint8 (H, W, 3).
        target: The mask (H, W), 0 to 1.
        sigma_spatial: Side of a grid cell in pixels.
        sigma_luma: The same in levels of brightness.
        sigma_chroma: The same in levels of both colour differences.
    Returns: The solution (H, W), and a mask: where the solution is above 0.5, with holes filled, the second largest
        region, what lies around all regions counting as one. So, as published, it is the largest object unless that
        covers more than what is around it, and all of the photo if there is none.
    Raises: ValueError: if photo and mask differ in size, or there is no photo.
    """
    pixels = img if isinstance(img, Image.Image) else Image.open(img) if isinstance(img, str | PathLike) else img
    held: Any = pixels.convert("RGB") if isinstance(pixels, Image.Image) else pixels
    photo = plain_array(held, "img")
    mask = float_array(target, "target", np.float32)
    if photo.ndim != 3 or photo.shape[2] != 3 or mask.shape != photo.shape[:2]:
        raise ValueError(f"img has shape {photo.shape} and target {mask.shape}; expected (H, W, 3) and (H, W)")
    solved = bilateral_solver(
        mask,
        np.full(mask.shape, 0.999, np.float32),
        luma_and_chroma(photo),
        cells(sigma_spatial, sigma_luma, sigma_chroma),
        smoothness=256,
    )
    filled = ~beyond_border(~(solved > 0.5))
    regions, sizes = components(filled)
    chosen: NDArray[np.bool_] = regions == np.argsort(sizes)[-2] if len(sizes) > 1 else np.ones(mask.shape, bool)
    return solved.astype(np.float64), chosen


def cells(spatial: float, luma: float, chroma: float, grey: bool = False) -> Bilateral:
    """What pixels are compared by in the place of grid cells with these sides."""
    colours = [positive_number(luma, "sigma_luma")]
    if not grey:
        colours += [positive_number(chroma, "sigma_chroma")] * 2
    return Bilateral(REACH * positive_number(spatial, "sigma_spatial"), [REACH * side for side in colours])


def luma_and_chroma(rgb: NDArray[Any]) -> NDArray[np.float32]:
    """Brightness Y and the colour differences (R - Y) · 0.713 and (B - Y) · 0.564 of (H, W, 3), as OpenCV has them."""
    red, green, blue = np.moveaxis(rgb.astype(np.float32), -1, 0)
    luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    return np.stack([luma, 0.713 * (red - luma), 0.564 * (blue - luma)], axis=-1)


def beyond_border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The part of a mask (H, W) that hangs together with its border."""
    regions, sizes = components(mask)
    outside = np.zeros(len(sizes), bool)
    for edge in (regions[0], regions[-1], regions[:, 0], regions[:, -1]):
        outside[edge] = True
    outside[0] = False
    return outside[regions]


def components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Regions of a mask (H, W) whose pixels share sides, numbered from 1, and the pixels of each; 0 is the rest."""
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]
    parents = list(range(len(rows)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = run = parents[parents[run]]
        return run

    first = np.searchsorted(rows, np.arange(len(mask) + 1))
    for row in range(1, len(mask)):
        above, here = int(first[row - 1]), int(first[row])
        last_above, last = here, int(first[row + 1])
        while above < last_above and here < last:
            if starts[above] < ends[here] and starts[here] < ends[above]:
                one, other = sorted((root(above), root(here)))
                parents[other] = one
            if ends[above] < ends[here]:
                above += 1
            else:
                here += 1
    _, numbers = np.unique([root(run) for run in range(len(rows))], return_inverse=True)
    regions = np.zeros(mask.shape, np.intp)
    regions[mask] = np.repeat(numbers + 1, ends - starts)
    return regions, np.bincount(regions.ravel(), minlength=1)
