"""`CrfRnnLayer` on one backend: values and gradients against the oracles, shapes, masks, types, errors.

`test_keras_backends.py` runs this file on every backend.
"""

import warnings

import keras
import numpy as np
import pytest

from crfrnn import InputWarning, MeanField, _native, upsample
from crfrnn.keras import CrfRnnLayer
from crfrnn.upsampling import interpolate
from keras_calls import (
    BACKEND,
    COMPILED,
    NUMBERS,
    WEIGHTS,
    batch,
    double_precision,
    layer,
    model,
    numpy,
    refined_and_gradients,
    truth,
)
from tolerances import GOLDEN, assert_close, tolerance

SINGLE = tolerance(np.float32)
DOUBLE = tolerance(np.float64)


def assert_gradients(actual, expected, bounds):
    assert_close(actual[0], expected[0], bounds.mean_field)
    for ours, theirs in zip(actual[1:], expected[1:], strict=True):
        assert_close(ours, theirs, bounds.gradient)


def test_the_original_call():
    upscore, img_input = keras.Input((40, 50, 21)), keras.Input((40, 50, 3))
    height, width = 40, 50
    output = CrfRnnLayer(
        image_dims=(height, width),
        num_classes=21,
        theta_alpha=160.0,
        theta_beta=3.0,
        theta_gamma=3.0,
        num_iterations=10,
        name="crfrnn",
    )([upscore, img_input])
    assert output.shape == (None, 40, 50, 21)
    crf = keras.Model([upscore, img_input], output).get_layer("crfrnn")
    assert [weight.name for weight in crf.trainable_weights] == list(WEIGHTS)
    for weight, start in zip(crf.get_weights(), (np.eye(21), np.eye(21), -np.eye(21)), strict=True):
        np.testing.assert_array_equal(weight, start)


@pytest.mark.parametrize("compiled", COMPILED)
def test_the_original_layers_output_and_four_gradients(crfrnn_layer, compiled):
    """That port adds the compatibility where we, like Keras, subtract it: M and its gradient change sign."""
    names = ("logits", "image_bgr_mean_subtracted", "cotangent", "output", "grad_logits")
    golden = {name: np.moveaxis(crfrnn_layer[name], 0, -1)[None] for name in names}
    W_s, W_b, M = (crfrnn_layer[name] for name in WEIGHTS)
    crf = CrfRnnLayer((72, 96), 21, 160.0, 3.0, 3.0, 5, spatial="lattice")
    crf.build([golden["logits"].shape, golden["image_bgr_mean_subtracted"].shape])
    crf.set_weights([W_s, W_b, -M])
    refined, to_logits, to_W_s, to_W_b, to_M = refined_and_gradients(
        crf, golden["logits"], golden["image_bgr_mean_subtracted"], golden["cotangent"], compiled=compiled
    )
    assert np.abs(refined - golden["output"]).max() <= 1e-4
    assert np.abs(to_logits - golden["grad_logits"]).max() <= GOLDEN
    for name, gradient in zip(WEIGHTS, (to_W_s, to_W_b, -to_M), strict=True):
        expected = crfrnn_layer[f"grad_{name}"]
        assert np.abs(gradient - expected).max() <= GOLDEN * max(1, np.abs(expected).max()), name


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize(("spatial", "filter"), [("grid", "lattice"), ("lattice", "lattice"), ("grid", "exact")])
def test_equals_the_reference_and_its_gradients(rng, spatial, filter, compiled):
    crf = layer(rng, spatial=spatial, filter=filter)
    logits, image = batch(rng)
    cotangent = rng.normal(size=logits.shape).astype(np.float32)
    mask = rng.integers(0, 3, size=(2, 6, 7)).astype(np.float32) / 2
    for weight in (None, mask):
        expected = truth(crf, logits, image, weight, cotangent)
        assert_gradients(refined_and_gradients(crf, logits, image, cotangent, weight, compiled), expected, SINGLE)


