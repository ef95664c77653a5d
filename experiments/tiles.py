"""`python -m experiments.tiles`: the figures of docs/large-images.md, on photos set side by side.

They show how much of the seams between tiles a margin leaves, and how much memory and time an image takes under
`--memory`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import crfrnn
from crfrnn.files.photos import read_photo
from crfrnn.files.resize import resize_scores
from crfrnn.tiles import refine_tiled, tile_grid

CELL = (330, 500)
"""Height and width that is used of a photo."""
CANVAS = 513
"""The side of the square that the scores of a photo cover, with the photo, its longer side as long, at its top left."""
CLASSES = (0, 8, 12, 15)
"""Those that are kept; the likeliest of the others is the fifth."""
SHARES = (0, 0.5, 1, 1.5, 2, 2.5, 3)
"""Margins to measure, in θ_α."""
PEAK = """
import sys
from crfrnn.cli import main
status = main(sys.argv[1:])
with open("/proc/self/status") as facts:
    print(next(line.strip() for line in facts if line.startswith("VmHWM")))
sys.exit(status)
"""


def main() -> None:
    default_data = Path(os.environ.get("CRFRNN_DATA", "../shared/data")) / "voc_animals"
    parser = argparse.ArgumentParser(prog="python -m experiments.tiles", description=__doc__)
    parser.add_argument("--data", type=Path, default=default_data, help="PASCAL VOC photos (default: %(default)s)")
    parser.add_argument("--presets", default="crfrnn,deeplab,pydensecrf", help="whose seams (default: %(default)s)")
    parser.add_argument("--memory", default="1GB", help="of the runs on large images (default: %(default)s)")
    parser.add_argument(
        "--sizes",
        default="3000x2000,6000x4000",
        help="of the images that memory is measured on; 24 bytes a pixel on disk (default: %(default)s)",
    )
    options = parser.parse_args()
    image, logits = mosaic(options.data, 4, 3)
    for name in filter(None, options.presets.split(",")):
        seams(name, image, logits)
    for size in filter(None, options.sizes.split(",")):
        width, height = map(int, size.split("x"))
        memory((height, width), image, logits, options.memory)


def seams(name: str, image: NDArray[Any], logits: NDArray[Any]) -> None:
    """Print, for each margin, how four tiles differ from the whole image."""
    parameters = crfrnn.preset(name)
    theta = float(np.max(parameters.theta_alpha))
    whole = crfrnn.refine(logits, image, parameters)
    labels = whole.argmax(axis=0)
    height, width = labels.shape
    side = max(height, width) // 2
    rows, columns = np.ogrid[:height, :width]
    far = (np.abs(rows - height / 2) > theta) & (np.abs(columns - width / 2) > theta)
    print(f"\n{name}: θ_α {theta:g}, {width}×{height} in four tiles")
    print(
        "| margin | labels that differ | mean difference | largest | largest beyond θ_α from a cut | pixels refined |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for share in SHARES:
        margin = round(share * theta)
        tiled = np.empty_like(whole)
        refine_tiled(logits, image, parameters, output=tiled, tile=side, overlap=margin)
        plan = tile_grid(labels.shape, (margin, margin), side)
        difference = np.abs(tiled - whole).max(axis=0)
        work = sum(tile.num_points for tile in plan) / labels.size
        print(
            f"| {share:g} θ_α = {margin} | {np.mean(tiled.argmax(axis=0) != labels):.4%} | {difference.mean():.1e} | "
            f"{difference.max():.3f} | {difference[far].max():.4f} | {work:.1f} × |",
            flush=True,
        )


def memory(size: tuple[int, int], image: NDArray[Any], logits: NDArray[Any], amount: str) -> None:
    """Print what the command says about an image of this size, and the peak of its memory."""
    with tempfile.TemporaryDirectory() as folder:
        scores = np.lib.format.open_memmap(f"{folder}/scores.npy", "w+", np.float32, (len(logits), *size))
        levels = np.lib.format.open_memmap(f"{folder}/image.npy", "w+", np.uint8, (*size, 3))
        for tile in tile_grid(size, (0, 0), 1000):
            rows, columns = tile.core
            parts = zip(tile.core, image.shape[:2], strict=True)
            cells = np.ix_(*(np.arange(part.start, part.stop) % length for part, length in parts))
            scores[:, rows, columns] = logits[:, *cells]
            levels[rows, columns] = image[cells]
        del scores, levels
        command = [
            "refine",
            "scores.npy",
            "image.npy",
            "-o",
            "labels.tif",
            "--preset",
            "pydensecrf",
            "--memory",
            amount,
        ]
        subprocess.run([sys.executable, "-c", PEAK, *command], cwd=folder, check=True)


def mosaic(data: Path, rows: int, columns: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Photos side by side (H, W, 3), and their logits (5, H, W)."""
    height, width = CELL
    photos: list[NDArray[np.uint8]] = []
    scores: list[NDArray[np.float32]] = []
    for name in (data / "val.txt").read_text().split():
        photo = read_photo(data / "images" / f"{name}.jpg")
        if photo.shape[0] >= height and photo.shape[1] >= width and len(photos) < rows * columns:
            photos.append(photo[:height, :width])
            scores.append(photo_logits(data / "logits33", name, photo.shape)[:, :height, :width])
    starts = range(0, rows * columns, columns)
    return (
        np.concatenate([np.concatenate(photos[start : start + columns], axis=1) for start in starts]),
        np.concatenate([np.concatenate(scores[start : start + columns], axis=2) for start in starts], axis=1),
    )


def photo_logits(folder: Path, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A network's logits (5, H, W) of a photo of this shape."""
    height, width = shape[:2]
    scale = CANVAS / max(height, width)
    with np.load(next(folder.glob(f"{name}*.npz"))) as archive:
        canvas = resize_scores(archive["logits"].astype(np.float32), (CANVAS, CANVAS))
    covered = canvas[:, : round(height * scale), : round(width * scale)]
    logits = resize_scores(covered, (height, width))
    others = np.delete(logits, CLASSES, axis=0).max(axis=0)
    return np.concatenate([logits[list(CLASSES)], others[np.newaxis]])


if __name__ == "__main__":
    main()
