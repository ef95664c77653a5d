"""Gradients to what kernels are built from: against their NumPy twins, finite differences and identities."""

import numpy as np
import pytest

from crfrnn import ExactGaussian, GridGaussian, PermutohedralLattice, reference
from crfrnn.reference_gradients import kernel_gradient
from errors import raises_saying
from tolerances import assert_close, tolerance

DTYPES = [np.float32, np.float64]
CHANNELS = [1, 2, 3, 5, 8, 16, 21, 24, 40, 70]
STEP = 1e-6
# 4σ of no axis is a whole number: there the radius changes.
GRIDS = [
    ((23,), 2.9),
    ((40,), 0.4),
    ((300,), 2.9),
    ((9, 14), 1.9),
    ((9, 14), (1.3, 4.1)),
    ((70, 90), (2.1, 3.3)),
    ((30, 3), (2.4, 40.1)),
    ((5, 6, 7), (1.1, 2.1, 2.9)),
    ((4, 3, 5, 6), (0.7, 1.1, 2.1, 1.6)),
    ((1, 8), 2.9),
    ((1, 1), 2.9),
    ((12, 11), (0.0, 2.1)),
    ((12, 11), (2.1, 0.0)),
    ((4, 5, 6), (1.6, 0.0, 0.0)),
    ((4, 5, 6), (0.0, 1.6, 0.7)),
    ((7, 6), 0.0),
]


def inner_points(rng, n, d):
    """Points (n, d) that are not near the border of a simplex, close enough to share vertices."""
    candidates = rng.normal(size=(4 * n, d)) * 2 / np.sqrt(d)
    return candidates[PermutohedralLattice(candidates).weights.min(axis=1) > 1e-4][:n]


def slope(filtered, cotangent):
    """Central difference of ⟨cotangent, filtered(step)⟩."""
    return np.vdot(cotangent, filtered(STEP) - filtered(-STEP)) / (2 * STEP)


@pytest.mark.parametrize(("d", "neighbour_rounds"), [*((d, 0) for d in range(1, 17)), (1, 1), (2, 1), (3, 2), (5, 1)])
def test_lattice_against_finite_differences(rng, d, neighbour_rounds):
    features = inner_points(rng, 60, d)
    values, cotangent = rng.normal(size=(2, 60, 4))
    lattice = PermutohedralLattice(features, neighbour_rounds=neighbour_rounds)
    gradient = lattice.gradient(values, cotangent)
    for _ in range(3):
        direction = rng.normal(size=features.shape)

        def filtered(step, direction=direction):
            moved = PermutohedralLattice(features + step * direction, neighbour_rounds=neighbour_rounds)
            np.testing.assert_array_equal(moved.vertices, lattice.vertices)
            return moved.filter(values)

        numeric = slope(filtered, cotangent)
        assert abs(np.vdot(gradient, direction) - numeric) <= 1e-7 * np.linalg.norm(gradient) * np.linalg.norm(
            direction
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", CHANNELS)
def test_lattice_of_every_channel_count(rng, channels, dtype):
    features = (rng.normal(size=(301, 5)) * 0.8).astype(dtype)
    values, cotangent = rng.normal(size=(2, 301, channels)).astype(dtype)
    result = PermutohedralLattice(features).gradient(values, cotangent)
    assert result.dtype == dtype
    expected = kernel_gradient(reference.Lattice(features), values, cotangent)
    assert_close(result, expected, tolerance(dtype).filter)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 2, 3, 7, 8, 16])
def test_lattice_in_every_dimension(rng, d, dtype):
    features = (rng.normal(size=(123, d)) * 2 / np.sqrt(d)).astype(dtype)
    values, cotangent = rng.normal(size=(2, 123, 3)).astype(dtype)
    expected = kernel_gradient(reference.Lattice(features), values, cotangent)
    assert_close(PermutohedralLattice(features).gradient(values, cotangent), expected, tolerance(dtype).filter)


def test_lattice_of_a_batch(rng):
    features, batch = rng.normal(size=(200, 3)), rng.integers(0, 3, 200)
    values, cotangent = rng.normal(size=(2, 200, 2))
    union = PermutohedralLattice(features, batch=batch).gradient(values, cotangent)
    for item in range(3):
        rows = batch == item
        alone = PermutohedralLattice(features[rows]).gradient(values[rows], cotangent[rows])
        assert_close(union[rows], alone, 1e-12)


def test_a_lattice_needs_no_features_any_more(rng):
    features, (values, cotangent) = rng.normal(size=(80, 3)), rng.normal(size=(2, 80, 2))
    lattice = PermutohedralLattice(features)
    expected = lattice.gradient(values, cotangent)
    features[:] = 0
    np.testing.assert_array_equal(lattice.gradient(values, cotangent), expected)