def test_double_precision(rng):
    with double_precision():
        crf = layer(rng, dtype="float64")
        logits, image = batch(rng, dtype=np.float64)
        cotangent = rng.normal(size=logits.shape)
        expected = truth(crf, logits, image, cotangent=cotangent)
        actual = refined_and_gradients(crf, logits, image, cotangent)
        assert {array.dtype for array in actual} == {np.dtype(np.float64)}
        assert_gradients(actual, expected, DOUBLE)


@pytest.mark.parametrize(("spatial", "channels"), [((13,), 1), ((6, 7), 5), ((3, 4, 5), 2)])
def test_signals_images_and_volumes(rng, spatial, channels):
    crf = layer(rng)
    logits, image = batch(rng, spatial, channels)
    assert_close(numpy(crf([logits, image])), truth(crf, logits, image), SINGLE.mean_field)


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_one_channel_is_the_foreground_of_two_classes(rng, data_format, compiled):
    """Its log-odds, and the gradients to what a layer of two classes has too."""
    axis = -1 if data_format == "channels_last" else 1
    one, two = layer(rng, 1, data_format=data_format), layer(rng, 2, data_format=data_format)
    assert [weight.shape for weight in one.weights] == [(2, 2)] * 3
    two.set_weights(one.get_weights())
    odds, image = (np.moveaxis(array, -1, axis) for array in batch(rng, classes=1))
    logits = np.concatenate([np.zeros_like(odds), odds], axis)
    cotangent = rng.normal(size=odds.shape).astype(np.float32)
    mask = rng.integers(0, 3, size=(2, 6, 7)).astype(np.float32) / 2
    refined, *gradients = refined_and_gradients(one, odds, image, cotangent, mask, compiled)
    assert refined.shape == odds.shape
    both = np.concatenate([-cotangent, cotangent], axis)
    expected, to_logits, *to_weights = refined_and_gradients(two, logits, image, both, mask, compiled)
    assert_close(refined, np.diff(expected, axis=axis), SINGLE.mean_field)
    assert_gradients(gradients, [np.take(to_logits, [1], axis), *to_weights], SINGLE)


def test_a_model_of_one_channel(rng):
    crf = layer(rng, 1)
    odds, image = batch(rng, classes=1)
    expected = truth(crf, np.concatenate([np.zeros_like(odds), odds], axis=-1), image)
    assert crf.compute_output_shape([odds.shape, image.shape]) == odds.shape
    assert_close(model(crf).predict([odds, image], verbose=0), np.diff(expected), SINGLE.mean_field)
    assert CrfRnnLayer.from_config(crf.get_config()).num_classes == 1


def test_channels_first_are_the_same_numbers(rng):
    last = layer(rng)
    first = layer(rng, data_format="channels_first")
    first.set_weights(last.get_weights())
    logits, image, cotangent = *batch(rng), rng.normal(size=(2, 6, 7, 4)).astype(np.float32)
    turned = [np.ascontiguousarray(np.moveaxis(array, -1, 1)) for array in (logits, image, cotangent)]
    expected = refined_and_gradients(last, logits, image, cotangent)
    actual = refined_and_gradients(first, *turned)
    for array, other in zip(actual[:2], expected[:2], strict=True):
        np.testing.assert_array_equal(np.moveaxis(array, 1, -1), other)
    for array, other in zip(actual[2:], expected[2:], strict=True):
        np.testing.assert_array_equal(array, other)


def test_the_default_data_format_is_that_of_keras():
    assert CrfRnnLayer(None, 4).data_format == "channels_last"
    keras.config.set_image_data_format("channels_first")
    try:
        assert CrfRnnLayer(None, 4).data_format == "channels_first"
    finally:
        keras.config.set_image_data_format("channels_last")


def test_every_image_of_a_batch_is_refined_like_alone_at_any_size(rng):
    crf = layer(rng)
    refine = model(crf)
    for spatial, size in (((6, 7), 5), ((9, 4), 3), ((1, 1), 1)):
        logits, image = batch(rng, spatial, size=size)
        together = refine.predict([logits, image], batch_size=2, verbose=0)
        for index in range(size):
            alone = numpy(crf([logits[index : index + 1], image[index : index + 1]]))[0]
            np.testing.assert_array_equal(together[index], alone)


