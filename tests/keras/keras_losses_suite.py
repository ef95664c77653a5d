"""`crfrnn.keras.losses` on one backend; `test_keras_backends.py` runs this file on every backend."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest

from crfrnn.crf import CRF, Exact, Given, Kernel
from crfrnn.inference import batch as native_batch
from crfrnn.keras import bridge, losses
from errors import raises_saying
from keras_calls import BACKEND, COMPILED, double_precision, numpy
from pairwise_losses import FILTERS, SIMILAR, kernels, truth
from tolerances import assert_close, tolerance

LOSSES = {"dense": losses.dense_crf_loss, "gated": losses.gated_crf_loss, "cut": losses.normalized_cut_loss}
LAYERS = {"dense": losses.DenseCrfLoss, "gated": losses.GatedCrfLoss, "cut": losses.NormalizedCutLoss}


def inputs(rng, spatial=(4, 5), channels=3, classes=4, dtype=np.float32):
    """Channels first: probabilities, image, and three maps of weights of pixels."""
    scores = np.exp(2 * rng.normal(size=(2, classes, *spatial)))
    q = (scores / scores.sum(axis=1, keepdims=True)).astype(dtype)
    image = rng.uniform(0, 255, size=(2, channels, *spatial)).astype(dtype)
    return q, image, *((rng.integers(0, 3, size=(2, *spatial)) / 2).astype(dtype) for _ in range(3))


def last(array):
    return np.ascontiguousarray(np.moveaxis(array, 1, -1))


def value_and_gradient(loss, q, *others, compiled=False):
    """Of a function of probabilities and more."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def both(q, *others):
            with tf.GradientTape() as tape:
                tape.watch(q)
                value = loss(q, *others)
            return value, tape.gradient(value, q)

        found = (tf.function(both) if compiled else both)(*map(tf.constant, (q, *others)))
    elif BACKEND == "jax":
        import jax

        call = jax.value_and_grad(loss)
        found = (jax.jit(call) if compiled else call)(*map(jax.numpy.asarray, (q, *others)))
    else:
        import torch

        given = torch.tensor(q, requires_grad=True)
        value = loss(given, *map(torch.tensor, others))
        found = value.detach(), torch.autograd.grad(value, given)[0]
    return [numpy(each) for each in found]


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients(rng, name, filters, compiled):
    q, image, mask, *gates = inputs(rng)
    crf = kernels(filters, "after" if filters == "lattice" else "none")
    others = (image, mask, *gates) if name == "gated" else (image, mask)

    def loss(q, image, *weights):
        return LOSSES[name](q, image, *weights, parameters=crf, data_format="channels_last")

    value, gradient = value_and_gradient(loss, last(q), last(image), *others[1:], compiled=compiled)
    expected, slope = truth(name, crf, np.float64(q), *others)
    bound = tolerance(np.float32).gradient
    assert value.dtype == np.float32
    assert_close(value, expected, bound)
    assert_close(gradient, last(slope), bound)


@pytest.mark.parametrize("name", LOSSES)
def test_channels_first_any_axes_and_double_precision(rng, name):
    with double_precision():
        q, image, mask, *_ = inputs(rng, (2, 3, 4), 2, 3, np.float64)
        found = LOSSES[name](q, image, mask, parameters=kernels("lattice"), data_format="channels_first")
        assert_close(numpy(found), truth(name, kernels("lattice"), q, image, mask)[0], tolerance(np.float64).gradient)


@pytest.mark.parametrize("name", LOSSES)
def test_one_channel_is_two_classes(rng, name):
    q, image, *_ = inputs(rng, classes=2)
    found = numpy(LOSSES[name](last(q[:, 1:]), last(image), parameters=kernels(), data_format="channels_last"))
    assert_close(found, truth(name, kernels(), q, image, np.ones((2, 4, 5)))[0], tolerance(np.float32).gradient)


