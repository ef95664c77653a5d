"""Models on disk: what goes in comes out, and what is said of files that are damaged or are something else."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crfrnn import CRFParameters
from crfrnn.crf import Exact
from crfrnn.files.classes import class_set
from errors import raises_saying

torch = pytest.importorskip("torch", reason="needs the models extra")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="needs the models extra")

from crfrnn.models import Fcn8s, Fcn16s, Fcn32s, FcnLite, Segmenter, attach, fcn, load_model, save_model, store  # noqa: E402
from crfrnn.torch import CrfRnn  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """VGG networks of two channels a layer."""
    monkeypatch.setattr(fcn, "VGG", tuple((2,) * len(widths) for widths in fcn.VGG))
    monkeypatch.setattr(fcn, "FC_CHANNELS", 2)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A model file of three classes."""
    path = tmp_path / "model.safetensors"
    save_model(path, attach(Fcn32s(3), 3), class_set(3), notes={"licence": "none"})
    return path


def rewritten(file: Path, change=lambda description: None, tensors=lambda state: state) -> Path:
    """The file with its description or its tensors changed."""
    with store.safetensors.safe_open(file, framework="pt") as opened:
        description = json.loads(opened.metadata()[store.HEADER])
    change(description)
    state = tensors(safetensors_torch.load_file(file))
    safetensors_torch.save_file(state, file, {store.HEADER: json.dumps(description)})
    return file


def noisy(segmenter):
    """Its weights and running statistics drawn anew, so that nothing is what a new one has."""
    for tensor in segmenter.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor))
    return segmenter


@pytest.mark.parametrize(
    ("network", "options"), [(FcnLite, {"dropout": 0.3}), (Fcn8s, {}), (Fcn16s, {"padded": False}), (Fcn32s, {})]
)
def test_what_goes_in_comes_out(rng, tmp_path, network, options):
    crf = CrfRnn(
        5, 7, (9.5, 8.5), (20.0, 21.0, 22.0), 2.5, normalization="symmetric", spatial="lattice",
        weights="per-class", compatibility="scalar", damping=0.25, threads=1,
    )  # fmt: skip
    saved = noisy(Segmenter(network(5, **options), crf, mean=(1.0, 2.0, 3.0), std=4.0))
    notes = {"data": "MSRC-21", "größe": "§ 1"}
    save_model(tmp_path / "new" / "model.safetensors", saved, class_set(5), notes=notes)
    model = load_model(tmp_path / "new" / "model.safetensors")
    loaded = model.segmenter
    assert type(loaded.network) is network
    assert loaded.network.options.items() >= {"num_classes": 5, **options}.items()
    assert not loaded.training
    assert repr(loaded.crf) == repr(crf)
    assert loaded.crf.crf == saved.crf.crf
    assert loaded.crf.crf.solver.damping == 0.25
    state = loaded.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in saved.state_dict().items())
    assert model.classes.names == ("class 0", "class 1", "class 2", "class 3", "class 4")
    np.testing.assert_array_equal(model.classes.palette, class_set(5).palette)
    assert model.notes == notes
    photo = torch.from_numpy(rng.uniform(0, 255, (1, 3, 20, 24))).float()
    with torch.no_grad():
        assert torch.equal(loaded(photo), saved.eval()(photo))


@pytest.mark.parametrize("weights", ["full", "per-class", "scalar"])
@pytest.mark.parametrize("compatibility", ["full", "per-class", "scalar"])
def test_every_kind_of_crf(tmp_path, weights, compatibility):
    crf = CrfRnn(3, weights=weights, compatibility=compatibility)
    save_model(tmp_path / "model", noisy(Segmenter(Fcn32s(3), crf)), class_set(3))
    loaded = load_model(tmp_path / "model").segmenter.crf.state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in crf.state_dict().items())


def test_without_a_crf(tmp_path):
    save_model(str(tmp_path / "model"), Segmenter(FcnLite(3), None), class_set(3))
    assert load_model(str(tmp_path / "model")).segmenter.crf is None


def test_half_precision_halves_the_file_and_little_else(rng, tmp_path):
    saved = noisy(attach(FcnLite(21), 21)).eval()
    for half in (False, True):
        save_model(tmp_path / str(half), saved, class_set("voc"), half=half)
    sizes = [(tmp_path / name).stat().st_size for name in ("True", "False")]
    assert sizes[0] < 0.55 * sizes[1]
    assert sizes[0] <= 9e6
    loaded = load_model(tmp_path / "True").segmenter
    for key, tensor in loaded.state_dict().items():
        assert tensor.dtype == saved.state_dict()[key].dtype
        torch.testing.assert_close(tensor, saved.state_dict()[key], rtol=1e-3, atol=1e-7)
    assert torch.equal(loaded.crf.compatibility_matrix, saved.crf.compatibility_matrix)


def test_half_precision_overflow(tmp_path):
    segmenter = Segmenter(Fcn32s(3), None)
    with torch.no_grad():
        segmenter.network.fc7.weight[0, 0] = 1e5
    with raises_saying(ValueError, "network.fc7.weight", "float16", "half=True"):
        save_model(tmp_path / "model", segmenter, class_set(3), half=True)
    assert not list(tmp_path.iterdir())


def test_same_model_same_bytes(tmp_path):
    segmenter = attach(Fcn32s(3), 3)
    for name in ("a", "b"):
        save_model(tmp_path / name, segmenter, class_set(3))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_networks_that_files_cannot_name(tmp_path):
    class Fcn32s(torch.nn.Module):
        pass

    for network in (torch.nn.Conv2d(3, 3, 1), Fcn32s()):
        with raises_saying(ValueError, f"cannot save a {type(network).__name__}", "FcnLite, Fcn8s", "torch.save"):
            save_model(tmp_path / "model", Segmenter(network, None), class_set(3))


