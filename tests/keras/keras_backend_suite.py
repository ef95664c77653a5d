"""`CrfRnnLayer` in the machinery of each backend: compiled functions, transformations, what cannot be exported.

`test_keras_backends.py` runs this file on every backend.
"""

import keras
import numpy as np
import pytest

from crfrnn.keras import bridge
from keras_calls import BACKEND, batch, layer, model, refined_and_gradients, truth
from tolerances import assert_close, tolerance

BOUNDS = tolerance(np.float32)
pytestmark = pytest.mark.usefixtures("nothing_stays_behind")


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
        pytest.importorskip("tensorflow", reason="Keras exports by TensorFlow")
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