def test_a_gate_alone(rng):
    q, image, mask, gate, _ = inputs(rng)
    for gates in ({"source": gate}, {"destination": gate}):
        found = losses.gated_crf_loss(q, image, mask, parameters=kernels(), data_format="channels_first", **gates)
        assert_close(numpy(found), truth("gated", kernels(), q, image, mask, **gates)[0], 5e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_given_features(rng, name):
    q, image, *_ = inputs(rng)
    places = np.broadcast_to(np.indices((4, 5))[::-1] / 5.13, (2, 2, 4, 5))
    features = np.concatenate([places, image / 61.7], axis=1).astype(np.float32)
    crf = CRF([Kernel(Given("learned"), 1, Exact())])
    found = LOSSES[name](q, image, parameters=crf, given={"learned": features}, data_format="channels_first")
    expected, _ = truth(name, CRF([Kernel(SIMILAR, 1, Exact())]), q, image, np.ones((2, 4, 5)))
    assert_close(numpy(found), expected, tolerance(np.float32).gradient)


@pytest.mark.skipif(BACKEND == "torch", reason="crosses into native code as crfrnn.torch does")
@pytest.mark.parametrize("name", LOSSES)
def test_one_native_call_forward_and_one_backward(rng, name, monkeypatch):
    calls = []
    filtered = native_batch.pairwise_filtered
    monkeypatch.setattr(native_batch, "pairwise_filtered", lambda *given: calls.append(given[3]) or filtered(*given))
    built = []
    pairwise = native_batch.pairwise
    monkeypatch.setattr(native_batch, "pairwise", lambda *given: built.append(1) or pairwise(*given))
    q, image, *_ = inputs(rng)
    before = len(bridge.kept)
    value_and_gradient(lambda q, image: LOSSES[name](q, image, data_format="channels_last"), last(q), last(image))
    assert calls == [False, True]
    assert built == [1]
    assert len(bridge.kept) == before


@pytest.mark.parametrize("name", LAYERS)
def test_a_model_with_the_layer_trains(rng, name):
    """The loss of the model is the layer's, and falls; the layer is saved with it."""
    keras.utils.set_random_seed(0)
    image, target = keras.Input((None, None, 3)), keras.Input((None, None))
    probabilities = keras.layers.Conv2D(4, 1, activation="softmax", data_format="channels_last")(image)
    layer = LAYERS[name](0.5, theta_alpha=5.13, theta_beta=61.7, normalization="after", data_format="channels_last")
    more = {"destination": target} if name == "gated" else {}
    model = keras.Model([image, target], layer([probabilities, image], **more))
    model.compile(keras.optimizers.Adam(0.01))
    photos = last(inputs(rng, (8, 9))[1])
    weights = np.ones((2, 8, 9), np.float32)
    probabilities = model.predict([photos, weights], verbose=0)
    more = {"destination": weights} if name == "gated" else {}
    expected = 0.5 * numpy(
        LOSSES[name](probabilities, photos, None, parameters=layer.crf, data_format="channels_last", **more)
    )
    history = model.fit([photos, weights], np.zeros((2, 1)), epochs=8, verbose=0).history["loss"]
    assert history[0] == pytest.approx(expected, rel=1e-4)
    assert history[-1] < history[0]


@pytest.mark.parametrize("name", LAYERS)
def test_saved_and_loaded(name):
    layer = LAYERS[name](0.5, theta_alpha=5.13, spatial_weight=0.2, filter="exact", dtype="float64")
    twin = LAYERS[name].from_config(json.loads(json.dumps(layer.get_config())))
    assert twin.crf == layer.crf
    assert twin.get_config() == layer.get_config()
    published = losses.GATED_CRF if name == "gated" else losses.DENSE_CRF
    assert layer.crf == replace(published, theta_alpha=5.13, spatial_weight=0.2, filter="exact").crf


Q, IMAGE, MASK = np.full((2, 5, 6, 4), 0.25, np.float32), np.zeros((2, 5, 6, 3), np.float32), np.ones((2, 5, 6))


@pytest.mark.parametrize(
    ("given", "options", "facts"),
    [
        ((Q, IMAGE[:, :4]), {}, ["image has shape (2, 4, 6, 3)", "probabilities of shape (2, 5, 6, 4)"]),
        ((Q[0, 0], IMAGE), {}, ["probabilities have shape (6, 4)"]),
        ((Q[:, :3], IMAGE), {}, ["image has shape", "interpolate the logits"]),
        ((Q, IMAGE, MASK[:, :4]), {}, ["mask has shape (2, 4, 6)", "(2, 5, 6)"]),
        ((Q, IMAGE), {"parameters": "deeplap"}, ["deeplap"]),
        ((Q, IMAGE), {"parameters": CRF([])}, ["no kernel has a weight above 0"]),
        ((Q, IMAGE), {"parameters": CRF([Kernel(Given("depth"))])}, ["'depth'"]),
        ((Q, IMAGE), {"data_format": "last"}, ["data_format='last'"]),
    ],
)
@pytest.mark.parametrize("name", LOSSES)
def test_bad_input_is_named(name, given, options, facts):
    with raises_saying(ValueError, *facts):
        LOSSES[name](*given, **{"data_format": "channels_last", **options})


@pytest.mark.parametrize("name", LOSSES)
def test_logits_are_refused(name):
    with pytest.raises(Exception, match=r"probabilities are from -0\.5 to 3\.5; expected 0 to 1"):
        numpy(LOSSES[name](np.stack([Q[..., 0] - 0.75, Q[..., 0] + 3.25], -1), IMAGE, data_format="channels_last"))


@pytest.mark.parametrize("name", ["dense", "cut"])
def test_values_below_0_are_refused(name):
    with pytest.raises(Exception, match=r"probabilities are from -0\.25 to 0\.25; expected 0 to 1"):
        numpy(LOSSES[name](np.stack([Q[..., 0] - 0.5, Q[..., 0]], -1), IMAGE, data_format="channels_last"))


def test_the_gradient_of_gates_where_all_is_certain(rng):
    """The energy Σ q_i K_ij (1 - q_j) is smooth in the probabilities, and 0 where all are of one class."""
    q, image, mask, *gates = inputs(rng)
    q[:] = np.eye(4)[0][:, None, None]
    crf = kernels("exact")

    def loss(q, image, *weights):
        return losses.gated_crf_loss(q, image, *weights, parameters=crf, data_format="channels_last")

    value, gradient = value_and_gradient(loss, last(q), last(image), mask, *gates)
    _, slope = truth("gated", crf, np.float64(q), image, mask, *gates)
    assert value == 0
    assert abs(slope[:, 0]).max() > 1e-3
    assert_close(gradient, last(slope), 1e-4)


def test_bad_gates_and_calls_are_named():
    with raises_saying(ValueError, "source has shape (2, 5)", "(2, 5, 6)"):
        losses.gated_crf_loss(Q, IMAGE, source=MASK[..., 0], data_format="channels_last")
    with raises_saying(ValueError, "DenseCrfLoss is called as layer([probabilities, image])"):
        losses.DenseCrfLoss(data_format="channels_last")(Q)
    with raises_saying(ValueError, "data_format='last'"):
        losses.DenseCrfLoss(data_format="last")


@pytest.mark.parametrize("name", ["source", "destination"])
def test_gates_that_are_no_weights_are_named(name):
    for value, words in ((-1.0, f"{name} holds -1"), (np.nan, f"{name} holds 1 NaN")):
        gate = np.ones_like(MASK)
        gate[0, 1, 2] = value
        with pytest.raises(Exception, match=words):
            numpy(losses.gated_crf_loss(Q, IMAGE, **{name: gate}, data_format="channels_last"))


def test_a_gate_below_0_is_named_where_a_model_is_trained():
    shapes = (5, 6, 4), (5, 6, 3), (5, 6)
    q, image, gate = (keras.Input(shape) for shape in shapes)
    layer = losses.GatedCrfLoss(data_format="channels_last")
    model = keras.Model([q, image, gate], layer([q, image], destination=gate))
    model.compile("sgd")
    with pytest.raises(Exception, match="destination holds -1"):
        model.fit([Q, IMAGE, -np.ones_like(MASK)], verbose=0)


@pytest.mark.parametrize("name", LOSSES)
def test_a_missing_image_is_named(name):
    with raises_saying(TypeError, "image is None", "(B, *spatial, channels)"):
        LOSSES[name](Q, None, data_format="channels_last")


@pytest.mark.parametrize("name", LOSSES)
def test_masks_that_are_lists(rng, name):
    q, image, mask, source, destination = inputs(rng)
    gates = {"source": source, "destination": destination} if name == "gated" else {}
    of_arrays = LOSSES[name](last(q), last(image), mask, **gates)
    lists = {key: gate.tolist() for key, gate in gates.items()}
    of_lists = LOSSES[name](last(q), last(image), mask.tolist(), **lists)
    np.testing.assert_array_equal(numpy(of_lists), numpy(of_arrays))
