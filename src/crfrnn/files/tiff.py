"""TIFF beyond what Pillow reads: several pages, any number of channels, deep levels, and images larger than memory."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from crfrnn.arrays import Shape
from crfrnn.files.replacement import replacing

Tags = tuple[tuple[int, int, int, Any, bool], ...]
"""Tags of a TIFF as tifffile writes them: number, type, count, value, and that of the first page alone."""
CHANNEL_AXES = "SC"
"""What tifffile calls an axis that holds channels: samples of a pixel, or channels."""
BIG_BYTES = 2**32 - 2**25
"""Files of at least this many bytes are written as BigTIFF."""
GEOREFERENCE = (33550, 33922, 34264, 34735, 34736, 34737, 50844)
"""The tags of GeoTIFF: scale, tie points, transformation, keys with their numbers and texts; and GDAL's of RPCs."""
GREY_OR_RGB = (0, 1, 2)
"""The photometric interpretations white is zero, black is zero and RGB."""


def tifffile_module() -> Any:
    """tifffile, or an ImportError that names the extra."""
    try:
        import tifffile
    except ImportError as error:
        raise ImportError(
            "TIFF files of several pages, of many channels or of more than 8 bits need tifffile, which is not "
            "installed: pip install 'crfrnn[volumes]'"
        ) from error
    return tifffile


def read_tiff(path: Path) -> tuple[NDArray[Any], str]:
    """The first image of a TIFF, all its pages, and tifffile's letters of its axes, such as "ZYX" or "YXS"."""
    with _opened(path) as file:
        series = file.series[0]
        return series.asarray(), str(series.axes)


def map_tiff(path: Path, axes: int) -> tuple[Any, str]:
    """What `read_tiff` reads, unread: a memory map, or `TiffWindows` of a compressed image of two axes.

    Args:
        axes: How many spatial axes the image has. Those of a compressed volume are read at once.
    """
    with _opened(path) as file:
        series = file.series[0]
        pages = list(series.pages)
        if series.dataoffset is not None:
            return tifffile_module().memmap(path, mode="r"), str(series.axes)
        if axes > 2 or pages[0].shaped[1] > 1:
            return series.asarray(), str(series.axes)
        windows = TiffWindows(path, len(pages), pages[0].shaped, series.dtype)
        return windows, "YX" if len(windows.shape) == 2 else "YXS"


def is_photo(path: Path) -> bool:
    """Whether a TIFF is one 8-bit picture in grey or RGB, with whatever else of opacity."""
    with _opened(path) as file:
        page = file.pages[0]
        known = page.photometric in GREY_OR_RGB and (page.photometric == 2 or page.samplesperpixel <= 2)
        return bool(known and len(file.series[0].pages) == 1 and page.dtype == np.uint8)


def channels_last(values: NDArray[Any], axes: str, grid: Shape, last: bool = False) -> NDArray[Any]:
    """An image (*spatial, K) of pages and samples in any order; one without channels stays as it is.

    Args:
        axes: tifffile's letters.
        grid: The spatial shape that it should have. Where several axes or none could be that of the channels, the
            letters decide, and without letters that say so the pages are the channels.
        last: Where neither decides, the channels are the last axis instead.
    """
    if values.ndim != len(grid) + 1:
        return values
    shape = values.shape
    candidates = [axis for axis in range(values.ndim) if shape[:axis] + shape[axis + 1 :] == grid]
    named = [axis for axis, letter in enumerate(axes) if letter in CHANNEL_AXES]
    axis = candidates[0] if len(candidates) == 1 else (named or [values.ndim - 1 if last else 0])[-1]
    return np.moveaxis(values, axis, -1)


def rgb(levels: NDArray[Any]) -> NDArray[Any]:
    """Grey or RGB (H, W[, K]) of a photo, its opacity left out, as a view (H, W, 3)."""
    if levels.ndim == 2:
        levels = levels[..., np.newaxis]
    return levels[..., :3] if levels.shape[2] > 2 else np.broadcast_to(levels[..., :1], (*levels.shape[:2], 3))


@dataclass(frozen=True)
class TiffWindows:
    """A compressed image. `windows[rows, columns]` decodes only the tiles or strips that the window touches.

    Attributes:
        path: The file.
        num_pages: Pages of the same shape; each adds its channels.
        page_shape: tifffile's shape of a page: (planes, 1, H, W, samples).
        dtype: Of the levels.
        photo: Whether windows are brought to RGB by `rgb`.
    """

    path: Path
    num_pages: int
    page_shape: tuple[int, ...]
    dtype: DTypeLike
    photo: bool = False

    @property
    def shape(self) -> Shape:
        """(H, W), or (H, W, K) for more than one channel."""
        planes, _, height, width, samples = self.page_shape
        channels = 3 if self.photo else self.num_pages * planes * samples
        return (height, width) if channels == 1 else (height, width, channels)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, window: tuple[slice, slice]) -> NDArray[Any]:
        _, _, height, width, _ = self.page_shape
        rows, columns = range(height)[window[0]], range(width)[window[1]]
        with _opened(self.path) as file:
            pages = [_decoded(page, rows, columns) for page in file.series[0].pages]
        levels = np.concatenate(pages, axis=-1)
        if self.photo:
            return rgb(levels)
        return levels[..., 0] if self.ndim == 2 else levels


