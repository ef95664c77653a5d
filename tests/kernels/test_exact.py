"""The exact Gaussian kernel against the dense matrix in float64, alone and in the mean field; `filter="exact"`."""

from dataclasses import replace

import numpy as np
import pytest

from crfrnn import (
    CRFParameters,
    ExactGaussian,
    PairwiseTerm,
    bilateral_features,
    mean_field,
    mean_field_vjp,
    mean_field_with_marginals,
    pairwise_terms,
    reference,
    refine,
)
from errors import raises_saying
from tolerances import assert_close, tolerance

DTYPES = [np.float32, np.float64]
NORMALIZATIONS = ["after", "before", "symmetric", "none"]


def dense(features):
    return reference.DenseGaussian(np.asarray(features, np.float64))


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), [(1, 1), (2, 5), (63, 2), (64, 5), (65, 3), (300, 5), (300, 30)])
def test_every_size(rng, n, d, dtype, transpose):
    features = (rng.normal(size=(n, d)) * 2).astype(dtype)
    values = rng.normal(size=(n, 3)).astype(dtype)
    kernel = ExactGaussian(features)
    assert (kernel.num_points, kernel.num_features, kernel.dtype) == (n, d, dtype)
    result = kernel.filter(values, transpose=transpose)
    assert result.dtype == dtype
    assert_close(result, dense(features).filter(values), tolerance(dtype).filter)


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 8, 21, 24, 40, 70, 300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_channel_count(rng, dtype, channels):
    features, values = rng.normal(size=(150, 5)).astype(dtype), rng.random((150, channels)).astype(dtype)
    expected = dense(features).filter(values)
    result = ExactGaussian(features).filter(values)
    # Positive values, so that every one of the results must be right, and not only beside the largest.
    np.testing.assert_allclose(result, expected, rtol=1e-5 if dtype == np.float32 else 1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spread", [0.0, 0.1, 3.0, 20.0, 1e5])
def test_what_is_left_out_is_below_rounding(rng, spread, dtype):
    """From all points in one place to each of them alone: blocks of points are left out by their distance."""
    features = (rng.normal(size=(2000, 3)) * spread).astype(dtype)
    values = rng.random((2000, 2)).astype(dtype)
    result, expected = ExactGaussian(features).filter(values), dense(features).filter(values)
    np.testing.assert_allclose(result, expected, rtol=1e-5 if dtype == np.float32 else 1e-12)


def test_a_large_value_far_away_is_not_left_out(rng):
    """Weights of 1e-6 and 1e-9 between two groups: far below rounding beside 1, but not beside nothing."""
    for distance in (5.3, 6.4):
        features = np.repeat([[0.0], [distance]], 64, axis=0)
        values = np.repeat([0.0, 1.0], 64)
        expected = 64 * np.exp(-0.5 * distance**2)
        np.testing.assert_allclose(ExactGaussian(features).filter(values)[:64], expected, rtol=1e-12)
        near = ExactGaussian(features.astype(np.float32)).filter(values)[:64]
        np.testing.assert_allclose(near, expected, rtol=1e-5)


def test_features_that_overflow_are_alone(rng):
    features = np.array([[-3e38], [0.0], [3e38]], np.float32)
    np.testing.assert_array_equal(ExactGaussian(features).filter([1.0, 2.0, 3.0]), [1, 2, 3])


def test_transpose_is_adjoint(rng):
    kernel = ExactGaussian(rng.normal(size=(500, 4)))
    x, y = rng.normal(size=(2, 500, 3))
    forward, backward = np.vdot(kernel.filter(x), y), np.vdot(x, kernel.filter(y, transpose=True))
    assert abs(forward - backward) <= 1e-12 * np.linalg.norm(kernel.filter(x)) * np.linalg.norm(y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_change_no_bit(rng, dtype):
    features, values = rng.normal(size=(9000, 5)).astype(dtype), rng.normal(size=(9000, 2)).astype(dtype)
    kernel = ExactGaussian(features, threads=1)
    np.testing.assert_array_equal(kernel.filter(values), kernel.filter(values, threads=3))


def test_norm_is_the_filtered_mask(rng):
    features, mask = rng.normal(size=(200, 2)), rng.random(200)
    kernel, truth = ExactGaussian(features), dense(features)
    assert_close(kernel.norm(), truth.matrix.sum(axis=1), 1e-12)
    assert_close(kernel.norm(mask), truth.matrix @ mask, 1e-12)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_mean_field_and_its_gradients(rng, dtype, normalization):
    features = [(rng.normal(size=(120, d)) * 1.5).astype(dtype) for d in (2, 5)]
    mask = rng.integers(0, 3, 120) / 2
    weights = [rng.normal(size=(4, 4)) * 0.02, 0.03]
    unary, cotangent = rng.normal(size=(2, 4, 120)).astype(dtype)
    terms = [PairwiseTerm(ExactGaussian(f), w, normalization, mask) for f, w in zip(features, weights, strict=True)]
    truth = [reference.Term(dense(f), w, normalization, mask) for f, w in zip(features, weights, strict=True)]
    options = {"iterations": 3, "damping": 0.2}
    expected, kept = reference.mean_field(unary, truth, **options)
    assert_close(mean_field(unary, terms, tolerance=0, **options), expected, tolerance(dtype).mean_field)
    _, marginals = mean_field_with_marginals(unary, terms, **options)
    ours = mean_field_vjp(cotangent, marginals, terms, damping=0.2)
    theirs = reference.mean_field_vjp(cotangent, kept, truth, damping=0.2)
    assert_close(ours.unary, theirs.unary, tolerance(dtype).gradient)
    for mine, other in zip(ours.weights, theirs.weights, strict=True):
        assert_close(mine, other, 4 * tolerance(dtype).gradient)


@pytest.mark.parametrize("shape", [(40,), (9, 13), (4, 5, 6)])
def test_refine_with_exact_filters(rng, shape):
    """The bilateral kernel is the dense matrix; the spatial one stays the grid."""
    image, logits = rng.uniform(0, 255, (*shape, 3)), rng.normal(size=(5, *shape)) * 3
    parameters = CRFParameters(theta_alpha=6, theta_beta=40, theta_gamma=1.5, iterations=4, filter="exact", tolerance=0)
    features = bilateral_features(image, 6, 40, shape=shape)
    terms = [
        reference.Term(reference.GridGaussian(shape, 1.5), 3.0),
        reference.Term(dense(features), 5.0),
    ]
    expected, _ = reference.mean_field(logits.reshape(5, -1), terms, iterations=4)
    refined = refine(logits, image, parameters)
    assert_close(refined.reshape(5, -1), reference.softmax(expected), tolerance(np.float64).mean_field)
    lattice = refine(logits, image, replace(parameters, filter="lattice"))
    assert np.abs(lattice - refined).max() > 1e-4


def test_exact_filters_take_more_features_than_a_lattice(rng):
    image = rng.normal(size=(5, 6, 20))
    terms = pairwise_terms(image, CRFParameters(filter="exact"))
    assert terms[1].kernel.num_features == 22
    with raises_saying(ValueError, "22 features", "at most 16", "filter='exact'"):
        pairwise_terms(image, CRFParameters())


@pytest.mark.parametrize(
    ("given", "facts"),
    [
        ({"filter": "dense"}, ("filter='dense'", "'lattice', 'exact'")),
        ({"filter": "exact", "spatial": "lattice"}, ("spatial='lattice'", "'grid'")),
        ({"filter": "exact", "neighbour_rounds": 1}, ("neighbour_rounds=1", "0")),
    ],
)
def test_contradictions_are_named(given, facts):
    with raises_saying(ValueError, *facts):
        CRFParameters(**given)


@pytest.mark.parametrize(
    ("features", "error", "facts"),
    [
        (np.zeros(4), ValueError, ("(4,)", "(points, dimensions)")),
        (np.zeros((0, 3)), ValueError, ("(0, 3)", "at least one")),
        (np.array([[0, np.nan]]), ValueError, ("1 NaN", "[0, 1]")),
        (np.array([["a"]]), TypeError, ("real numbers",)),
    ],
)
def test_bad_features_are_named(features, error, facts):
    with raises_saying(error, *facts):
        ExactGaussian(features)


def test_bad_values_are_named():
    with raises_saying(ValueError, "(3, 1)", "(4, channels)"):
        ExactGaussian(np.zeros((4, 2))).filter(np.zeros((3, 1)))


def test_more_memory_than_there_is(monkeypatch):
    monkeypatch.setattr("crfrnn.memory.available_memory", lambda: 1000)
    with raises_saying(MemoryError, "an exact kernel of 100 points in 3 dimensions"):
        ExactGaussian(np.zeros((100, 3)))
