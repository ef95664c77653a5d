# mypy: ignore-errors
"""The Triton kernels of the mean field behind `triton_steps`: the grid's Gaussian, couplings, an iteration and back.

Each computes what the function of its name in `plain` says; `triton_lattice` describes what they share.
"""

import triton
import triton.language as tl

from crfrnn.torch.gpu.triton_lattice import await_memory, block_of_points, sliced


@triton.jit
def couple_values(values, coupling, count, out, CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK: tl.constexpr):
    await_memory()
    c = tl.arange(0, BLOCK_C)
    vertices = tl.load(count)
    for begin in range(tl.program_id(0) * BLOCK, vertices, tl.num_programs(0) * BLOCK):
        v = begin + tl.arange(0, BLOCK)
        inside = v < vertices
        coupled = _coupled(values, v.to(tl.int64), inside, coupling, c, CHANNELS, True, True)
        at = v.to(tl.int64)[:, None] * CHANNELS + c[None, :]
        tl.store(out + at, coupled, mask=inside[:, None] & (c[None, :] < CHANNELS))


@triton.jit
def begin(
    planes,
    rows,
    marginals,
    size,
    of_image,
    of_class,
    of_point,
    PADDING: tl.constexpr,
    CLASSES: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # Read with points side by side, written with channels side by side.
    await_memory()
    image, p, inside = _points_of_image(size, BLOCK)
    c = tl.arange(0, BLOCK_C)
    planes += image * of_image
    given = p[:, None] * of_point + c.to(tl.int64)[None, :] * of_class
    a = tl.load(planes + given, mask=inside[:, None] & (c[None, :] < CLASSES), other=0)
    a = tl.where(c[None, :] < CLASSES, a, PADDING)
    at = image * size * CHANNELS + p[:, None] * CHANNELS + c[None, :]
    tile = inside[:, None] & (c[None, :] < CHANNELS)
    tl.store(rows + at, a, mask=tile)
    if marginals is not None:
        a = tl.where(c[None, :] < CLASSES, a, float("-inf"))
        e = tl.exp(a - tl.max(a, axis=1)[:, None])
        tl.store(marginals + at, e / tl.sum(e, axis=1)[:, None], mask=tile)


@triton.jit
def end(
    rows,
    planes,
    size,
    of_image,
    of_class,
    of_point,
    CLASSES: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # The way back of `begin`.
    await_memory()
    image, p, inside = _points_of_image(size, BLOCK)
    c = tl.arange(0, BLOCK_C)
    tile = inside[:, None] & (c[None, :] < CLASSES)
    a = tl.load(rows + image * size * CHANNELS + p[:, None] * CHANNELS + c[None, :], mask=tile, other=0)
    tl.store(planes + image * of_image + p[:, None] * of_point + c.to(tl.int64)[None, :] * of_class, a, mask=tile)


@triton.jit
def _points_of_image(size, BLOCK: tl.constexpr):
    # A program's image, places in it, and which of them exist.
    blocks = tl.cdiv(size, BLOCK)
    p = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return (tl.program_id(0) // blocks).to(tl.int64), p, p < size


@triton.jit
def convolve(
    rows,
    taps,
    reach,
    before,
    after,
    out,
    lines,
    length,
    inside_points,
    column_blocks,
    target_blocks,
    most,
    RADIUS: tl.constexpr,
    MARGIN: tl.constexpr,
    CHANNELS: tl.constexpr,
    LINE: tl.constexpr,
    COLUMNS: tl.constexpr,
    TARGETS: tl.constexpr,
    SOURCES: tl.constexpr,
    OFFSETS: tl.constexpr,
    SMALL: tl.constexpr,
):
    # Rows are a matrix (length, inside · channels) for each line along the axis. TARGETS of its rows, for COLUMNS of
    # its columns, are a band of taps times the rows that they reach, SOURCES at a time, on the matrix units. Columns
    # of several lines, of which each takes LINE, lie side by side where a line has few. Offsets count from the first of
    # these lines. Of learned taps, `most` on each side of the middle, only the device knows how many count, `reach`. On
    # both sides of the taps lie MARGIN zeros, so that a band needs no mask.
    await_memory()
    T: tl.constexpr = taps.dtype.element_ty
    if reach is None:
        radius: tl.constexpr = RADIUS
        taps += MARGIN
    else:
        radius = tl.load(reach)
        taps += MARGIN + most - radius
    width = tl.full((), CHANNELS, OFFSETS) * inside_points
    if LINE > COLUMNS:
        begin = tl.program_id(0) // column_blocks * TARGETS
        block = tl.program_id(0) % column_blocks
        blocks = tl.cdiv(width, COLUMNS)
        line = (block // blocks).to(tl.int64)
        first = (block % blocks).to(OFFSETS) * COLUMNS + tl.arange(0, COLUMNS)
        exists = first < width
        first_point = first // CHANNELS
    else:
        begin = tl.program_id(0) % target_blocks * TARGETS
        line = (tl.program_id(0) // target_blocks).to(tl.int64) * (COLUMNS // LINE)
        further = tl.arange(0, COLUMNS) // LINE
        column = tl.arange(0, COLUMNS) % LINE
        exists = (further < COLUMNS // LINE) & (further < lines - line)
        first = further.to(OFFSETS) * (length * width) + column
        first_point = further.to(OFFSETS) * (length * inside_points) + column // CHANNELS
    rows += line * length * width
    out += line * length * width
    if before is not None:
        before += line * length * inside_points
    if after is not None:
        after += line * length * inside_points
    target = begin + tl.arange(0, TARGETS)
    total = tl.zeros([TARGETS, COLUMNS], T)
    if tl.float64 == T:
        for k in range(2 * radius + 1):
            tile = _lines(
                rows, before, first, first_point, target + (k - radius), exists, length, width, inside_points, T
            )
            total += tl.load(taps + k) * tile
    else:
        for ahead in range(0, TARGETS + 2 * radius, SOURCES):
            source = begin - radius + ahead + tl.arange(0, SOURCES)
            band = tl.load(taps + ahead + tl.arange(0, SOURCES)[None, :] - tl.arange(0, TARGETS)[:, None])
            tile = _lines(rows, before, first, first_point, source, exists, length, width, inside_points, T)
            if SMALL:  # taps to the nearest of the matrix units' 11 bits: by themselves they cut off
                band = ((band.to(tl.int32, bitcast=True) + 4096) & -8192).to(T, bitcast=True)
                total = tl.dot(band, tile, total, input_precision="tf32")
            else:
                band, band_rest = halves(band)
                tile, tile_rest = halves(tile)
                total = tl.dot(band_rest, tile, total, input_precision="tf32")
                total = tl.dot(band, tile_rest, total, input_precision="tf32")
                total = tl.dot(band, tile, total, input_precision="tf32")
    mask = (target < length)[:, None] & exists[None, :]
    if after is not None:
        total *= tl.load(
            after + first_point[None, :] + target.to(tl.int64)[:, None] * inside_points, mask=mask, other=0
        )
    tl.store(out + first[None, :] + target[:, None] * width, total, mask=mask)


@triton.jit
def halves(x):
    # x as the sum of two float32 for the matrix units, which take 11 bits of each: 22 of the 24 bits of x.
    high = (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
    return high, x - high


@triton.jit
def _lines(rows, before, first, first_point, x, exists, length, width, inside_points, T: tl.constexpr):
    # The places `x` of some columns, each of which begins at `first`; 0 where there is none.
    mask = ((x >= 0) & (x < length))[:, None] & exists[None, :]
    tile = tl.load(rows + first[None, :] + x[:, None] * width, mask=mask, other=0).to(T)
    if before is not None:
        at = first_point[None, :] + x.to(first_point.dtype)[:, None] * inside_points
        tile *= tl.load(before + at, mask=mask, other=0)
    return tile


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
    likely,
    most,
    points,
    width,
    size,
    CORNERS: tl.constexpr,
    FACTOR: tl.constexpr,
    DAMPING: tl.constexpr,
    SPATIAL_MATRIX: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK: tl.constexpr,
    LINES: tl.constexpr,
    WIDE: tl.constexpr,
):
    # A bilateral matrix has been applied to the values, so that slicing and weighting need no product here.
    await_memory()
    first, p, inside = block_of_points(points, width, BLOCK, LINES, WIDE)
    c = tl.arange(0, BLOCK_C)
    tile = inside[:, None] & (c[None, :] < CHANNELS)
    rows = first * CHANNELS
    at = p[:, None] * CHANNELS + c[None, :]
    a = tl.load(unary + rows + at, mask=tile, other=0)
    if message is not None:
        # Beside what is gathered here, a product on the matrix units takes twice as long as one by a loop.
        a -= _coupled(message + rows, p, inside, spatial_coupling, c, CHANNELS, SPATIAL_MATRIX, False)
    if values is not None:
        bilateral = sliced(values, vertex, weight, scale, first, p, inside, points, c, CORNERS, FACTOR, CHANNELS)
        if bilateral_coupling is not None:
            bilateral *= tl.load(bilateral_coupling + c, mask=c < CHANNELS, other=0)[None, :]
        a -= bilateral
    sends = c[None, :] < CHANNELS
    if likely is not None:
        image = (first + p) // size
        sends = sends & (tl.load(likely + image[:, None] * CHANNELS + c[None, :], mask=tile, other=1) != 0)
    if DAMPING > 0:
        damped = (1 - DAMPING) * a + DAMPING * tl.load(previous + rows + at, mask=tile, other=0)
        a = damped if likely is None else tl.where(sends, damped, a)
    if logits is not None:
        tl.store(logits + rows + at, a, mask=tile)
    if marginals is not None:
        a = tl.where(sends, a, float("-inf"))
        e = tl.exp(a - tl.max(a, axis=1)[:, None])
        q = e / tl.sum(e, axis=1)[:, None]
        tl.store(marginals + rows + at, q, mask=tile)
        if most is not None:
            # Numbers of 0 and above have a largest one in any order. Most programs find it there already.
            for i in range(tl.min(image, axis=0), tl.max(tl.where(inside, image, 0), axis=0) + 1):
                seen = tl.max(tl.where(sends & (inside & (image == i))[:, None], q, 0.0), axis=0)
                place = most + i * CHANNELS + c
                higher = seen > tl.load(place, mask=c < CHANNELS, other=0)
                tl.atomic_max(place, seen, mask=higher & (c < CHANNELS), sem="relaxed")


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
    await_memory()
    p = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    c = tl.arange(0, BLOCK_C)
    inside = p < points
    tile = inside[:, None] & (c[None, :] < CHANNELS)
    at = p[:, None] * CHANNELS + c[None, :]
    T: tl.constexpr = total.dtype.element_ty
    v = tl.zeros([BLOCK, BLOCK_C], T)
    if spatial is not None:
        v -= _coupled(spatial, p, inside, spatial_coupling, c, CHANNELS, SPATIAL_MATRIX, True)
    if bilateral is not None:
        v -= _coupled(bilateral, p, inside, bilateral_coupling, c, CHANNELS, BILATERAL_MATRIX, True)
    q = tl.load(marginals + at, mask=tile, other=0).to(T)
    result = q * (v - tl.sum(q * v, axis=1)[:, None])
    if DAMPING > 0:
        result += DAMPING * tl.load(g + at, mask=tile, other=0).to(T)
    tl.store(out + at, result, mask=tile)
    tl.store(total + at, tl.load(total + at, mask=tile, other=0) + SHARE * result, mask=tile)


@triton.jit
def products(
    spatial,
    bilateral,
    marginals,
    out,
    points,
    SMALL: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # Each program adds up tiles of its own and leaves both sums.
    await_memory()
    c = tl.arange(0, BLOCK_C)
    channel = c[None, :] < CHANNELS
    first = tl.zeros([BLOCK_C, BLOCK_C], tl.float32)
    second = tl.zeros([BLOCK_C, BLOCK_C], tl.float32)
    for begin in range(tl.program_id(0) * BLOCK, points, tl.num_programs(0) * BLOCK):
        p = (begin + tl.arange(0, BLOCK)).to(tl.int64)
        at = p[:, None] * CHANNELS + c[None, :]
        tile = (p < points)[:, None] & channel
        q = tl.load(marginals + at, mask=tile, other=0).to(tl.float32)
        message = tl.load(spatial + at, mask=tile, other=0).to(tl.float32)
        first = _add_product(first, message, q, SMALL)
        message = tl.load(bilateral + at, mask=tile, other=0).to(tl.float32)
        second = _add_product(second, message, q, SMALL)
    at = c[:, None] * CHANNELS + c[None, :]
    tile = (c[:, None] < CHANNELS) & channel
    out += tl.program_id(0) * 2 * CHANNELS * CHANNELS
    tl.store(out + at, first, mask=tile)
    tl.store(out + CHANNELS * CHANNELS + at, second, mask=tile)


@triton.jit
def _add_product(total, rows, others, SMALL: tl.constexpr):
    # total + rowsᵀ others. What is stored in 16 bits has no more than the 11 that matrix units take. These cut sums
    # off, always towards 0, which adds up in long ones: so float32 has a sum of each tile, the small products first.
    if SMALL:
        return tl.dot(tl.trans(rows), others, total, input_precision="tf32")
    row, row_rest = halves(rows)
    other, other_rest = halves(others)
    part = tl.dot(tl.trans(row_rest), other, input_precision="tf32")
    part = tl.dot(tl.trans(row), other_rest, part, input_precision="tf32")
    return total + tl.dot(tl.trans(row), other, part, input_precision="tf32")


@triton.jit
def _coupled(rows, r, inside, coupling, c, CHANNELS: tl.constexpr, MATRIX: tl.constexpr, UNITS: tl.constexpr):
    # UNITS: on the matrix units, which take float32 and 16 rows and columns at least.
    T: tl.constexpr = coupling.dtype.element_ty
    channel = c < CHANNELS
    if MATRIX and (not UNITS or tl.float32 != T or r.shape[0] < 16 or c.shape[0] < 16):
        coupled = tl.zeros([r.shape[0], c.shape[0]], T)
        for j in range(CHANNELS):
            column = tl.load(rows + r * CHANNELS + j, mask=inside, other=0).to(T)
            coupled += column[:, None] * tl.load(coupling + j * CHANNELS + c, mask=channel, other=0)[None, :]
    else:
        row = tl.load(rows + r[:, None] * CHANNELS + c[None, :], mask=inside[:, None] & channel[None, :], other=0)
        if MATRIX:
            tile = channel[:, None] & channel[None, :]
            matrix = tl.load(coupling + c[:, None] * CHANNELS + c[None, :], mask=tile, other=0)
            coupled = tl.dot(row.to(T), matrix, input_precision="tf32x3")
        else:
            coupled = row.to(T) * tl.load(coupling + c, mask=channel, other=0)[None, :]
    return coupled
