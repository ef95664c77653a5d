"""The permutohedral lattice as tensors, built and used without waiting for the device (docs/algorithm.md, eq. 9).

Vertices are counted on the host only if some are added (`neighbour_rounds` above 0), or with `count_vertices`.
"""

import math
from functools import lru_cache
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from crfrnn.kernels.lattice import MAX_FEATURES

# Corners of simplices are counted in 32 bits, with room for the steps of kernels beyond the last one.
MOST_CORNERS = 2**31 - 2**24
# Beyond these, cells of neighbouring points can no longer be told apart, or do not fit 32 bits.
CELL_LIMIT = {torch.float32: 2.0**21, torch.float64: 2.0**30}
FAR = 4096  # in coordinates on the hyperplane, as in the native core: from here on float32 is not exact enough
MARGIN = 4  # cells that corners and their neighbours reach beyond those of the points, on both sides together
MOST_KEYS = 2.0**62
# Any numbers without a pattern: the golden ratio's bits, mixed as SplitMix64 does.
_GOLDEN, _WORD = 0x9E3779B97F4A7C15, 2**64


class Runs(NamedTuple):
    """The corners of all points, sorted by vertex and cut into R runs of one length, the last one filled up.

    Runs lie side by side, `SIDE` of them at a time: the first corners of all, then their second ones.

    Attributes:
        point: (R · length,) int32; ~p instead of p for the first corner of each vertex.
        weight: (R · length,), 0 where there is no corner.
        first: (R,) int32, the vertex of the first corner of each run.
        of_vertex: (V + 1,) int32, the first of the sorted corners of each vertex, and E after the last.
        touched: (V,) int64, where these V vertices are in a lattice that has others too; None where it has none.
    """

    point: Tensor
    weight: Tensor
    first: Tensor
    of_vertex: Tensor
    touched: Tensor | None


class Lattice(NamedTuple):
    """The kernel exp(-½ |f_i - f_j|²) between the points of each image of a batch, not normalised.

    Attributes:
        vertex: (d + 1, P) int32, the vertices around each point by remainder.
        weight: (d + 1, P), barycentric weights.
        neighbours: (d + 1, 2, V) int32, the vertices before and after each one; -1 where there is none.
        num_vertices: () int32, how many of the V vertices there are.
        runs: For a splat in a fixed order; None for one by atomics, and where the device's steps need none.
        width: Of the lines of pixels that the points are, one after the other; P for images of one line each.
    """

    vertex: Tensor
    weight: Tensor
    neighbours: Tensor
    num_vertices: Tensor
    runs: Runs | None
    width: int

    @property
    def factor(self) -> float:
        """The factor that gives the blurs the sum of a Gaussian: 1 / (1 + 2^-d)."""
        return 1 / (1 + 2.0 ** (1 - len(self.vertex)))

    def spread(self, rows: Tensor, scale: Tensor | None, transpose: bool, steps: ModuleType) -> Tensor:
        """Values at the vertices after splat and blur, in the reverse order of directions for the transpose."""
        directions = range(len(self.vertex))
        values: Tensor = steps.blur(
            self, steps.splat(self, rows, scale), directions[::-1] if transpose else directions, type_of_sums(rows)
        )
        return values

    def filter(
        self, rows: Tensor, before: Tensor | None, after: Tensor | None, transpose: bool, steps: ModuleType
    ) -> Tensor:
        """diag(after) K diag(before) rows, or with Kᵀ; factors (P,), None for ones."""
        values = self.spread(rows, before, transpose, steps)
        filtered: Tensor = steps.slice_values(self, values, after)
        return filtered


def build_lattice(
    features: Tensor,
    images: int,
    width: int,
    steps: ModuleType,
    neighbour_rounds: int = 0,
    deterministic: bool = True,
    count_vertices: bool = False,
) -> Lattice:
    """The lattices over a batch of images, as one.

    Args:
        features: (d, P), the points of one image after the other; float32 or float64. Where they are not finite or
            too large to tell cells apart, everything that the point takes part in becomes NaN.
        images: How many images there are, all with the same number of points.
        width: Of an image: how many points lie side by side in it.
        neighbour_rounds: How many times to add all neighbours of all vertices.
        deterministic: Whether sums have a fixed order.
        count_vertices: Whether to wait for their number, and have room for no more.
    Raises: ValueError: if there are too many features or points, or vertices are counted while a CUDA graph is
        recorded.
    """
    d, points = features.shape
    corners = (d + 1) * points
    if d > MAX_FEATURES:
        raise ValueError(
            f"there are {d} features a point, coordinates and channels, but a lattice takes at most {MAX_FEATURES}: "
            "reduce them, for example by PCA"
        )
    if corners > MOST_CORNERS:
        raise ValueError(f"{points} points of {d} features are too many for one lattice; give fewer images at a time")
    device = features.device
    cell, order, weight = embedded(features, steps)

    corner_key, step = steps.corner_keys(cell, order, images, MARGIN + 2 * neighbour_rounds)
    key, entry = torch.sort(corner_key.view(-1), stable=True)

    # Equal keys are one vertex. The sort is stable: corners of a vertex keep the order of points.
    differs = torch.zeros(corners, dtype=torch.bool, device=device)
    torch.ne(key[1:], key[:-1], out=differs[1:])
    number = torch.cumsum(differs, 0, dtype=torch.int32)
    num_vertices = number[-1] + 1
    room = _counted(num_vertices) if count_vertices else steps.capacity(num_vertices, corners)
    vertex, start, vertex_key, remainder = steps.list_vertices(key, entry, number, room, points)
    touched = None
    if neighbour_rounds:
        present = slice(int(num_vertices))
        old, vertex_key, remainder = vertex_key[present], vertex_key[present], remainder[present]
        for _ in range(neighbour_rounds):
            vertex_key, remainder = _with_neighbours(vertex_key, remainder, step)
            if len(vertex_key) > MOST_CORNERS:
                raise ValueError(
                    f"neighbour_rounds={neighbour_rounds} makes {len(vertex_key)} vertices, too many for one lattice; "
                    "take fewer rounds, or give fewer images at a time"
                )
        touched = torch.searchsorted(vertex_key, old)
        num_vertices = torch.full_like(num_vertices, len(vertex_key))
        vertex = touched.to(torch.int32)[vertex]
    neighbours = steps.find_neighbours(vertex_key, remainder, step, num_vertices)
    runs = steps.cut_runs(entry, number, start, weight, touched) if deterministic else None
    # Images of one line have no vertices in common that pixels of a block could share.
    return Lattice(vertex, weight, neighbours, num_vertices, runs, width if images * width < points else points)


