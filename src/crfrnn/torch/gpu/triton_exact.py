# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def, assignment, misc"
# ruff: noqa: RUF005  (Triton takes no starred expressions)
"""The exact Gaussian filter of float32 tensors on a GPU, in Triton; imported only where there is one, or to test it.

As in native/exact.cpp, nearby points are put in one block, and pairs of blocks too far apart are left out. No size
depends on data and nothing waits for the device. Programs add in a fixed order: results are the same from run to run.

With TRITON_INTERPRET=1 in the environment before the import the same kernels run on the CPU.
"""

import math
from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from crfrnn.torch.gpu.triton_launch import cdiv, next_power_of_2

# With at most 168 registers a thread three programs share a multiprocessor, and some compute weights while others wait
# for the matrix units. Triton 3.6 would take 176 on sm_90, for 5 features and 32 channels, and be a tenth slower.
SIDE = 64  # points of a block; a program has one block of rows, and weights to one block of columns at a time
SPAN = 32  # blocks of columns whose distances are looked at together
MOST_CHANNELS = 64
WARPS = 4
REGISTERS = 168
MOST_BITS = 16  # of a feature, for the order of points
CODE_BITS = 63  # of all of them


@triton.jit
def _trace(
    features,
    low,
    scale,
    code,
    points,
    GIVEN: tl.constexpr,
    DIMENSIONS: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """How far along Hilbert's curve each point lies, `BITS` of each of the first features (Skilling 2004)."""
    point = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    x = ()
    for axis in tl.static_range(DIMENSIONS):
        feature = tl.load(features + (image * GIVEN + axis) * points + point, mask=point < points, other=0.0)
        cell = (feature - tl.load(low + image * DIMENSIONS + axis)) * tl.load(scale + image)
        x = x + (tl.where(cell > 0, tl.minimum(cell, (1 << BITS) - 1), 0.0).to(tl.int32),)  # 0 for NaN
    for bit in tl.static_range(BITS - 1, 0, -1):
        # In each half of the curve so far the finer one is turned: mirrored, or with two axes swapped.
        below = (1 << bit) - 1
        first = x[0] ^ tl.where((x[0] >> bit) & 1 == 1, below, 0)
        others = ()
        for axis in tl.static_range(1, DIMENSIONS):
            mirrored = (x[axis] >> bit) & 1 == 1
            swap = tl.where(mirrored, 0, (first ^ x[axis]) & below)
            first ^= tl.where(mirrored, below, swap)
            others = others + (x[axis] ^ swap,)
        x = (first,) + others
    gray = (x[0],)
    for axis in tl.static_range(1, DIMENSIONS):
        gray = gray + (gray[axis - 1] ^ x[axis],)
    parity = gray[DIMENSIONS - 1] >> 1
    for shift in tl.static_range(4):
        parity ^= parity >> (1 << shift)
    along = tl.zeros((BLOCK,), tl.int64)
    for bit in tl.static_range(BITS - 1, -1, -1):
        for axis in tl.static_range(DIMENSIONS):
            along = along * 2 + (((gray[axis] ^ parity) >> bit) & 1)
    tl.store(code + image * points + point, along, mask=point < points)


@triton.jit
def _halves(x):
    """x as the sum of two float32. The matrix units take 11 bits of each, so 22 of the 24 bits of x."""
    high = (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
    return high, x - high


@triton.jit
def _filter(
    values,
    features,
    low,
    high,
    order,
    poison,
    result,
    points,
    blocks,
    channels,
    reach,
    DIMENSIONS: tl.constexpr,
    SIDE: tl.constexpr,
    SPAN: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """`CHANNELS` sums at each point of a block of rows; weights live in registers only."""
    block = tl.program_id(0)
    channel = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)).to(tl.int64)
    image = tl.program_id(2).to(tl.int64)
    size = blocks * SIDE
    features += image * DIMENSIONS * size
    low += image * DIMENSIONS * blocks
    high += image * DIMENSIONS * blocks
    values += image * channels * size
    inside = tl.arange(0, SIDE)
    lane = tl.arange(0, SPAN)
    rows = block * SIDE + inside
    at_row = ()
    lowest = ()
    highest = ()
    for axis in tl.static_range(DIMENSIONS):
        at_row = at_row + (tl.load(features + axis * size + rows)[:, None],)
        lowest = lowest + (tl.load(low + axis * blocks + block),)
        highest = highest + (tl.load(high + axis * blocks + block),)
    sums = tl.zeros((SIDE, CHANNELS), tl.float32)
    sums += tl.load(poison + image * channels + channel, mask=channel < channels, other=0.0)[None, :]
    for start in range(0, blocks, SPAN):
        there = start + lane < blocks
        apart = tl.zeros((SPAN,), tl.float32)
        for axis in tl.static_range(DIMENSIONS):
            box = axis * blocks + start + lane
            below = lowest[axis] - tl.load(high + box, mask=there, other=0.0)
            above = tl.load(low + box, mask=there, other=0.0) - highest[axis]
            gap = tl.maximum(below, above)
            apart += tl.where(gap < 0, 0.0, gap * gap)
        near = there & ~(apart > reach)  # also with NaN
        bits = tl.sum(tl.where(near, 1 << lane, 0))
        # A loop over the blocks that count, not a branch in one over all: only then are loads started ahead.
        span = tl.zeros((SIDE, CHANNELS), tl.float32)
        for _ in tl.range(0, tl.sum(near.to(tl.int32)), num_stages=2):
            bit = bits & -bits
            bits ^= bit
            next_block = start + ((bit.to(tl.float32).to(tl.int32, bitcast=True) >> 23) & 255) - 127  # log2 of the bit
            columns = next_block * SIDE + inside
            square = tl.zeros((SIDE, SIDE), tl.float32)
            for axis in tl.static_range(DIMENSIONS):
                difference = at_row[axis] - tl.load(features + axis * size + columns)[None, :]
                square += difference * difference
            weight, weight_rest = _halves(tl.exp2(square * -0.7213475204444817))  # exp(-½ square)
            sent = tl.load(
                values + channel[None, :] * size + columns[:, None], mask=channel[None, :] < channels, other=0.0
            )
            value, value_rest = _halves(sent)
            # Matrix units cut sums off, always towards 0, which adds up in long ones. So each block has sums of its
            # own, the small products first; float32 additions, which round to nearest, join blocks to spans, and spans.
            part = tl.dot(weight_rest, value, input_precision="tf32")
            part = tl.dot(weight, value_rest, part, input_precision="tf32")
            span += tl.dot(weight, value, part, input_precision="tf32")
        sums += span
    place = tl.load(order + image * size + rows)
    tl.store(
        result + (image * channels + channel[None, :]) * points + place[:, None],
        sums,
        mask=(rows[:, None] < points) & (channel[None, :] < channels),
    )


def exact_filter(values: Tensor, features: Tensor, ordered: Tensor | None = None) -> Tensor:
    """Σ_j exp(-½ |f_i - f_j|²) v_j for values (B, C, N) and features (B, d, N), float32 on one device.

    On the current stream of the tensors' device. The N² weights never reach memory. Differences, exponents and sums
    are float32; weights and values are multiplied by the matrix units, each split in two, to a relative error of about
    1e-6. Pairs of blocks are left out where all such pairs together change a sum by less than 2⁻²⁴ of the largest
    value. A value that is not finite makes all of its channel NaN, a feature that is NaN all of its image, and an
    infinite one the points that have it. `ordered` is what `order` returns for these features.
    """
    (batch, channels, points), dimensions = values.shape, features.shape[1]
    blocks = cdiv(points, SIDE)
    result = torch.empty_like(values, memory_format=torch.contiguous_format)
    # Channels beyond one program's are other programs', which find the weights once more.
    width = min(MOST_CHANNELS, max(16, next_power_of_2(channels)))
    with torch.cuda.device(values.device) if values.is_cuda else nullcontext():
        # Padding is zeros, sent from the place of the last point.
        padded = torch.arange(blocks * SIDE, device=values.device).clamp(max=points - 1)
        place = (order(features) if ordered is None else ordered)[:, padded]
        near = features.gather(2, place[:, None].expand(-1, dimensions, -1))
        sent = values.gather(2, place[:, None].expand(-1, channels, -1))
        sent[:, :, points:] = 0
        low, high = near.view(batch, dimensions, blocks, SIDE).aminmax(dim=3)
        _filter[blocks, cdiv(channels, width), batch](
            sent,
            near,
            low,
            high,
            place,
            (values * 0).sum(dim=2),
            result,
            points,
            blocks,
            channels,
            2 * math.log(points * 2**24),
            DIMENSIONS=dimensions,
            SIDE=SIDE,
            SPAN=SPAN,
            CHANNELS=width,
            num_warps=WARPS,
            maxnreg=REGISTERS,
            enable_fp_fusion=True,
        )
    return result


def order(features: Tensor) -> Tensor:
    """(B, N) int64, the points of each image so that neighbours are near each other."""
    with torch.cuda.device(features.device) if features.is_cuda else nullcontext():
        return codes(features).argsort(dim=1, stable=True)


def codes(features: Tensor) -> Tensor:
    """(B, N) int64 that order points (B, d, N) by nearness, each image in steps of its widest feature's range."""
    batch, dimensions, points = features.shape
    ordering = min(dimensions, CODE_BITS)
    bits = min(CODE_BITS // ordering, MOST_BITS)
    low, high = features[:, :ordering].aminmax(dim=2)
    code = torch.empty(batch, points, dtype=torch.int64, device=features.device)
    _trace[cdiv(points, 256), batch](
        features.contiguous(),
        low,
        (2**bits - 1) / (high - low).amax(dim=1),
        code,
        points,
        GIVEN=dimensions,
        DIMENSIONS=ordering,
        BITS=bits,
        BLOCK=256,
    )
    return code