def test_mask_of_the_call_and_masks_of_keras_are_the_same(rng):
    crf = layer(rng)
    logits, image = batch(rng)
    image[:, :, 4:] = 0
    mask = (image != 0).any(axis=-1)
    expected = truth(crf, logits, image, mask)
    assert_close(numpy(crf([logits, image], mask=mask)), expected, SINGLE.mean_field)
    inputs = keras.Input((None, None, 4)), keras.Input((None, None, 3))
    refined = crf([inputs[0], keras.layers.Masking()(inputs[1])])
    masked = keras.Model(
        inputs, [refined, keras.layers.Lambda(lambda _, mask: mask, output_shape=lambda s: s[:-1])(refined)]
    )
    values, passed_on = masked.predict([logits, image], verbose=0)
    assert_close(values, expected, SINGLE.mean_field)
    np.testing.assert_array_equal(passed_on, mask)
    half = np.tile(np.arange(6)[:, None] < 3, (2, 1, 7))
    both = numpy(crf([logits, image], mask=[mask, half]))
    assert_close(both, truth(crf, logits, image, mask & half), SINGLE.mean_field)


def test_what_a_mask_hides_is_not_listened_to(rng):
    crf = layer(rng)
    logits, image = batch(rng)
    mask = np.ones((2, 6, 7), bool)
    mask[:, :, 4:] = False
    other = logits.copy()
    other[:, :, 4:] += 5
    one, two = (numpy(crf([scores, image], mask=mask))[:, :, :4] for scores in (logits, other))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(("policy", "dtype"), [("mixed_float16", "float16"), ("mixed_bfloat16", "bfloat16")])
def test_mixed_precision_is_computed_in_float32(rng, policy, dtype):
    crf = layer(rng, dtype=policy)
    full = layer(rng)
    full.set_weights(crf.get_weights())
    assert {weight.dtype for weight in crf.weights} == {"float32"}
    logits, image = batch(rng)
    refined = crf([logits, image])
    assert keras.backend.standardize_dtype(refined.dtype) == dtype
    expected = keras.ops.cast(full([logits, image]), dtype)
    np.testing.assert_array_equal(numpy(keras.ops.cast(refined, "float32")), numpy(keras.ops.cast(expected, "float32")))
    symbols = keras.Input((6, 7, 4)), keras.Input((6, 7, 3))
    assert crf(symbols).dtype == dtype
    half = keras.ops.cast(keras.ops.convert_to_tensor(logits), dtype)
    assert keras.backend.standardize_dtype(crf([half, image]).dtype) == dtype


def test_image_types_do_not_matter(rng):
    crf = layer(rng)
    logits, image = batch(rng)
    image = image.round()
    expected = numpy(crf([logits, image]))
    for dtype in (np.uint8, np.int32, np.float64):
        np.testing.assert_array_equal(numpy(crf([logits, image.astype(dtype)])), expected)


