"""Unaries from labels and probabilities; the golden outputs of pydensecrf are in test_golden.py."""

import numpy as np
import pytest

from crfrnn import reference, unary_from_labels, unary_from_probabilities
from errors import raises_saying


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("classes", [2, 3, 21])
def test_labels_hold_with_the_given_probability(rng, shape, classes):
    labels = rng.integers(0, classes, shape)
    logits = unary_from_labels(labels, classes, 0.8, zero_unsure=False)
    assert logits.dtype == np.float32
    probabilities = reference.softmax(logits.astype(np.float64))
    expected = np.where(np.arange(classes).reshape(-1, *[1] * len(shape)) == labels, 0.8, 0.2 / (classes - 1))
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


def test_zero_is_unsure_and_labels_count_from_one():
    probabilities = reference.softmax(unary_from_labels([0, 1, 2], 2, 0.9, zero_unsure=True).astype(np.float64))
    np.testing.assert_allclose(probabilities, [[0.5, 0.9, 0.1], [0.5, 0.1, 0.9]], atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.int64, np.uint32, bool])
def test_every_integer_type(dtype):
    labels = np.array([[0, 1], [1, 0]]).astype(dtype)
    expected = unary_from_labels(labels.astype(np.int64), 2, 0.6, zero_unsure=False)
    np.testing.assert_array_equal(unary_from_labels(labels, 2, 0.6, zero_unsure=False), expected)


@pytest.mark.parametrize("unknown", [255, -1])
def test_void_pixels_are_unsure(unknown):
    logits = unary_from_labels(np.array([0, unknown, 1]), 2, 0.9, zero_unsure=False)
    assert logits[0, 1] == logits[1, 1]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_probabilities_come_back(rng, dtype):
    given = rng.dirichlet(np.ones(4), size=(5, 6)).transpose(2, 0, 1).astype(dtype)
    logits = unary_from_probabilities(given)
    assert logits.dtype == (np.float64 if dtype == np.float64 else np.float32)
    back = reference.softmax(logits.astype(np.float64))
    np.testing.assert_allclose(back, given, atol=2e-3 if dtype == np.float16 else 1e-4)


def test_zero_probability_is_finite_and_nothing_else_is_clipped():
    given = np.array([[0.0, 1.0, 0.999], [1.0, 0.0, 0.001]])
    np.testing.assert_allclose(unary_from_probabilities(given), np.log(np.maximum(given, 1e-5)))


def test_scale_mixes_with_the_uniform_distribution():
    given = np.array([[0.0, 1.0], [1.0, 0.0]])
    np.testing.assert_allclose(np.exp(unary_from_probabilities(given, scale=0.8)), [[0.1, 0.9], [0.9, 0.1]])


@pytest.mark.parametrize(
    ("labels", "classes", "options", "error", "facts"),
    [
        (np.zeros((2, 2)), 2, {}, TypeError, ["labels", "integer class ids", "float64"]),
        (np.array([["cat"]]), 2, {}, TypeError, ["labels", "integer class ids"]),
        (np.zeros((0, 3), int), 2, {}, ValueError, ["labels", "(0, 3)", "empty"]),
        ([[0, 1], [7, 2]], 3, {}, ValueError, ["7 at [1, 0]", "3 classes", "1 to 3", "num_classes"]),
        ([3], 3, {"zero_unsure": False}, ValueError, ["3 at [0]", "3 classes", "0 to 2"]),
        ([0], 0, {}, ValueError, ["num_classes=0", "at least 1"]),
        ([0], 2.5, {}, TypeError, ["num_classes=2.5", "integer"]),
        (
            [0],
            2,
            {"ground_truth_probability": 1.0},
            ValueError,
            ["ground_truth_probability=1.0", "below 1"],
        ),
        ([0], 2, {"ground_truth_probability": 0.0}, ValueError, ["ground_truth_probability=0.0"]),
    ],
)
def test_bad_labels(labels, classes, options, error, facts):
    with raises_saying(error, *facts):
        unary_from_labels(labels, classes, **options)


@pytest.mark.parametrize(
    ("probabilities", "options", "facts"),
    [
        ([[1.2, 0.5], [-0.2, 0.5]], {}, ["probabilities", "-0.2 to 1.2", "outside 0 to 1", "logits"]),
        ([[0.5, 0.5], [0.5, 0.1]], {}, ["sum to 0.6", "[1]", "expected 1"]),
        ([[0.5, np.nan], [0.5, 0.1]], {}, ["probabilities", "1 NaN", "4 values", "[0, 1]"]),
        ([0.5, 0.5], {}, ["probabilities", "(2,)", "(classes, height, width)"]),
        (np.zeros((2, 0)), {}, ["probabilities", "(2, 0)", "empty"]),
        ([[0.3, 1.4]], {}, ["probabilities", "0.3 to 1.4", "outside 0 to 1"]),
        ([[0.5], [0.5]], {"scale": 0.0}, ["scale=0.0", "above 0"]),
        ([[0.5], [0.5]], {"scale": 1.1}, ["scale=1.1", "at most 1"]),
        ([[0.5], [0.5]], {"floor": 0.0}, ["floor=0.0", "above 0"]),
    ],
)
def test_bad_probabilities(probabilities, options, facts):
    with raises_saying(ValueError, *facts):
        unary_from_probabilities(probabilities, **options)