def georeference(path: Path) -> Tags:
    """The tags that say where on earth the pixels of a TIFF lie, as `write_tiff` takes them; none without tifffile."""
    try:
        tifffile_module()
    except ImportError:
        return ()
    with _opened(path) as file:
        tags = file.pages[0].tags
        found = (tags.get(code) for code in GEOREFERENCE)
        return tuple((tag.code, int(tag.dtype), tag.count, tag.value, True) for tag in found if tag is not None)


@dataclass(frozen=True)
class ClassesFirst:
    """Windows of scores, with the classes first: `scores[classes, rows, columns]`."""

    windows: TiffWindows

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def shape(self) -> Shape:
        """(C, H, W)."""
        height, width, *classes = self.windows.shape
        return (*(classes or [1]), height, width)

    @property
    def ndim(self) -> int:
        return 3

    @property
    def dtype(self) -> DTypeLike:
        return self.windows.dtype

    def __getitem__(self, window: tuple[slice, slice, slice]) -> NDArray[Any]:
        levels = self.windows[window[1:]]
        return np.moveaxis(levels, -1, 0)[window[0]] if levels.ndim == 3 else levels[np.newaxis]


def write_tiff(path: Path, labels: NDArray[np.integer], tags: Tags = ()) -> None:
    """Class ids (H, W), or (D, H, W) with a page for each z, losslessly compressed; and tags of `georeference`."""
    axes = "ZYX"[-labels.ndim :]
    with replacing(path) as handle, tifffile_module().TiffWriter(handle, bigtiff=labels.nbytes > BIG_BYTES) as writer:
        metadata = {"axes": axes}
        writer.write(labels, photometric="minisblack", compression="zlib", metadata=metadata, extratags=tags)


def create_tiff(handle: IO[bytes], shape: Shape, dtype: DTypeLike, tags: Tags = ()) -> NDArray[Any]:
    """A TIFF of zeros in an open file, (H, W) or (D, H, W), as a memory map to write into; see `write_tiff`."""
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with tifffile_module().TiffWriter(handle, bigtiff=nbytes > BIG_BYTES) as writer:
        metadata = {"axes": "ZYX"[-len(shape) :]}
        offset, _ = writer.write(
            shape=shape, dtype=dtype, photometric="minisblack", metadata=metadata, extratags=tags, returnoffset=True
        )
    return np.memmap(handle, dtype, "r+", offset, shape)


def _decoded(page: Any, rows: range, columns: range) -> NDArray[Any]:
    """The window (rows, columns, channels) of a page."""
    layout = page.keyframe  # the pages of a series may leave all but their offsets to the first one
    planes, _, height, width, samples = layout.shaped
    length, breadth = (layout.tilelength, layout.tilewidth) if layout.is_tiled else (layout.rowsperstrip, width)
    down, across = -(-height // length), -(-width // breadth)
    wanted = [
        (plane * down + row) * across + column
        for plane in range(planes)
        for row in range(rows.start // length, -(-rows.stop // length))
        for column in range(columns.start // breadth, -(-columns.stop // breadth))
    ]
    tables = {"jpegtables": page.jpegtables} if page.jpegtables else {}
    levels = np.zeros((planes, len(rows), len(columns), samples), layout.dtype)
    offsets, counts = ([numbers[index] for index in wanted] for numbers in (page.dataoffsets, page.databytecounts))
    for data, index in page.parent.filehandle.read_segments(offsets, counts, wanted):
        segment, (plane, _, top, left, _), _ = layout.decode(data, index, **tables)
        if segment is None:  # left out by the writer: nothing but zeros
            continue
        y, x = max(top, rows.start), max(left, columns.start)
        part = segment[0, y - top : rows.stop - top, x - left : columns.stop - left]
        y, x = y - rows.start, x - columns.start
        levels[plane, y : y + part.shape[0], x : x + part.shape[1]] = part
    return np.moveaxis(levels, 0, 2).reshape(len(rows), len(columns), planes * samples)


class _Damage(logging.Handler):
    """What tifffile logs in this thread if a file ends before its last page, which it does not treat as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.thread = threading.get_ident()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread and "invalid page offset" in record.getMessage():
            self.found.append(record.getMessage())


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file; whatever its decoder raises becomes a ValueError that names it."""
    module = tifffile_module()
    if not path.is_file():
        raise ValueError(f"cannot read {path}: there is no such file")
    damage = _Damage()
    logger = logging.getLogger("tifffile")
    logger.addHandler(damage)
    try:
        with module.TiffFile(path) as file:
            yield file
        if damage.found:
            raise ValueError(f"it ends before its last page: {damage.found[0]}")
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise more kinds than tifffile documents
        if "imagecodecs" in str(error):
            raise ImportError(
                f"{path} is compressed in a way that needs imagecodecs, which is not installed: pip install "
                "'crfrnn[volumes]'"
            ) from error
        raise ValueError(f"cannot read {path} as TIFF: {error}") from error
    finally:
        logger.removeHandler(damage)