def test_inputs_are_left_as_they_were(rng):
    logits, image = batch(rng)
    cotangent = rng.normal(size=logits.shape).astype(np.float32)
    before = [array.copy() for array in (logits, image, cotangent)]
    refined_and_gradients(layer(rng), logits, image, cotangent)
    for array, copy in zip((logits, image, cotangent), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("iterations", [0, 1, 10])
def test_iterations_may_be_set(rng, iterations):
    crf = layer(rng)
    logits, image = batch(rng)
    crf.num_iterations = iterations
    assert_close(numpy(crf([logits, image])), truth(crf, logits, image), SINGLE.mean_field)
    assert crf.get_config()["num_iterations"] == iterations


def test_shapes_without_data():
    crf = CrfRnnLayer(None, 4)
    spec = crf.compute_output_spec([keras.KerasTensor((None, 5, None, 4)), keras.KerasTensor((None, 5, None, 3))])
    assert (spec.shape, spec.dtype) == ((None, 5, None, 4), "float32")
    assert crf.compute_output_shape([(2, 5, 6, 4), (2, 5, 6, 3)]) == (2, 5, 6, 4)
    first = CrfRnnLayer(None, 4, data_format="channels_first")
    assert first([keras.Input((4, None, None)), keras.Input((3, None, None))]).shape == (None, 4, None, None)


def test_config_makes_an_equal_layer(rng):
    crf = layer(
        rng,
        theta_alpha=(5.0, 4.0),
        theta_beta=(60.0, 50.0, 40.0),
        spatial="lattice",
        data_format="channels_first",
        tolerance=0.01,
        name="crf",
        dtype="mixed_float16",
    )
    crf.image_dims = (6, 7)
    copy = CrfRnnLayer.from_config(crf.get_config())
    assert copy.get_config() == crf.get_config()
    assert copy.tolerance == 0.01
    crf.tolerance = 0.02
    assert CrfRnnLayer.from_config(crf.get_config()).tolerance == 0.02
    data = keras.saving.serialize_keras_object(crf)
    assert data["registered_name"] == "crfrnn>CrfRnnLayer"
    assert keras.saving.deserialize_keras_object(data).get_config() == crf.get_config()


def test_config_without_a_tolerance_has_the_default(rng):
    """As earlier versions wrote it."""
    config = layer(rng).get_config()
    del config["tolerance"]
    assert CrfRnnLayer.from_config(config).tolerance == MeanField().tolerance


@pytest.mark.parametrize("compiled", COMPILED)
def test_work_is_left_out_where_no_gradient_is_wanted(rng, compiled, monkeypatch):
    given, native = [], _native.mean_field32
    monkeypatch.setattr(_native, "mean_field32", lambda *a: given.append((a[9], a[10] is not None)) or native(*a))
    crf = layer(rng, tolerance=0.01)
    logits, image = batch(rng)
    model(crf).predict([logits, image], verbose=0)
    assert set(given) == {(0.01, False)}
    given.clear()
    refined_and_gradients(crf, logits, [image], np.ones_like(logits), None, compiled)
    assert set(given) <= {(0.01, False), (0.0, True)}
    assert (0.0, True) in given


ZEROS = np.zeros((2, 5, 6, 4), np.float32), np.zeros((2, 5, 6, 3), np.float32)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([ZEROS[0][..., :3], ZEROS[1]],), r"\(2, 5, 6, 3\), with 3 classes on axis -1.* made for 4 classes"),
        (([ZEROS[1], ZEROS[0]],), "the logits come first, then the image"),
        (([ZEROS[0][0, 0], ZEROS[1]],), r"\(6, 4\); expected \(batch, \*spatial, 4\) with 1 to 3 spatial axes"),
        (([ZEROS[0][:0], ZEROS[1][:0]],), r"\(0, 5, 6, 4\), which holds nothing"),
        (([ZEROS[0], ZEROS[1][:, :, :5]],), r"image has shape \(2, 5, 5, 3\); expected \(2, 5, 6, channels\)"),
        (([ZEROS[0], ZEROS[1][:1]],), r"image has shape \(1, 5, 6, 3\); expected \(2, 5, 6, channels\)"),
        (([ZEROS[0], ZEROS[1][..., 0]],), r"image has shape \(2, 5, 6\); expected \(2, 5, 6, channels\)"),
        (([ZEROS[0], ZEROS[1][..., :0]],), "at least one channel"),
        (([*ZEROS, ZEROS[0]],), "two inputs, .* not with a list of 3"),
        ((ZEROS[0],), r"two inputs, layer\(\[logits, image\]\), not with one "),
        ((list(ZEROS), np.ones((2, 5, 6, 1))), r"mask has shape \(2, 5, 6, 1\); expected \(2, 5, 6\), without a chan"),
    ],
)
def test_bad_shapes_are_named(arguments, words):
    inputs, *mask = arguments
    with pytest.raises(ValueError, match=words):
        CrfRnnLayer(None, 4)(inputs, mask=mask[0] if mask else None)


