"""`CrfRnnLayer` in the machinery of Keras and of one backend: training, saving, compiled functions, what stays behind.

`test_keras_backends.py` runs this file on every backend.
"""

import keras
import numpy as np
import pytest
from keras import ops

from crfrnn import batch as native_batch
from crfrnn.keras import CrfRnnLayer, bridge
from crfrnn.keras.kept import Kept
from keras_calls import BACKEND, NUMBERS, WEIGHTS, batch, layer, model, numpy, refined_and_gradients, truth
from tolerances import assert_close, tolerance

BOUNDS = tolerance(np.float32)


@pytest.fixture
def crossings(monkeypatch):
    """How often native code was entered so far: forward, backward."""
    counts = {"mean_field": 0, "mean_field_vjp": 0}

    def counted(name):
        function = getattr(native_batch, name)

        def count(*arguments, **more):
            counts[name] += 1
            return function(*arguments, **more)

        monkeypatch.setattr(native_batch, name, count)

    counted("mean_field")
    counted("mean_field_vjp")
    return lambda: tuple(counts.values())


@pytest.fixture(autouse=True)
def nothing_stays_behind():
    yield
    assert len(bridge.kept) == 0


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


def test_the_oldest_give_way():
    settings = native_batch.Settings((5.13,), (61.7,), (1.57,), "after", "grid", "lattice", 0, 3, 0.0, 1)
    logits, image = np.zeros((1, 4, 20, 20), np.float32), np.zeros((1, 3, 20, 20), np.float32)
    coupling = np.eye(4, dtype=np.float32)
    _, records = native_batch.mean_field(logits, image, None, [coupling, coupling], settings, keep=True)
    generous, tight = Kept(), Kept(limit=records[0].marginals.nbytes)
    numbers = [generous.put(records) for _ in range(5)]
    assert len(set(numbers)) == len(generous) == 5
    assert generous.take(numbers[2]) is records
    assert generous.take(numbers[2]) is None
    numbers = [tight.put(records) for _ in range(5)]
    assert len(tight) == 1
    assert [tight.take(number) for number in numbers] == [None] * 4 + [records]


@pytest.mark.skipif(BACKEND != "jax", reason="transformations of JAX")
class TestJax:
    @pytest.fixture
    def refine(self, rng):
        """A function of weights, logits and image."""
        crf = layer(rng)
        weights = [weight.value for weight in crf.trainable_variables]
        return lambda *inputs: crf.stateless_call(weights, [], list(inputs))[0]

    def test_vmap_is_a_loop(self, rng, refine):
        import jax

        logits, image = batch(rng, size=3)
        logits, image = logits[:, None], image[:, None]
        cotangents = rng.normal(size=logits.shape).astype(np.float32)

        def pull(logits, image, cotangent):
            refined, back = jax.vjp(lambda logits: refine(logits, image), logits)
            return refined, back(cotangent)[0]

        together = jax.vmap(pull)(logits, image, cotangents)
        for index in range(3):
            alone = pull(logits[index], image[index], cotangents[index])
            for one, other in zip(together, alone, strict=True):
                np.testing.assert_array_equal(one[index], other)

    def test_loops_and_checkpoints(self, rng, refine):
        import jax

        logits, image = batch(rng)

        def twice(logits):
            return refine(refine(logits, image), image).sum()

        def scanned(logits):
            return jax.lax.scan(lambda carry, _: (jax.checkpoint(refine)(carry, image), None), logits, length=2)[
                0
            ].sum()

        np.testing.assert_allclose(jax.jit(jax.grad(scanned))(logits), jax.grad(twice)(logits), rtol=1e-5, atol=1e-5)
        bridge.kept._entries.clear()  # a checkpointed forward pass does not tell that nobody will ask for what it left

    def test_calls_of_one_kind_are_compiled_once(self, rng):
        import jax

        compiled = []

        def listen(event, duration, **_):
            compiled.append(event)

        jax.monitoring.register_event_duration_secs_listener(listen)
        pair = batch(rng, (11, 13))
        crf, other = layer(rng), layer(rng)
        crf(pair)
        assert any("compile" in event for event in compiled)
        compiled.clear()
        crf(pair)
        other(pair)
        assert compiled == []
        jax.monitoring.unregister_event_duration_listener(listen)

    def test_callbacks_of_other_devices(self, rng, monkeypatch):
        """Where arrays are not on the CPU, JAX itself brings them there; tried out on the CPU."""
        import jax

        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        crf = layer(rng, num_iterations=2)
        logits, image = batch(rng)
        cotangent = rng.normal(size=logits.shape).astype(np.float32)
        actual = refined_and_gradients(crf, logits, image, cotangent, compiled=True)
        for array, expected in zip(actual, truth(crf, logits, image, cotangent=cotangent), strict=True):
            assert_close(array, expected, BOUNDS.gradient)

    def test_nothing_can_be_exported(self, rng, tmp_path):
        made = model(layer(rng))
        made(list(batch(rng)))
        with pytest.raises(NotImplementedError, match="serialization of host_callbacks is not yet implemented"):
            made.export(tmp_path / "model", verbose=False)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="graphs of TensorFlow")
