# mypy: ignore-errors
"""The Triton kernels behind `triton_steps` that list the vertices of a lattice and cut their corners into runs.

`triton_lattice` describes what they share. Where a list may have any order, each program adds up how much it has and
reserves a place for it by one atomic addition.
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
    start,
    count,
    size,
    points,
    RUN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = e < size
    place = tl.load(entry + e, mask=inside, other=0)
    tl.store(point + e, (place % points).to(tl.int32), mask=inside)
    tl.store(sorted_weight + e, tl.load(weight + place, mask=inside, other=0), mask=inside)
    v = tl.load(vertex + e, mask=inside, other=0)
    begins = inside & ((e - tl.load(of_vertex + v, mask=inside, other=0)) % RUN == 0)
    _append(start, count, e, begins)


@triton.jit
def list_joined(of_vertex, vertices, joined, count, RUN: tl.constexpr, BLOCK: tl.constexpr):
    there = tl.load(vertices)
    for begin in range(tl.program_id(0) * BLOCK, there, tl.num_programs(0) * BLOCK):
        v = begin + tl.arange(0, BLOCK)
        inside = v < there
        low = tl.load(of_vertex + v, mask=inside, other=0)
        corners = tl.load(of_vertex + v + 1, mask=inside, other=0) - low
        _append(joined, count, v, inside & ((corners == 0) | (corners > RUN)))


@triton.jit
def _append(items, count, item, chosen):
    before = tl.cumsum(chosen.to(tl.int32), axis=0)
    at = tl.atomic_add(count, tl.sum(chosen.to(tl.int32), axis=0), sem="relaxed") + before - 1
    tl.store(items + at, item, mask=chosen)
