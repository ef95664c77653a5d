"""The published network in Keras: layers, names and weight files of the original, any size; the original's helpers.

`test_keras_backends.py` runs this file on every backend.
"""

from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from PIL import Image

import keras_fcn8s
from crfrnn.crf import Lattice
from crfrnn.files.palette import voc_palette
from crfrnn.keras import fcn8s, get_crfrnn_model_def, get_label_image, get_preprocessed_image
from crfrnn.keras import model as definition
from errors import raises_saying
from keras_calls import BACKEND, WEIGHTS, numpy
from tolerances import assert_close

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CLASSES = 3
ORDER = (
    *(f"conv{block}_{place}" for block, count in keras_fcn8s.CONVOLUTIONS for place in range(1, count + 1)),
    *("fc6", "fc7", "score-fr", "score-pool4", "score2", "score-pool3", "score4", "upsample", "crfrnn"),
)
"""Of the layers with weights in the original's file, which Keras finds by their depth in the graph."""


@pytest.fixture
def narrow(monkeypatch):
    """Networks of two channels a layer."""
    monkeypatch.setattr(definition, "VGG", tuple((2,) * len(widths) for widths in definition.VGG))
    monkeypatch.setattr(definition, "FC_CHANNELS", 2)


@pytest.fixture
def layers(rng):
    """Random weights of a narrow network and its CRF-RNN, by the original's names."""
    made = keras_fcn8s.random_layers(rng, CLASSES, width=2)
    made["crfrnn"] = {name: 0.1 * rng.normal(size=(CLASSES, CLASSES)) for name in WEIGHTS}
    return {name: {part: array.astype(np.float32) for part, array in made[name].items()} for name in ORDER}


@pytest.fixture
def weight_file(tmp_path, layers):
    """A file as Keras 2 wrote it."""
    path = tmp_path / "crfrnn_keras_model.h5"
    write(path, layers)
    return path


def write(path, layers):
    with h5py.File(path, "w") as file:
        file.attrs["backend"] = np.bytes_("tensorflow")
        file.attrs["keras_version"] = np.bytes_("2.0.6")
        names = ["input_1", "zero_padding2d_1", *layers]
        file.attrs["layer_names"] = [np.bytes_(name) for name in names]
        for name in names:
            group = file.create_group(name)
            arrays = {f"{name}/{part}:0": array for part, array in layers.get(name, {}).items()}
            group.attrs["weight_names"] = [np.bytes_(key) for key in arrays]
            for key, array in arrays.items():
                group.create_dataset(key, data=array)


def assert_loaded(model, layers):
    for name, parts in layers.items():
        for weight, array in zip(model.get_layer(name).get_weights(), parts.values(), strict=True):
            np.testing.assert_array_equal(weight, array, err_msg=name)


def preprocessed(photo):
    return (photo[None, ..., ::-1] - keras_fcn8s.BGR_MEAN).astype(np.float32)


def test_names_and_shapes_are_the_official_ones():
    with keras.StatelessScope(initialize_variables=False):  # half a gigabyte of weights, described but not made
        model = get_crfrnn_model_def()
    assert (model.input_shape, model.output_shape) == ((None, 500, 500, 3), (None, 500, 500, 21))
    made = {
        layer.name: {weight.name: tuple(weight.shape) for weight in layer.weights}
        for layer in model.layers
        if layer.weights
    }
    crfrnn = made.pop("crfrnn")
    assert made == keras_fcn8s.shapes()
    assert crfrnn == dict.fromkeys(WEIGHTS, (21, 21))
    config = model.get_layer("crfrnn").get_config()
    expected = {"image_dims": (500, 500), "num_classes": 21, "num_iterations": 10}
    expected |= {"theta_alpha": 160.0, "theta_beta": 3.0, "theta_gamma": 3.0}
    assert {name: config[name] for name in expected} == expected
    assert model.get_layer("crfrnn").crf.kernels[0].filter == Lattice()


def test_the_official_file_is_loaded_as_ever(narrow, monkeypatch, layers, weight_file):
    model = fcn8s(CLASSES, (500, 500))
    model.load_weights(weight_file)
    assert_loaded(model, layers)


