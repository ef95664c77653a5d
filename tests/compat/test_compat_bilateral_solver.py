"""The bilateral solver under other code's names: conventions, types, and what is solved for."""

import numpy as np
import pytest
from PIL import Image

from crfrnn import Bilateral, bilateral_features, bilateral_solver, reference
from crfrnn.compat.bilateral_solver import (
    bilateral_solver_output,
    components,
    fastBilateralSolverFilter,
    luma_and_chroma,
)
from errors import raises_saying
from tolerances import assert_close


@pytest.fixture
def photo(rng):
    halves = np.where(np.arange(16) < 7, 40, 200)[None, :, None] * np.ones((12, 1, 3))
    return (halves + rng.integers(-8, 9, (12, 16, 3))).astype(np.uint8)


def yuv(rgb):
    """The luma and chroma of ITU-R BT.601, without the offset of the chroma."""
    matrix = np.array([[0.299, 0.587, 0.114], [0.5, -0.418688, -0.081312], [-0.168736, -0.331264, 0.5]])
    return rgb.astype(np.float64) @ matrix.T


def test_luma_and_chroma(photo):
    np.testing.assert_allclose(luma_and_chroma(photo), yuv(photo), atol=0.1)


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_is_the_solver_with_half_the_sigmas(photo, rng, channels):
    target, confidence = rng.random((12, 16, *channels), np.float32), rng.random((12, 16), np.float32)
    found = fastBilateralSolverFilter(photo, target, confidence, None, 6, 5, 3, 50, 40, 1e-6)
    planes = np.moveaxis(target.reshape(12, 16, -1), -1, 0)
    expected = bilateral_solver(
        planes,
        confidence,
        luma_and_chroma(photo[..., ::-1]),
        Bilateral(3, (2.5, 1.5, 1.5)),
        smoothness=50,
        iterations=40,
        tolerance=1e-6,
    )
    np.testing.assert_array_equal(found, np.moveaxis(expected, 0, -1).reshape(target.shape))


@pytest.mark.parametrize(("dtype", "zero", "one"), [("u1", 0, 255), ("u2", 0, 65535), ("i2", -32768, 65535)])
def test_whole_numbers_are_scaled_and_rounded(photo, rng, dtype, zero, one):
    target, trust = rng.random((12, 16), np.float32), rng.integers(0, 256, (12, 16), np.uint8)
    given = np.rint(target * one + zero).astype(dtype)
    expected = fastBilateralSolverFilter(photo, (given - np.float32(zero)) / np.float32(one), trust / np.float32(255))
    found = fastBilateralSolverFilter(photo, given, trust)
    assert found.dtype == dtype
    assert np.abs(found - (expected.astype(float) * one + zero)).max() <= 0.51 + 1e-6 * one


def test_against_a_dense_solve_of_a_grey_guide(photo, rng):
    grey = photo[..., 0]
    target, confidence = rng.random((12, 16), np.float32), rng.random((12, 16), np.float32)
    found = fastBilateralSolverFilter(grey, target, confidence, None, 8, 60, 8, 128, 500, 1e-9)
    K = reference.Lattice(bilateral_features(grey, 4, 30)).filter(np.eye(192))
    K, d = (K + K.T) / 2, np.ones(192)
    for _ in range(10):
        d = np.sqrt(d / (K @ d))
    c = confidence.ravel().astype(float)
    W = d[:, None] * K * d
    A = 128 * (np.diag(W.sum(axis=1)) - W) + np.diag(c)
    assert_close(found, np.linalg.solve(A, c * target.ravel()).reshape(12, 16), 1e-2)


def test_writes_to_what_is_given(photo, rng):
    target, confidence = rng.random((12, 16), np.float32), np.ones((12, 16), np.float32)
    written = np.zeros_like(target)
    found = fastBilateralSolverFilter(photo, target, confidence, written)
    assert found is written
    np.testing.assert_array_equal(found, fastBilateralSolverFilter(guide=photo, src=target, confidence=confidence))


FLOATS = np.zeros((12, 16), np.float32)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"guide": np.zeros((12, 16, 3))}, TypeError, ("guide is float64", "expected uint8")),
        ({"src": np.zeros((12, 16), np.int64)}, TypeError, ("src int64",)),
        ({"confidence": np.zeros((12, 16), np.int16)}, TypeError, ("confidence int16",)),
        ({"guide": np.zeros((12, 16, 4), np.uint8)}, ValueError, ("(12, 16, 4)", "(H, W, 3)")),
        ({"src": np.zeros((16, 12), np.float32)}, ValueError, ("(16, 12)",)),
        ({"dst": np.zeros((12, 16))}, ValueError, ("dst", "float32")),
        ({"sigma_luma": 0}, ValueError, ("sigma_luma=0",)),
        ({"sigma_spatial": (8, 8)}, ValueError, ("sigma_spatial has shape (2,)", "a number")),
        ({"src": np.zeros((12, 16, 0), np.float32)}, ValueError, ("(12, 16, 0)", "at least one value")),
        ({"confidence": FLOATS}, ValueError, ("confidence ranges from 0.0 to 0.0",)),
    ],
)
def test_bad_input_is_named(photo, changes, error, words):
    with raises_saying(error, *words):
        fastBilateralSolverFilter(**{"guide": photo, "src": FLOATS, "confidence": FLOATS + 1, **changes})


@pytest.mark.parametrize("kind", ["path", "text", "picture", "array"])
def test_masks_of_objects(photo, tmp_path, kind):
    """A mask that leaves the dark half in places is that half afterwards, without holes."""
    Image.fromarray(photo).save(tmp_path / "photo.png")
    given = {
        "path": tmp_path / "photo.png",
        "text": str(tmp_path / "photo.png"),
        "picture": Image.open(tmp_path / "photo.png"),
        "array": photo,
    }[kind]
    target = np.zeros((12, 16))
    target[2:11, 1:6] = 1
    target[5:7, 3] = 0
    target[3, 12] = 1
    solved, mask = bilateral_solver_output(given, target, sigma_spatial=8, sigma_luma=16, sigma_chroma=16)
    assert solved.dtype == np.float64
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, (np.arange(16) < 7) & np.ones((12, 1), bool))


def test_holes_are_filled_and_one_region_is_chosen(photo):
    """With kernels of a fraction of a pixel the solution is the target."""

    def chosen(target):
        return bilateral_solver_output(photo, target, 0.02, 0.02, 0.02)[1]

    ring, dot = np.zeros((12, 16)), np.zeros((12, 16))
    ring[2:9, 2:9], dot[10, 12:15] = 1, 1
    hole = ring.copy()
    hole[4:6, 4:6] = 0
    np.testing.assert_array_equal(chosen(hole + dot), ring > 0)  # the larger of two objects
    corner = np.zeros((12, 16))
    corner[11, 12:15] = 1
    np.testing.assert_array_equal(chosen(1 - corner), corner > 0)  # as published: more than half, so the rest
    assert chosen(np.zeros((12, 16))).all()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.6, 0.9])
def test_components_are_those_of_scipy(rng, share):
    ndimage = pytest.importorskip("scipy.ndimage", reason="needs scipy")
    mask = rng.random((31, 40)) < share
    regions, sizes = components(mask)
    theirs, count = ndimage.label(mask)
    assert len(sizes) == count + 1
    np.testing.assert_array_equal(regions, theirs)
    np.testing.assert_array_equal(sizes, np.bincount(theirs.ravel()))


def test_photo_and_mask_of_different_size(photo):
    with raises_saying(ValueError, "(12, 16, 3)", "(5, 5)"):
        bilateral_solver_output(photo, np.zeros((5, 5)))
