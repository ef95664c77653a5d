# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton takes no starred expressions)
"""The Triton kernels of the splat behind `triton_steps`, which `triton_lattice` describes.

It is `sum_runs`, `join_spans` if there are many runs, and `join_runs`; or, in any order, `clear` and `add_corners`.
"""

import triton
import triton.language as tl

from crfrnn.torch.gpu.triton_lattice import await_memory


@triton.jit
def sum_runs(
    rows,
    point,
    weight,
    scale,
    first,
    values,
    parts,
    runs,
    SIDE: tl.constexpr,
    RUN: tl.constexpr,
    UNROLL: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # Σ of weight · scale[point] · rows[point] over the corners of each vertex in each run. All runs are of one length,
    # so that no lane waits for another. A vertex that begins and ends in a run gets its value; what others have in a
    # run is a part of theirs: the first of the two of a run if they began before it.
    await_memory()
    tl.static_assert(RUN % UNROLL == 0)
    T: tl.constexpr = weight.dtype.element_ty
    # What lies beyond the last run is that run again, which stores the same numbers to the same places.
    r = tl.minimum(tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), runs - 1)
    c = tl.arange(0, BLOCK_C)
    channel = c[None, :] < CHANNELS
    at = r // SIDE * (SIDE * RUN) + r % SIDE
    v = tl.load(first + r)
    part = parts + (r.to(tl.int64) * 2)[:, None] * CHANNELS + c[None, :]
    value = values + v.to(tl.int64)[:, None] * CHANNELS + c[None, :]
    begun = tl.zeros([BLOCK], tl.int1)
    total = tl.zeros([BLOCK, BLOCK_C], T)
    for i in range(0, RUN, UNROLL):
        # All loads come before the stores, which could be to the same memory for all that a compiler knows.
        begins = ()
        added = ()
        for u in tl.static_range(UNROLL):
            p = tl.load(point + at + (i + u) * SIDE)
            w = tl.load(weight + at + (i + u) * SIDE)
            begins = begins + (p < 0,)
            p = tl.where(p < 0, ~p, p).to(tl.int64)
            if scale is not None:
                w *= tl.load(scale + p)
            row = tl.load(rows + p[:, None] * CHANNELS + c[None, :], mask=channel, other=0)
            added = added + (w[:, None] * row.to(T),)
        for u in tl.static_range(UNROLL):
            ends = begins[u] & (i + u > 0)
            tl.store(value, total, mask=(ends & begun)[:, None] & channel)
            tl.store(part, total, mask=(ends & ~begun)[:, None] & channel)
            value += ends.to(tl.int32)[:, None] * CHANNELS
            total = tl.where(ends[:, None], 0.0, total) + added[u]
            begun = begun | begins[u]
    following = tl.load(point + (r + 1) // SIDE * (SIDE * RUN) + (r + 1) % SIDE, mask=r + 1 < runs, other=-1)
    whole = begun & (following < 0)
    tl.store(value, total, mask=whole[:, None] & channel)
    part += begun.to(tl.int32)[:, None] * CHANNELS
    tl.store(part, total, mask=~whole[:, None] & channel)


@triton.jit
def join_spans(
    parts,
    first,
    of_vertex,
    runs,
    CHANNELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK: tl.constexpr,
    RUN: tl.constexpr,
    SPAN: tl.constexpr,
):
    # Σ of the parts of SPAN runs in which no vertex begins or ends, to the part of the first that has none. A flat
    # photo may have all its points at one vertex, and no program should join them alone.
    await_memory()
    c = tl.arange(0, BLOCK_C)
    channel = c < CHANNELS
    for span in range(tl.program_id(0), (runs - 1) // SPAN, tl.num_programs(0)):
        r = span * SPAN
        v = tl.load(first + r)
        if (tl.load(of_vertex + v) // RUN < r) & (tl.load(first + r + SPAN) == v):
            total = tl.zeros([BLOCK, BLOCK_C], parts.dtype.element_ty)
            for k in range(0, SPAN, BLOCK):
                slot = (r + k + tl.arange(0, BLOCK)).to(tl.int64) * 2
                tile = (k + tl.arange(0, BLOCK) < SPAN)[:, None] & channel[None, :]
                total += tl.load(parts + slot[:, None] * CHANNELS + c[None, :], mask=tile, other=0)
            tl.store(parts + (r.to(tl.int64) * 2 + 1) * CHANNELS + c, tl.sum(total, axis=0), mask=channel)


@triton.jit
def join_runs(
    parts,
    first,
    of_vertex,
    values,
    runs,
    CHANNELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK: tl.constexpr,
    RUN: tl.constexpr,
    UNROLL: tl.constexpr,
    SPAN: tl.constexpr,
):
    # values[v] = Σ of the parts of v, for the vertex that begins in a run and goes on beyond it; UNROLL tiles at once.
    # Of SPAN runs that it fills, `join_spans` has left the sum; None if it was not called.
    await_memory()
    T: tl.constexpr = parts.dtype.element_ty
    c = tl.arange(0, BLOCK_C)
    channel = c < CHANNELS
    for r in range(tl.program_id(0), runs - 1, tl.num_programs(0)):
        v = tl.load(first + r + 1)
        low = tl.load(of_vertex + v)
        if low // RUN == r:
            last = (tl.load(of_vertex + v + 1) - 1) // RUN
            total = tl.zeros([BLOCK, BLOCK_C], T)
            end = last + 1
            if SPAN is not None:
                full = (r // SPAN + 1) * SPAN  # where the first span begins
                spans = tl.maximum((last - full) // SPAN, 0)
                left_out = spans * (SPAN - 1)
                end -= left_out
            for k in range(r, end, BLOCK * UNROLL):
                for u in tl.static_range(UNROLL):
                    run = k + u * BLOCK + tl.arange(0, BLOCK)
                    other = run == r
                    if SPAN is not None:
                        span = run - full
                        within = (span >= 0) & (span < spans)
                        run += tl.where(within, span * (SPAN - 1), tl.where(span < 0, 0, left_out))
                        other = other | within
                    slot = run.to(tl.int64) * 2 + other.to(tl.int64)
                    tile = (run <= last)[:, None] & channel[None, :]
                    total += tl.load(parts + slot[:, None] * CHANNELS + c[None, :], mask=tile, other=0)
            tl.store(values + v.to(tl.int64) * CHANNELS + c, tl.sum(total, axis=0), mask=channel)


@triton.jit
def clear(values, count, CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK: tl.constexpr):
    await_memory()
    c = tl.arange(0, BLOCK_C)
    vertices = tl.load(count)
    for begin in range(tl.program_id(0) * BLOCK, vertices, tl.num_programs(0) * BLOCK):
        v = begin + tl.arange(0, BLOCK)
        at = v.to(tl.int64)[:, None] * CHANNELS + c[None, :]
        tl.store(values + at, 0.0, mask=(v < vertices)[:, None] & (c[None, :] < CHANNELS))


@triton.jit
def add_corners(
    rows,
    vertex,
    weight,
    scale,
    values,
    points,
    CORNERS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK: tl.constexpr,
):
    await_memory()
    p = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    c = tl.arange(0, BLOCK_C)
    inside = p < points
    tile = inside[:, None] & (c[None, :] < CHANNELS)
    row = tl.load(rows + p[:, None] * CHANNELS + c[None, :], mask=tile, other=0).to(weight.dtype.element_ty)
    if scale is not None:
        row *= tl.load(scale + p, mask=inside, other=0)[:, None]
    for k in tl.static_range(CORNERS):
        at = k * points + p
        v = tl.load(vertex + at, mask=inside, other=0).to(tl.int64)
        w = tl.load(weight + at, mask=inside, other=0)
        tl.atomic_add(values + v[:, None] * CHANNELS + c[None, :], w[:, None] * row, mask=tile, sem="relaxed")
