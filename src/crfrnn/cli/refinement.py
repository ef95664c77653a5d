"""How `crfrnn refine` refines one photo or volume and writes the result."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.arrays import Shape
from crfrnn.cli.changes import Change, change_of, change_of_parts, vanished_warning
from crfrnn.cli.inputs import Pair, Reading
from crfrnn.cli.outputs import (
    LABELS,
    check_result,
    is_mapped,
    lost_place,
    result_array,
    result_dtype,
    write_result,
)
from crfrnn.cli.usage import UsageError, counted
from crfrnn.contrast import contrast_theta_beta
from crfrnn.crf import CRF, Given
from crfrnn.memory import tile_bytes
from crfrnn.numbers import per_axis
from crfrnn.refine import refine
from crfrnn.tiles import Tile, class_count, image_lattices, refine_tiled, resident_bytes

CONTRAST_SIDE = 2000
"""The contrast of a tiled image is measured in its middle, on at most this many pixels along each axis."""
PROCESS_BYTES = 120_000_000
"""What Python and its libraries take by themselves."""

Show = Callable[[Sequence[Tile]], Iterable[Tile]]


@dataclass(frozen=True)
class Tiling:
    """How images are cut into tiles: as for `refine_tiled`, except that `memory` is that of the whole process.

    Raises: UsageError: on construction, if a number is out of range.
    """

    tile: int | None
    overlap: int | None
    memory: int | None

    def __post_init__(self) -> None:
        if self.tile is not None and self.tile < 1:
            raise UsageError(f"--tile must be at least 1 pixel, not {self.tile}")
        if self.overlap is not None and self.overlap < 0:
            raise UsageError(f"--overlap must be at least 0 pixels, not {self.overlap}")
        if self.memory is not None and self.memory <= PROCESS_BYTES:
            raise UsageError(f"--memory must be above {PROCESS_BYTES // 10**6} MB, which Python takes by itself")

    def memory_left(self, held: int) -> int | None:
        """The memory that is left for tiles besides Python and the arrays that are read or written as a whole."""
        if self.memory is None:
            return None
        left = self.memory - PROCESS_BYTES - held
        if left <= 0:
            raise MemoryError(
                f"what is read and written at once takes {held / 1e9:.3g} GB, which leaves nothing of --memory "
                f"{self.memory / 1e9:.3g} GB: use .npy or TIFF for both, or give more memory"
            )
        return left


@dataclass(frozen=True, eq=False)
class Written:
    """What was done to a pair.

    Attributes:
        change: How the labels changed.
        iterations: How many ran; None if it was tiled, or refined on a device.
        tiles: The tiles; empty if it was not tiled.
        remark: How parameters were fitted to the pair.
        warning: What to tell about classes that are gone.
        lost: What to tell about what the file does not hold.
    """

    change: Change
    iterations: int | None
    tiles: Sequence[Tile]
    remark: str
    warning: str | None = None
    lost: str = ""


@dataclass(frozen=True)
class Refinement:
    """How scores are read and refined; threads may share one.

    Attributes:
        crf: The CRF that refines.
        reading: How scores and images are read.
        threads: Threads of each refinement.
        device: A device of torch; None is the native core.
        contrast: Whether θ_β comes from each image's own contrast instead.
        spacing: One number or (x, y[, z]), instead of what the files say; None uses theirs.
        tiling: None refines images whole.
        compared: The step between the pixels whose labels are compared before and after.
    """

    crf: CRF
    reading: Reading
    threads: int | None = None
    device: str | None = None
    contrast: bool = False
    spacing: Sequence[float] | None = None
    tiling: Tiling | None = None
    compared: int = 1

    def __post_init__(self) -> None:
        for option, number in (("--threads", self.threads), ("--num-classes", self.reading.num_classes)):
            if number is not None and number < 1:
                raise UsageError(f"{option} must be at least 1, not {number}")
        active = self.crf.active
        for name in active.given_names:
            needs = f"regions {name!r} need segments" if name in active.region_names else ""
            raise UsageError(
                f"{needs or f'the kernel over {Given(name)} needs features'}, which files cannot hold: call "
                f"crfrnn.refine(…, given={{{name!r}: …}}) in Python"
            )
        if self.device is not None and self.tiling is not None:
            raise UsageError("--device does not go with tiles: leave out --tile, --memory and --overlap")

    @property
    def num_classes(self) -> int | None:
        """Classes of labels, if the user says so."""
        return self.reading.num_classes

    def write(self, pair: Pair, output: Path, output_format: str, show: Show = iter) -> Written:
        """Refine one pair and write it.

        Args:
            show: Wraps the tiles to show their progress.
        """
        check_result(output, output_format, pair)
        fitted, remark = self.fitted(pair)
        iterations: int | None = None
        tiles: Sequence[Tile] = ()
        if self.tiling is None:
            result, iterations = fitted.refined(pair, output_format in LABELS)
            write_result(output, output_format, result, pair, fitted.spacing)
            change = change_of(pair, result, class_count(pair.scores, pair.kind, self.num_classes), self.compared)
        else:
            change, tiles = fitted._write_tiled(pair, output, output_format, self.tiling, show)
        warning = None
        if gone := change.vanished:
            warning = vanished_warning(gone, pair, middle(pair.image, pair.grid), fitted.crf)
        return Written(change, iterations, tiles, remark, warning, lost_place(output, pair))

    def bytes_needed(self, pair: Pair) -> int:
        """About how many bytes `write` takes for a pair that is not tiled."""
        classes = max(2, class_count(pair.scores, pair.kind, self.num_classes))
        points, axes = math.prod(pair.grid), len(pair.grid)
        itemsize = 8 if pair.scores.dtype == np.float64 else 4
        features = axes + math.prod(pair.image.shape[axes:])
        return tile_bytes(points, classes, features, itemsize, image_lattices(self.crf))

    def fitted(self, pair: Pair) -> tuple[Refinement, str]:
        """The same refinement with the spacing and the contrast of a pair, and a remark on them."""
        crf, remark, axes = self.crf, "", len(pair.grid)
        spacing = None if self.spacing is None else per_axis(self.spacing, axes, "spacing", "spatial axes")
        if spacing is None and pair.geometry is not None:
            spacing = pair.geometry.spacing
            steps = " × ".join(f"{step:.3g}" for step in spacing)
            if not all(0 < step < np.inf for step in spacing):
                raise ValueError(f"the file gives its voxels a size of {steps} mm: give --spacing")
            remark = f" (θ_α and θ_γ in mm, voxels of {steps} mm)"
        if self.contrast:
            image = pair.image if self.tiling is None else middle(pair.image, pair.grid)
            levels = contrast_theta_beta(image, shape=image.shape[:axes])
            crf = crf.with_thetas(theta_beta=levels).with_image_range(None)
            remark += f" (θ_β {', '.join(f'{level:.3g}' for level in levels)})"
        return replace(self, crf=crf, spacing=spacing), remark

    def labels(self, pair: Pair) -> NDArray[Any]:
        """The refined labels of a pair, which is not tiled."""
        return self.fitted(pair)[0].refined(pair, labelled=True)[0]

    def refined(
        self, pair: Pair, labelled: bool, origin: Sequence[int] | None = None
    ) -> tuple[NDArray[Any], int | None]:
        """Labels or probabilities, and how many iterations ran, if that is known.

        Args:
            origin: Position (x, y[, z]) of the first pixel, if this is part of a larger image.
        """
        options: dict[str, Any] = {
            "input": pair.kind,
            "num_classes": self.num_classes,
            "spacing": self.spacing,
            "return_labels": labelled,
            "threads": self.threads,
            "origin": origin,
        }
        iterations = None
        if self.device is None:
            result, activity = refine(pair.scores, pair.image, self.crf, return_activity=True, **options)
            iterations = activity.iterations
        else:
            result = refine(pair.scores, pair.image, self.crf, device=self.device, **options)
        return result, iterations

    def _write_tiled(
        self, pair: Pair, output: Path, output_format: str, tiling: Tiling, show: Show
    ) -> tuple[Change, list[Tile]]:
        """Refine tile by tile and write. Returns the change and the tiles."""
        classes = class_count(pair.scores, pair.kind, self.num_classes)
        labelled = output_format in LABELS
        shape = pair.grid if labelled else (classes, *pair.grid)
        dtype = result_dtype(output_format, classes, pair)
        held = 0 if is_mapped(output) else math.prod(shape) * dtype.itemsize
        tiles: list[Tile] = []

        def shown(planned: Sequence[Tile]) -> Iterable[Tile]:
            tiles.extend(planned)
            return show(planned)

        with result_array(output, output_format, shape, dtype, pair, self.spacing) as result:
            refine_tiled(
                pair.scores,
                pair.image,
                self.crf,
                output=result,
                tile=tiling.tile,
                overlap=tiling.overlap,
                memory=tiling.memory_left(held + resident_bytes(pair.scores) + resident_bytes(pair.image)),
                input=pair.kind,
                num_classes=classes if pair.kind == "labels" else self.num_classes,
                spacing=self.spacing,
                threads=self.threads,
                progress=shown,
            )
            change = change_of_parts(pair, result, classes, [tile.core for tile in tiles])
        return change, tiles


def tiles_worked_on(tiles: Sequence[Tile]) -> str:
    """In words, how many tiles there were, and how large."""
    largest = max(tiles, key=lambda tile: tile.num_points)
    size = "×".join(str(part.stop - part.start) for part in reversed(largest.context))
    return f"{counted(len(tiles), 'tile')} of up to {size} pixels"


def iterations_run(ran: Counter[int], crf: CRF) -> str:
    """In words, how many iterations ran for each image; how many images each number of them ran for is given."""
    asked = crf.solver.iterations
    if min(ran) == asked:
        return counted(asked, "iteration")
    if ran.total() == 1:
        return f"{max(ran)} of {counted(asked, 'iteration')}"
    mean = sum(number * images for number, images in ran.items()) / ran.total()
    return f"{mean:.1f} of {counted(asked, 'iteration')} on average, at most {max(ran)}"


def middle(image: Any, grid: Shape) -> NDArray[Any]:
    """The middle of an image of this spatial shape, at most `CONTRAST_SIDE` pixels along each axis."""
    starts = [max(0, length - CONTRAST_SIDE) // 2 for length in grid]
    return np.asarray(image[tuple(slice(start, start + CONTRAST_SIDE) for start in starts)])
