"""Our outputs beside those of the tools that users come from, kept in tests/golden (see tests/golden/README.md)."""

import numpy as np
import pytest

from crfrnn import (
    CRFParameters,
    PairwiseTerm,
    PermutohedralLattice,
    bilateral_features,
    kl_divergence,
    mean_field,
    mean_field_trace,
    mean_field_vjp,
    mean_field_with_marginals,
    pairwise_terms,
    reference,
    spatial_features,
    unary_from_labels,
    unary_from_probabilities,
)
from tolerances import GOLDEN


def assert_golden(probabilities, expected):
    probabilities = np.asarray(probabilities).reshape(expected.shape)
    assert np.abs(probabilities - expected).max() <= GOLDEN
    # Labels may change only where two classes are as likely as each other.
    ours, theirs = probabilities.argmax(axis=0), expected.argmax(axis=0)
    lead = np.take_along_axis(expected, theirs[None], 0) - np.take_along_axis(expected, ours[None], 0)
    assert lead.max() <= GOLDEN


def image_terms(image, **parameters):
    return pairwise_terms(image, CRFParameters(spatial="lattice", **parameters))


def logits_of(golden):
    return -golden["unary"].reshape(5, 72, 96)


@pytest.mark.parametrize("normalization", ["none", "before", "after", "symmetric"])
def test_potts(pydensecrf, normalization):
    terms = image_terms(
        pydensecrf["image"],
        theta_alpha=80.0,
        theta_beta=13.0,
        theta_gamma=3.0,
        spatial_weight=0.8,
        bilateral_weight=1.5,
        normalization=normalization,
    )
    q = mean_field(logits_of(pydensecrf), terms, iterations=5, return_probabilities=True)
    assert_golden(q, pydensecrf[f"q_{normalization}_potts_T5"])


@pytest.mark.parametrize("kind", ["diagonal", "matrix"])
def test_compatibility(pydensecrf, kind):
    compat = pydensecrf[f"compat_{kind}"]
    terms = image_terms(
        pydensecrf["image"],
        theta_alpha=80.0,
        theta_beta=13.0,
        spatial_weight=1.0,
        bilateral_weight=1.0,
        normalization="symmetric",
    )
    compat = (compat + compat.T) / 2
    q = mean_field(logits_of(pydensecrf), terms, iterations=5, compatibility=compat, return_probabilities=True)
    assert_golden(q, pydensecrf[f"q_symmetric_{kind}_T5"])


def test_crfrnn_bandwidths(pydensecrf):
    terms = image_terms(pydensecrf["image"], spatial_weight=1.0, bilateral_weight=1.0)
    q = mean_field(logits_of(pydensecrf), terms, iterations=10, return_probabilities=True)
    assert_golden(q, pydensecrf["q_crfrnn_T10"])


def test_a_deviation_per_axis_and_channel(pydensecrf):
    terms = image_terms(
        pydensecrf["image"],
        theta_gamma=(4.0, 2.0),
        theta_alpha=(40.0, 20.0),
        theta_beta=(13.0, 7.0, 5.0),
        spatial_weight=1.0,
        bilateral_weight=2.0,
        normalization="symmetric",
    )
    q = mean_field(logits_of(pydensecrf), terms, iterations=3, return_probabilities=True)
    assert_golden(q, pydensecrf["q_anisotropic_T3"])


@pytest.fixture(scope="module")
def step_terms(pydensecrf):
    return image_terms(
        pydensecrf["image"],
        theta_alpha=80.0,
        theta_beta=13.0,
        spatial_weight=1.0,
        bilateral_weight=2.0,
        normalization="symmetric",
    )


@pytest.mark.parametrize("step", range(6))
def test_step_by_step(pydensecrf, step_terms, step):
    unary = logits_of(pydensecrf)
    q = mean_field(unary, step_terms, iterations=step, return_probabilities=True)
    assert_golden(q, pydensecrf["q_steps"][step])
    pixels = q[0].size
    divergence = kl_divergence(pydensecrf["q_steps"][step].reshape(q.shape), unary, step_terms) / pixels
    assert divergence == pytest.approx(pydensecrf["kl_per_pixel"][step], abs=1e-5)


