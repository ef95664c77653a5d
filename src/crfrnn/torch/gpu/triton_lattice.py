# mypy: ignore-errors
# ruff: noqa: RUF005, SIM108  (Triton takes no starred expressions)
"""The Triton kernels of the lattice behind `triton_steps`: build, blur, slice, and gradients to weights.

Each computes what the function of its name in `plain` says; the splat is in `triton_splat`. Rows and values have
CHANNELS columns, of which a program holds BLOCK_C, the next power of 2; a tile is BLOCK rows. Only the device knows the
number of vertices: kernels over vertices read it, and a fixed number of programs share the vertices. Offsets of rows
are 64 bits wide. Rows and values may be stored in 16 bits; they are computed in at least float32.
"""

import triton
import triton.language as tl


@triton.jit
def embed(
    features,
    scale,
    exact_scale,
    cell,
    order,
    weight,
    points,
    D: tl.constexpr,
    DOWN: tl.constexpr,
    ROUNDER: tl.constexpr,
    EXACT_ROUNDER: tl.constexpr,
    FAR: tl.constexpr,
    LIMIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # A thread has all D + 1 coordinates of its point, in tuples.
    p = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = p < points
    zero = tl.zeros([BLOCK], features.dtype.element_ty)

    total = zero
    position = ()
    known = inside
    for j in tl.static_range(D, 0, -1):
        f = tl.load(features + (j - 1) * points + p, mask=inside, other=0) * tl.load(scale + j - 1)
        position = (total - f * j,) + position
        total += f
    position = (total,) + position
    far = inside & (total != total)  # false, but for NaN, which is not known
    for i in tl.static_range(D + 1):
        known = known & (tl.abs(position[i] * DOWN) < LIMIT)
        far = far | (tl.abs(position[i]) >= FAR)

    nearest = ()
    difference = ()
    excess = zero
    for i in tl.static_range(D + 1):
        x = tl.where(known, position[i], 0.0)
        n = (x * DOWN + ROUNDER) - ROUNDER  # to even on ties
        nearest = nearest + (n,)
        difference = difference + (x - n * (D + 1),)
        excess += n
    if exact_scale is not None:
        exact = tl.zeros([BLOCK], tl.float64)
        exact_position = ()
        for j in tl.static_range(D, 0, -1):
            f = tl.load(features + (j - 1) * points + p, mask=inside, other=0).to(tl.float64)
            f *= tl.load(exact_scale + j - 1)
            exact_position = (exact - f * j,) + exact_position
            exact += f
        exact_position = (exact,) + exact_position
        exact_excess = tl.zeros([BLOCK], tl.float64)
        rounded = ()
        apart = ()
        for i in tl.static_range(D + 1):
            x = tl.where(known, exact_position[i], 0.0)
            n = (x * DOWN + EXACT_ROUNDER) - EXACT_ROUNDER
            rounded = rounded + (tl.where(far, n.to(zero.dtype), nearest[i]),)
            apart = apart + (tl.where(far, (x - n * (D + 1)).to(zero.dtype), difference[i]),)
            exact_excess += n
        nearest = rounded
        difference = apart
        excess = tl.where(far, exact_excess.to(zero.dtype), excess)

    rank = ()
    share = ()
    for i in tl.static_range(D + 1):
        r = excess.to(tl.int32)
        for j in tl.static_range(D + 1):
            if j > i:
                r += (difference[i] < difference[j]).to(tl.int32)
            if j < i:
                r += (difference[j] >= difference[i]).to(tl.int32)
        shift = (r < 0).to(tl.int32) - (r > D).to(tl.int32)
        rank = rank + (r + shift * (D + 1),)
        share = share + ((difference[i] - shift.to(zero.dtype) * (D + 1)) * DOWN,)
        if i < D:
            tl.store(cell + i * points + p, nearest[i].to(tl.int32) + shift, mask=inside)

    # Corner k lies between the coordinates of ranks d + 1 - k and d - k.
    for k in tl.static_range(D + 1):
        upper = zero
        lower = zero
        which = tl.zeros([BLOCK], tl.int32)
        for i in tl.static_range(D + 1):
            upper += tl.where(rank[i] == D - k, share[i], 0.0)
            lower += tl.where(rank[i] == (D + 1 - k) % (D + 1), share[i], 0.0)
            which += tl.where(rank[i] == D - k, i, 0)
        if k == 0:
            upper = 1.0 + upper
        w = upper - lower
        w = tl.where(known, tl.where(w < 0, 0.0, w), float("nan"))
        tl.store(weight + k * points + p, w, mask=inside)
        if k < D:
            tl.store(order + k * points + p, which, mask=inside)


@triton.jit
def find_neighbours(key, remainder, step, count, found, room, D: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr):
    direction = tl.program_id(1)
    vertices = tl.load(count)
    low = tl.load(step + direction)
    wrap = tl.load(step + D + 1 + direction)
    for begin in range(tl.program_id(0) * BLOCK, vertices, tl.num_programs(0) * BLOCK):
        v = begin + tl.arange(0, BLOCK)
        inside = v < vertices
        mine = tl.load(key + v, mask=inside, other=0)
        k = tl.load(remainder + v, mask=inside, other=0)
        for side in tl.static_range(2):
            if side == 0:
                wanted = mine - tl.where(k == 0, wrap, low)
            else:
                wanted = mine + tl.where(k == D, wrap, low)
            # The first key that is not below the wanted one lies from `at` to `end`.
            at = tl.zeros([BLOCK], tl.int32)
            end = tl.zeros([BLOCK], tl.int32) + vertices
            for _ in range(BITS):
                middle = at + (end - at) // 2
                open_ = inside & (at < end)
                below = tl.load(key + middle, mask=open_, other=0) < wanted
                at = tl.where(open_ & below, middle + 1, at)
                end = tl.where(open_ & ~below, middle, end)
            exists = inside & (at < vertices)
            same = tl.load(key + at, mask=exists, other=0) == wanted
            place = (direction * 2 + side).to(tl.int64) * room + v
            tl.store(found + place, tl.where(exists & same, at, -1), mask=inside)


@triton.jit
def blur(
    values,
    first,
    second,
    count,
    out,
    room,
    CHANNELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # Along one direction, or along two at once: what neighbours along the second have after the first is worked out
    # anew.
    await_memory()
    c = tl.arange(0, BLOCK_C)[None, :]
    vertices = tl.load(count)
    for begin in range(tl.program_id(0) * BLOCK, vertices, tl.num_programs(0) * BLOCK):
        v = begin + tl.arange(0, BLOCK)
        inside = v < vertices
        value = _blurred(values, first, v, inside, room, c, CHANNELS)
        if second is not None:
            before = tl.load(second + v, mask=inside, other=-1)
            after = tl.load(second + room + v, mask=inside, other=-1)
            left = _blurred(values, first, before, before >= 0, room, c, CHANNELS)
            right = _blurred(values, first, after, after >= 0, room, c, CHANNELS)
            value += 0.5 * (left + right)
        tl.store(out + v.to(tl.int64)[:, None] * CHANNELS + c, value, mask=inside[:, None] & (c < CHANNELS))


@triton.jit
def _blurred(values, neighbours, v, exists, room, c, CHANNELS: tl.constexpr):
    # [½ 1 ½] along one direction at vertices v, 0 where there is none.
    T: tl.constexpr = tl.float64 if values.dtype.element_ty == tl.float64 else tl.float32
    before = tl.load(neighbours + v, mask=exists, other=-1)
    after = tl.load(neighbours + room + v, mask=exists, other=-1)
    channel = c < CHANNELS
    value = tl.load(values + v.to(tl.int64)[:, None] * CHANNELS + c, mask=exists[:, None] & channel, other=0)
    left = tl.load(values + before.to(tl.int64)[:, None] * CHANNELS + c, mask=(before >= 0)[:, None] & channel, other=0)
    right = tl.load(values + after.to(tl.int64)[:, None] * CHANNELS + c, mask=(after >= 0)[:, None] & channel, other=0)
    return value.to(T) + 0.5 * (left.to(T) + right.to(T))


@triton.jit
def slice_values(
    values,
    vertex,
    weight,
    scale,
    out,
    points,
    width,
    CORNERS: tl.constexpr,
    FACTOR: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK: tl.constexpr,
    LINES: tl.constexpr,
    WIDE: tl.constexpr,
):
    await_memory()
    first, p, inside = block_of_points(points, width, BLOCK, LINES, WIDE)
    c = tl.arange(0, BLOCK_C)
    message = sliced(values, vertex, weight, scale, first, p, inside, points, c, CORNERS, FACTOR, CHANNELS)
    at = p[:, None] * CHANNELS + c[None, :]
    tl.store(out + first * CHANNELS + at, message, mask=inside[:, None] & (c[None, :] < CHANNELS))


@triton.jit
def add_corner_products(
    values,
    vertex,
    weight,
    rows,
    scale,
    to_weight,
    to_scale,
    points,
    width,
    CORNERS: tl.constexpr,
    FACTOR: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK: tl.constexpr,
    LINES: tl.constexpr,
    WIDE: tl.constexpr,
):
    await_memory()
    T: tl.constexpr = weight.dtype.element_ty
    first, p, inside = block_of_points(points, width, BLOCK, LINES, WIDE)
    p += first
    c = tl.arange(0, BLOCK_C)
    tile = inside[:, None] & (c[None, :] < CHANNELS)
    row = tl.load(rows + p[:, None] * CHANNELS + c[None, :], mask=tile, other=0).to(T) * FACTOR
    if scale is not None:
        factor = tl.load(scale + p, mask=inside, other=0)
    total = tl.zeros([BLOCK], T)
    for k in tl.static_range(CORNERS):
        at = k * points + p
        v = tl.load(vertex + at, mask=inside, other=0).to(tl.int64)
        value = tl.load(values + v[:, None] * CHANNELS + c[None, :], mask=tile, other=0)
        product = tl.sum(value.to(T) * row, axis=1)
        if to_scale is not None:
            total += product * tl.load(weight + at, mask=inside, other=0)
        if to_weight is not None:
            if scale is not None:
                product *= factor
            product += tl.load(to_weight + at, mask=inside, other=0)
            tl.store(to_weight + at, product, mask=inside)
    if to_scale is not None:
        tl.store(to_scale + p, total + tl.load(to_scale + p, mask=inside, other=0), mask=inside)


@triton.jit
def await_memory():
    # The first call of a kernel that may begin while those before it run (`launch_pdl`): it reads and writes nothing
    # before they have ended. The one after it may then begin in the same way, and will wait for it here.
    if tl.target_info.cuda_capability_geq(9, 0):
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def block_of_points(points, width, BLOCK: tl.constexpr, LINES: tl.constexpr, WIDE: tl.constexpr):
    # The points of a program that slices, on LINES lines of `width` points, as pixels of a block share more vertices
    # than as many of one line: the first point, how far the others are from it, and which of them exist. A thread has
    # points LINES * WIDE places apart, so on one line.
    x = tl.program_id(0).to(tl.int64) * (BLOCK // LINES)
    line = tl.program_id(1) * LINES
    i = tl.arange(0, BLOCK)
    right = i // (LINES * WIDE) * WIDE + i % WIDE
    first = line.to(tl.int64) * width + x
    p = (i // WIDE % LINES).to(tl.int64) * width + right
    return first, p, (right < width - x) & (p < points - first)


@triton.jit
def sliced(
    values,
    vertex,
    weight,
    scale,
    first,
    p,
    inside,
    points,
    c,
    CORNERS: tl.constexpr,
    FACTOR: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    T: tl.constexpr = weight.dtype.element_ty
    tile = inside[:, None] & (c[None, :] < CHANNELS)
    total = tl.zeros([p.shape[0], c.shape[0]], T)
    for k in tl.static_range(CORNERS):
        at = k * points + first
        v = tl.load(vertex + at + p, mask=inside, other=0).to(tl.int64)
        w = tl.load(weight + at + p, mask=inside, other=0)
        value = tl.load((values + c)[None, :] + v[:, None] * CHANNELS, mask=tile, other=0)
        total += w[:, None] * value.to(T)
    total *= FACTOR
    if scale is not None:
        total *= tl.load(scale + first + p, mask=inside, other=0)[:, None]
    return total