@pytest.mark.parametrize("padded", [True, False])
def test_the_official_file_is_loaded_by_name_for_any_size(narrow, layers, weight_file, padded):
    model = fcn8s(CLASSES, padded=padded)
    model.load_weights(weight_file, by_name=True)
    assert_loaded(model, layers)


def test_a_file_that_does_not_fit_names_the_layer(narrow, layers, tmp_path):
    path = tmp_path / "other.h5"
    layers["fc7"]["kernel"] = layers["fc7"]["kernel"][:, :, :1]
    write(path, layers)
    for more in ({}, {"by_name": True}):
        with pytest.raises(ValueError, match=r"named fc7"):
            fcn8s(CLASSES, (500, 500)).load_weights(path, **more)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(OSError, match="truncated"):
        fcn8s(CLASSES, (500, 500)).load_weights(path)


def test_equals_the_original_layer_by_layer(rng, narrow, layers, weight_file):
    photo = rng.uniform(0, 255, (keras_fcn8s.SIZE, keras_fcn8s.SIZE, 3))
    expected = keras_fcn8s.forward(layers, photo)
    fixed, free = fcn8s(CLASSES, (500, 500), crf=False), fcn8s(CLASSES, crf=False)
    for model in (fixed, free):
        model.load_weights(weight_file, by_name=True)
        scores = model.predict(preprocessed(photo), verbose=0)[0]
        assert_close(scores, expected, 1e-4)


@pytest.mark.skipif(BACKEND != "torch", reason="both sides are PyTorch")
@pytest.mark.parametrize("padded", [True, False])
def test_equals_the_network_of_pytorch_with_the_same_file(rng, narrow, monkeypatch, weight_file, padded):
    import torch

    models = pytest.importorskip("crfrnn.models", reason="needs the models extra", exc_type=ImportError)
    from crfrnn.torch import CrfRnn

    monkeypatch.setattr(models.fcn, "VGG", tuple((2,) * len(widths) for widths in models.fcn.VGG))
    monkeypatch.setattr(models.fcn, "FC_CHANNELS", 2)
    segmenter = models.Segmenter(models.Fcn8s(CLASSES, padded=padded), CrfRnn(CLASSES, 10, spatial="lattice")).eval()
    models.load_official(segmenter, weight_file)
    model = fcn8s(CLASSES, padded=padded)
    model.load_weights(weight_file, by_name=True)
    photo = rng.uniform(0, 255, (61, 83, 3)).astype(np.float32)
    image = preprocessed(photo)
    # A lattice depends, a little, on where the origin of the colours is: both see the same image.
    with torch.no_grad():
        scores = segmenter.network(torch.from_numpy(photo).permute(2, 0, 1)[None])
        expected = segmenter.crf(scores, torch.from_numpy(image).permute(0, 3, 1, 2))[0].permute(1, 2, 0)
    assert_close(model.predict(image, verbose=0)[0], expected, 1e-4)


@pytest.mark.parametrize("padded", [True, False])
def test_any_size(rng, narrow, padded):
    model = fcn8s(4, padded=padded, crf=False)
    for size in ((1, 1), (33, 70)):
        assert model.predict_on_batch(rng.uniform(-100, 100, (2, *size, 3))).shape == (2, *size, 4)


def test_a_model_of_any_size_trains_and_is_saved(rng, narrow, tmp_path):
    model = fcn8s(4, padded=False)
    model.get_layer("crfrnn").num_iterations = 1
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)
    model.compile(keras.optimizers.SGD(1e-3), loss)
    photo = rng.uniform(-100, 100, (2, 33, 70, 3)).astype(np.float32)
    before = model.get_layer("score-fr").get_weights()[1]
    assert np.isfinite(model.train_on_batch(photo, rng.integers(0, 4, (2, 33, 70))))
    assert np.abs(model.get_layer("score-fr").get_weights()[1] - before).max() > 0
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict_on_batch(photo), model.predict_on_batch(photo))