def test_trace(pydensecrf, step_terms):
    marginals, divergences = zip(*mean_field_trace(logits_of(pydensecrf), step_terms, iterations=5), strict=True)
    for q, expected in zip(marginals, pydensecrf["q_steps"], strict=True):
        assert_golden(q, expected)
    np.testing.assert_allclose(np.array(divergences) / (72 * 96), pydensecrf["kl_per_pixel"], atol=1e-5)


def test_features_of_ones_own(pydensecrf):
    terms = [PairwiseTerm(PermutohedralLattice(pydensecrf["features_6d"].T), 2.0, "symmetric")]
    q = mean_field(-pydensecrf["unary"], terms, iterations=5, return_probabilities=True)
    assert_golden(q, pydensecrf["q_features_6d_T5"])


def test_volume(pydensecrf):
    terms = [
        PairwiseTerm(PermutohedralLattice(pydensecrf["volume_features_gaussian"].T), 1.0, "symmetric"),
        PairwiseTerm(PermutohedralLattice(pydensecrf["volume_features_bilateral"].T), 1.5, "after"),
    ]
    q = mean_field(-pydensecrf["volume_unary"], terms, iterations=5, return_probabilities=True)
    assert_golden(q, pydensecrf["q_volume_T5"])


def test_logistic_unary(pydensecrf):
    unary = -pydensecrf["logistic_L"] @ pydensecrf["logistic_f"]
    terms = [PairwiseTerm(PermutohedralLattice(spatial_features((72, 96), 3.0)), 3.0, "symmetric")]
    assert_golden(mean_field(unary, terms, iterations=2, return_probabilities=True), pydensecrf["q_logistic_T2"])


def test_unary_helpers(pydensecrf):
    labels = pydensecrf["labels"]
    unsure = unary_from_labels(labels, 5, 0.6, zero_unsure=True)
    np.testing.assert_allclose(-unsure.reshape(5, -1), pydensecrf["unary_labels_unsure"], atol=1e-5)
    hard = unary_from_labels(np.minimum(labels, 4), 5, 0.6, zero_unsure=False)
    np.testing.assert_allclose(-hard.reshape(5, -1), pydensecrf["unary_labels_hard"], atol=1e-5)
    probabilities = reference.softmax(pydensecrf["logits"])
    scaled = unary_from_probabilities(probabilities, scale=0.8, floor=1e-3)
    np.testing.assert_allclose(-scaled.reshape(5, -1), pydensecrf["unary_softmax_scaled"], atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_original_layer_and_its_gradients(crfrnn_layer, dtype):
    """That port adds the compatibility where we, like Keras, subtract it: M and its gradient change sign."""
    golden = {name: array.astype(dtype) for name, array in crfrnn_layer.items()}
    image = golden["image_bgr_mean_subtracted"].transpose(1, 2, 0)
    terms = [
        PairwiseTerm(PermutohedralLattice(spatial_features((72, 96), 3.0, dtype=dtype)), golden["spatial_ker_weights"]),
        PairwiseTerm(PermutohedralLattice(bilateral_features(image, 160.0, 3.0)), golden["bilateral_ker_weights"]),
    ]
    compatibility = -golden["compatibility_matrix"]
    output, marginals = mean_field_with_marginals(golden["logits"], terms, iterations=5, compatibility=compatibility)
    assert np.abs(output - golden["output"]).max() <= GOLDEN
    gradients = mean_field_vjp(golden["cotangent"], marginals, terms, compatibility=compatibility)
    for name, gradient in [
        ("logits", gradients.unary),
        ("spatial_ker_weights", gradients.weights[0]),
        ("bilateral_ker_weights", gradients.weights[1]),
        ("compatibility_matrix", -gradients.compatibility),
    ]:
        expected = golden[f"grad_{name}"]
        # Sums over 145 000 numbers reach a thousand; the bound is absolute up to 1 and relative beyond.
        assert np.abs(gradient - expected).max() <= GOLDEN * max(1, np.abs(expected).max()), name
