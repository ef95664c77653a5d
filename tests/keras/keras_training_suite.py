"""`CrfRnnLayer` in the machinery of Keras: training, saving, what stays behind.

`test_keras_backends.py` runs this file on every backend.
"""

import keras
import numpy as np
import pytest
from keras import ops

from crfrnn.inference import batch as native_batch
from crfrnn.inference.backend import Inputs
from crfrnn.keras import CrfRnnLayer, bridge
from crfrnn.keras.kept import Kept
from crfrnn.memory import array_bytes
from keras_calls import BACKEND, NUMBERS, WEIGHTS, batch, layer, model, numpy, refined_and_gradients, truth
from specified import specified
from tolerances import assert_close, tolerance

BOUNDS = tolerance(np.float32)


pytestmark = pytest.mark.usefixtures("nothing_stays_behind")


class Examples(keras.utils.PyDataset):
    """Batches of several sizes, and what another layer makes of them."""

    def __init__(self, rng, teacher):
        super().__init__()
        shapes = [((6, 7), 2), ((5, 9), 3), ((8, 4), 1)]
        inputs = [batch(rng, spatial, size=size) for spatial, size in shapes]
        self.batches = [(pair, truth(teacher, *pair).astype(np.float32)) for pair in inputs]

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def product(cotangent, refined):
    """A loss whose gradient to the refined logits is the target."""
    return ops.sum(cotangent * refined)


def test_one_step_of_gradient_descent_is_that_of_the_reference(rng, crossings):
    crf = layer(rng)
    logits, image = batch(rng)
    cotangent = rng.normal(size=logits.shape).astype(np.float32)
    train = model(crf)
    train.compile(keras.optimizers.SGD(0.1), product)
    assert crossings() == (0, 0)
    train.evaluate([logits, image], cotangent, verbose=0)  # PyTorch's trainer calls the model once more the first time
    before, counts = crf.get_weights(), crossings()
    gradients = truth(crf, logits, image, cotangent=cotangent)[2:]
    train.train_on_batch([logits, image], cotangent)
    assert crossings() == (counts[0] + 1, 1)
    for name, weight, old, gradient in zip(WEIGHTS, crf.get_weights(), before, gradients, strict=True):
        change = np.abs(weight - (old - 0.1 * gradient)).max()
        assert change <= 1e-5 * max(1, np.abs(gradient).max()), name


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_fit_finds_the_weights_that_made_the_target(rng, crossings, run_eagerly):
    examples = Examples(rng, layer(rng))
    student = model(layer(rng))
    student.compile(keras.optimizers.Adam(0.05), "mse", run_eagerly=run_eagerly)
    student.evaluate(examples, verbose=0)
    forward, _ = crossings()
    history = student.fit(examples, epochs=15, verbose=0).history["loss"]
    assert history[-1] < 0.2 * history[0]
    assert crossings() == (forward + 45, 45)
    student.evaluate(examples, verbose=0)
    for inputs, _ in examples:
        student.predict_on_batch(inputs)
    assert crossings() == (forward + 51, 45)


def test_a_frozen_layer_passes_gradients_to_the_network(rng):
    logits, image = keras.Input((None, None, 4)), keras.Input((None, None, 3))
    crf = layer(rng)
    crf.trainable = False
    network = keras.layers.Conv2D(4, 1)
    train = keras.Model([logits, image], crf([network(logits), image]))
    before = [crf.get_weights(), network.get_weights()]
    train.compile("sgd", "mse")
    scores, photo = batch(rng)
    train.train_on_batch([scores, photo], scores)
    np.testing.assert_array_equal(crf.get_weights(), before[0])
    assert np.abs(network.get_weights()[0] - before[1][0]).max() > 0


class Subclassed(keras.Model):
    def __init__(self, crf):
        super().__init__()
        self.network = keras.layers.Conv2D(4, 1)
        self.crf = crf

    def call(self, image, training=None):
        return self.crf([self.network(image), image], training=training)


@pytest.mark.parametrize("kind", ["functional", "sequential", "subclassed"])
def test_kinds_of_models(rng, kind):
    crf = CrfRnnLayer(None, 4, **NUMBERS, name="crfrnn")
    logits, image = batch(rng)
    inputs = [logits, image]
    if kind == "functional":
        made = model(crf)
    elif kind == "sequential":
        made = keras.Sequential([crf])
    else:
        inputs = rng.uniform(0, 3, (2, 6, 7, 4)).astype(np.float32)
        made = Subclassed(crf)
    made.compile("sgd", "mse")
    first = made.train_on_batch(inputs, logits)
    for _ in range(5):
        last = made.train_on_batch(inputs, logits)
    assert last < first
    pair = [inputs, inputs] if kind == "subclassed" else inputs
    if kind == "subclassed":
        pair = [numpy(made.network(inputs)), inputs]
    assert_close(made.predict(inputs, verbose=0), truth(crf, *pair), BOUNDS.mean_field)


