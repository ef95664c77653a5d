"""Refines images larger than memory, a tile at a time: docs/large-images.md gives the error and the cost."""

from __future__ import annotations

import itertools
import math
import mmap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from crfrnn.arrays import Array, Shape, label_array, plain_array
from crfrnn.crf import CRF, Lattice, Spatial
from crfrnn.files.parameter_files import crf_of, parameters_of
from crfrnn.kernels.features import Guide
from crfrnn.kernels.native import Output
from crfrnn.levels import check_levels
from crfrnn.memory import byte_count, half_of_memory, tile_bytes
from crfrnn.numbers import finite_number, one_of, whole_number
from crfrnn.parameters import DEFAULT_PRESET, CRFParameters, with_values
from crfrnn.plausibility import check_logits
from crfrnn.refine import Input, guide_of, label_count, label_dtype, refine_unary, unary_of
from crfrnn.threads import thread_count
from crfrnn.unary import mask_labels
from crfrnn.upsampling import LEAST_STRIDE, are_smaller

REACH = 3
"""Margin around a tile, in deviations θ_α; docs/large-images.md gives the error for other margins."""
SPATIAL_REACH = 8
"""Margin in deviations θ_γ: that kernel is short, but its messages travel further with every iteration."""
MOST_WORK = 25
"""How many times the core's size a context may have before `memory` counts as too little."""
OF_WHOLE_IMAGES = {"mask", "given", "origin", "upsampling", "return_labels", "return_activity", "device"}
"""Arguments of `refine` that tiles do not have; labels are what `refine_tiled` gives without an output."""
MOST_BYTES = 2**60
"""More memory is as good as this."""
BLOCK = 4096
"""At most how many labels are counted at once, along each axis."""


@dataclass(frozen=True)
class Tile:
    """A part of an image.

    Attributes:
        core: Slices of the pixels that are kept.
        context: Slices of the pixels that are refined: the core and a margin, cut off at the image's borders.
    """

    core: tuple[slice, ...]
    context: tuple[slice, ...]

    @property
    def inner(self) -> tuple[slice, ...]:
        """Slices of the core within its context."""
        return tuple(
            slice(core.start - context.start, core.stop - context.start)
            for core, context in zip(self.core, self.context, strict=True)
        )

    @property
    def origin(self) -> tuple[int, ...]:
        """Position (x, y[, z]) of the first pixel of the context."""
        return tuple(context.start for context in reversed(self.context))

    @property
    def num_points(self) -> int:
        """Pixels of the context."""
        return math.prod(context.stop - context.start for context in self.context)


