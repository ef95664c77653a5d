"""`CrfRnnLayer` of any list of kernels on one backend; `test_keras_backends.py` runs this file on every backend."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest

from crfrnn.crf import CRF, Given, Kernel, MeanField, Regions
from crfrnn.inference import batch
from crfrnn.inference.backend import Execution, Inputs, UnsupportedError
from crfrnn.keras import CrfRnnLayer
from errors import raises_saying
from keras_calls import BACKEND, COMPILED, double_precision, numpy, refined_and_gradients
from kernel_lists import CLASSES, CRFS, SPATIAL, scene, smooth, truth
from solver_cases import CONVERGING, solved_by
from tolerances import assert_close, tolerance

SINGLE, DOUBLE = tolerance(np.float32), tolerance(np.float64)


def channels_last(given, dtype=np.float32):
    """Logits, image, mask, and features if any, channels last."""
    planes = given.logits, given.image, given.given["learned"]
    logits, image, features = (np.ascontiguousarray(np.moveaxis(each, 1, -1)) for each in planes)
    return logits, image, given.mask, features


def layer(rng, crf, **options):
    """With random weights."""
    made = CrfRnnLayer(None, CLASSES, crf=crf, **options)
    features = [(None, None, None, 2)] if any(isinstance(each.features, Given) for each in crf.kernels) else []
    made.build([(None, None, None, CLASSES), (None, None, None, 3), *features])
    made.set_weights([weight + 0.3 * rng.normal(size=weight.shape) for weight in made.get_weights()])
    return made, bool(features)


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("name", ["three", "bilateral", "given", "given exactly", "empty", "each its own"])
def test_values_and_gradients(rng, name, compiled):
    assert_true(rng, CRFS[name], compiled)


def test_weights_of_0_in_the_specification_are_trained_like_others(rng):
    assert_true(rng, CRFS["weights of 0"], False)


def assert_true(rng, crf, compiled):
    made, with_features = layer(rng, crf)
    given = scene(rng, np.float32)
    logits, image, mask, features = channels_last(given)
    beside = [image, features] if with_features else [image]
    cotangent = rng.normal(size=given.logits.shape).astype(np.float32)
    *weights, compatibility = made.get_weights()
    given = given._replace(given={name: np.float64(each) for name, each in given.given.items()})
    expected = truth(crf, given, cotangent, weights, compatibility)
    moved = np.moveaxis(cotangent, 1, -1)
    if not crf.kernels:  # frameworks have no gradient to what is not used
        assert_close(numpy(made([logits, *beside], mask=mask)), np.moveaxis(expected.logits, 1, -1), SINGLE.mean_field)
        return
    refined, to_logits, *to_weights = refined_and_gradients(made, logits, beside, moved, mask, compiled)
    assert_close(refined, np.moveaxis(expected.logits, 1, -1), SINGLE.mean_field)
    assert_close(to_logits, np.moveaxis(expected.to_unary, 1, -1), SINGLE.gradient)
    for ours, theirs in zip(to_weights, [*expected.to_weights, expected.to_compatibility], strict=True):
        assert_close(ours, theirs, SINGLE.gradient)


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("gradient", ["unrolled", "implicit"])
@pytest.mark.parametrize("name", ["mean field", "entropic", "Euclidean"])
def test_solvers(rng, name, gradient, compiled):
    """Those of the native core, which other tests compare with the truth."""
    solver = replace(CONVERGING[name], gradient=gradient)
    if gradient == "unrolled":
        solver = replace(solver, iterations=3)
    crf = solved_by(solver, "three")
    made, _ = layer(rng, crf)
    *W, M = ((0.3 if k < 3 else -1) * np.eye(CLASSES) + 0.03 * rng.normal(size=(CLASSES,) * 2) for k in range(4))
    made.set_weights([*W, M])
    given = scene(rng, np.float32)
    couplings = [np.float32(M @ each) for each in W]
    refined, record = batch.forward(crf, Inputs(*given), couplings, True, Execution(1))
    cotangent = np.float32(rng.normal(size=refined.shape) * np.exp(refined - refined.max(axis=1, keepdims=True)))
    to_logits, to_couplings = batch.vjp(crf, Inputs(*given), cotangent, record, couplings, Execution(1), False)[:2]
    expected = [
        *(M.T @ each for each in to_couplings),
        sum(each @ w.T for each, w in zip(to_couplings, W, strict=True)),
    ]
    logits, image, mask, _ = channels_last(given)
    found = refined_and_gradients(made, logits, [image], np.moveaxis(cotangent, 1, -1), mask, compiled)
    for ours, theirs in zip(found[:2], (refined, to_logits), strict=True):
        assert_close(ours, np.moveaxis(theirs, 1, -1), 1e-4)
    for ours, theirs in zip(found[2:], expected, strict=True):
        assert_close(ours, theirs, 1e-3)


def test_double_precision(rng):
    with double_precision():
        made, _ = layer(rng, CRFS["three"], dtype="float64")
        given = scene(rng)
        logits, image, mask, _ = channels_last(given)
        *weights, compatibility = made.get_weights()
        expected = truth(CRFS["three"], given, None, weights, compatibility).logits
        assert_close(numpy(made([logits, image], mask=mask)), np.moveaxis(expected, 1, -1), DOUBLE.mean_field)


def test_channels_first(rng):
    last, _ = layer(rng, CRFS["given"])
    first = CrfRnnLayer(None, CLASSES, crf=CRFS["given"], data_format="channels_first")
    given = scene(rng, np.float32)
    logits, image, _, features = channels_last(given)
    expected = numpy(last([logits, image, features]))
    first.build([given.logits.shape, given.image.shape, given.given["learned"].shape])
    first.set_weights(last.get_weights())
    np.testing.assert_array_equal(
        np.moveaxis(numpy(first([given.logits, given.image, given.given["learned"]])), 1, -1), expected
    )


@pytest.mark.parametrize("name", ["three", "given", "empty"])
def test_saved_and_loaded(rng, name, tmp_path):
    made, with_features = layer(rng, CRFS[name])
    config = json.loads(json.dumps(made.get_config()))
    twin = CrfRnnLayer.from_config(config)
    assert twin.crf == made.crf
    assert twin.get_config() == made.get_config()
    symbols = [keras.Input((None, None, channels)) for channels in (CLASSES, 3, 2)[: 2 + with_features]]
    model = keras.Model(symbols, made(symbols))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[-1].crf == made.crf
    names = [*(f"{each}_ker_weights" for each in CRFS[name].names), "compatibility_matrix"]
    assert [weight.name for weight in loaded.layers[-1].weights] == names
    logits, image, _, features = channels_last(scene(rng, np.float32))
    inputs = [logits, image, features][: 2 + with_features]
    np.testing.assert_array_equal(loaded.predict(inputs, verbose=0), model.predict(inputs, verbose=0))


def test_names_of_the_users_own():
    crf = CRF([Kernel(Given("net.features/1")), Kernel(Given("net.features/1"), 2)])
    made = CrfRnnLayer(None, 2, crf=crf)
    made.build([(None, None, None, 2)] * 3)
    assert [weight.name for weight in made.weights][:2] == [
        "net_features_1_ker_weights",
        "net_features_1_2_ker_weights",
    ]


LOGITS, IMAGE = np.zeros((2, 5, 6, CLASSES), np.float32), np.zeros((2, 5, 6, 3), np.float32)


@pytest.mark.parametrize(
    ("inputs", "facts"),
    [
        ([LOGITS, IMAGE], ["3 inputs", "layer([logits, image, learned])", "a list of 2"]),
        ([LOGITS, IMAGE, IMAGE, IMAGE], ["3 inputs", "a list of 4"]),
        ([LOGITS, IMAGE, IMAGE[:, :4]], ["learned has shape (2, 4, 6, 3)", "(2, 5, 6, channels)"]),
        ([LOGITS, IMAGE, IMAGE[..., :0]], ["learned has shape (2, 5, 6, 0)", "at least one channel"]),
    ],
)
def test_wrong_inputs(inputs, facts):
    with raises_saying(ValueError, *facts):
        CrfRnnLayer(None, CLASSES, crf=CRFS["given"])(inputs)


def test_wrong_specifications():
    with raises_saying(TypeError, "crf is a list", "CRF(…)"):
        CrfRnnLayer(None, CLASSES, crf=[])
    with raises_saying(TypeError, "crf is a Kernel", "CRF(…)"):
        CrfRnnLayer(None, CLASSES, crf={"type": "Kernel", "features": {"type": "Spatial"}})


# Regions.


def with_regions(rng, order):
    """A layer of a kernel and two regions with random weights, and what it is called with besides the logits."""
    regions = [Regions("ids", order=order), Regions("shares", order=order)]
    made = CrfRnnLayer(None, CLASSES, crf=CRF([smooth], solver=MeanField(3, tolerance=0), regions=regions))
    made.build([(None, None, None, CLASSES), (None, None, None, 3), (None, None, None), (None, None, None, 4)])
    made.set_weights([weight + 0.3 * rng.normal(size=weight.shape) for weight in made.get_weights()])
    ids = rng.integers(-1, 4, size=(2, *SPATIAL))
    return made, ids, rng.uniform(size=(2, *SPATIAL, 4)).astype(np.float32)


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("order", [3, None])
def test_regions(rng, order, compiled):
    """Ids as Keras' inputs give them, in floating-point too, and memberships: as the native backend computes them."""
    made, ids, shares = with_regions(rng, order)
    given = scene(rng, np.float32)
    logits, image, mask, _ = channels_last(given)
    cotangent = rng.normal(size=given.logits.shape).astype(np.float32)
    *weights, M = [weight.astype(np.float64) for weight in made.get_weights()]
    inputs = Inputs(given.logits.astype(float), None, mask, {"ids": ids, "shares": np.moveaxis(shares, -1, 1)})
    couplings = [M @ weight for weight in weights]
    expected, records = batch.forward(made.crf, inputs, couplings, True, Execution())
    gradients = batch.vjp(made.crf, inputs, cotangent.astype(float), records, couplings, Execution(), False)
    to_weights = [M.T @ gradient for gradient in gradients.couplings]
    for kind in (np.int32, np.float32):
        beside = [image, ids.astype(kind), shares]
        found = refined_and_gradients(made, logits, beside, np.moveaxis(cotangent, 1, -1), mask, compiled)
        assert_close(found[0], np.moveaxis(expected, 1, -1), SINGLE.mean_field)
        assert_close(found[1], np.moveaxis(gradients.logits, 1, -1), SINGLE.gradient)
        for ours, theirs in zip(found[2:], to_weights, strict=False):
            assert_close(ours, theirs, SINGLE.gradient)


