"""Numbers near the limits of their precision: right results for every finite input or an error, never nonsense."""

import numpy as np
import pytest

from crfrnn import (
    CRF,
    FrankWolfe,
    Given,
    GridGaussian,
    Kernel,
    PairwiseTerm,
    PermutohedralLattice,
    bilateral_solver,
    energy,
    kl_divergence,
    mean_field,
    mean_field_vjp,
    mean_field_with_marginals,
    reference,
    refine,
    relaxed_energy,
    upsample,
)
from errors import raises_saying

SHAPE = (7, 9)
DTYPES = [np.float32, np.float64]
CLASSES = [1, 2, 3, 4, 5, 7, 8, 9, 17, 21, 41]
IMAGE = np.random.default_rng(3).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)


def scores_of(classes, dtype=np.float32):
    return np.random.default_rng(classes).normal(size=(classes, *SHAPE)).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("settings", [{"tolerance": 0}, {}, {"class_threshold": 0.01}, {"damping": 0.3}], ids=str)
@pytest.mark.parametrize("classes", CLASSES)
def test_classes_that_are_all_very_unlikely_are_equally_likely(classes, settings, dtype):
    """Padding channels have no part in the softmax, whatever the scores are."""
    for score in (np.finfo(dtype).min, np.finfo(dtype).max, -1e30):
        for iterations in (0, 1, 4):
            result = refine(np.full((classes, *SHAPE), score, dtype), IMAGE, iterations=iterations, **settings)
            expected = float(score > 0) if classes == 1 else 1 / classes  # one channel is the foreground of two
            np.testing.assert_allclose(result, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [3, 6, 9, 21])
def test_masked_classes_have_no_part(classes, dtype):
    """As `masked_fill(finfo.min)` does it: the others are what they are without the masked classes."""
    scores = scores_of(classes, dtype)
    masked = scores.copy()
    masked[2:] = np.finfo(dtype).min
    result = refine(masked, IMAGE, iterations=4, tolerance=0)
    np.testing.assert_array_equal(result[2:], 0)
    alone = refine(scores[:2], IMAGE, iterations=4, tolerance=0)
    np.testing.assert_allclose(result[:2], alone, atol=1e-5 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 5, 8, 21])