def refine_tiled(
    scores: Any,
    image: Any,
    parameters: CRFParameters | CRF | str | Path = DEFAULT_PRESET,
    *,
    output: Any = None,
    tile: int | None = None,
    overlap: int | None = None,
    memory: int | str | None = None,
    input: Input = "logits",
    num_classes: int | None = None,
    spacing: float | Sequence[float] | None = None,
    threads: int | None = None,
    progress: Callable[[Sequence[Tile]], Iterable[Tile]] = iter,
    **values: Any,
) -> Any:
    """Refine an image that need not fit into memory, tile by tile; arguments not named here are those of `refine`.

    The image is divided evenly into cores, and each is refined with a margin around it. All tiles see the same lattice,
    so a core misses only what lies beyond its margin. For an image of one tile, the result is that of `refine`. Classes
    below the `class_threshold` of the parameters are left out in each tile separately, and so is what their `tolerance`
    allows.

    Args:
        scores: (C, *spatial), or labels (*spatial): an array, a memory map (`numpy.load(..., mmap_mode="r")`), or
            anything that has a shape and gives arrays when sliced, such as arrays of zarr and h5py. Values are
            checked as they are read.
        image: (*spatial, K) or (*spatial,), likewise. None if no kernel reads the image.
        output: Where to write: integers (*spatial) for labels, (C, *spatial) for probabilities; an array, a memory map
            or anything that can be assigned to by slices. None makes an array of labels.
        tile: Most pixels of a core along each axis. None: as many as `memory` allows.
        overlap: Pixels of the margin. None: 3 θ_α along each axis, and at least 8 θ_γ.
        memory: Bytes that the work on a tile may take, or words such as "4GB", for images as rough as photos; noise
            takes up to twice as much. None: half of what is available.
        progress: Wraps the tiles as they are worked on, such as `tqdm.tqdm`.
        **values: As for `refine`, such as `theta_beta=10` or `image_range=(0, 65535)`.
    Returns: The output.
    Raises:
        TypeError, ValueError: as `refine`, with the place of the tile; or if sizes do not match.
        MemoryError: if `memory` is too little for a tile.
    """
    for name in OF_WHOLE_IMAGES & values.keys():
        raise TypeError(f"refine_tiled takes no {name}=, which is for images that are refined whole, by refine")
    crf = crf_of(with_values(parameters_of(parameters), values) if values else parameters)
    one_of(input, get_args(Input), "input")
    if not callable(progress):
        raise TypeError(f"progress={progress!r} must be a function that is given the tiles, such as tqdm.tqdm")
    scores, image = _sliceable(scores, "scores"), None if image is None else _sliceable(image, "image")
    grid = tuple(scores.shape) if input == "labels" else tuple(scores.shape[1:])
    _check_shapes(scores, image, grid)
    _check_reach(crf)
    if overlap is None:
        margins = margins_of(crf, len(grid), spacing)
    else:
        margins = (whole_number(overlap, "overlap"),) * len(grid)
    classes, white = _classes(scores, input, num_classes)
    features = len(grid) + (0 if image is None else math.prod(image.shape[len(grid) :]))
    itemsize = 8 if getattr(scores, "dtype", None) == np.float64 else 4
    bytes_per_point = tile_bytes(1, max(2, classes), features, itemsize, image_lattices(crf))
    tiles = tile_grid(grid, margins, tile, None if memory is None else _bytes_of(memory), bytes_per_point)
    if output is None:
        output = np.empty(grid, label_dtype(classes))
    labelled = _is_labels(output, grid, classes)

    every, count = (slice(None),), thread_count(threads)
    kind: Output = "labels" if labelled else "probabilities"
    leading = () if labelled else every
    told, middle = classes if input == "labels" else num_classes, tiles[len(tiles) // 2].context
    seen: tuple[slice, ...] | None = None
    refined: Any = None
    for part in progress(tiles):
        if part.context != seen:  # tiles have one in common where margins reach the borders
            seen, read = part.context, part.context if input == "labels" else every + part.context
            try:
                held = np.asarray(scores[read])
                held = held if white is None else np.asarray(held == white, np.uint8)
                unary, binary = unary_of(held, input, told, lambda given: given)
                guide_image = None if image is None else np.asarray(image[part.context])
                guide = guide_of(unary, guide_image, held.shape, origin=part.origin)
                if part.context == middle:
                    _check_middle(crf, unary, guide, input)
                refined, _ = refine_unary(unary, guide, crf, spacing, kind, binary=binary, threads=count)
            except (ValueError, TypeError, MemoryError) as error:
                error.args = (f"in the part {_place(part.context)} of the image: {error}",)
                raise
        output[leading + part.core] = refined[leading + part.inner]
        for array in (scores, image, output):
            release_pages(array)
    return output


def _sliceable(given: Any, name: str) -> Any:
    """What has a shape and gives arrays when sliced, as it is; lists and whatever else holds numbers as an array."""
    if isinstance(given, str | Path):
        raise TypeError(
            f"{name} is a path: open it, np.load({str(given)!r}, mmap_mode='r') or as your format is opened"
        )
    return given if hasattr(given, "shape") and hasattr(given, "__getitem__") else plain_array(given, name)


def _bytes_of(memory: Any) -> int:
    """An amount of memory of a caller."""
    if isinstance(memory, str):
        try:
            amount = byte_count(memory)
        except ValueError as error:
            raise ValueError(f"memory={error}") from None
    else:
        amount = math.floor(min(memory if isinstance(memory, int) else finite_number(memory, "memory"), MOST_BYTES))
    if amount < 1:
        raise ValueError(f"memory={memory!r} must be a positive number of bytes, or words such as '4GB'")
    return amount


def image_lattices(crf: CRF) -> int:
    """How many lattices over the image are in memory at once; those over positions alone are small."""
    kernels = crf.active.kernels
    return sum(each.features.reads_image and isinstance(each.filter, Lattice) for each in kernels)


def margins_of(
    parameters: CRFParameters | CRF, axes: int, spacing: float | Sequence[float] | None = None
) -> tuple[int, ...]:
    """Margin in pixels along each axis, first axis first, that makes a tile's core come out as in the whole image.

    Raises: ValueError: if a kernel has features without positions: how far it reaches is then unknown.
    """
    crf = crf_of(parameters).active.in_pixels(1.0 if spacing is None else spacing, axes)
    _check_reach(crf)
    reaches = [np.ones(axes)]
    for kernel in crf.kernels:
        reach = SPATIAL_REACH if isinstance(kernel.features, Spatial) else REACH
        thetas = (np.array(getattr(kernel.features, name)) for name in kernel.features.positions)
        reaches += [reach * np.broadcast_to(theta, axes) for theta in thetas]
    margins = np.ceil(np.max(reaches, axis=0))
    return tuple(int(margin) for margin in margins[::-1])


def tile_grid(
    shape: Shape, margins: Shape, tile: int | None = None, memory: int | None = None, bytes_per_point: int = 1
) -> list[Tile]:
    """Tiles that divide a grid evenly, in raster order.

    Args:
        shape: The shape of the grid.
        margins: Pixels around a core along each axis.
        tile: Most pixels of a core along each axis. None: as many as memory allows.
        memory: Bytes for one context. None: half of what is available, or unlimited with a `tile`.
        bytes_per_point: Bytes that each pixel of a context takes.
    Raises:
        ValueError: if tile is 0 or memory is not positive.
        MemoryError: if there is too little memory for the tile, or for any tile that is worth its margin.
    """
    if tile is not None and whole_number(tile, "tile") < 1:
        raise ValueError(f"tile={tile} must be at least 1 pixel")
    if memory is not None and not memory > 0:
        raise ValueError(f"memory={memory} must be a positive number of bytes")
    if memory is None and tile is None:
        memory = half_of_memory()
    counts = [1 if tile is None else -(-length // tile) for length in shape]
    most = math.inf if memory is None else memory / bytes_per_point
    while (largest := _largest_context(shape, margins, counts)) > most:
        cores = [math.ceil(length / count) for length, count in zip(shape, counts, strict=True)]
        if tile is not None or max(cores) == 1 or largest > MOST_WORK * math.prod(cores):
            raise MemoryError(
                f"a tile of {' × '.join(map(str, cores))} pixels and a margin of {' × '.join(map(str, margins))} need "
                f"about {largest * bytes_per_point / 1e9:.3g} GB, but memory is {most * bytes_per_point / 1e9:.3g} GB: "
                "give more memory or a smaller overlap"
            )
        counts[cores.index(max(cores))] += 1
    shares = [_shares(length, count) for length, count in zip(shape, counts, strict=True)]
    return [Tile(core, _widened(core, margins, shape)) for core in itertools.product(*shares)]


def release_pages(array: Any) -> None:
    """Release the pages that a memory-mapped array has read or written; the file keeps the data."""
    mapped = _owner(array, np.memmap)
    # Copy-on-write mappings are left alone: what was written to them exists nowhere else.
    if mapped is None or mapped.mode == "c" or not hasattr(mmap, "MADV_DONTNEED"):
        return
    pages = _owner(mapped, mmap.mmap)
    if pages is not None:
        pages.madvise(mmap.MADV_DONTNEED)


def resident_bytes(array: Any) -> int:
    """Bytes that an array keeps in memory: 0 if it is mapped from a file."""
    return 0 if _owner(array, np.memmap) is not None else getattr(array, "nbytes", 0)


def _owner(array: Any, kind: type) -> Any:
    """The object of the given kind that an array is a view of, or the array itself; None without one."""
    while array is not None and not isinstance(array, kind):
        array = getattr(array, "base", None)
    return array


def _widened(core: tuple[slice, ...], margins: Shape, shape: Shape) -> tuple[slice, ...]:
    """A core with its margins, cut off at the grid's borders."""
    return tuple(
        slice(max(0, part.start - margin), min(length, part.stop + margin))
        for part, margin, length in zip(core, margins, shape, strict=True)
    )


def _largest_context(shape: Shape, margins: Shape, counts: Sequence[int]) -> int:
    """Pixels of the largest context if every axis is cut into this many parts."""
    return math.prod(
        min(length, -(-length // count) + min(2, count - 1) * margin)
        for length, margin, count in zip(shape, margins, counts, strict=True)
    )


def _shares(length: int, count: int) -> list[slice]:
    """An axis cut into parts that differ by a pixel at most."""
    ends = [length * index // count for index in range(count + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def class_count(scores: Any, input: Input, num_classes: int | None) -> int:
    """C of scores as `refine_tiled` takes them. Without `num_classes`, all labels are read to find it."""
    return _classes(scores, input, num_classes)[0]


def _classes(scores: Any, input: Input, num_classes: int | None) -> tuple[int, Any]:
    """C of scores, and the larger of the two levels if they are a mask of two levels, else None."""
    if input != "labels":
        return int(scores.shape[0]), None
    if num_classes not in (None, 2):
        return whole_number(num_classes, "num_classes"), None
    present = levels_present(scores)
    if len(present) == 2 and mask_labels(present) is not None:
        return 2, present.max()
    return num_classes or whole_number(label_count(label_array(present)), "num_classes"), None


def levels_present(labels: Any) -> NDArray[Any]:
    """The labels that occur, in ascending order; all are read, a block at a time."""
    present: NDArray[Any] = np.empty(0, np.dtype(labels.dtype))
    for block in tile_grid(tuple(labels.shape), (0,) * len(labels.shape), BLOCK):
        present = np.union1d(present, np.unique(plain_array(labels[block.core], "labels")))
        release_pages(labels)
    return present


def _check_middle(crf: CRF, unary: Array, guide: Guide, input: Input) -> None:
    """The doubts that `refine` has, of one tile in the place of all."""
    if input == "logits":
        check_logits(unary, "give input='probabilities'")
    if guide.image is not None:
        check_levels(crf, guide.image)


def _check_reach(crf: CRF) -> None:
    if crf.active.regions:
        raise ValueError("regions reach as far as their segments, which a tile may cut: refine the image as a whole")
    for kernel in crf.active.kernels:
        if not kernel.features.positions:
            raise ValueError(f"the kernel over {kernel.features} has no reach in pixels: refine the image as a whole")


def _check_shapes(scores: Any, image: Any, grid: Shape) -> None:
    if not grid or 0 in scores.shape:
        raise ValueError(f"scores have shape {tuple(scores.shape)}; expected (classes, height, width), none of them 0")
    if image is not None and (tuple(image.shape[: len(grid)]) != grid or len(image.shape) > len(grid) + 1):
        raise ValueError(
            f"image has shape {tuple(image.shape)}; expected {grid} or ({', '.join(map(str, grid))}, channels) for "
            f"scores of shape {tuple(scores.shape)}{_shape_hint(tuple(scores.shape), tuple(image.shape), grid)}"
        )


def _shape_hint(scores: Shape, image: Shape, grid: Shape) -> str:
    """What may be meant by shapes that do not go together, or nothing."""
    if scores in (image[:2], (*image[:2], 1)) and len(image) == 3:
        single = "scores" if len(scores) == 2 else "scores[..., 0]"
        return f": for the foreground of two classes give {single}[np.newaxis]"
    if image[1:] == grid and image[0] < image[-1]:
        return ": its channels come last, np.moveaxis(image, 0, -1)"
    if scores[:-1] == image[: len(scores) - 1] and scores[-1] < scores[0]:
        return ": classes come first, np.moveaxis(scores, -1, 0)"
    if are_smaller(grid, image[: len(grid)], LEAST_STRIDE):
        return (
            ": tiles take scores at the size of the image. Bring them to it before, as crfrnn.upsample(scores, image) "
            "does, or refine the image whole, which brings them to it"
        )
    return ""


def _is_labels(output: Any, grid: Shape, classes: int) -> bool:
    """Whether the output takes labels, not probabilities; an error if it takes neither."""
    if not all(hasattr(output, name) for name in ("shape", "dtype", "__setitem__")):
        raise TypeError(f"output is a {type(output).__name__}; expected an array, or what is assigned to by slices")
    shape, dtype = tuple(output.shape), np.dtype(output.dtype)
    if shape == grid and dtype.kind in "iu" and np.iinfo(dtype).max >= classes - 1:
        return True
    if shape == (classes, *grid) and dtype.kind == "f":
        return False
    raise ValueError(
        f"output is {dtype} of shape {shape}; expected {label_dtype(classes)} {grid} for labels or float32 "
        f"{(classes, *grid)} for probabilities"
    )


def _place(context: tuple[slice, ...]) -> str:
    return "[" + ", ".join(f"{part.start}:{part.stop}" for part in context) + "]"