def test_upsampling_starts_bilinear(rng, narrow):
    model = fcn8s(CLASSES)
    coarse = rng.normal(size=(1, 5, 6, CLASSES)).astype(np.float32)
    for name, stride in (("score2", 2), ("score4", 2), ("upsample", 8)):
        grown = numpy(model.get_layer(name)(coarse))[0]
        inside = grown[stride // 2 : -(stride // 2), stride // 2 : -(stride // 2)][stride:-stride, stride:-stride]
        for channel in range(CLASSES):
            plane = Image.fromarray(coarse[0, :, :, channel])
            bilinear = np.asarray(plane.resize((6 * stride, 5 * stride), Image.BILINEAR))[
                stride:-stride, stride:-stride
            ]
            np.testing.assert_allclose(inside[..., channel], bilinear, atol=1e-5)


def test_bad_number_of_classes():
    with raises_saying(ValueError, "num_classes=0", "at least 1"):
        fcn8s(0)


def test_photos_become_input(rng, tmp_path):
    """Those with a side of 500 pixels as they are, others scaled to it."""
    photo = rng.integers(0, 256, (500, 300, 3), np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    data, height, width, size = get_preprocessed_image(str(path))
    assert (data.shape, data.dtype, height, width, size) == ((1, 500, 500, 3), np.float32, 500, 300, (300, 500))
    np.testing.assert_allclose(data[0, :, :300], preprocessed(photo)[0], atol=1e-4)
    assert not data[0, :, 300:].any()
    for size, expected in (((30, 20), (333, 500)), ((1200, 600), (250, 500))):
        Image.new("RGB", size, (200, 100, 50)).save(path)
        data, *found = get_preprocessed_image(path)
        assert found == [*expected, size]
        np.testing.assert_allclose(
            data[0, 10, 10], preprocessed(np.full((1, 1, 3), (200, 100, 50)))[0, 0, 0], atol=1e-4
        )
        assert not data[0, expected[0] :].any()
    with raises_saying(ValueError, "missing.png", "there is no such file"):
        get_preprocessed_image(tmp_path / "missing.png")


def test_output_becomes_a_label_image(rng):
    probs = rng.normal(size=(50, 60, 21)).astype(np.float32)
    for given in (probs, keras.ops.convert_to_tensor(probs)):
        image = get_label_image(given, 20, 30)
        assert (image.mode, image.size) == ("P", (30, 20))
        np.testing.assert_array_equal(np.asarray(image), probs[:20, :30].argmax(axis=2))
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), voc_palette()[np.asarray(image)])
        scaled = get_label_image(given, 20, 30, (60, 40))
        np.testing.assert_array_equal(np.asarray(scaled), np.asarray(image).repeat(2, 0).repeat(2, 1))


def test_output_that_is_no_label_image():
    probs = np.zeros((1, 50, 60, 21), np.float32)
    with raises_saying(ValueError, "(1, 50, 60, 21)", "(height, width, classes)", "pass probs[0]"):
        get_label_image(probs, 20, 30)
    with raises_saying(ValueError, "img_h=20, img_w=61", "50 × 60"):
        get_label_image(probs[0], 20, 61)
    with raises_saying(ValueError, "257 classes", "1 to 256"):
        get_label_image(np.zeros((2, 2, 257)), 2, 2)


def test_the_example_trains(rng, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="the example draws with matplotlib")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import keras_msrc21 as example

    monkeypatch.setattr(example, "CHANNELS", (4, 4, 4))
    monkeypatch.setattr(example, "SIZE", (16, 8))
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name, size in (("wide", (32, 16)), ("high", (16, 32)), ("other", (32, 16))):
        photo = rng.integers(0, 256, (*size[::-1], 3), np.uint8)
        Image.fromarray(photo).save(tmp_path / f"images/{name}.jpg")
        labels = (photo[..., 0] // 128).astype(np.uint8)
        labels[:2] = 255
        Image.fromarray(labels).save(tmp_path / f"labels/{name}.png")
    (tmp_path / "train.txt").write_text("wide\nhigh\nother\n")
    (tmp_path / "val.txt").write_text("high\n")
    example.main([str(tmp_path), "-o", str(tmp_path / "out"), "--epochs", "2"])
    lines = (tmp_path / "out" / f"{BACKEND}.csv").read_text().splitlines()
    assert (lines[0], len(lines)) == ("epoch,loss", 3)
    assert Image.open(tmp_path / "out" / "loss.png").size == (720, 420)
    assert "pixels right on val: network alone" in capsys.readouterr().out