def feature_gradient(features: Tensor, to_weight: Tensor, steps: ModuleType) -> Tensor:
    """Gradient to the features (d, P) of a lattice, from that to its weights (d + 1, P).

    Within a simplex weights are linear in the features (docs/algorithm.md, eq. 23); on its border this takes one side.
    """
    d = len(features)
    _, order, _ = embedded(features, steps)
    order = torch.cat([order, d * (d + 1) // 2 - order.sum(0, keepdim=True, dtype=order.dtype)])
    # Weight k is the share of the coordinate of rank d - k less that of the rank above, round in a circle.
    by_corner = (to_weight - to_weight.roll(-1, 0)) / (d + 1)
    position = torch.empty_like(by_corner).scatter_(0, order.long(), by_corner)
    gradient = torch.empty_like(features)
    total = torch.zeros_like(features[0])
    for j in range(d):
        total = total + position[j]
        gradient[j] = total - (j + 1) * position[j + 1]
    return gradient.mul_(_scale_of(features))


def type_of_sums(rows: Tensor) -> torch.dtype:
    """The dtype for messages and lattice values of such rows: sums may exceed the 65504 of float16."""
    return torch.bfloat16 if rows.dtype == torch.float16 else rows.dtype


def embedded(features: Tensor, steps: ModuleType) -> tuple[Tensor, Tensor, Tensor]:
    """`plain.embed` of features (d, P)."""
    d, device = len(features), features.device
    scale = constants(_scales(d, features.dtype), features.dtype, device)
    # Apple's GPUs have no float64.
    is_exact = features.dtype == torch.float64 or device.type == "mps"
    exact = None if is_exact else constants(_scales(d, torch.float64), torch.float64, device)
    cell, order, weight = steps.embed(features, scale, exact, CELL_LIMIT[features.dtype])
    return cell, order, weight


def _counted(number: Tensor) -> int:
    """A number () of the device, for which this waits."""
    if number.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise ValueError(
            "count_vertices=True waits for the device, which cannot be recorded as a CUDA graph: leave it out"
        )
    return int(number)


def _with_neighbours(key: Tensor, remainder: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and remainders of vertices with rising keys and of all their neighbours; this waits for the device."""
    directions = step.shape[1]
    keys, remainders = [key], [remainder]
    for low, wrap in step.unbind(1):
        keys += [
            key - torch.where(remainder == 0, wrap, low),
            key + torch.where(remainder == directions - 1, wrap, low),
        ]
        remainders += [(remainder - 1) % directions, (remainder + 1) % directions]
    found, place = torch.unique(torch.cat(keys), return_inverse=True)
    return found, remainder.new_empty(found.shape).scatter_(0, place, torch.cat(remainders))


def hashing_units(d: int, device: torch.device) -> Tensor:
    """The units (d + 2,) int64 of keys of which the digits do not fit 64 bits (`plain.corner_keys`).

    They are arbitrary numbers, modulo 2^64: the chance that any of V vertices share a key is then at most V² / 2^64.
    """
    return constants(_arbitrary(d + 2), torch.int64, device)


@lru_cache
def _arbitrary(count: int) -> tuple[int, ...]:
    """Numbers of 64 bits, as signed ones."""
    numbers = []
    for i in range(1, count + 1):
        z = i * _GOLDEN % _WORD
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % _WORD
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % _WORD
        z ^= z >> 31
        numbers.append(z - _WORD if z >= _WORD // 2 else z)
    return tuple(numbers)


def _scale_of(features: Tensor) -> Tensor:
    return constants(_scales(len(features), features.dtype), features.dtype, features.device)[:, None]


@lru_cache
def _scales(d: int, dtype: torch.dtype) -> tuple[float, ...]:
    """Of each feature, so that the blur has the Gaussian's deviation; rounded where the native core rounds."""
    deviation = float(torch.tensor(math.sqrt(2 / 3) * (d + 1), dtype=dtype))
    return tuple(1 / math.sqrt((i + 1) * (i + 2)) * deviation for i in range(d))


def constants(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers as a tensor, copied to the device at the first call and kept there, so that later calls do not wait."""
    kept = values, dtype, device
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        # A graph that is recorded reads this memory at every replay, long after other numbers came in its place here.
        return _recorded.setdefault(kept, _constants(*kept))
    return _recorded[kept] if kept in _recorded else _constants(*kept)


_recorded: dict[tuple[tuple[float, ...], torch.dtype, torch.device], Tensor] = {}


@lru_cache(maxsize=256)
def _constants(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)
