"""Which points the programs of kernels have that slice, and what these kernels make of them, against plain torch."""

from functools import partial
from math import prod
from types import SimpleNamespace

import numpy as np
import pytest

from tolerances import assert_close, tolerance

torch = pytest.importorskip("torch", reason="needs the torch extra")
from crfrnn.torch.gpu import plain  # noqa: E402
from crfrnn.torch.gpu.lattice import Lattice, build_lattice  # noqa: E402
from crfrnn.torch.gpu.senders import Senders  # noqa: E402
from places import INTERPRETED  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("unwritten_memory_is_nan")]
CORNERS, VERTICES = 3, 4

if INTERPRETED:
    import triton
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle, interpreter_builder

    from crfrnn.torch.gpu.triton_lattice import block_of_points

    @triton.jit
    def list_block(found, points, width, BLOCK: tl.constexpr, LINES: tl.constexpr, WIDE: tl.constexpr):
        first, p, inside = block_of_points(points, width, BLOCK, LINES, WIDE)
        tl.store(found + tl.arange(0, BLOCK), tl.where(inside, first + p, -1))


def points_of_program(monkeypatch, x, y, points, width, block, lines, wide):
    def numbered(axis):
        return TensorHandle(np.array([(x, y)[axis]], np.int32), tl.int32)

    found = torch.empty(block, dtype=torch.int64)
    monkeypatch.setattr(interpreter_builder, "create_get_program_id", numbered)
    list_block[(1,)](found, points, width, block, lines, wide)
    monkeypatch.undo()
    return found.tolist()


@pytest.mark.skipif(not INTERPRETED, reason="no device has room for so many points")
@pytest.mark.parametrize(
    ("lines", "width", "num_lines"),
    [(1, 2**31 + 5, 1), (1, 2**33, 1), (4, 2**30 - 1, 9), (4, 2**20, 4097), (4, 1, 2**31 - 1), (4, 130, 7)],
)
def test_points_that_32_bits_cannot_count(monkeypatch, lines, width, num_lines):
    """Those of the first program and of the last one, on as many lines of a block."""
    block, wide, points = 64, 8, width * num_lines
    across = block // lines
    for x, y in ((0, 0), ((width - 1) // across, min((num_lines - 1) // lines, 65534))):
        expected = [
            (line, place)
            for line in range(y * lines, min((y + 1) * lines, num_lines))
            for place in range(x * across, min((x + 1) * across, width))
        ]
        found = points_of_program(monkeypatch, x, y, points, width, block, lines, wide)
        assert sorted(p for p in found if p >= 0) == [line * width + place for line, place in expected]


@pytest.mark.parametrize(
    ("points", "width", "in_blocks"),
    [
        (183_000, None, False),
        (10_000, 10_000, False),
        (4_000, 2_000, False),
        (183_000, 500, True),
        (2_001, 667, False),
        (2_668, 667, True),
    ],
)
def test_few_threads_have_no_point(place, monkeypatch, points, width, in_blocks):
    if not hasattr(place.steps, "LINES"):
        pytest.skip("plain torch has no programs")
    for name, number in (("POINTS", 128), ("LARGE_TILE", 2048)):
        monkeypatch.setattr(place.steps, name, number)
    lattice = None if width is None else SimpleNamespace(width=width)
    grid, _, tile = place.steps._blocks(torch.empty(1, 24).expand(points, 24), lattice)
    assert points <= prod(grid) * tile["BLOCK"] < 1.1 * points
    assert (tile["LINES"] > 1) == in_blocks


def test_signals_of_a_batch_are_one_line(rng, place):
    build = partial(build_lattice, place.tensor(rng.uniform(size=(2, 24))), steps=place.steps)
    assert [build(images, width).width for images, width in ((2, 12), (1, 24), (2, 4), (1, 12))] == [24, 24, 4, 12]


# Points of a block, its lines, points of a line that lie side by side, and how many bands a grid can have.
BLOCKS = {
    "a line": (128, 4, 8, 65535),
    "2×2": (4, 2, 1, 65535),
    "4×4, in pairs": (16, 4, 2, 65535),
    "4×1, as of many classes": (4, 8, 8, 65535),
    "too many bands": (4, 2, 1, 2),
}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("a line", (3, 5)),
        ("2×2", (3, 5)),
        ("2×2", (2, 9)),
        ("2×2", (2, 3, 7)),
        ("4×4, in pairs", (3, 17)),
        ("4×1, as of many classes", (7, 6)),
        ("too many bands", (3, 5)),
    ],
)
@pytest.mark.parametrize("factors", [False, True])
def test_kernels_that_slice_take_every_point_once(rng, place, monkeypatch, name, shape, factors):
    """Of two images; a block may have lines of both."""
    if not hasattr(place.steps, "LINES"):
        pytest.skip("plain torch has no programs")
    block, *others = BLOCKS[name]
    for attribute, number in zip(("POINTS", "LINES", "WIDE", "MOST_BANDS"), (block, *others), strict=True):
        monkeypatch.setattr(place.steps, attribute, number)
    images, channels, points = 2, 4, 2 * prod(shape)
    (_, bands), _, tile = place.steps._blocks(torch.empty(points, channels), SimpleNamespace(width=shape[-1]))
    assert (tile["LINES"] > 1) == (name not in ("a line", "too many bands"))
    assert bands <= place.steps.MOST_BANDS

    def random(*size):
        return place.tensor(rng.normal(size=size))

    # A vertex has many points here: only what a slice reads of a lattice is one.
    vertex = place.tensor(rng.integers(0, VERTICES, size=(CORNERS, points)).astype(np.int32))
    lattice = Lattice(vertex, random(CORNERS, points), vertex, vertex.new_tensor(VERTICES), None, shape[-1])
    values, rows, unary, message = random(VERTICES, channels), *(random(points, channels) for _ in range(3))
    unary[:, 2] -= 50  # likely nowhere, unless points that do not exist were counted
    scale = random(points) if factors else None
    to_weight, to_scale = random(CORNERS, points), random(points)
    likely = place.tensor(np.array([[1, 0, 1, 1], [1, 1, 1, 0]], bool))
    couplings = random(channels, channels), random(channels)

    def results(steps):
        gradients = to_weight.clone(), to_scale.clone() if factors else None
        steps.add_corner_products(lattice, values, rows, scale, *gradients)
        senders = Senders(likely, values.new_zeros(images, channels)) if factors else None
        update = unary, rows, message, lattice, values, scale, couplings, 0.25 if factors else 0.0
        made = *steps.update(*update, torch.float64, senders), None if senders is None else senders.most
        return [steps.slice_values(lattice, values, scale), *gradients, *made]

    for found, expected in zip(results(place.steps), results(plain), strict=True):
        assert (found is None) == (expected is None)
        if expected is not None:
            assert_close(found.cpu(), expected.cpu(), tolerance(np.float64).mean_field)
