# mypy: ignore-errors
"""The Triton kernels of the mean field behind `triton_steps`: the grid's Gaussian, couplings, an iteration and back.

Each computes what the function of its name in `plain` says; what they share is told in `triton_lattice`.
"""

import triton
import triton.language as tl

from crfrnn.torch.gpu.triton_lattice import sliced


@triton.jit
def couple_values(values, coupling, count, out, CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK: tl.constexpr):
    c = tl.arange(0, BLOCK_C)
    vertices = tl.load(count)
    for begin in range(tl.program_id(0) * BLOCK, vertices, tl.num_programs(0) * BLOCK):
        v = begin + tl.arange(0, BLOCK)
        inside = v < vertices
        coupled = _coupled(values, v.to(tl.int64), inside, coupling, c, CHANNELS, True)
        at = v.to(tl.int64)[:, None] * CHANNELS + c[None, :]
        tl.store(out + at, coupled, mask=inside[:, None] & (c[None, :] < CHANNELS))


@triton.jit
def convolve(
    rows,
    taps,
    before,
    after,
    out,
    points,
    length,
    inside_points,
    RADIUS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # A program goes along the axis, line after line: its taps read the same rows again, from the nearest cache.
    T: tl.constexpr = taps.dtype.element_ty
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < points
    line = place // length
    x = place % length
    first = (line // inside_points).to(tl.int64) * length * inside_points + line % inside_points
    c = tl.arange(0, BLOCK_C)
    channel = c[None, :] < CHANNELS
    total = tl.zeros([BLOCK, BLOCK_C], T)
    for k in range(2 * RADIUS + 1):
        there = x + (k - RADIUS)
        exists = inside & (there >= 0) & (there < length)
        p = first + there.to(tl.int64) * inside_points
        tap = tl.load(taps + k)
        row = tl.load(rows + p[:, None] * CHANNELS + c[None, :], mask=exists[:, None] & channel, other=0).to(T)
        if before is not None:
            row *= tl.load(before + p, mask=exists, other=0)[:, None]
        total += tap * row
    p = first + x.to(tl.int64) * inside_points
    if after is not None:
        total *= tl.load(after + p, mask=inside, other=0)[:, None]
    tl.store(out + p[:, None] * CHANNELS + c[None, :], total, mask=inside[:, None] & channel)


@triton.jit
def update(
    unary,
    previous,
    message,
    spatial_coupling,
    values,
    vertex,
    weight,
    scale,
    bilateral_coupling,
    logits,
    marginals,
    points,
    CORNERS: tl.constexpr,
    FACTOR: tl.constexpr,
    DAMPING: tl.constexpr,
    SPATIAL_MATRIX: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # A bilateral matrix has been applied to the values, so that slicing and weighting need no product here.
    p = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    c = tl.arange(0, BLOCK_C)
    inside = p < points
    tile = inside[:, None] & (c[None, :] < CHANNELS)
    at = p[:, None] * CHANNELS + c[None, :]
    a = tl.load(unary + at, mask=tile, other=0)
    if message is not None:
        a -= _coupled(message, p, inside, spatial_coupling, c, CHANNELS, SPATIAL_MATRIX)
    if values is not None:
        bilateral = sliced(values, vertex, weight, scale, p, inside, points, c, CORNERS, FACTOR, CHANNELS)
        if bilateral_coupling is not None:
            bilateral *= tl.load(bilateral_coupling + c, mask=c < CHANNELS, other=0)[None, :]
        a -= bilateral
    if DAMPING > 0:
        a = (1 - DAMPING) * a + DAMPING * tl.load(previous + at, mask=tile, other=0)
    a = tl.where(c[None, :] < CHANNELS, a, float("-inf"))
    if logits is not None:
        tl.store(logits + at, a, mask=tile)
    if marginals is not None:
        e = tl.exp(a - tl.max(a, axis=1)[:, None])
        tl.store(marginals + at, e / tl.sum(e, axis=1)[:, None], mask=tile)


@triton.jit
def backstep(
    g,
    total,
    marginals,
    spatial,
    spatial_coupling,
    bilateral,
    bilateral_coupling,
    out,
    points,
    DAMPING: tl.constexpr,
    SHARE: tl.constexpr,
    SPATIAL_MATRIX: tl.constexpr,
    BILATERAL_MATRIX: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK: tl.constexpr,
):
    p = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    c = tl.arange(0, BLOCK_C)
    inside = p < points
    tile = inside[:, None] & (c[None, :] < CHANNELS)
    at = p[:, None] * CHANNELS + c[None, :]
    T: tl.constexpr = total.dtype.element_ty
    v = tl.zeros([BLOCK, BLOCK_C], T)
    if spatial is not None:
        v -= _coupled(spatial, p, inside, spatial_coupling, c, CHANNELS, SPATIAL_MATRIX)
    if bilateral is not None:
        v -= _coupled(bilateral, p, inside, bilateral_coupling, c, CHANNELS, BILATERAL_MATRIX)
    q = tl.load(marginals + at, mask=tile, other=0).to(T)
    result = q * (v - tl.sum(q * v, axis=1)[:, None])
    if DAMPING > 0:
        result += DAMPING * tl.load(g + at, mask=tile, other=0).to(T)
    tl.store(out + at, result, mask=tile)
    tl.store(total + at, tl.load(total + at, mask=tile, other=0) + SHARE * result, mask=tile)


@triton.jit
def _coupled(rows, r, inside, coupling, c, CHANNELS: tl.constexpr, MATRIX: tl.constexpr):
    T: tl.constexpr = coupling.dtype.element_ty
    channel = c < CHANNELS
    if MATRIX:
        coupled = tl.zeros([r.shape[0], c.shape[0]], T)
        for j in range(CHANNELS):
            column = tl.load(rows + r * CHANNELS + j, mask=inside, other=0).to(T)
            coupled += column[:, None] * tl.load(coupling + j * CHANNELS + c, mask=channel, other=0)[None, :]
    else:
        row = tl.load(rows + r[:, None] * CHANNELS + c[None, :], mask=inside[:, None] & channel[None, :], other=0)
        coupled = row.to(T) * tl.load(coupling + c, mask=channel, other=0)[None, :]
    return coupled
