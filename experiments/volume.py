"""`python -m experiments.volume`: refine a rough segmentation of an MRI volume and draw docs/volume.png.

More cases are made from it, so that the truth is known: the refined segmentation is the truth, the image is
grey inside and outside with noise, and the scores are coarse and noisy shares of cells, as of a network.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import crfrnn
from crfrnn.files.replacement import replacing
from crfrnn.files.volumes import read_nifti

PARAMETERS = crfrnn.CRFParameters(
    theta_alpha=5,
    theta_beta=30,
    theta_gamma=2,
    spatial_weight=5,
    bilateral_weight=5,
    normalization="symmetric",
    iterations=5,
)
BRIGHTEST = 99.7
"""Per cent of the voxels that are not drawn white."""
FRAME = 14
"""Voxels around the segmentation that are drawn."""
CELLS, NOISE = (8, 4), (18, 36, 72)
"""Of the cases that are made: voxels at a side of a cell of scores, and deviations of the image's noise in levels."""
CELL_NOISE, BLUR = 0.1, 0.7
"""Deviations of a cell's share, and of the image's blur in voxels."""
COLOURS = {"initial": "#ffa31a", "refined": "#19d3ff"}
PICTURE = Path(__file__).parent.parent / "docs" / "volume.png"


def main() -> None:
    data = Path(os.environ.get("CRFRNN_DATA", "../shared/data")) / "volume3d"
    parser = argparse.ArgumentParser(prog="python -m experiments.volume", description=__doc__)
    parser.add_argument("--image", type=Path, default=data / "2013_12_1_img.nii.gz", help="NIfTI volume (%(default)s)")
    parser.add_argument("--labels", type=Path, default=data / "2013_12_1_init.nii.gz", help="its labels (%(default)s)")
    options = parser.parse_args()

    image, geometry = read_nifti(options.image)
    labels, _ = read_nifti(options.labels)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    refined = crfrnn.refine(labels, image, PARAMETERS, input="labels", spacing=geometry.spacing).argmax(axis=0)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{' × '.join(map(str, image.T.shape))} voxels of {geometry.spacing} mm, {crfrnn.default_threads()} threads")
    print(f"{seconds:.2f} s, {peak / 1000:.0f} MB more at the peak, {np.mean(refined != labels):.1%} of voxels changed")
    for name, segmentation in (("initial", labels), ("refined", refined)):
        size = np.count_nonzero(segmentation)
        print(f"{name}: {size} voxels, step of the image at its surface {step(image, segmentation):.1f}")
    for cell, noise in itertools.product(CELLS, NOISE):
        alone, with_crf = made_case(image, refined.astype(bool), cell, noise, geometry.spacing)
        print(f"made, cells of {cell} voxels, noise of {noise} levels: Dice {alone:.3f}, with the CRF {with_crf:.3f}")
    draw(image, {"initial": labels, "refined": refined})
    print(PICTURE)


def step(image: NDArray[Any], labels: NDArray[Any]) -> float:
    """The mean difference of the image between neighbouring voxels of different labels."""
    steps: list[NDArray[np.float64]] = []
    for axis in range(3):
        border = np.diff(labels.astype(np.int8), axis=axis) != 0
        steps.append(np.abs(np.diff(image.astype(np.float64), axis=axis))[border])
    return float(np.concatenate(steps).mean())


def made_case(
    image: NDArray[Any], truth: NDArray[np.bool_], cell: int, noise: float, spacing: tuple[float, ...]
) -> tuple[float, float]:
    """Dice of coarse scores of a known truth, alone and refined."""
    from scipy import ndimage

    random = np.random.default_rng(0)
    around = ndimage.binary_dilation(truth, iterations=5) & ~ndimage.binary_dilation(truth)
    made = np.where(truth, image[truth].mean(), image[around].mean())
    made = ndimage.gaussian_filter(made, BLUR) + noise * random.normal(size=truth.shape)
    cells = np.pad(truth.astype(np.float32), [(0, -side % cell) for side in truth.shape])
    shares = cells.reshape([part for side in cells.shape for part in (side // cell, cell)]).mean(axis=(1, 3, 5))
    shares = np.clip(shares + CELL_NOISE * random.normal(size=shares.shape), 0.02, 0.98)
    stretched = ndimage.zoom(shares, cell, order=1, grid_mode=True, mode="nearest")
    likely = stretched[tuple(map(slice, truth.shape))].astype(np.float32)
    scores = np.stack([1 - likely, likely])
    refined = crfrnn.refine(
        scores, made.astype(np.float32), PARAMETERS, input="probabilities", spacing=spacing, image_range=(0, 255)
    )
    return dice(likely > 0.5, truth), dice(refined.argmax(axis=0) == 1, truth)


def dice(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float(2 * np.count_nonzero(found & truth) / (np.count_nonzero(found) + np.count_nonzero(truth)))


def draw(image: NDArray[Any], segmentations: dict[str, NDArray[Any]]) -> None:
    """Three slices: the image, and the outlines of the segmentations on it."""
    from matplotlib import pyplot as plt

    present = np.argwhere(segmentations["initial"])
    low, high = np.maximum(present.min(axis=0) - FRAME, 0), present.max(axis=0) + FRAME
    frame = tuple(slice(start, end) for start, end in zip(low, high, strict=True))
    centre = present.mean(axis=0).round().astype(int) - low
    slices = {
        "axial": np.s_[centre[0] - 10],
        "axial, higher": np.s_[centre[0] + 15],
        "coronal": np.s_[::-1, centre[1]],
    }
    white = np.percentile(image, BRIGHTEST)
    figure, axes = plt.subplots(len(slices), 3, figsize=(8, 8), facecolor="black")
    for row, (name, cut) in zip(axes, slices.items(), strict=True):
        for cell, title in zip(row, ("image", *segmentations), strict=True):
            cell.imshow(image[frame][cut], cmap="gray", vmin=0, vmax=white, interpolation="bicubic")
            for drawn in segmentations if title == "refined" else segmentations.keys() & {title}:
                width = 1.4 if drawn == title else 0.7
                cell.contour(segmentations[drawn][frame][cut], [0.5], colors=COLOURS[drawn], linewidths=width)
            cell.set_title(f"{name}: {title}", color=COLOURS.get(title, "white"), fontsize=9)
            cell.axis("off")
    figure.tight_layout(pad=0.4)
    with replacing(PICTURE) as handle:
        figure.savefig(handle, format="png", dpi=100)


if __name__ == "__main__":
    main()
