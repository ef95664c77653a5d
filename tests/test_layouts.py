"""Scores with the classes last in memory give what others give, to the bit, and come back as they were given."""

import numpy as np
import pytest

import crfrnn
from crfrnn.arrays import points_first

SHAPE = (9, 14)


def classes_last(scores):
    """The same scores (C, *spatial) with the classes of a point side by side in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(scores, 0, -1)), -1, 0)


def scene(rng, classes, dtype):
    image = rng.integers(0, 256, (*SHAPE, 3), np.uint8)
    parameters = crfrnn.CRFParameters(
        theta_alpha=6, theta_beta=40, compatibility=np.eye(classes) * -1.5 + rng.normal(size=(classes, classes)) / 9
    )
    terms = crfrnn.pairwise_terms(image, parameters, dtype=dtype)
    return rng.normal(0, 2, (classes, *SHAPE)).astype(dtype), terms, parameters.compatibility


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [2, 7, 21, 33])
@pytest.mark.parametrize(
    "options",
    [
        {"iterations": 0},
        {"iterations": 1},
        {"iterations": 4, "damping": 0.3},
        {"iterations": 4, "class_threshold": 0.9},
        {"iterations": 3, "class_threshold": 0.9, "damping": 0.2, "return_probabilities": True},
    ],
)
def test_mean_field(rng, dtype, classes, options):
    scores, terms, compatibility = scene(rng, classes, dtype)
    expected = crfrnn.mean_field(scores, terms, compatibility=compatibility, **options)
    refined = crfrnn.mean_field(classes_last(scores), terms, compatibility=compatibility, **options)
    assert points_first(refined)
    assert not points_first(expected)
    np.testing.assert_array_equal(refined, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("damping", [0, 0.3])
@pytest.mark.parametrize("iterations", [0, 3])
def test_gradients(rng, dtype, damping, iterations):
    scores, terms, compatibility = scene(rng, 5, dtype)
    options = {"compatibility": compatibility, "damping": damping}
    logits, marginals = crfrnn.mean_field_with_marginals(scores, terms, iterations=iterations, **options)
    turned, turned_marginals = crfrnn.mean_field_with_marginals(
        classes_last(scores), terms, iterations=iterations, **options
    )
    np.testing.assert_array_equal(turned, logits)
    np.testing.assert_array_equal(turned_marginals, marginals)
    cotangent = rng.normal(size=scores.shape).astype(dtype)
    expected = crfrnn.mean_field_vjp(cotangent, marginals, terms, **options)
    gradients = crfrnn.mean_field_vjp(classes_last(cotangent), marginals, terms, **options)
    assert points_first(gradients.unary)
    np.testing.assert_array_equal(gradients.unary, expected.unary)
    np.testing.assert_array_equal(gradients.compatibility, expected.compatibility)


@pytest.mark.parametrize("input", ["logits", "probabilities"])
def test_refine_takes_the_output_of_a_network_with_channels_last(rng, input):
    scores, image = rng.random((4, *SHAPE), np.float32), rng.integers(0, 256, (*SHAPE, 3), np.uint8)
    scores /= scores.sum(axis=0)
    network_output = np.ascontiguousarray(np.moveaxis(scores, 0, -1))
    before = network_output.copy()
    refined = crfrnn.refine(np.moveaxis(network_output, -1, 0), image, input=input)
    assert np.moveaxis(refined, 0, -1).flags.c_contiguous
    np.testing.assert_array_equal(refined, crfrnn.refine(scores, image, input=input))
    np.testing.assert_array_equal(network_output, before)


def test_scores_in_neither_order_are_brought_into_one(rng):
    scores, terms, compatibility = scene(rng, 6, np.float32)
    expected = crfrnn.mean_field(scores, terms, compatibility=compatibility)
    wide = np.repeat(scores, 2, axis=2)[:, :, ::2]
    turned = np.ascontiguousarray(scores.transpose(2, 0, 1)).transpose(1, 2, 0)
    for view in (wide, turned, scores[::-1, ::-1][::-1, ::-1]):
        np.testing.assert_array_equal(crfrnn.mean_field(view, terms, compatibility=compatibility), expected)


@pytest.mark.torch
@pytest.mark.parametrize("batch", [1, 3])
def test_torch_keeps_channels_last(batch):
    torch = pytest.importorskip("torch")
    from crfrnn.torch import CrfRnn

    torch.manual_seed(4)
    layer = CrfRnn(5, theta_alpha=6, theta_beta=40)
    image = torch.rand(batch, 3, *SHAPE) * 255
    plain = torch.randn(batch, 5, *SHAPE, requires_grad=True)
    last = plain.detach().to(memory_format=torch.channels_last).requires_grad_()
    direction = torch.randn(batch, 5, *SHAPE)
    outputs = []
    for logits in (plain, last):
        layer.zero_grad()
        refined = layer(logits, image)
        (refined * direction).sum().backward()
        outputs.append((refined, logits.grad, layer.compatibility_matrix.grad))
    assert outputs[1][0].is_contiguous(memory_format=torch.channels_last)
    for given, expected in zip(outputs[1], outputs[0], strict=True):
        torch.testing.assert_close(given, expected, rtol=0, atol=0)


@pytest.mark.torch
def test_operators_say_beforehand_which_layout_they_return():
    torch = pytest.importorskip("torch")
    from crfrnn.torch import mean_field

    image = torch.rand(2, 3, *SHAPE) * 255
    for logits in (
        torch.randn(2, 4, *SHAPE),
        torch.randn(2, 4, *SHAPE).to(memory_format=torch.channels_last),
        torch.randn(2, 4, *SHAPE).transpose(0, 1).contiguous().transpose(0, 1),
        torch.randn(2, 1, *SHAPE).expand(2, 4, *SHAPE),
    ):
        refined = mean_field(logits, image)
        foreseen = mean_field(logits.to("meta"), image.to("meta"))
        assert refined.stride() == foreseen.stride()
