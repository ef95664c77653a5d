"""`crfrnn refine`: one photo or volume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.arrays import Shape
from crfrnn.cli.inputs import Pair, ScoresInput, read_pair
from crfrnn.cli.outputs import (
    FORMAT_SUFFIXES,
    LABELS,
    is_mapped,
    result_array,
    write_result,
)
from crfrnn.cli.usage import UsageError, counted
from crfrnn.contrast import contrast_theta_beta
from crfrnn.crf import CRF, Given
from crfrnn.files.photos import stem_of, suffix_of
from crfrnn.files.progress import progress
from crfrnn.memory import tile_bytes
from crfrnn.numbers import per_axis
from crfrnn.refine import label_dtype, refine
from crfrnn.tiles import Tile, class_count, image_lattices, refine_tiled, resident_bytes
from crfrnn.upsampling import Method

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
        result: Labels or probabilities; None if it was tiled.
        iterations: How many ran; None if it was tiled, or refined on a device.
        tiles: The tiles; empty if it was not tiled.
        remark: How parameters were fitted to the pair.
    """

    result: NDArray[Any] | None
    iterations: int | None
    tiles: Sequence[Tile]
    remark: str


@dataclass(frozen=True)
class Refinement:
    """How scores are read and refined; threads may share one.

    Attributes:
        crf: The CRF that refines.
        input: What the scores are; None means what their file suggests.
        array: Name of the array in .npz scores.
        num_classes: Classes of labels.
        threads: Threads of each refinement.
        square: Whether scores cover a square with the photo at its top left.
        device: A device of torch; None is the native core.
        contrast: Whether θ_β comes from each image's own contrast instead.
        spacing: One number or (x, y[, z]), instead of what the files say; None uses theirs.
        tiling: None refines images whole.
        upsampling: How scores smaller than a photo are brought to its size; None is "bilinear".
    """

    crf: CRF
    input: ScoresInput | None
    array: str | None
    num_classes: int | None
    threads: int | None
    square: bool = False
    device: str | None = None
    contrast: bool = False
    spacing: Sequence[float] | None = None
    tiling: Tiling | None = None
    upsampling: Method | None = None

    def __post_init__(self) -> None:
        for option, number in (("--threads", self.threads), ("--num-classes", self.num_classes)):
            if number is not None and number < 1:
                raise UsageError(f"{option} must be at least 1, not {number}")
        active = self.crf.active
        for name in active.given_names:
            needs = f"regions {name!r} need segments" if name in active.region_names else ""
            raise UsageError(
                f"{needs or f'the kernel over {Given(name)} needs features'}, which files cannot hold: call "
                f"crfrnn.refine(…, given={{{name!r}: …}}) in Python"
            )
        if self.upsampling is not None and self.tiling is not None:
            raise UsageError("--upsampling does not go with tiles: leave out --tile, --memory and --overlap")
        if self.device is not None and self.tiling is not None:
            raise UsageError("--device does not go with tiles: leave out --tile, --memory and --overlap")

    def read(self, scores: Path, image: Path) -> Pair:
        """Scores and image of two files; not read yet if they will be tiled."""
        mapped, upsampling = self.tiling is not None, self.upsampling or "bilinear"
        return read_pair(scores, image, self.input, self.array, self.square, mapped, upsampling)

    def write(self, pair: Pair, output: Path, output_format: str, show: Show = iter) -> Written:
        """Refine one pair and write it.

        Args:
            show: Wraps the tiles to show their progress.
        """
        fitted, remark = self._fitted(pair)
        if self.tiling is None:
            return Written(*fitted._write_whole(pair, output, output_format), (), remark)
        return Written(None, None, fitted._write_tiled(pair, output, output_format, self.tiling, show), remark)

    def bytes_needed(self, pair: Pair) -> int:
        """About how many bytes `write` takes for a pair that is not tiled."""
        classes = max(2, class_count(pair.scores, pair.kind, self.num_classes))
        points, axes = math.prod(pair.grid), len(pair.grid)
        itemsize = 8 if pair.scores.dtype == np.float64 else 4
        features = axes + math.prod(pair.image.shape[axes:])
        return tile_bytes(points, classes, features, itemsize, image_lattices(self.crf))

    def _fitted(self, pair: Pair) -> tuple[Refinement, str]:
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

    def _write_whole(self, pair: Pair, output: Path, output_format: str) -> tuple[NDArray[Any], int | None]:
        """Labels or probabilities, as written, and how many iterations ran, if that is known."""
        options: dict[str, Any] = {
            "input": pair.kind,
            "num_classes": self.num_classes,
            "spacing": self.spacing,
            "return_labels": output_format in LABELS,
            "threads": self.threads,
        }
        iterations = None
        if self.device is None:
            result, activity = refine(pair.scores, pair.image, self.crf, return_activity=True, **options)
            iterations = activity.iterations
        else:
            result = refine(pair.scores, pair.image, self.crf, device=self.device, **options)
        write_result(output, output_format, result, pair, self.spacing)
        return result, iterations

    def _write_tiled(self, pair: Pair, output: Path, output_format: str, tiling: Tiling, show: Show) -> list[Tile]:
        """Refine tile by tile and write. Returns the tiles."""
        classes = class_count(pair.scores, pair.kind, self.num_classes)
        labelled = output_format in LABELS
        shape = pair.grid if labelled else (classes, *pair.grid)
        dtype = label_dtype(classes) if labelled else np.dtype(np.float32)
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
        return tiles


