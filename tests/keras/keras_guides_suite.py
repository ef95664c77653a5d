"""Gradients of the layer to θ, image and features on every backend of Keras, against finite differences."""

import keras
import numpy as np
import pytest

from crfrnn import CRF, Bilateral, Given, Kernel, MeanField, Spatial
from crfrnn.keras import CrfRnnLayer
from keras_calls import COMPILED, NUMBERS, batch, double_precision, gradients_to_all, layer, numpy

STEP = 1e-6
CLASSES = 4


def slope(function, direction):
    """The derivative of a function of a step along a direction, by central differences."""
    return (function(STEP * direction) - function(-STEP * direction)) / (2 * STEP)


@pytest.mark.parametrize("compiled", COMPILED)
def test_theta_and_image(rng, compiled):
    with double_precision():
        crf = layer(rng, learn_theta=True, dtype="float64", theta_alpha=(5.13, 4.27))
        names = [weight.name for weight in crf.weights]
        assert names[3:] == ["log_theta_gamma", "log_theta_alpha", "log_theta_beta"]
        logits, image = batch(rng, dtype=np.float64)
        cotangent = rng.normal(size=logits.shape)
        _, to_image, *to_weights = gradients_to_all(crf, logits, [image], cotangent, compiled)

        def value(image):
            return (numpy(crf([logits, image])) * cotangent).sum()

        direction = rng.normal(size=image.shape)
        expected = slope(lambda step: value(image + step), direction)
        np.testing.assert_allclose((to_image * direction).sum(), expected, rtol=1e-5)
        for weight, gradient in list(zip(crf.weights, to_weights, strict=True))[3:]:
            start = numpy(weight)

            def moved(step, weight=weight, start=start):
                weight.assign(start + step)
                return value(image)

            direction = rng.normal(size=start.shape)
            expected = slope(moved, direction)
            weight.assign(start)
            np.testing.assert_allclose((gradient * direction).sum(), expected, rtol=1e-5)


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("learn_theta", [False, True])
def test_features_of_the_callers_own(rng, compiled, learn_theta):
    """One kernel is over features, one over the image; the gradient to features whose kernel has no θ."""
    kernels = [Kernel(Given("depth")), Kernel(Bilateral(5.13, 61.7)), Kernel(Spatial(1.57))]
    crf = CRF(kernels, solver=MeanField(2, tolerance=0))
    with double_precision():
        made = CrfRnnLayer(None, CLASSES, crf=crf, dtype="float64", learn_theta=learn_theta)
        logits, image = batch(rng, dtype=np.float64)
        depth = rng.normal(size=(*logits.shape[:3], 2))
        made([logits, image, depth])
        cotangent = rng.normal(size=logits.shape)
        gradients = gradients_to_all(made, logits, [image, depth], cotangent, compiled)
        given = [logits, image, depth]
        for index, gradient in enumerate(gradients[:3]):
            direction = rng.normal(size=gradient.shape)

            def value(step, index=index):
                moved = [each + step if k == index else each for k, each in enumerate(given)]
                return (numpy(made(moved)) * cotangent).sum()

            np.testing.assert_allclose((gradient * direction).sum(), slope(value, direction), rtol=1e-5)


def test_only_where_they_are_asked_for(rng, monkeypatch):
    """Training the weights alone takes one call back, which computes nothing to the image."""
    from crfrnn.inference import batch as native

    asked, before = [], native.vjp
    monkeypatch.setattr(native, "vjp", lambda *given: asked.append(given[-1]) or before(*given))
    crf = layer(rng)
    logits, image = batch(rng)
    inputs = [keras.Input(each.shape[1:]) for each in (logits, image)]
    model = keras.Model(inputs, crf(inputs))
    model.compile("sgd", "mse")
    model.fit([logits, image], logits, verbose=0)
    assert asked == [False]


def test_learned_thetas_are_saved_and_set(rng, tmp_path):
    crf = layer(rng, learn_theta=True)
    logits, image = batch(rng)
    refined = numpy(crf([logits, image]))
    assert crf.theta_beta != NUMBERS["theta_beta"]
    inputs = [keras.Input((None, None, each.shape[-1])) for each in (logits, image)]
    keras.Model(inputs, crf(inputs)).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded([logits, image])), refined)
    loaded.layers[-1].theta_beta = 33
    np.testing.assert_allclose(numpy(loaded.layers[-1].log_theta_beta), np.log(33), rtol=1e-6)
    assert loaded.layers[-1].theta_alpha == pytest.approx(crf.theta_alpha, rel=1e-6)


def test_a_step_of_training_changes_theta(rng):
    crf = layer(rng, learn_theta=True)
    logits, image = batch(rng)
    inputs = [keras.Input((None, None, each.shape[-1])) for each in (logits, image)]
    model = keras.Model(inputs, crf(inputs))
    before = {name: getattr(crf, name) for name in ("theta_alpha", "theta_beta", "theta_gamma")}
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit([logits, image], logits, verbose=0)
    for name, theta in before.items():
        assert getattr(crf, name) > 0
        assert getattr(crf, name) != theta
