"""`crfrnn.bilateral_solver` against a dense solve in float64."""

import numpy as np
import pytest

from crfrnn import Bilateral, Exact, Given, Lattice, Spatial, bilateral_features, bilateral_solver, reference
from errors import raises_saying
from tolerances import assert_close

FEATURES = Bilateral(3.1, 61.7)


def dense(target, confidence, image, smoothness=128.0, lattice=False):
    """(λ (diag(Ŵ 1) - Ŵ) + diag c) x = c t, with Ŵ scaled ten times towards rows that sum to 1."""
    rows = bilateral_features(image, 3.1, 61.7, shape=confidence.shape)
    K = reference.Lattice(rows).filter(np.eye(len(rows))) if lattice else reference.DenseGaussian(rows).matrix
    K = (K + K.T) / 2
    d = np.ones(len(K))
    for _ in range(10):
        d = np.sqrt(d / (K @ d))
    W = d[:, None] * K * d
    np.testing.assert_allclose(W.sum(axis=1), 1, atol=1e-2)
    c = confidence.ravel()
    channels = target.reshape(-1, len(c))
    solved = np.linalg.solve(smoothness * (np.diag(W.sum(axis=1)) - W) + np.diag(c), (c * channels).T)
    return solved.T.reshape(target.shape)


def case(rng, spatial=(6, 7), channels=3, targets=(2,)):
    confidence = rng.uniform(size=spatial) * (rng.random(spatial) < 0.7)
    return rng.normal(size=(*targets, *spatial)), confidence, rng.uniform(0, 255, (*spatial, channels))


@pytest.mark.parametrize("filter", [None, Lattice(), Exact()])
@pytest.mark.parametrize(
    ("spatial", "channels", "targets"), [((12,), 2, (3,)), ((6, 7), 3, ()), ((6, 7), 1, (2,)), ((3, 4, 5), 2, (1,))]
)
@pytest.mark.parametrize("smoothness", [0.5, 128])
def test_equals_the_dense_solve(rng, filter, spatial, channels, targets, smoothness):
    given = case(rng, spatial, channels, targets)
    options = {"smoothness": smoothness, "iterations": 500, "tolerance": 1e-14}
    found = bilateral_solver(*given, FEATURES, filter, **options)
    assert_close(found, dense(*given, smoothness, lattice=filter != Exact()), 1e-5 if smoothness > 1 else 1e-6)


def test_single_precision(rng):
    target, confidence, image = case(rng)
    found = bilateral_solver(target.astype(np.float32), confidence, image, FEATURES, Exact(), iterations=200)
    assert found.dtype == np.float32
    assert_close(found, dense(target, confidence, image), 2e-3)


@pytest.mark.parametrize("share", [1e-2, 1e-4])
def test_single_precision_where_little_is_certain(rng, share):
    """What all values share hangs on the confidence alone, beside which λ times rounding is not small."""
    target, confidence, image = case(rng, (16, 18), targets=())
    options = {"features": FEATURES, "iterations": 500}
    found = bilateral_solver(target.astype(np.float32), share * confidence, image, **options)
    expected = dense(target, share * confidence, image, lattice=True)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("share", [1e-4, 1e-8, 1e-30])
def test_stays_within_the_range_of_what_is_certain(rng, share, dtype):
    """As the exact solution does, which is a mean of it with weights of at least 0."""
    target, confidence, image = case(rng)
    solved = bilateral_solver(target.astype(dtype), share * confidence, image, FEATURES, iterations=200)
    certain = target.astype(dtype)[:, confidence > 0]
    assert (solved >= certain.min(axis=1)[:, None, None]).all()
    assert (solved <= certain.max(axis=1)[:, None, None]).all()


def test_every_iteration_lowers_the_energy(rng):
    """That which is minimised, by its definition, of the dense matrix."""
    target, confidence, image = case(rng, targets=())
    rows = bilateral_features(image, 3.1, 61.7)
    K = reference.DenseGaussian(rows).matrix
    d = np.ones(len(K))
    for _ in range(10):
        d = np.sqrt(d / (K @ d))
    W = d[:, None] * K * d

    def energy(x):
        fit = (confidence * (x - target) ** 2).sum()
        return fit + 64 * (W * (x.ravel()[:, None] - x.ravel()) ** 2).sum()

    found = [energy(bilateral_solver(target, confidence, image, FEATURES, Exact(), iterations=n)) for n in range(8)]
    assert (np.diff(found) <= 1e-6 * found[0]).all()
    assert found[-1] < found[0]