def refine_file(refinement: Refinement, scores: Path, image: Path, output: Path, output_format: str | None) -> int:
    """Refine one photo or volume. Returns the exit status."""
    if output.is_dir():
        raise UsageError(f"{output} is a folder; name a file in it, such as {output / stem_of(image)}.png")
    if output.resolve() in (scores.resolve(), image.resolve()):
        raise UsageError(f"{output} is one of the inputs; name another file to write")
    start = time.perf_counter()
    chosen_format = format_of(output, output_format)
    pair = refinement.read(scores, image)
    written = refinement.write(pair, output, chosen_format, show=lambda tiles: progress(tiles, "refine"))
    classes = max(class_count(pair.scores, pair.kind, refinement.num_classes), pair.least_classes)
    size, seconds = "×".join(map(str, reversed(pair.grid))), time.perf_counter() - start
    done = outcome(pair, written)
    if written.iterations is not None:
        done = f"{iterations_run([written.iterations], refinement.crf)}, {done}"
    print(f"{output}: {size}, {classes} classes{pair.remark}{written.remark}, {done}, {seconds:.2f} s")
    return 0


def outcome(pair: Pair, written: Written) -> str:
    """The share of pixels that changed, or the tiles."""
    if written.result is None:
        largest = max(written.tiles, key=lambda tile: tile.num_points)
        size = "×".join(str(part.stop - part.start) for part in reversed(largest.context))
        return f"{counted(len(written.tiles), 'tile')} of up to {size} pixels"
    labels = written.result
    if labels.ndim > len(pair.grid):
        labels = labels[0] > 0.5 if len(labels) == 1 else labels.argmax(axis=0)
    return f"{np.mean(labels != labels_of(pair)):.1%} of pixels changed"


def iterations_run(ran: Sequence[int], crf: CRF) -> str:
    """In words, how many iterations ran for each image."""
    asked = crf.solver.iterations
    if min(ran) == asked:
        return counted(asked, "iteration")
    if len(ran) == 1:
        return f"{ran[0]} of {counted(asked, 'iteration')}"
    return f"{np.mean(ran):.1f} of {counted(asked, 'iteration')} on average, at most {max(ran)}"


def labels_of(pair: Pair) -> Any:
    """The labels before refining."""
    if pair.kind == "labels":
        return pair.scores
    if len(pair.scores) == 1:
        return pair.scores[0] > (0.5 if pair.kind == "probabilities" else 0)
    return pair.scores.argmax(axis=0)


def middle(image: Any, grid: Shape) -> NDArray[Any]:
    """The middle of an image of this spatial shape, at most `CONTRAST_SIDE` pixels along each axis."""
    starts = [max(0, length - CONTRAST_SIDE) // 2 for length in grid]
    return np.asarray(image[tuple(slice(start, start + CONTRAST_SIDE) for start in starts)])


def format_of(output: Path, output_format: str | None) -> str:
    """The format named, or the one that the output's suffix names."""
    suffix = suffix_of(output)
    if output_format is None:
        output_format = next((name for name, suffixes in FORMAT_SUFFIXES.items() if suffix in suffixes), None)
        if output_format is None:
            known = sorted({suffix for suffixes in FORMAT_SUFFIXES.values() for suffix in suffixes})
            raise UsageError(f"cannot tell what to write to {output}: end its name in one of {', '.join(known)}")
    elif suffix not in FORMAT_SUFFIXES[output_format]:
        expected = " or ".join(FORMAT_SUFFIXES[output_format])
        raise UsageError(f"{output} does not suit the format {output_format}; end its name in {expected}")
    return output_format