@pytest.mark.parametrize("channels", [1, 2, 5, 21])
@pytest.mark.parametrize(("shape", "sigma"), GRIDS)
def test_grid_against_finite_differences(rng, shape, sigma, channels):
    values, cotangent = rng.normal(size=(2, np.prod(shape), channels))
    sigmas = np.broadcast_to(sigma, len(shape))
    gradient = GridGaussian(shape, sigmas, np.float64).gradient(values, cotangent)
    assert gradient.shape == sigmas.shape
    for axis, deviation in enumerate(sigmas):
        if deviation == 0:
            assert gradient[axis] == 0
            continue

        def filtered(step, axis=axis):
            moved = sigmas + step * (np.arange(len(shape)) == axis)
            return GridGaussian(shape, moved, np.float64).filter(values)

        size = np.linalg.norm(filtered(0)) * np.linalg.norm(cotangent)
        assert abs(gradient[axis] - slope(filtered, cotangent)) <= 1e-8 * size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize(("shape", "sigma"), [((19,), 3.0), ((13, 18), 3.0), ((6, 5, 7), (2.0, 1.0, 0.5))])
def test_grid_of_every_channel_count(rng, shape, sigma, channels, dtype):
    # Positive values, so that sums over the grid do not cancel.
    values, cotangent = rng.random(size=(2, np.prod(shape), channels)).astype(dtype)
    result = GridGaussian(shape, sigma, dtype).gradient(values, cotangent)
    assert result.dtype == dtype
    expected = kernel_gradient(reference.GridGaussian(shape, sigma), values, cotangent)
    assert_close(result, expected, tolerance(dtype).filter)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize(("n", "d"), [(1, 1), (2, 5), (64, 2), (150, 5), (130, 30)])
def test_exact_of_every_size(rng, n, d, channels, dtype):
    features = (rng.normal(size=(n, d)) * 1.5 / np.sqrt(d)).astype(dtype)
    values, cotangent = rng.normal(size=(2, n, channels)).astype(dtype)
    result = ExactGaussian(features).gradient(values, cotangent)
    assert result.dtype == dtype
    expected = kernel_gradient(reference.DenseGaussian(np.asarray(features, np.float64)), values, cotangent)
    assert_close(result, expected, tolerance(dtype).filter)


def test_exact_against_finite_differences(rng):
    features, direction = rng.normal(size=(2, 90, 3))
    values, cotangent = rng.normal(size=(2, 90, 2))
    gradient = ExactGaussian(features).gradient(values, cotangent)
    numeric = slope(lambda step: ExactGaussian(features + step * direction).filter(values), cotangent)
    assert np.vdot(gradient, direction) == pytest.approx(numeric, rel=1e-7)


def test_exact_of_blocks_far_apart(rng):
    features = rng.normal(size=(500, 3)) * 30
    values, cotangent = rng.normal(size=(2, 500, 2))
    expected = kernel_gradient(reference.DenseGaussian(features), values, cotangent)
    assert_close(ExactGaussian(features).gradient(values, cotangent), expected, 1e-12)


def test_moving_or_turning_all_points_changes_nothing(rng):
    """The exact kernel knows differences of features alone, and of these the lengths."""
    features, (values, cotangent) = rng.normal(size=(200, 2)), rng.normal(size=(2, 200, 3))
    gradient = ExactGaussian(features).gradient(values, cotangent)
    size = np.abs(gradient).sum()
    assert np.abs(gradient.sum(axis=0)).max() <= 1e-12 * size
    turned = np.stack([-features[:, 1], features[:, 0]], axis=1)
    assert abs(np.vdot(gradient, turned)) <= 1e-12 * size


def kernels(rng, dtype):
    features = (rng.normal(size=(20000, 3)) * 3).astype(dtype)
    return [
        PermutohedralLattice(features),
        GridGaussian((20000,), 2.9, dtype),
        GridGaussian((125, 160), (1.3, 2.9), dtype),
        GridGaussian((20, 25, 40), (1.3, 2.9, 0.7), dtype),
        ExactGaussian(features[:9000] * 4),
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_change_no_bit(rng, dtype):
    for kernel in kernels(rng, dtype):
        values, cotangent = rng.normal(size=(2, kernel.num_points, 3)).astype(dtype)
        one = kernel.gradient(values, cotangent, threads=1)
        np.testing.assert_array_equal(one, kernel.gradient(values, cotangent, threads=3))


@pytest.mark.parametrize(
    "build", [PermutohedralLattice, ExactGaussian, lambda features: GridGaussian((5, 8), 1.3, np.float64)]
)
def test_linear_in_values_and_cotangent(rng, build):
    kernel = build(rng.normal(size=(40, 2)))
    values, cotangent, other = rng.normal(size=(3, 40, 300))
    whole = kernel.gradient(values, cotangent)
    assert_close(
        kernel.gradient(2 * values, cotangent) + kernel.gradient(values, other),
        kernel.gradient(values, 2 * cotangent + other),
        1e-12,
    )
    by_column = sum(kernel.gradient(values[:, c], cotangent[:, c]) for c in range(300))
    assert_close(whole, by_column, 1e-12)


def test_bad_input_is_named(rng):
    kernel = PermutohedralLattice(rng.normal(size=(20, 2)))
    with raises_saying(ValueError, "(20, 2)", "(20, 3)", "same shape"):
        kernel.gradient(np.zeros((20, 3)), np.zeros((20, 2)))
    with raises_saying(ValueError, "cotangent", "(19, 3)"):
        kernel.gradient(np.zeros((20, 3)), np.zeros((19, 3)))
    with raises_saying(ValueError, "values", "NaN"):
        kernel.gradient(np.full((20, 3), np.nan), np.zeros((20, 3)))