def test_the_size_given_is_the_size_taken():
    crf = CrfRnnLayer((5, 7), 4)
    with pytest.raises(ValueError, match=r"size \(5, 6\), .* image_dims=\(5, 7\); image_dims=None takes any size"):
        crf(list(ZEROS))
    with pytest.raises(ValueError, match=r"image_dims=\(5, 7\)"):
        crf([keras.Input((5, 6, 4)), keras.Input((5, 6, 3))])


def test_sizes_that_are_only_known_at_run_time_are_checked_then(rng):
    refine = model(layer(rng))
    logits, image = batch(rng)
    with pytest.raises(Exception, match=r"image has shape \(2, 6, 5, 3\)"):
        refine.predict([logits, image[:, :, :5]], verbose=0)


def test_scores_that_are_not_finite_are_named(rng):
    crf = layer(rng)
    logits, image = batch(rng)
    logits[1, 2, 3, 0] = np.nan
    words = r"logits\[1\] holds 1 NaN .* at \[0, 2, 3\]"
    for call in (lambda: numpy(crf([logits, image])), lambda: model(crf).predict([logits, image], verbose=0)):
        with pytest.raises(Exception, match=words):
            call()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_classes": 0}, "num_classes=0 must be at least 1"),
        ({"image_dims": (0, 5)}, r"shape \(0, 5\) is no grid"),
        ({"theta_beta": 0}, "theta_beta=0 must be .* above 0"),
        ({"tolerance": 1}, "tolerance=1.0 must be at least 0 and below 1"),
        ({"num_iterations": -1}, "num_iterations=-1 must be at least 0"),
        ({"spatial": "exact"}, "spatial='exact' is unknown; use 'grid', 'lattice'"),
        ({"data_format": "last"}, "data_format='last' is unknown; use 'channels_last', 'channels_first'"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        CrfRnnLayer(**{"image_dims": None, "num_classes": 4, **NUMBERS, **options})


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("method", ["joint-bilateral", "bilinear"])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_logits_smaller_than_the_image(rng, data_format, method, compiled):
    """Values and gradients: those of the layer at the image's size, through the map as a dense matrix."""
    axis = -1 if data_format == "channels_last" else 1
    crf = layer(rng, data_format=data_format, upsampling=method)
    logits, _ = batch(rng, (3, 3))
    image = batch(rng)[1]
    bring = upsample if method == "joint-bilateral" else interpolate
    maps = [bring(np.eye(9, dtype=np.float32).reshape(9, 3, 3), each).reshape(9, 42).T for each in image]
    larger = np.stack([(L @ each.reshape(9, -1)).reshape(6, 7, -1) for L, each in zip(maps, logits, strict=True)])
    cotangent = rng.normal(size=larger.shape).astype(np.float32)
    expected = list(truth(crf, larger, image, None, cotangent))
    back = [L.T @ each.reshape(42, -1) for L, each in zip(maps, expected[1], strict=True)]
    expected[1] = np.stack(back).reshape(logits.shape)
    given = [np.moveaxis(array, -1, axis) for array in (logits, image, cotangent)]
    refined, to_logits, *to_weights = refined_and_gradients(crf, *given, compiled=compiled)
    # On PyTorch θ_β is found in float32, and rounding decides which simplex a point on a border is in.
    bound = 2e-2 if (BACKEND, method) == ("torch", "joint-bilateral") else SINGLE.gradient
    found = [np.moveaxis(array, axis, -1) for array in (refined, to_logits)]
    for ours, theirs in zip([*found, *to_weights], expected, strict=True):
        assert_close(ours, theirs, bound)


def test_upsampling_in_models_of_any_size(rng):
    crf = layer(rng, upsampling="joint-bilateral")
    whole = model(crf)
    assert whole.output_shape == (None, None, None, 4)
    for low, grid in (((3, 4), (6, 9)), ((5, 6), (5, 6))):
        (logits, _), (_, image) = batch(rng, low), batch(rng, grid)
        assert_close(numpy(whole([logits, image])), numpy(crf([logits, image])), SINGLE.mean_field)
    assert CrfRnnLayer.from_config(crf.get_config()).upsampling == "joint-bilateral"
    fixed = CrfRnnLayer((6, 9), 4, upsampling="bilinear")([keras.Input((3, 4, 4)), keras.Input((6, 9, 3))])
    assert fixed.shape == (None, 6, 9, 4)


def test_logits_of_fewer_pixels_are_interpolated_with_a_warning(rng):
    logits, image = rng.normal(size=(2, 3, 4, 4)).astype(np.float32), 255 * rng.random((2, 6, 8, 3)).astype(np.float32)
    crf = layer(rng)
    larger = np.stack([np.moveaxis(interpolate(np.moveaxis(each, -1, 0), image[0]), 0, -1) for each in logits])
    with pytest.warns(InputWarning, match="logits are 3 × 4 pixels and the image 6 × 8"):
        found = crf([logits, image])
    assert_close(numpy(found), numpy(crf([larger, image])), SINGLE.mean_field)
    assert crf.compute_output_shape([logits.shape, image.shape]) == (2, 6, 8, 4)


@pytest.mark.parametrize(
    ("shapes", "options", "words"),
    [
        (((2, 5, 8, 4), (2, 6, 8, 3)), {}, "brings scores to the size of the image"),
        (((2, 9, 4, 4), (2, 6, 8, 3)), {"upsampling": "bilinear"}, r"more than \(6, 8\) pixels"),
        (((2, 3, 4, 4), (3, 6, 8, 3)), {"upsampling": "bilinear"}, r"image has shape \(3, 6, 8, 3\)"),
        (((2, 3, 4, 5), (2, 6, 8, 3)), {"upsampling": "bilinear"}, "5 classes on axis -1"),
        (((2, 3, 4, 4), (2, 6, 8, 3)), {"upsampling": "nearest"}, "upsampling='nearest' is unknown"),
    ],
)
def test_errors_of_upsampling(shapes, options, words):
    with pytest.raises(Exception, match=words):  # of TensorFlow and JAX, where arrays are looked at in a callback
        CrfRnnLayer(None, 4, **options)([np.zeros(shape, np.float32) for shape in shapes])


def test_levels_far_from_theta_beta_are_said_once():
    """In every way of running, compiled programs included; and not where the range was said."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (2, 12, 14, 3)).astype(np.float32)
    image = random.random((2, 12, 14, 3)).astype(np.float32)

    def said(crf, levels, run):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run(crf, levels)
        return [str(each.message) for each in caught if each.category is InputWarning]

    def eagerly(crf, levels):
        for _ in range(2):
            numpy(crf([logits, levels]))

    def predicted(crf, levels):
        inputs = keras.Input((12, 14, 3)), keras.Input((12, 14, 3))
        whole = keras.Model(inputs, crf(inputs))
        for _ in range(2):
            whole.predict([logits, levels], verbose=0)

    for iterations, run in ((2, eagerly), (3, predicted)):
        (message,) = said(CrfRnnLayer(None, 3, num_iterations=iterations), image, run)
        assert "theta_beta=3" in message
        assert "image_range=(0, 1)" in message
        told = CrfRnnLayer(None, 3, num_iterations=iterations, image_range=(0, 1))
        assert said(told, image, run) == []
        assert said(CrfRnnLayer(None, 3, num_iterations=iterations + 2), 255 * image, run) == []
        other = CrfRnnLayer.from_config(told.get_config())
        assert other.image_range == (0, 1)
        plain = CrfRnnLayer(None, 3, num_iterations=iterations)
        assert_close(numpy(other([logits, image])), numpy(plain([logits, 255 * image])), 1e-3)


@pytest.mark.parametrize("value", ["yes", None, 2, np.array([True, False])], ids=str)
def test_learn_theta_is_a_flag(value):
    with pytest.raises(TypeError, match=r"learn_theta=.* must be True or False"):
        CrfRnnLayer(None, 3, learn_theta=value)
