"""The steps of `plain` as Triton kernels, for CUDA devices; with TRITON_INTERPRET=1 on the CPU, for tests.

Nothing here waits for the device, and no size depends on data: the number of vertices is not known in advance, so there
is room for the most there can be, unless it was counted. Sums have a fixed order, so results are the same in every run,
except for splats on lattices without runs, which add by atomics.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn.functional import pad

from crfrnn.torch.gpu import plain, triton_build, triton_lattice, triton_meanfield, triton_splat
from crfrnn.torch.gpu.grid import ZEROS, Taps
from crfrnn.torch.gpu.lattice import FAR, MOST_KEYS, Lattice, Runs, hashing_units, type_of_sums
from crfrnn.torch.gpu.senders import Senders
from crfrnn.torch.gpu.triton_launch import begins_early, cdiv, next_power_of_2, programs

WARP = 32
TILE, WARPS = 1024, 4  # numbers that a program holds, and its warps
RUN_TILE, RUN_WARPS = 512, 4  # the same where it sums runs, and its warps
LARGE_TILE, LARGE_WARPS = 2048, 8  # the same where it blurs or slices: larger ones read more rows together
MOST_BANDS = 65535  # a grid's second axis
LINES, WIDE = 4, 8  # of the points that a program slices, and points of a line that lie side by side in it
POINTS = 128  # points or vertices of a program that holds single numbers of each
JOINT_TILE = 512  # the same of parts of a vertex
JOINT_WARPS = 1
COLUMNS, TARGETS, MOST_SOURCES = 128, 32, 64  # of the products that convolve: numbers, outputs and inputs along a line
CONVOLVE_WARPS = 4
LEAST_SIDE = 16  # of matrices that matrix units take
PRODUCT_PROGRAMS = 8  # for each multiprocessor
CORNERS = 1024  # of a program that builds
RUN = 32  # corners that are summed one after the other
SIDE = 32  # runs that lie side by side
SPAN = 64  # runs that are joined at a time where one vertex may have many
MANY_RUNS = 2**16  # of all vertices
UNROLL = 8  # loads at once
JOINT_UNROLL = 8
BLURS = 2  # directions of a pass, at most 2
EARLY = False  # whether kernels begin before those before them have ended, on cards that can; no card has tried it
ROUNDER = {torch.float32: 1.5 * 2**23, torch.float64: 1.5 * 2**52}  # added and taken away: the nearest whole number


def rows_of(planes: Tensor, channels: int, padding: float) -> Tensor:
    return _begin(planes, channels, padding, None)


def begin(logits: Tensor, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    marginals = logits.new_empty(logits[:, 0].numel(), channels, dtype=dtype)
    return _begin(logits, channels, -math.inf, marginals), marginals


def _begin(planes: Tensor, channels: int, padding: float, marginals: Tensor | None) -> Tensor:
    planes = planes.flatten(2)
    images, classes, size = planes.shape
    rows = planes.new_empty(images * size, channels)
    tile = _tile(rows)
    triton_meanfield.begin[(images * cdiv(size, tile["BLOCK"]),)](
        planes, rows, marginals, size, *planes.stride(), PADDING=padding, CLASSES=classes, **tile
    )
    return rows


def planes_of(rows: Tensor, like: Tensor) -> Tensor:
    planes = torch.empty_like(like)
    try:
        flat = planes.view(*planes.shape[:2], -1)
    except RuntimeError:  # pixels of an image do not lie one after the other
        return plain.planes_of(rows, like)
    images, classes, size = flat.shape
    tile = _tile(rows)
    triton_meanfield.end[(images * cdiv(size, tile["BLOCK"]),)](
        rows, flat, size, *flat.stride(), CLASSES=classes, **tile
    )
    return planes


def embed(features: Tensor, scale: Tensor, exact_scale: Tensor | None, limit: float) -> tuple[Tensor, Tensor, Tensor]:
    d, points = features.shape
    cell = torch.empty(d, points, dtype=torch.int32, device=features.device)
    order = torch.empty_like(cell)
    weight = features.new_empty(d + 1, points)
    # Fused multiply-adds would put points on the border of two simplices elsewhere than the CPU does.
    triton_lattice.embed[(cdiv(points, POINTS),)](
        features,
        scale,
        exact_scale,
        cell,
        order,
        weight,
        points,
        D=d,
        DOWN=1 / (d + 1),
        ROUNDER=ROUNDER[features.dtype],
        EXACT_ROUNDER=ROUNDER[torch.float64],
        FAR=FAR,
        LIMIT=limit,
        BLOCK=POINTS,
        enable_fp_fusion=False,
    )
    return cell, order, weight


def corner_keys(cell: Tensor, order: Tensor, images: int, margin: int) -> tuple[Tensor, Tensor]:
    d, points = cell.shape
    low, high = torch.aminmax(cell, dim=1)
    key = torch.empty(d + 1, points, dtype=torch.int64, device=cell.device)
    step = key.new_empty(2, d + 1)
    triton_build.corner_keys[(cdiv(points, POINTS),)](
        cell,
        order,
        low,
        high,
        hashing_units(d, cell.device),
        key,
        step,
        points,
        images,
        margin,
        D=d,
        MOST=MOST_KEYS,
        BLOCK=POINTS,
    )
    return key, step


def list_vertices(
    key: Tensor, entry: Tensor, number: Tensor, room: int, points: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    size = len(key)
    vertex, start = torch.empty_like(number), number.new_empty(room + 1)
    vertex_key, remainder = key.new_empty(room), number.new_empty(room)
    triton_build.list_vertices[(cdiv(size, CORNERS),)](
        key, entry, number, vertex, start, vertex_key, remainder, size, points, BLOCK=CORNERS
    )
    return vertex.view(-1, points), start, vertex_key, remainder


def capacity(count: Tensor, corners: int) -> int:
    """V: every corner may be a vertex of its own."""
    return corners


def find_neighbours(key: Tensor, remainder: Tensor, step: Tensor, count: Tensor) -> Tensor:
    room, directions = len(key), step.shape[1]
    found = torch.empty(directions, 2, room, dtype=torch.int32, device=key.device)
    grid = (programs(room, POINTS, key.device), directions)
    triton_lattice.find_neighbours[grid](
        key,
        remainder,
        step,
        count,
        found,
        room,
        D=directions - 1,
        BITS=room.bit_length(),
        BLOCK=POINTS,
        enable_fp_fusion=False,
    )
    return found


def cut_runs(entry: Tensor, vertex: Tensor, start: Tensor, weight: Tensor, touched: Tensor | None) -> Runs:
    """Sums in runs of equal length: a vertex may have one corner or hundreds of thousands.

    Args:
        entry: (E,) sorted corners, as places in `weight`.
        vertex: (E,) int32 of each.
        start: (V + 1,) int32, where each vertex begins among them.
        weight: (d + 1, P).
        touched: As in `Runs`.
    """
    size = len(entry)
    runs, sides = cdiv(size, RUN), cdiv(size, RUN * SIDE)
    point, first = vertex.new_empty(sides * SIDE * RUN), vertex.new_empty(runs)
    sorted_weight = weight.new_empty(len(point))
    triton_build.cut_runs[(sides,)](
        entry, vertex, start, weight, point, sorted_weight, first, size, weight.shape[1], SIDE=SIDE, RUN=RUN
    )
    return Runs(point, sorted_weight, first, start, touched)


def splat(lattice: Lattice, rows: Tensor, scale: Tensor | None) -> Tensor:
    runs, weight = lattice.runs, lattice.weight
    channels, room, device = rows.shape[1], lattice.neighbours.shape[2], rows.device
    corners, points = weight.shape
    if runs is None:
        values = weight.new_empty(room, channels)
        tile = _tile(values)
        triton_splat.clear[(programs(room, tile["BLOCK"], device),)](values, lattice.num_vertices, **tile)
        triton_splat.add_corners[(cdiv(points, tile["BLOCK"]),)](
            rows, lattice.vertex, weight, scale, values, points, CORNERS=corners, **tile
        )
        return values
    count = len(runs.first)
    values = rows.new_empty(len(runs.of_vertex) - 1, channels, dtype=type_of_sums(rows))
    parts = weight.new_empty(2 * count, channels)
    tile = _tile(rows, RUN_TILE, RUN_WARPS)
    sums = rows, runs.point, runs.weight, scale, runs.first, values, parts, count
    triton_splat.sum_runs[(cdiv(count, tile["BLOCK"]),)](*sums, SIDE=SIDE, RUN=RUN, UNROLL=UNROLL, **tile)
    tile = _tile(rows, JOINT_TILE, JOINT_WARPS)
    span = SPAN if count > MANY_RUNS else None
    if span is not None:
        triton_splat.join_spans[(programs(count, span, device),)](
            parts, runs.first, runs.of_vertex, count, **tile, RUN=RUN, SPAN=span
        )
    triton_splat.join_runs[(programs(count, 1, device),)](
        parts,
        runs.first,
        runs.of_vertex,
        values,
        count,
        **tile,
        RUN=RUN,
        UNROLL=JOINT_UNROLL,
        SPAN=span,
    )
    if runs.touched is None:
        return values
    return values.new_zeros(room, channels).index_copy_(0, runs.touched, values[: len(runs.touched)])


def blur(lattice: Lattice, values: Tensor, directions: Sequence[int], dtype: torch.dtype) -> Tensor:
    room = len(values)
    tile = _tile(values, LARGE_TILE, LARGE_WARPS)
    grid = (programs(room, tile["BLOCK"], values.device),)
    for at in range(0, len(directions), BLURS):
        first, second, *_ = *(lattice.neighbours[each] for each in directions[at : at + BLURS]), None
        blurred = torch.empty_like(values, dtype=dtype)
        triton_lattice.blur[grid](values, first, second, lattice.num_vertices, blurred, room, **tile)
        values = blurred
    return values


def slice_values(lattice: Lattice, values: Tensor, scale: Tensor | None) -> Tensor:
    corners, points = lattice.vertex.shape
    rows = values.new_empty(points, values.shape[1])
    grid, width, tile = _blocks(rows, lattice)
    triton_lattice.slice_values[grid](
        values,
        lattice.vertex,
        lattice.weight,
        scale,
        rows,
        points,
        width,
        CORNERS=corners,
        FACTOR=lattice.factor,
        **tile,
    )
    return rows


def add_corner_products(
    lattice: Lattice,
    values: Tensor,
    rows: Tensor,
    scale: Tensor | None,
    to_weight: Tensor | None,
    to_scale: Tensor | None,
) -> None:
    corners, points = lattice.vertex.shape
    grid, width, tile = _blocks(rows, lattice)
    triton_lattice.add_corner_products[grid](
        values,
        lattice.vertex,
        lattice.weight,
        rows,
        scale,
        to_weight,
        to_scale,
        points,
        width,
        CORNERS=corners,
        FACTOR=lattice.factor,
        **tile,
    )


def cut_off(taps: Tensor, reach: Tensor) -> Taps:
    """All taps: the kernel reads how many count."""
    radius = len(taps) // 2
    offsets = torch.arange(-radius, radius + 1, device=taps.device)
    return Taps(pad(torch.where(offsets.abs() <= reach, taps, 0), (ZEROS, ZEROS)), radius, reach)


def convolve(rows: Tensor, length: int, inside: int, taps: Taps, before: Tensor | None, after: Tensor | None) -> Tensor:
    received = torch.empty_like(rows, dtype=type_of_sums(rows))
    channels, radius = rows.shape[1], taps.radius
    lines, width = len(rows) // (length * inside), inside * channels
    column_blocks = lines * cdiv(width, COLUMNS) if width > COLUMNS else cdiv(lines, COLUMNS // width)
    target_blocks = cdiv(length, TARGETS)
    small = rows.dtype.itemsize == 2
    reach = max(1, COLUMNS // width) * (length + TARGETS + 2 * radius) * width
    triton_meanfield.convolve[(column_blocks * target_blocks,)](
        rows,
        taps.values,
        taps.reach,
        before,
        after,
        received,
        lines,
        length,
        inside,
        column_blocks,
        target_blocks,
        radius,
        RADIUS=radius if taps.reach is None else None,
        MARGIN=ZEROS,
        CHANNELS=channels,
        LINE=min(width, 2 * COLUMNS),
        COLUMNS=COLUMNS,
        TARGETS=TARGETS,
        SOURCES=min(MOST_SOURCES, next_power_of_2(TARGETS + 2 * radius)),
        OFFSETS=tl.int32 if reach < 2**31 else tl.int64,
        SMALL=small,
        num_warps=CONVOLVE_WARPS,
        enable_fp_fusion=True,
        launch_pdl=EARLY and begins_early(rows.device),
    )
    return received


def update(
    unary: Tensor,
    previous: Tensor,
    message: Tensor | None,
    lattice: Lattice | None,
    values: Tensor | None,
    scale: Tensor | None,
    couplings: tuple[Tensor | None, Tensor | None],
    damping: float,
    dtype: torch.dtype | None,
    senders: Senders | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    points = len(unary)
    spatial, bilateral = couplings
    diagonal = bilateral
    if lattice is not None and values is not None and bilateral is not None and bilateral.ndim == 2:
        # Filters act on points and couplings on classes, so the order does not matter; vertices are mostly fewer.
        values, diagonal = _couple_values(lattice, values, bilateral), None
    logits = torch.empty_like(unary) if dtype is None or damping else None
    marginals = None if dtype is None else torch.empty_like(unary, dtype=dtype)
    grid, width, tile = _blocks(unary, lattice)
    triton_meanfield.update[grid](
        unary,
        previous,
        message,
        spatial,
        values,
        None if lattice is None else lattice.vertex,
        None if lattice is None else lattice.weight,
        scale,
        diagonal,
        logits,
        marginals,
        None if senders is None else senders.likely,
        None if senders is None or dtype is None else senders.most,
        points,
        width,
        points if senders is None else points // len(senders.likely),
        CORNERS=0 if lattice is None else len(lattice.vertex),
        FACTOR=1.0 if lattice is None else lattice.factor,
        DAMPING=damping,
        SPATIAL_MATRIX=spatial is not None and spatial.ndim == 2,
        **tile,
    )
    return logits, marginals


def backstep(
    g: Tensor,
    total: Tensor,
    marginals: Tensor,
    messages: tuple[Tensor | None, ...],
    couplings: tuple[Tensor | None, ...],
    damping: float,
    share: float,
) -> Tensor:
    points = len(g)
    result = torch.empty_like(g)
    tile = _tile(g)
    triton_meanfield.backstep[(cdiv(points, tile["BLOCK"]),)](
        g,
        total,
        marginals,
        messages[0],
        couplings[0],
        messages[1],
        couplings[1],
        result,
        points,
        DAMPING=damping,
        SHARE=share,
        SPATIAL_MATRIX=couplings[0] is not None and couplings[0].ndim == 2,
        BILATERAL_MATRIX=couplings[1] is not None and couplings[1].ndim == 2,
        **tile,
    )
    return result


def products(messages: tuple[Tensor, Tensor], marginals: Tensor) -> Tensor | None:
    points, channels = marginals.shape
    tile = _tile(marginals)
    if marginals.dtype == torch.float64 or min(tile["BLOCK_C"], tile["BLOCK"]) < LEAST_SIDE:
        return None
    count = programs(points, tile["BLOCK"], marginals.device, PRODUCT_PROGRAMS)
    sums = marginals.new_empty(count, 2, channels, channels, dtype=torch.float32)
    triton_meanfield.products[(count,)](*messages, marginals, sums, points, SMALL=marginals.dtype.itemsize == 2, **tile)
    return sums.sum(dim=0)


def _couple_values(lattice: Lattice, values: Tensor, coupling: Tensor) -> Tensor:
    coupled = torch.empty_like(values)
    tile = _tile(values)
    grid = (programs(len(values), tile["BLOCK"], values.device),)
    triton_meanfield.couple_values[grid](values, coupling, lattice.num_vertices, coupled, **tile)
    return coupled


def _blocks(rows: Tensor, lattice: Lattice | None) -> tuple[tuple[int, int], int, dict[str, Any]]:
    """How kernels that slice such rows are launched: the grid, the width of lines, and as `_tile` returns it.

    All points are one line without a lattice, if lines have few points, if there are more lines than a launch can
    count, or fewer than a block has: threads on those that do not exist would have nothing to do.
    """
    points, width = len(rows), 0 if lattice is None else lattice.width
    tile = _tile(rows, LARGE_TILE, LARGE_WARPS)
    block = tile["BLOCK"]
    lines = min(LINES, block)
    if width < POINTS or points < lines * width or cdiv(points // width, lines) > MOST_BANDS:
        lines, width = 1, points
    grid = cdiv(width, block // lines), cdiv(points // width, lines)
    return grid, width, {**tile, "LINES": lines, "WIDE": min(WIDE, block // lines)}


def _tile(rows: Tensor, numbers: int | None = None, warps: int = WARPS) -> dict[str, Any]:
    """How kernels over such rows are launched; a program holds so many numbers, or `TILE`, in as many warps at most."""
    channels = rows.shape[1]
    width = next_power_of_2(channels)
    block = max(1, min((TILE if numbers is None else numbers) // width, POINTS))
    tile = {"CHANNELS": channels, "BLOCK_C": width, "BLOCK": block, "num_warps": min(warps, cdiv(block * width, WARP))}
    return {**tile, "enable_fp_fusion": True, "launch_pdl": EARLY and begins_early(rows.device)}
