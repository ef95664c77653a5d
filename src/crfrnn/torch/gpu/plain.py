"""Every step of a mean field in plain torch, for any device; `triton_steps` has the same steps as Triton kernels.

Read these to know what the kernels compute. Rows are (P, channels): a point of the batch each, images one after the
other, channels padded (arrays.py). Values are (V, channels), a lattice vertex each. Of V rows, those after
`lattice.num_vertices` are not used. Both may be stored in 16 bits; numbers are those of the lattice's weights.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from crfrnn.torch.gpu.grid import ZEROS, Taps
from crfrnn.torch.gpu.lattice import FAR, MOST_KEYS, Lattice, Runs, constants, hashing_units, type_of_sums
from crfrnn.torch.gpu.senders import Senders


def rows_of(planes: Tensor, channels: int, padding: float) -> Tensor:
    """(B, C, *spatial) as contiguous rows (P, channels), padded with a number."""
    classes = planes.shape[1]
    points = planes.movedim(1, -1)
    rows = planes.new_full((*points.shape[:-1], channels), padding)
    rows[..., :classes] = points
    return rows.view(-1, channels)


def planes_of(rows: Tensor, like: Tensor) -> Tensor:
    """Rows back as (B, C, *spatial), in shape and memory layout like another tensor."""
    images, classes, *spatial = like.shape
    planes = torch.empty_like(like)
    return planes.copy_(rows.view(images, *spatial, -1)[..., :classes].movedim(-1, 1))


def begin(logits: Tensor, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Logits (B, C, *spatial) as rows, padded with -inf, and their softmax, stored as `dtype`."""
    unary = rows_of(logits, channels, -torch.inf)
    return unary, torch.softmax(unary, dim=1).to(dtype)


def embed(features: Tensor, scale: Tensor, exact_scale: Tensor | None, limit: float) -> tuple[Tensor, Tensor, Tensor]:
    """The simplex around each point (Adams, Baek & Davis 2010, section 3).

    Operation by operation what the native core does, without fused multiply-adds: many pixels lie exactly on the
    border of two simplices, and rounding decides on which side.

    Args:
        features: (d, P).
        scale: (d,), to the lattice, in the precision of the features.
        exact_scale: (d,) in float64, for points with a coordinate of `FAR` or more, whose differences to lattice points
            are worked out in float64; None where all points are worked out as they are.
        limit: Points with a coordinate of this many cells or more, or NaN, get NaN weights.
    Returns: The nearest remainder-0 vertex divided by d + 1 (d, P) int32; the coordinate of rank d - k that the step
        from corner k to the next one takes back, (d, P) int32; and barycentric weights (d + 1, P) by corner.
    """
    d = len(features)
    down = 1 / (d + 1)
    position = _elevated(features * scale[:, None])
    known = ((position * down).abs() < limit).all(0)
    position = torch.where(known, position, 0)

    cell = torch.round(position * down)
    difference = position - cell * (d + 1)
    excess = cell.sum(0)
    if exact_scale is not None:
        far = (position.abs() >= FAR).any(0)
        exact = torch.where(known, _elevated(features.double() * exact_scale[:, None]), 0)
        exact_cell = torch.round(exact * down)
        exact_difference = exact - exact_cell * (d + 1)
        excess = torch.where(far, exact_cell.sum(0).to(excess.dtype), excess)
        cell = torch.where(far, exact_cell.to(cell.dtype), cell)
        difference = torch.where(far, exact_difference.to(cell.dtype), difference)
    rank = excess.to(torch.int32).repeat(d + 1, 1)
    for i in range(d + 1):
        for j in range(i + 1, d + 1):
            less = difference[i] < difference[j]
            rank[i] += less
            rank[j] += ~less
    # Points that rounding took off the hyperplane come back along the coordinates of the largest or smallest rank.
    shift = (rank < 0).int() - (rank > d).int()
    rank += (d + 1) * shift
    cell += shift
    share = (difference - shift * (d + 1)) * down

    place = rank.long().clamp(0, d)
    by_rank = torch.empty_like(share).scatter_(0, place, share)
    coordinate = torch.arange(d + 1, dtype=torch.int32, device=features.device)[:, None].expand_as(rank)
    order = torch.empty_like(rank).scatter_(0, place, coordinate).flip(0)
    weight = torch.cat([1 + by_rank[d:] - by_rank[:1], by_rank[:d].flip(0) - by_rank[1:].flip(0)])
    # Rounding can leave a weight on the far side of 0.
    weight = torch.where(known, weight.clamp(min=0), torch.nan)
    return cell[:d].to(torch.int32), order[:d].contiguous(), weight


