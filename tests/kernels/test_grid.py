"""The separable Gaussian on a regular grid against the exact one and its NumPy twin."""

import numpy as np
import pytest

from crfrnn import GridGaussian, reference, spatial_features
from tolerances import assert_close, tolerance

# What each axis may lose by being cut at 4σ, as a share of its mass.
CUT = 7e-5
GRIDS = [
    ((23,), 3.0),
    ((40,), 0.4),
    ((9, 14), 2.0),
    ((9, 14), (1.3, 4.0)),
    ((30, 3), (2.5, 40.0)),
    ((5, 6, 7), (1.0, 2.0, 3.0)),
    ((4, 3, 5, 6), (0.7, 1.1, 2.0, 1.5)),
    ((1, 8), 3.0),
    ((1, 1), 3.0),
    ((12, 11), (0.0, 2.0)),
    ((4, 5, 6), (1.5, 0.0, 0.0)),
    ((7, 6), 0.0),
]
DTYPES = [np.float32, np.float64]


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 8, 21, 24, 40, 70])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "sigma"), [((13, 18), 3.0), ((6, 5, 7), (2.0, 1.0, 0.5))])
def test_every_channel_count(rng, shape, sigma, dtype, channels):
    values = rng.normal(size=(np.prod(shape), channels)).astype(dtype)
    result = GridGaussian(shape, sigma, dtype=dtype).filter(values)
    assert result.dtype == dtype
    assert_close(result, reference.GridGaussian(shape, sigma).filter(values), tolerance(dtype).filter)


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "sigma"), GRIDS)
def test_every_grid(rng, shape, sigma, dtype, transpose):
    values = rng.normal(size=(np.prod(shape), 3)).astype(dtype)
    result = GridGaussian(shape, sigma, dtype=dtype).filter(values, transpose=transpose)
    expected = reference.GridGaussian(shape, sigma).filter(values, transpose=transpose)
    assert_close(result, expected, tolerance(dtype).filter)


@pytest.mark.parametrize(("shape", "sigma"), GRIDS)
def test_close_to_the_exact_gaussian(rng, shape, sigma):
    """Neighbours along an axis with σ = 0 do not see each other: there the exact kernel is the identity."""
    deviations = np.broadcast_to(np.asarray(sigma, float), len(shape))
    kernel = np.ones((1, 1))
    for length, deviation in zip(shape, deviations, strict=True):
        axis = np.arange(length)[:, None]
        exact = reference.DenseGaussian(axis / deviation).matrix if deviation else np.eye(length)
        kernel = np.kron(kernel, exact)
    values = rng.normal(size=(np.prod(shape), 2))
    result = GridGaussian(shape, sigma, dtype=np.float64).filter(values)
    bound = len(shape) * CUT * kernel.sum(axis=1).max() * np.abs(values).max()
    np.testing.assert_allclose(result, kernel @ values, rtol=0, atol=bound)


@pytest.mark.parametrize("theta", [2.0, (1.5, 4.0)])
def test_agrees_with_spatial_features(rng, theta):
    """The order of axes: σ of the grid is (first axis, …, last), θ of the features is (x, y) with x the last axis."""
    sigma = theta[::-1] if isinstance(theta, tuple) else theta
    values = rng.normal(size=(10 * 14, 2))
    exact = reference.DenseGaussian(spatial_features((10, 14), theta, dtype=np.float64)).filter(values)
    result = GridGaussian((10, 14), sigma, dtype=np.float64).filter(values)
    assert_close(result, exact, 1e-3)


def test_nothing_comes_from_beyond_the_border():
    filtered = GridGaussian((31,), 4.0, dtype=np.float64).filter(np.ones(31))
    assert filtered.shape == (31,)
    assert filtered[15] == pytest.approx(4 * np.sqrt(2 * np.pi), rel=1e-3)
    assert filtered[0] == pytest.approx((filtered[15] + 1) / 2, rel=1e-3)


@pytest.mark.parametrize(("shape", "sigma"), GRIDS)
def test_transpose_is_adjoint(rng, shape, sigma):
    kernel = GridGaussian(shape, sigma, dtype=np.float64)
    x, y = rng.normal(size=(2, np.prod(shape), 3))
    forward, backward = np.vdot(kernel.filter(x), y), np.vdot(x, kernel.filter(y, transpose=True))
    assert abs(forward - backward) <= 1e-12 * np.linalg.norm(kernel.filter(x)) * np.linalg.norm(y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "sigma"), GRIDS)
def test_norm_is_the_filtered_mask(rng, shape, sigma, dtype):
    kernel, truth = GridGaussian(shape, sigma, dtype=dtype), reference.GridGaussian(shape, sigma)
    mask = rng.random(kernel.num_points)
    for given, expected in [((), truth.filter(np.ones(kernel.num_points))), ((mask,), truth.filter(mask))]:
        norm = kernel.norm(*given)
        assert norm.dtype == dtype
        assert_close(norm, expected, tolerance(dtype).filter)
        assert_close(truth.norm(*given), expected, 1e-15)


def test_sigma_zero_everywhere_is_the_identity(rng):
    values = rng.normal(size=(30, 4)).astype(np.float32)
    np.testing.assert_array_equal(GridGaussian((5, 6), 0.0).filter(values), values)