def test_gradients_do_not_feel_how_unlikely_all_classes_are(classes, dtype):
    """Softmax does not, so gradients of equal scores are those of zeros."""
    terms = [PairwiseTerm(GridGaussian(SHAPE, 2.0, dtype), weight=2.0)]
    cotangent = scores_of(classes, dtype)

    def gradient(score):
        _, marginals = mean_field_with_marginals(np.full((classes, *SHAPE), score, dtype), terms, iterations=3)
        np.testing.assert_allclose(marginals[..., :classes].sum(axis=2), 1, rtol=1e-5)
        return mean_field_vjp(cotangent, marginals, terms)

    expected = gradient(0.0)
    for score in (np.finfo(dtype).min, np.finfo(dtype).max):
        found = gradient(score)
        np.testing.assert_allclose(found.unary, expected.unary, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.weights[0], expected.weights[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("classes", CLASSES)
def test_scores_of_both_limits(classes):
    scores = np.where(scores_of(classes) > 0, np.finfo(np.float32).max, np.finfo(np.float32).min)
    result = refine(scores, IMAGE, "pydensecrf")
    assert np.isfinite(result).all()
    if classes > 1:
        np.testing.assert_allclose(result.sum(axis=0), 1, rtol=1e-5)


@pytest.mark.parametrize("method", ["bilinear", "joint-bilateral"])
def test_stretched_scores_of_both_limits(method):
    """Means lie between the limits, although sums on the way do not."""
    low = np.where(scores_of(3)[:, ::2, ::2] > 0, np.finfo(np.float32).max, np.finfo(np.float32).min)
    result = refine(low, IMAGE, upsampling=method)
    np.testing.assert_allclose(result.sum(axis=0), 1, rtol=1e-5)
    small = (low * 2.0**-100).astype(np.float32)
    if method == "joint-bilateral":
        np.testing.assert_allclose(upsample(low, IMAGE) * 2.0**-100, upsample(small, IMAGE), atol=1e-5 * small.max())


OVERFLOWING = {
    "a weight beyond float32": (lambda s: refine(s, IMAGE, bilateral_weight=1e39), ["bilateral_weight", "3.4e+38"]),
    "weights of classes": (lambda s: refine(s, IMAGE, spatial_weight=[1, 1e39, 1]), ["spatial_weight", "float32"]),
    "weight times compatibility": (
        lambda s: refine(s, IMAGE, spatial_weight=1e20, compatibility=1e20),
        ["spatial_weight", "compatibility"],
    ),
    "messages": (lambda s: refine(s, IMAGE, bilateral_weight=3e38, spatial_weight=3e38), ["scores", "float32"]),
    "labels": (lambda s: refine(s, IMAGE, compatibility=-1.6e38, return_labels=True), ["scores", "float32"]),
    "a mask with raw sums": (
        lambda s: refine(s, IMAGE, mask=np.full(SHAPE, 1e20), normalization="none", return_labels=True),
        ["scores", "mask"],
    ),
    "a mask beyond float32": (lambda s: refine(s, IMAGE, mask=np.full(SHAPE, 1e39)), ["mask holds 1e+39", "float64"]),
    "the sum of a mask": (lambda s: refine(s, IMAGE, mask=np.full(SHAPE, 3e38)), ["sums of the mask"]),
    "Frank-Wolfe": (lambda s: refine(s, IMAGE, solver="frank-wolfe", bilateral_weight=3e38), ["scores", "weights"]),
    "a kernel of one's own": (
        lambda s: refine(
            s, None, CRF([Kernel(Given("k"), 3e38, normalization="none")]), given={"k": np.full((63, 63), 1e5)}
        ),
        ["scores", "float32"],
    ),
    "a kernel beyond float32, by Frank-Wolfe": (
        lambda s: refine(
            s,
            None,
            CRF([Kernel(Given("k"), 3e38, normalization="none")], solver=FrankWolfe()),
            given={"k": np.full((63, 63), 1e5)},
        ),
        ["scores"],
    ),
    "unary of mean_field": (
        lambda s: mean_field(np.full((2, *SHAPE), 1e39), [PairwiseTerm(GridGaussian(SHAPE, 2.0))]),
        ["unary holds 1e+39", "float64"],
    ),
    "logits": (
        lambda s: mean_field(np.full_like(s, 3e38), [PairwiseTerm(GridGaussian(SHAPE, 2.0), weight=2e38)]),
        ["scores grow beyond"],
    ),
    "filtered values": (lambda s: GridGaussian(SHAPE, 2.0).filter(np.full(63, 3e38)), ["filtered values"]),
    "values beyond float32": (lambda s: GridGaussian(SHAPE, 2.0).filter(np.full(63, 1e39)), ["values holds 1e+39"]),
    "the bilateral solver": (
        lambda s: bilateral_solver(s[0] * np.float32(1e38), np.full(SHAPE, 1e38), IMAGE),
        ["target, confidence"],
    ),
    "energies": (
        lambda s: energy(
            np.zeros(SHAPE, int), s * 1e307, [PairwiseTerm(GridGaussian(SHAPE, 2.0, np.float64), weight=1e308)]
        ),
        ["energies", "float64"],
    ),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("what", OVERFLOWING)
def test_results_that_would_not_be_finite_are_refused(what):
    call, facts = OVERFLOWING[what]
    with raises_saying(ValueError, *facts):
        call(scores_of(3, np.float64 if what == "energies" else np.float32))


def test_what_overflows_in_float32_is_computed_in_float64():
    scores = scores_of(3, np.float64)
    result = refine(scores, IMAGE, bilateral_weight=1e39)
    assert np.isfinite(result).all()
    np.testing.assert_array_equal(refine(scores, IMAGE, bilateral_weight=1e39, return_labels=True), result.argmax(0))


@pytest.mark.parametrize("sigma", [1e-300, 1e-160, 1e-30, 1e-13, 0.02])
def test_a_gaussian_narrower_than_a_point_has_no_slope(sigma):
    for dtype in DTYPES:
        grid = GridGaussian((9,), sigma, dtype)
        np.testing.assert_array_equal(grid.filter(np.arange(9.0)), np.arange(9.0))
        np.testing.assert_array_equal(grid.gradient(np.arange(9.0), np.ones(9)), 0)


@pytest.mark.parametrize("offset", [1e4, 1e5, 3e5])
@pytest.mark.parametrize("d", [1, 2, 5, 8])
def test_weights_far_from_the_origin(rng, d, offset):
    """Features in float32 are exact numbers; the truth is worked out from them in float64."""
    signs = rng.choice([-1, 1], d)
    features = (rng.uniform(-3, 3, (400, d)) + offset * signs).astype(np.float32)
    lattice = PermutohedralLattice(features)
    np.testing.assert_allclose(lattice.weights.sum(axis=1), 1, atol=2e-6)
    _, expected = reference.simplices(features.astype(np.float64))
    np.testing.assert_allclose(np.sort(lattice.weights, axis=1), np.sort(expected, axis=1), atol=1e-6)


def test_features_too_far_away_are_named():
    rows = np.zeros((4, 3), np.float32)
    rows[:, 1] = 1e7 + np.arange(4)
    with raises_saying(ValueError, "feature 1 of 3", "1e+07", "theta", "subtract its mean", "float64"):
        PermutohedralLattice(rows)
    PermutohedralLattice(rows.astype(np.float64))
    with raises_saying(ValueError, "feature 4 of 5", "theta"):
        refine(scores_of(3), IMAGE + np.array([0, 0, 1e8]), "crfrnn", theta_beta=(9e9, 9e9, 1.0))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", DTYPES)
def test_probabilities_at_the_end_of_the_numbers(dtype):
    with raises_saying(ValueError, "outside 0 to 1"):
        refine(np.full((2, *SHAPE), np.finfo(dtype).max, dtype), IMAGE, input="probabilities")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_from_one_end_of_the_numbers_to_the_other(dtype):
    """Their difference is no number; the likelier class has probability 1; energies are finite or refused."""
    ends = np.finfo(dtype)
    scores = np.array([[ends.max, ends.min, 1.0], [ends.min, ends.max, ends.min]], dtype)
    certain = np.array([[1, 0, 1], [0, 1, 0]], dtype)
    for kernel in (GridGaussian((3,), 1e-9, dtype), np.zeros((3, 3), dtype)):
        terms = [PairwiseTerm(kernel, weight=0.0)]
        np.testing.assert_array_equal(mean_field(scores, terms, return_probabilities=True), certain)
        for divergence in (kl_divergence, relaxed_energy):
            if dtype == np.float32:
                assert np.isfinite(divergence(certain, scores, terms))
            else:
                with raises_saying(ValueError, "energies"):
                    divergence(certain, scores, terms)