def test_models_are_saved_and_loaded_whole(rng, tmp_path):
    """Without custom_objects, with the state of the optimiser, a mask among the inputs and mixed precision."""
    logits, image, mask = (keras.Input(shape) for shape in ((None, None, 4), (None, None, 3), (None, None)))
    crf = layer(rng, name="crfrnn", dtype="mixed_float16", theta_alpha=(5.13, 4.1))
    made = keras.Model([logits, image, mask], crf([logits, image], mask=mask))
    made.compile(keras.optimizers.Adam(0.01), "mse")
    inputs = [*batch(rng), rng.integers(0, 2, (2, 6, 7)).astype(np.float32)]
    made.train_on_batch(inputs, inputs[0])
    made.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("crfrnn").get_config() == crf.get_config()
    np.testing.assert_array_equal(loaded.predict(inputs, verbose=0), made.predict(inputs, verbose=0))
    assert loaded.train_on_batch(inputs, inputs[0]) == made.train_on_batch(inputs, inputs[0])
    for weight, other in zip(loaded.get_weights(), made.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)
    made.save_weights(tmp_path / "model.weights.h5")
    other = layer(rng, name="crfrnn")
    fresh = keras.Model([logits, image, mask], other([logits, image], mask=mask))
    fresh.load_weights(tmp_path / "model.weights.h5")
    for weight, saved in zip(other.get_weights(), crf.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, saved)


def test_a_backward_pass_may_run_twice(rng):
    """The second one computes what the first has used up once more."""
    crf = layer(rng)
    logits, image = batch(rng)
    cotangent = rng.normal(size=logits.shape).astype(np.float32)
    expected = truth(crf, logits, image, cotangent=cotangent)[1]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        given = tf.constant(logits)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(given)
            refined = crf([given, image], training=True)
        both = [tape.gradient(refined, given, output_gradients=cotangent) for _ in range(2)]
    elif BACKEND == "jax":
        import jax

        weights = [weight.value for weight in crf.trainable_variables]
        _, back = jax.vjp(lambda logits: crf.stateless_call(weights, [], [logits, image])[0], logits)
        both = [back(cotangent)[0] for _ in range(2)]
    else:
        import torch

        given = torch.tensor(logits, requires_grad=True)
        refined = crf([given, image])
        both = [torch.autograd.grad(refined, given, torch.tensor(cotangent), retain_graph=True)[0] for _ in range(2)]
    for gradient in both:
        assert_close(numpy(gradient), expected, BOUNDS.gradient)


def test_what_has_given_way_is_computed_once_more(rng, monkeypatch):
    crf = layer(rng)
    logits, image = batch(rng)
    cotangent = rng.normal(size=logits.shape).astype(np.float32)
    expected = refined_and_gradients(crf, logits, image, cotangent)
    monkeypatch.setattr(bridge.kept, "take", lambda number: bridge.kept._entries.clear())
    for array, other in zip(refined_and_gradients(crf, logits, image, cotangent), expected, strict=True):
        np.testing.assert_array_equal(array, other)


@pytest.mark.parametrize("solver", ["mean-field", "frank-wolfe"])
def test_the_oldest_give_way(solver):
    crf, execution = specified(iterations=3, solver=solver)
    logits, image = np.zeros((1, 4, 20, 20), np.float32), np.zeros((1, 3, 20, 20), np.float32)
    coupling = np.eye(4, dtype=np.float32)
    _, records = native_batch.forward(crf, Inputs(logits, image), [coupling, coupling], True, execution)
    generous, tight = Kept(), Kept(limit=array_bytes(records[0].kept))
    numbers = [generous.put(records) for _ in range(5)]
    assert len(set(numbers)) == len(generous) == 5
    assert generous.take(numbers[2]) is records
    assert generous.take(numbers[2]) is None
    numbers = [tight.put(records) for _ in range(5)]
    assert len(tight) == 1
    assert [tight.take(number) for number in numbers] == [None] * 4 + [records]