def test_fills_in_what_is_not_known_up_to_the_edge():
    """One certain pixel on each side of an edge: all of its side takes its value."""
    image = np.zeros((9, 12, 3)) + np.where(np.arange(12) < 5, 30, 220)[:, None]
    target, confidence = np.zeros((9, 12)), np.zeros((9, 12))
    target[4, 2], target[4, 9], confidence[4, [2, 9]] = -1, 1, 1
    solved = bilateral_solver(target, confidence, image, Bilateral(2, 10), iterations=500)
    np.testing.assert_allclose(solved, np.where(np.arange(12) < 5, -1, 1) * np.ones((9, 1)), atol=1e-3)


def test_a_constant_stays_one(rng):
    _, confidence, image = case(rng)
    np.testing.assert_allclose(bilateral_solver(np.full((6, 7), 3.5), confidence, image), 3.5, atol=1e-6)


def test_channels_do_not_meet(rng):
    target, confidence, image = case(rng, targets=(3,))
    target[1] = 0
    together = bilateral_solver(target, confidence, image, FEATURES)
    for ours, alone in zip(together, target, strict=True):
        np.testing.assert_allclose(ours, bilateral_solver(alone, confidence, image, FEATURES), atol=1e-9)


def test_threads_give_the_same_bits(rng):
    given = rng.normal(size=(50, 60)), rng.uniform(size=(50, 60)), rng.uniform(0, 255, (50, 60, 3))
    np.testing.assert_array_equal(*(bilateral_solver(*given, threads=threads) for threads in (1, 3)))


GOOD = np.zeros((2, 4, 5)), np.ones((4, 5)), np.zeros((4, 5, 3))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((GOOD[0], np.ones((5, 4)), GOOD[2]), {}, ValueError, ("(2, 4, 5)", "(5, 4)", "channels first")),
        ((np.zeros((0, 5)), np.ones((0, 5)), np.zeros((0, 5))), {}, ValueError, ("(0, 5)",)),
        ((GOOD[0], -GOOD[1], GOOD[2]), {}, ValueError, ("confidence ranges from -1.0 to -1.0",)),
        ((GOOD[0], 0 * GOOD[1], GOOD[2]), {}, ValueError, ("above 0 somewhere",)),
        ((GOOD[0], GOOD[1] + np.inf, GOOD[2]), {}, ValueError, ("confidence holds 20 infinite",)),
        ((GOOD[0] + np.nan, *GOOD[1:]), {}, ValueError, ("target holds 40 NaN",)),
        ((*GOOD[:2], np.zeros((5, 4, 3))), {}, ValueError, ("image has shape (5, 4, 3)", "height and width")),
        (GOOD, {"features": Given("depth")}, TypeError, ("Given", "expected Bilateral")),
        (GOOD, {"features": 8.0}, TypeError, ("a float", "expected Bilateral")),
        (GOOD, {"filter": "exact"}, TypeError, ("a str", "Exact")),
        (GOOD, {"smoothness": 0}, ValueError, ("smoothness=0",)),
        ((GOOD[0].astype(np.float32), *GOOD[1:]), {"smoothness": 1e39}, ValueError, ("smoothness=1e+39", "float32")),
        (GOOD, {"iterations": -1}, ValueError, ("iterations=-1",)),
        (GOOD, {"tolerance": 1}, ValueError, ("tolerance=1",)),
        (GOOD, {"threads": 0}, ValueError, ("threads=0",)),
    ],
)
def test_bad_input_is_named(arguments, options, error, words):
    with raises_saying(error, *words):
        bilateral_solver(*arguments, **options)


def test_features_of_positions_alone(rng):
    target, confidence, image = case(rng)
    found = [bilateral_solver(target, confidence, each, Spatial(2)) for each in (image, 0 * image)]
    np.testing.assert_array_equal(*found)