def _elevated(scaled: Tensor) -> Tensor:
    """The d + 1 coordinates on the hyperplane of points (d, P)."""
    total = torch.zeros_like(scaled[0])
    position = scaled.new_empty(len(scaled) + 1, scaled.shape[1])
    for j in range(len(scaled), 0, -1):
        position[j] = total - scaled[j - 1] * j
        total = total + scaled[j - 1]
    position[0] = total
    return position


def corner_keys(cell: Tensor, order: Tensor, images: int, margin: int) -> tuple[Tensor, Tensor]:
    """Keys (d + 1, P) int64, of which two are the same only for equal vertices of one image; and what a step along each
    direction adds to a key, from remainders below d and from d: (2, d + 1) int64.

    A key is linear in its vertex's cells, remainder and image. Where they fit, these are the digits of a number;
    otherwise each adds an arbitrary one.

    Args:
        margin: Cells that corners and their neighbours reach beyond those of the points, on both sides together.
    """
    d, points = cell.shape
    device = cell.device
    low, high = torch.aminmax(cell, dim=1)
    # Assigning a Python number to an element would copy it to the device, for which the host waits.
    first, last = (constants(given, torch.int64, device) for given in ((1, d + 1), (images,)))
    sizes = torch.cat([first, high.long() - low + margin, last])
    fits = sizes.float().prod() < MOST_KEYS
    # What one remainder, one cell along each coordinate and one image add to a key. Remainders are the digit that
    # counts least: vertices of a simplex are near each other in memory then, and so are neighbours.
    unit = torch.where(fits, sizes.cumprod(0)[:-1], hashing_units(d, device))
    up, along = unit[0], pad(unit[1 : d + 1], (0, 1))  # the last coordinate follows from the others

    key = torch.empty(d + 1, points, dtype=torch.int64, device=device)
    torch.sum(cell * along[:d, None], dim=0, out=key[0])
    key[0].view(images, -1).add_(torch.arange(images, device=device)[:, None] * unit[d + 1])
    torch.sub(up, along.index_select(0, order.view(-1)).view_as(order), out=key[1:])
    # From remainder d the next one is 0, one cell further along every coordinate; along the direction it stays.
    return key.cumsum_(0), torch.stack([up - along, along.sum() - along - d * up])


def capacity(count: Tensor, corners: int) -> int:
    """V, the number of vertices there is room for; here as many as there are, which waits for the device."""
    return int(count)