def test_names_for_another_number_of_classes(tmp_path):
    with raises_saying(ValueError, "Fcn32s has 3 classes", "4 class names"):
        save_model(tmp_path / "model", Segmenter(Fcn32s(3), None), class_set(4))
    with raises_saying(ValueError, "its CRF-RNN has 3 classes", "4 class names"):
        save_model(tmp_path / "model", attach(Fcn32s(4), 3), class_set(4))


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.999])
def test_truncated_files(file, share):
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with raises_saying(ValueError, "model.safetensors is no complete model file"):
        load_model(file)


def test_other_files(tmp_path, file):
    with raises_saying(ValueError, "nothing.safetensors", "no such file"):
        load_model(tmp_path / "nothing.safetensors")
    with raises_saying(ValueError, "no such file"):
        load_model(tmp_path)
    file.write_bytes(b"no model at all, but some text that is long enough")
    with raises_saying(ValueError, "model.safetensors is no complete model file"):
        load_model(file)
    safetensors_torch.save_file({"weight": torch.ones(3)}, file)
    with raises_saying(ValueError, "model.safetensors holds weights", "not written by crfrnn", "crfrnn convert"):
        load_model(file)


def test_weights_that_do_not_fit_the_description(file):
    content = file.read_bytes()
    cases = [
        (lambda state: {key: state[key] for key in state if key != "network.fc6.bias"}, ["has no network.fc6.bias"]),
        (lambda state: state | {"network.fc8.weight": torch.ones(2)}, ["holds network.fc8.weight", "does not have"]),
        (
            lambda state: state | {"network.fc7.weight": torch.ones(2, 3, 1, 1)},
            ["network.fc7.weight of shape (2, 3, 1, 1)", "expects (2, 2, 1, 1)"],
        ),
    ]
    for tensors, facts in cases:
        file.write_bytes(content)
        with raises_saying(ValueError, "model.safetensors", *facts):
            load_model(rewritten(file, tensors=tensors))


def _features(description):
    """Of the bilateral kernel."""
    return description["crf"]["crf"]["kernels"][1]["features"]


def test_a_file_of_before_crfs_were_one_value(file, tmp_path):
    """Its description held the arguments of the layer."""
    options = {
        "num_classes": 3,
        "num_iterations": 7,
        "theta_alpha": 160.0,
        "theta_beta": [20.0, 21.0, 22.0],
        "theta_gamma": 3.0,
        "normalization": "symmetric",
        "spatial": "lattice",
        "weights": "full",
        "compatibility": "full",
        "damping": 0.25,
        "filter": "lattice",
    }
    old = rewritten(file, lambda description: description.update(crf=options))
    expected = CRFParameters(
        theta_beta=(20, 21, 22), normalization="symmetric", spatial="lattice", iterations=7, damping=0.25
    )
    assert load_model(old).segmenter.crf.crf == expected.crf


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (lambda description: description.update(format=2), ["format 2", "reads 1", "update crfrnn"]),
        (lambda description: description.update(network="SegNet"), ["'SegNet' is unknown", "FcnLite, Fcn8s"]),
        (lambda description: description.update(network=["Fcn8s"]), ["unhashable"]),
        (lambda description: description.update(options={"depth": 3}), ["depth"]),
        (lambda description: description.update(options=None), ["does not describe a model"]),
        (lambda description: _features(description).update(theta_beta=-1), ["theta_beta=-1"]),
        (lambda description: _features(description).update(theta=1), ["Bilateral has no 'theta'"]),
        (lambda description: description.pop("palette"), ["has no 'palette'"]),
        (lambda description: description.update(palette=[[0, 0, 300]] * 3), ["does not describe a model"]),
        (lambda description: description.update(classes=["a"]), ["palette"]),
        (lambda description: description.update(mean=[1, 2]), ["mean=[1, 2]"]),
    ],
)
def test_bad_descriptions(file, change, facts):
    with raises_saying(ValueError, "model.safetensors does not describe a model", *facts):
        load_model(rewritten(file, change))


def test_header_that_is_no_json(file):
    for text in ("{", "[]", "3"):
        safetensors_torch.save_file({"weight": torch.ones(3)}, file, {store.HEADER: text})
        with raises_saying(ValueError, "model.safetensors does not describe a model"):
            load_model(file)


def test_model_of_the_package(file, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "files", lambda package: tmp_path)
    with raises_saying(ValueError, "without a built-in model"):
        load_model()
    (tmp_path / "builtin").mkdir()
    file.rename(tmp_path / "builtin" / "model.safetensors")
    assert load_model().notes == {"licence": "none"}


def test_a_missing_extra_is_named():
    program = "import sys; sys.modules['torch'] = None; import crfrnn.models"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert "crfrnn.models needs torch" in process.stderr
    assert "pip install 'crfrnn[models]'" in process.stderr


def test_the_exact_filter_is_kept(tmp_path):
    saved = Segmenter(FcnLite(5), CrfRnn(5, filter="exact"))
    save_model(tmp_path / "model.safetensors", saved, class_set(5))
    assert load_model(tmp_path / "model.safetensors").segmenter.crf.crf.kernels[1].filter == Exact()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(file, number):
    def spoilt(state):
        state["network.score_fr.bias"][1] = number
        return state

    with raises_saying(ValueError, str(file), "network.score_fr.bias", "NaN or infinite"):
        load_model(rewritten(file, tensors=spoilt))
