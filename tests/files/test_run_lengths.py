"""Run lengths against pycocotools, and what it would crash on."""

import numpy as np
import pytest

from crfrnn.files.run_lengths import checked_polygons, mask_of_runs, size_of
from errors import raises_saying

mask_module = pytest.importorskip("pycocotools.mask")


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (300, 411)])
def test_masks_come_back(rng, size, share):
    mask = rng.random(size) < share
    mask[: size[0] // 2] |= share > 0.4  # long runs
    packed = mask_module.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    np.testing.assert_array_equal(mask_of_runs(packed, size), mask)
    flat = mask.T.ravel()
    edges = [0, *(np.flatnonzero(np.diff(flat)) + 1), flat.size]
    counts = [0] * int(flat[0]) + np.diff(edges).tolist()
    np.testing.assert_array_equal(mask_of_runs(counts, size), mask)
    np.testing.assert_array_equal(mask_of_runs([*counts, 0], size), mask)


@pytest.mark.parametrize(
    ("counts", "facts"),
    [
        ([2**31 - 1, 5], ["2147483652 pixels", "10×8", "80"]),
        ([], ["0 pixels"]),
        ([90, -10], ["whole numbers"]),
        ([80.0], ["whole numbers"]),
        ([True] * 80, ["whole numbers"]),
        (None, ["whole numbers"]),
        ("o", ["end within a number"]),
        ("o" * 40, ["where they cannot"]),
        ("ü1", ["'ü'"]),
        ("\x01", ["where they cannot"]),
    ],
)
def test_damaged_run_lengths(counts, facts):
    with raises_saying(ValueError, *facts):
        mask_of_runs(counts, (8, 10))


def test_sizes():
    assert size_of({"size": [8, 10], "counts": ""}) == (8, 10)
    assert size_of({"counts": ""}) is None
    assert size_of([[1, 2, 3, 4, 5, 6]]) is None
    for size in ([-8, 10], [8], "ab", [8.5, 10], None, [0, 4]):
        with raises_saying(ValueError, "size=", "height and width"):
            size_of({"size": size})


@pytest.mark.parametrize(
    ("polygons", "facts"),
    [
        ([[0, 0, 1e9, 0, 1e9, 1e9]], ["1000000000.0", "10×8"]),
        ([[0, 0, float("nan"), 4, 4, 4]], ["nan"]),
        ([[1, 1]], ["1 corners"]),
        ([[1, 1, 5, 5, 3, 3, 2]], ["x and y in turn"]),
        ([["a"] * 6], ["'a'"]),
        (["abcdef"], ["x and y in turn"]),
        ([5], ["x and y in turn"]),
        ([], ["no polygon"]),
    ],
)
def test_damaged_polygons(polygons, facts):
    with raises_saying(ValueError, *facts):
        checked_polygons(polygons, (8, 10))


def test_polygons_may_leave_their_photo():
    assert checked_polygons([[-3, -2, 14, 1.5, 5, 12]], (8, 10)) == [[-3.0, -2.0, 14.0, 1.5, 5.0, 12.0]]