def list_vertices(
    key: Tensor, entry: Tensor, number: Tensor, room: int, points: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Vertices around each point by remainder (d + 1, P) int32; and of the vertices the first corner, the key, the
    remainder: (V + 1,) int32, with E after the last, (V,) and (V,) int32.

    Args:
        key: (E,), sorted, of all corners.
        entry: (E,) int64, the sorted corners as places in (d + 1, P).
        number: (E,) int32, the vertex of each.
        room: V, of which those that exist come first.
    """
    size, device = len(key), key.device
    vertex = torch.empty_like(number).scatter_(0, entry, number).view(-1, points)
    start = torch.full((room + 1,), size, dtype=torch.int32, device=device)
    start.scatter_reduce_(0, number.long(), torch.arange(size, dtype=torch.int32, device=device), "amin")
    at = start[:room]
    return vertex, start, key.index_select(0, at), (entry.index_select(0, at) // points).to(torch.int32)


def find_neighbours(key: Tensor, remainder: Tensor, step: Tensor, count: Tensor) -> Tensor:
    """The vertex before (0) and after (1) each one along every direction, -1 where there is none: (d + 1, 2, V) int32.

    Args:
        key: (V,) rising keys of the vertices.
        remainder: (V,) of each vertex, 0 to d.
        step: (2, d + 1) what a step along each direction adds to a key, from remainders below d and from d.
    """
    directions = step.shape[1]
    found = torch.empty(directions, 2, len(key), dtype=torch.int32, device=key.device)
    for direction in range(directions):
        low, wrap = step[0, direction], step[1, direction]
        before = key - torch.where(remainder == 0, wrap, low)
        after = key + torch.where(remainder == directions - 1, wrap, low)
        for side, wanted in enumerate((before, after)):
            at = torch.searchsorted(key, wanted).clamp(max=len(key) - 1)
            found[direction, side] = torch.where(key[at] == wanted, at, -1)
    return found


def cut_runs(entry: Tensor, vertex: Tensor, start: Tensor, weight: Tensor, touched: Tensor | None) -> Runs | None:
    """What a splat without atomics needs: nothing here."""
    return None


def splat(lattice: Lattice, rows: Tensor, scale: Tensor | None) -> Tensor:
    """values[v] = Σ weight · scale · row over the corners that are vertex v; no scale is 1."""
    values = lattice.weight.new_zeros(lattice.neighbours.shape[2], rows.shape[1])
    for vertex, weight in zip(lattice.vertex, lattice.weight, strict=True):
        factor = weight if scale is None else weight * scale
        values.index_add_(0, vertex, factor[:, None] * rows)
    return values


def blur(lattice: Lattice, values: Tensor, directions: Sequence[int], dtype: torch.dtype) -> Tensor:
    """[½ 1 ½] along one direction after the other, 0 beyond the vertices that exist; stored as `dtype`."""
    blurred = values.to(lattice.weight.dtype)
    for direction in directions:
        before, after = (
            torch.where(side[:, None] >= 0, blurred.index_select(0, side.clamp(min=0)), 0)
            for side in lattice.neighbours[direction]
        )
        blurred = blurred + 0.5 * (before + after)
    return blurred.to(dtype)


def slice_values(lattice: Lattice, values: Tensor, scale: Tensor | None) -> Tensor:
    """row = scale · Σ weight · values[vertex] / (1 + 2^-d)."""
    rows = lattice.weight.new_zeros(lattice.vertex.shape[1], values.shape[1])
    for vertex, weight in zip(lattice.vertex, lattice.weight, strict=True):
        rows += weight[:, None] * values.index_select(0, vertex)
    rows *= lattice.factor
    return (rows if scale is None else rows * scale[:, None]).to(values.dtype)


def add_corner_products(
    lattice: Lattice,
    values: Tensor,
    rows: Tensor,
    scale: Tensor | None,
    to_weight: Tensor | None,
    to_scale: Tensor | None,
) -> None:
    """Add in place the gradients of ⟨rows, `slice_values(lattice, values, scale)`⟩ to the weights and to the scale.

    One of the two products of each corner (docs/algorithm.md, eq. 23).

    Args:
        to_weight: (d + 1, P), or None.
        to_scale: (P,), or None.
    """
    rows = rows.to(lattice.weight.dtype)
    for k, (vertex, weight) in enumerate(zip(lattice.vertex, lattice.weight, strict=True)):
        product = (values.index_select(0, vertex) * rows).sum(dim=1) * lattice.factor
        if to_weight is not None:
            to_weight[k] += product if scale is None else scale * product
        if to_scale is not None:
            to_scale += weight * product


def cut_off(taps: Tensor, reach: Tensor) -> Taps:
    """Taps of which `reach` count on each side of the middle; here cut out, for which it waits for the device."""
    middle, radius = len(taps) // 2, int(reach)
    return Taps(pad(taps[middle - radius : middle + radius + 1], (ZEROS, ZEROS)), radius, None)


def convolve(rows: Tensor, length: int, inside: int, taps: Taps, before: Tensor | None, after: Tensor | None) -> Tensor:
    """after · Σ_k taps[k] · (before · rows)[x + k - radius] along one axis of a grid; 0 beyond its border.

    Args:
        length: Points along the axis.
        inside: How many points lie between neighbours along it.
        taps: As `cut_off` returns them.
        before: (P,) factors, or None for ones; after the same.
    """
    weights, radius = taps.values[ZEROS:-ZEROS], taps.radius
    sent = rows.to(weights.dtype) if before is None else rows * before[:, None]
    lines = sent.view(-1, length, inside * rows.shape[1])
    received = torch.zeros_like(lines)
    for k in range(-radius, radius + 1):
        count = length - abs(k)
        received.narrow(1, max(-k, 0), count).addcmul_(lines.narrow(1, max(k, 0), count), weights[radius + k])
    received = received.view_as(rows)
    return (received if after is None else received * after[:, None]).to(type_of_sums(rows))


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
    """One update of the logits, a = (1 - λ) (U - Σ_k E_k (N_k q)) + λ a, and their softmax (docs/algorithm.md, eq. 4).

    Args:
        unary: U, padded by -inf; previous, the logits so far, too.
        message: N q of one kernel, or None.
        values: Lattice values of another kernel, which become its N q once sliced and scaled; or None.
        couplings: E of the first and of the second kernel: (channels,) or transposed (channels, channels).
        damping: λ.
        dtype: What the softmax is stored in; None leaves it out, for the last iteration. Otherwise the logits are left
            out where no damping needs them.
        senders: The classes that send messages, whose `most` is filled in; the softmax is over these, and others are
            not damped. None for all.
    """
    logits = unary
    if message is not None and couplings[0] is not None:
        logits = logits - couple(message, couplings[0])
    if lattice is not None and values is not None and couplings[1] is not None:
        logits = logits - couple(slice_values(lattice, values, scale), couplings[1])
    sends = None
    if senders is not None:
        images, channels = senders.likely.shape
        sends = senders.likely[:, None].expand(images, len(unary) // images, channels).reshape(-1, channels)
    if damping:
        damped = (1 - damping) * logits + damping * previous
        logits = damped if sends is None else torch.where(sends, damped, logits)
    if dtype is None:
        return logits, None
    marginals = torch.softmax(logits if sends is None else logits.masked_fill(~sends, -torch.inf), dim=1)
    if senders is not None:
        torch.amax(marginals.view(len(senders.most), -1, unary.shape[1]), dim=1, out=senders.most)
    return logits if damping else None, marginals.to(dtype)


def backstep(
    g: Tensor,
    total: Tensor,
    marginals: Tensor,
    messages: tuple[Tensor | None, ...],
    couplings: tuple[Tensor | None, ...],
    damping: float,
    share: float,
) -> Tensor:
    """g of the iteration before (docs/algorithm.md, eq. 8), of which a share is added to `total` in place.

    Args:
        messages: N_kᵀ g of two kernels, None where there is none.
        couplings: (1 - λ) E_k: (channels,), or (channels, channels), not transposed.
    """
    v = torch.zeros_like(total)
    for message, coupling in zip(messages, couplings, strict=True):
        if message is not None and coupling is not None:
            v -= couple(message, coupling)
    result = damping * g + marginals * (v - (v * marginals).sum(dim=1, keepdim=True))
    total += share * result
    return result.to(g.dtype)


def products(messages: tuple[Tensor, Tensor], marginals: Tensor) -> Tensor | None:
    """messagesᵀ marginals of both kernels, (2, channels, channels); None where a library should multiply."""
    return None


def couple(rows: Tensor, coupling: Tensor) -> Tensor:
    """Rows times a number per channel, or times a matrix."""
    rows = rows.to(coupling.dtype)
    return rows @ coupling if coupling.ndim == 2 else rows * coupling
