# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton takes no starred expressions)
"""The Triton kernels behind `triton_steps` that list the vertices of a lattice and cut their corners into runs.

`triton_lattice` describes what they share.
"""

import triton
import triton.language as tl


@triton.jit
def corner_keys(
    cell,
    order,
    low,
    high,
    hashing,
    key,
    step,
    points,
    images,
    margin,
    D: tl.constexpr,
    MOST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # Every program works out the units of all digits, and the first one the steps.
    most = (D + 1.0) * images
    for j in tl.static_range(D):
        most *= (tl.load(high + j).to(tl.int64) - tl.load(low + j) + margin).to(tl.float32)
    fits = most < MOST
    up = tl.where(fits, 1, tl.load(hashing))
    digit = tl.full((), D + 1, tl.int64)
    unit = ()
    along = tl.full((), 0, tl.int64)
    for j in tl.static_range(D):
        unit = unit + (tl.where(fits, digit, tl.load(hashing + 1 + j)),)
        along += unit[j]
        digit *= tl.load(high + j).to(tl.int64) - tl.load(low + j) + margin
    of_image = tl.where(fits, digit, tl.load(hashing + D + 1))
    if tl.program_id(0) == 0:
        for j in tl.static_range(D):
            tl.store(step + j, up - unit[j])
            tl.store(step + D + 1 + j, along - unit[j] - D * up)
        tl.store(step + D, up)
        tl.store(step + 2 * D + 1, along - D * up)

    p = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = p < points
    total = p // (points // images) * of_image
    for j in tl.static_range(D):
        total += tl.load(cell + j * points + p, mask=inside, other=0).to(tl.int64) * unit[j]
    for k in tl.static_range(D + 1):
        tl.store(key + k * points + p, total, mask=inside)
        if k < D:
            coordinate = tl.load(order + k * points + p, mask=inside, other=0)
            total += up
            for j in tl.static_range(D):
                total -= tl.where(coordinate == j, unit[j], 0)


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