class TestTensorFlow:
    def test_a_function_of_any_size(self, rng):
        import tensorflow as tf

        crf = layer(rng)
        signature = [tf.TensorSpec((None, None, None, channels)) for channels in (4, 3)]

        @tf.function(input_signature=signature)
        def refine(logits, image):
            refined = crf([logits, image])
            assert refined.shape.as_list() == [None, None, None, 4]
            return refined

        for spatial in ((6, 7), (9, 4)):
            pair = batch(rng, spatial)
            assert_close(refine(*pair).numpy(), truth(crf, *pair), BOUNDS.mean_field)
        logits, image = batch(rng)
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"image has shape \(2, 6, 5, 3\); expected"):
            refine(logits, image[:, :, :5])
        assert refine.experimental_get_tracing_count() == 1

    def test_what_nobody_uses_is_not_computed(self, rng, crossings):
        import tensorflow as tf

        crf = layer(rng)

        @tf.function
        def ignored(logits, image):
            crf([logits, image])
            return logits

        ignored(*batch(rng))
        assert crossings() == (0, 0)

    def test_a_tape_around_a_function(self, rng):
        import tensorflow as tf

        crf = layer(rng)
        refine = tf.function(lambda logits, image: crf([logits, image]))
        logits, image = map(tf.constant, batch(rng))
        cotangent = tf.constant(rng.normal(size=logits.shape), tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            refined = refine(logits, image)
        expected = truth(crf, logits.numpy(), image.numpy(), cotangent=cotangent.numpy())
        actual = [refined, *tape.gradient(refined, [logits, *crf.trainable_variables], output_gradients=cotangent)]
        assert_close(actual[0], expected[0], BOUNDS.mean_field)
        for ours, theirs in zip(actual[1:], expected[1:], strict=True):
            assert_close(ours, theirs, BOUNDS.gradient)

    def test_eagerly_without_training(self, rng, crossings):
        """Nothing is kept, so that inference takes no more memory; a gradient is right nevertheless."""
        import tensorflow as tf

        crf = layer(rng)
        logits, image = map(tf.constant, batch(rng))
        with tf.GradientTape() as tape:
            tape.watch(logits)
            refined = crf([logits, image])
        assert len(bridge.kept) == 0
        gradient = tape.gradient(refined, logits)
        assert crossings() == (2, 1)
        expected = truth(crf, logits.numpy(), image.numpy(), cotangent=np.ones(logits.shape))
        assert_close(gradient, expected[1], BOUNDS.gradient)

    def test_in_a_data_pipeline(self, rng):
        import tensorflow as tf

        crf = layer(rng)
        logits, image = batch(rng, size=6)
        data = tf.data.Dataset.from_tensor_slices((logits, image)).batch(2)
        data = data.map(lambda logits, image: crf([logits, image]), num_parallel_calls=2)
        refined = np.concatenate([part.numpy() for part in data])
        assert_close(refined, truth(crf, logits, image), BOUNDS.mean_field)

    def test_xla_says_that_it_cannot(self, rng):
        import tensorflow as tf

        crf = layer(rng)
        compiled = tf.function(lambda *pair: crf(list(pair)), jit_compile=True)
        around = tf.function(lambda *pair: tf.function(lambda *pair: crf(list(pair)))(*pair), jit_compile=True)
        for call in (compiled, around):
            with pytest.raises(ValueError, match=r"cannot be compiled by XLA on TensorFlow, nor run on a TPU"):
                call(*batch(rng))
        trained = model(crf)
        with pytest.warns(UserWarning, match="jit_compile=False"):
            trained.compile("sgd", "mse", jit_compile=True)
        logits, image = batch(rng)
        trained.train_on_batch([logits, image], logits)

    def test_saved_models_say_that_they_cannot(self, rng, tmp_path):
        import tensorflow as tf

        made = model(layer(rng))
        made.predict(list(batch(rng)), verbose=0)
        for save in (
            lambda: made.export(tmp_path / "model", verbose=False),
            lambda: tf.saved_model.save(made, tmp_path / "model"),
        ):
            with pytest.raises(ValueError, match=r"a SavedModel cannot hold a CrfRnnLayer.* save the model as \.keras"):
                save()
        checkpoint = tf.train.Checkpoint(model=made).save(str(tmp_path / "checkpoint"))
        tf.train.Checkpoint(model=made).restore(checkpoint).assert_consumed()


@pytest.mark.skipif(BACKEND != "torch", reason="compiler of PyTorch")
class TestTorch:
    def test_compiled_and_exported(self, rng, tmp_path):
        import torch

        logits, image = map(torch.tensor, batch(rng))
        inputs = [keras.Input(tensor.shape[1:], batch_size=2) for tensor in (logits, image)]
        crf = layer(rng)
        made = keras.Model(inputs, crf(inputs))
        expected = truth(crf, logits.numpy(), image.numpy(), cotangent=np.ones(logits.shape))
        given = logits.clone().requires_grad_()
        refined = torch.compile(made, backend="aot_eager")([given, image])
        refined.sum().backward()
        assert_close(refined.detach(), expected[0], BOUNDS.mean_field)
        assert_close(given.grad, expected[1], BOUNDS.gradient)
        made.export(tmp_path / "model.pt2", format="torch", verbose=False)
        exported = torch.export.load(tmp_path / "model.pt2").module()
        alone = exported([logits[:1], image[:1]])  # Keras traces with a batch of one
        assert_close(alone.detach(), expected[0][:1], BOUNDS.mean_field)