def test_a_model_with_regions(rng, tmp_path):
    made, ids, shares = with_regions(rng, 3)
    logits, image, _, _ = channels_last(scene(rng, np.float32))
    symbols = [
        keras.Input((None, None, CLASSES)),
        keras.Input((None, None, 3)),
        keras.Input((None, None), dtype="int32"),
        keras.Input((None, None, 4)),
    ]
    model = keras.Model(symbols, made(symbols))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[-1].crf == made.crf
    inputs = [logits, image, ids.astype(np.int32), shares]
    np.testing.assert_array_equal(loaded.predict(inputs, verbose=0), model.predict(inputs, verbose=0))


def test_wrong_segments():
    crf = CRF([], regions=[Regions("ids")])
    with raises_saying(ValueError, "ids has shape (2, 6, 5)", "(2, 5, 6)", "without a channel axis"):
        CrfRnnLayer(None, CLASSES, crf=crf)([LOGITS, IMAGE, np.zeros((2, 6, 5), np.int32)])
    with raises_saying(ValueError, "3 inputs", "layer([logits, image, ids])"):
        CrfRnnLayer(None, CLASSES, crf=crf)([LOGITS, IMAGE])


def test_memberships_that_need_a_gradient(rng):
    """TensorFlow gives None and JAX does not let it pass; PyTorch has it. Other inputs beside regions are alike."""
    made, ids, shares = with_regions(rng, 3)
    logits, image, _, _ = channels_last(scene(rng, np.float32))
    ids = ids.astype(np.int32)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        tensors = [tf.constant(image), tf.constant(shares)]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            refined = made([logits, tensors[0], ids, tensors[1]])
        assert tape.gradient(refined, tensors) == [None, None]
    elif BACKEND == "jax":
        import jax

        weights = [weight.value for weight in made.trainable_variables]
        with pytest.raises(ValueError, match=r"shares requires a gradient.* keras.ops.stop_gradient\(shares\)"):
            jax.grad(lambda each: made.stateless_call(weights, [], [logits, image, ids, each])[0].sum())(shares)
    else:
        import torch

        tensor = torch.tensor(shares, requires_grad=True)
        made([torch.tensor(logits), torch.tensor(image), torch.tensor(ids), tensor]).square().sum().backward()
        assert tensor.grad.abs().max() > 0


def test_learned_deviations_beside_regions(rng):
    logits, image, _, _ = channels_last(scene(rng, np.float32))
    ids = np.zeros((2, *SPATIAL), np.int32)
    made = CrfRnnLayer(None, CLASSES, crf=CRF([smooth], regions=[Regions("ids")]), learn_theta=True)
    if BACKEND == "torch":
        made([logits, image, ids])
    else:
        with raises_saying(UnsupportedError, "learn_theta beside regions", "PyTorch"):
            made([logits, image, ids])
