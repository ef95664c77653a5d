"""Scores of one channel, the foreground of two classes: `refine` against two channels, the oracle and enumeration."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from crfrnn import CRFParameters, bilateral_features, reference, refine, unary_from_probabilities
from errors import raises_saying
from tolerances import assert_close, tolerance

SHAPE = (9, 11)
NUMBERS = CRFParameters(theta_alpha=5.13, theta_beta=61.7, theta_gamma=1.57, iterations=3, tolerance=0)


def scores(rng, shape=SHAPE, dtype=np.float64):
    """Log-odds (1, *shape) and an image."""
    return (2 * rng.normal(size=(1, *shape))).astype(dtype), rng.uniform(0, 255, size=(*shape, 3))


def both(z):
    """The logits of two classes with these log-odds; a number may be added to both of a pixel."""
    return np.concatenate([np.full_like(z, 0.5), z + 0.5])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(13,), SHAPE, (3, 4, 5)])
def test_one_channel_is_the_foreground_of_two(rng, shape, dtype):
    z, image = scores(rng, shape, dtype)
    result = refine(z, image, NUMBERS)
    assert (result.shape, result.dtype) == ((1, *shape), dtype)
    assert_close(result, refine(both(z), image, NUMBERS)[1:], tolerance(dtype).mean_field)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"spatial_weight": (1.0, 2.0), "bilateral_weight": [[3.0, 0.5], [-0.2, 4.0]]},
        {"compatibility": [[-1.0, 0.4], [0.7, -0.9]]},
        {"compatibility": (-1.0, -0.5), "damping": 0.3, "normalization": "symmetric"},
    ],
)
def test_weights_and_compatibility_are_those_of_two_classes(rng, changes):
    """Against reference.py, whose mean field knows nothing of one channel."""
    z, image = scores(rng)
    mask = rng.random(SHAPE) > 0.3
    parameters = replace(NUMBERS, **changes)
    features = bilateral_features(image, parameters.theta_alpha, parameters.theta_beta)
    terms = [
        reference.Term(kernel, weight, parameters.normalization, mask)
        for kernel, weight in (
            (reference.GridGaussian(SHAPE, parameters.theta_gamma), parameters.spatial_weight),
            (reference.Lattice(features), parameters.bilateral_weight),
        )
    ]
    a, _ = reference.mean_field(
        both(z).reshape(2, -1),
        terms,
        iterations=3,
        compatibility=parameters.compatibility,
        damping=parameters.damping,
    )
    expected = reference.softmax(a)[1].reshape(z.shape)
    assert_close(refine(z, image, parameters, mask=mask), expected, tolerance(np.float64).mean_field)


def test_weak_coupling_approaches_the_true_probabilities(rng):
    """p(x) ∝ exp(Σ z_i x_i + w Σ_{i<j} K_ij [x_i = x_j]) over all x in {0, 1}ᴺ, summed here."""
    shape = (3, 4)
    z = rng.normal(size=(1, *shape))
    y, x = np.indices(shape).reshape(2, -1)
    K = np.exp(-0.5 * ((x[:, None] - x) ** 2 + (y[:, None] - y) ** 2) / 1.2**2)
    labellings = np.array(list(product((0, 1), repeat=z.size)))
    alike = labellings[:, :, None] == labellings[:, None, :]
    pairs = (np.triu(K, 1) * alike).sum(axis=(1, 2))
    errors = []
    for weight in (0.2, 0.02, 0.002):
        p = np.exp(labellings @ z.ravel() + weight * pairs)
        truth = (p @ labellings / p.sum()).reshape(z.shape)
        parameters = CRFParameters(
            theta_gamma=1.2,
            spatial_weight=weight,
            bilateral_weight=0.0,
            normalization="none",
            iterations=50,
            tolerance=0,
        )
        errors.append(np.abs(refine(z, None, parameters) - truth).max())
    assert errors[2] < 0.15 * errors[1] < 0.15 * 0.15 * errors[0] < 0.15 * 0.15
    assert errors[2] < 1e-3


def test_no_iterations_are_the_sigmoid(rng):
    z, image = scores(rng)
    z[0, 0, :2] = 800, -800
    np.testing.assert_allclose(refine(z, image, CRFParameters(iterations=0))[0, 0, :2], [1, 0])
    moderate = z[:, 1:]
    expected = 1 / (1 + np.exp(-moderate))
    assert_close(refine(z, image, CRFParameters(iterations=0))[:, 1:], expected, 1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_are_those_of_the_foreground(rng, dtype):
    """0 and 1 among them, which the floor keeps away from an infinite logit."""
    p = rng.random(size=(1, *SHAPE)).astype(dtype)
    p[0, 0, :3] = 0, 1, 1e-9
    image = scores(rng)[1]
    result = refine(p, image, NUMBERS, input="probabilities")
    expected = refine(np.concatenate([1 - p, p]), image, NUMBERS, input="probabilities")
    assert_close(result, expected[1:], tolerance(dtype).mean_field)
    unchanged = refine(p, image, replace(NUMBERS, iterations=0), input="probabilities")
    assert_close(unchanged, np.clip(p, 1e-5, 1 - 1e-5), 1e-5)


@pytest.mark.parametrize("scale", [None, 0.8])
def test_log_odds_of_probabilities(rng, scale):
    p = rng.random(size=(1, *SHAPE))
    p[0, 0, :2] = 0, 1
    q = np.clip(p if scale is None else scale * p + (1 - scale) / 2, 1e-5, 1 - 1e-5)
    assert_close(unary_from_probabilities(p, scale), np.log(q / (1 - q)), 1e-6)


def test_swapping_foreground_and_background_gives_the_rest(rng):
    z, image = scores(rng)
    assert_close(refine(-z, image, NUMBERS), 1 - refine(z, image, NUMBERS), 1e-11)


def test_labels_are_as_before(rng):
    labels = rng.integers(0, 2, SHAPE)
    assert refine(labels, scores(rng)[1], input="labels").shape == (2, *SHAPE)


@pytest.mark.parametrize(
    ("given", "options", "facts"),
    [
        (np.full((1, *SHAPE), 1.5), {"input": "probabilities"}, ["probabilities", "1.5", "outside 0 to 1"]),
        (np.zeros((1, *SHAPE)), {"num_classes": 2}, ["(1, 9, 11)", "1 classes first", "num_classes=2"]),
        (
            np.zeros((1, *SHAPE)),
            {"parameters": CRFParameters(spatial_weight=(1.0, 2.0, 3.0))},
            ["spatial_weight", "(3,)", "2 classes"],
        ),
        (np.zeros(SHAPE, int), {}, ["int64", "(9, 11)", "input='labels'", "input='probabilities'"]),
    ],
)
def test_bad_input_is_named(given, options, facts):
    with raises_saying(ValueError, *facts):
        refine(given, np.zeros((*SHAPE, 3)), **options)
