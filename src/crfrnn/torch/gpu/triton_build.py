# mypy: ignore-errors
"""The Triton kernels behind `triton_steps` that list the vertices of a lattice and cut their corners into runs.

`triton_lattice` describes what they share.
"""

import triton
import triton.language as tl


@triton.jit
def corner_keys(cell, order, unit, key, points, size, D: tl.constexpr, BLOCK: tl.constexpr):
    p = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = p < points
    total = p // size * tl.load(unit + D + 1)
    for j in tl.static_range(D):
        total += tl.load(cell + j * points + p, mask=inside, other=0).to(tl.int64) * tl.load(unit + j)
    up = tl.load(unit + D)
    for k in tl.static_range(D + 1):
        tl.store(key + k * points + p, total, mask=inside)
        if k < D:
            coordinate = tl.load(order + k * points + p, mask=inside, other=0)
            total += up - tl.load(unit + coordinate, mask=inside & (coordinate < D), other=0)


@triton.jit
def list_vertices(key, entry, number, vertex, start, vertex_key, remainder, size, points, BLOCK: tl.constexpr):
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = e < size
    n = tl.load(number + e, mask=inside, other=0)
    place = tl.load(entry + e, mask=inside, other=0)
    tl.store(vertex + place, n, mask=inside)
    first = inside & (n != tl.load(number + e - 1, mask=inside & (e > 0), other=-1))
    tl.store(start + n, e, mask=first)
    tl.store(vertex_key + n, tl.load(key + e, mask=first, other=0), mask=first)
    tl.store(remainder + n, (place // points).to(tl.int32), mask=first)
    tl.store(start + n + 1, e + 1, mask=e == size - 1)


@triton.jit
def cut_runs(
    entry,
    vertex,
    of_vertex,
    weight,
    point,
    sorted_weight,
    first,
    size,
    points,
    SIDE: tl.constexpr,
    RUN: tl.constexpr,
):
    # SIDE runs, read corner by corner and written side by side. The last one is filled up with weights of 0 for its
    # last point: what is not finite there stays with its own vertices.
    side = tl.arange(0, SIDE)
    start = (tl.program_id(0) * SIDE + side) * RUN
    i = tl.arange(0, RUN)[None, :]
    e = start[:, None] + i
    inside = e < size
    place = tl.load(entry + tl.minimum(e, size - 1))
    v = tl.load(vertex + e, mask=inside, other=0)
    p = (place % points).to(tl.int32)
    begins = e == tl.load(of_vertex + v, mask=inside, other=0)
    at = tl.program_id(0) * SIDE * RUN + i * SIDE + side[:, None]
    tl.store(point + at, tl.where(inside & begins, ~p, p))
    tl.store(sorted_weight + at, tl.load(weight + place, mask=inside, other=0))
    v = tl.load(vertex + start, mask=start < size, other=0)
    tl.store(first + tl.program_id(0) * SIDE + side, v, mask=start < size)
