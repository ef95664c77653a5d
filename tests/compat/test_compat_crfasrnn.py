"""Users of the official PyTorch port on `crfrnn.compat.crfasrnn`: golden outputs and gradients, states, photos."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from errors import raises_saying
from tolerances import GOLDEN

torch = pytest.importorskip("torch", reason="needs the models extra")
pytest.importorskip("safetensors", reason="needs the models extra")

from crfrnn.compat.crfasrnn import util  # noqa: E402
from crfrnn.compat.crfasrnn.crfasrnn_model import CrfRnnNet  # noqa: E402
from crfrnn.compat.crfasrnn.crfrnn import CrfRnn  # noqa: E402
from crfrnn.compat.crfasrnn.params import DenseCRFParams  # noqa: E402
from crfrnn.models import fcn  # noqa: E402
from crfrnn.torch import CrfRnn as Layer  # noqa: E402

pytestmark = pytest.mark.torch

MATRICES = ("spatial_ker_weights", "bilateral_ker_weights", "compatibility_matrix")


def state(crfrnn_layer):
    """The golden layer's, as the port saves it."""
    return {name: torch.from_numpy(crfrnn_layer[name]) for name in MATRICES}


class TestLayer:
    def test_output_and_gradients(self, crfrnn_layer):
        layer = CrfRnn(21, 5)
        layer.load_state_dict(state(crfrnn_layer))
        logits = torch.from_numpy(crfrnn_layer["logits"])[None].requires_grad_()
        refined = layer(torch.from_numpy(crfrnn_layer["image_bgr_mean_subtracted"])[None], logits)
        assert np.abs(refined.detach().numpy()[0] - crfrnn_layer["output"]).max() <= GOLDEN
        (refined[0] * torch.from_numpy(crfrnn_layer["cotangent"])).sum().backward()
        for found, name in ((logits.grad[0], "logits"), *((getattr(layer, name).grad, name) for name in MATRICES)):
            expected = crfrnn_layer[f"grad_{name}"]
            assert np.abs(found.numpy() - expected).max() <= 1e-4 * np.abs(expected).max()

    def test_defaults_and_parameters(self):
        layer = CrfRnn(num_labels=3)
        assert (layer.num_iterations, layer.params.alpha, layer.params.beta, layer.params.gamma) == (5, 160, 3, 3)
        for name, scale in zip(MATRICES, (3, 5, 1), strict=True):
            assert torch.equal(getattr(layer, name).data, scale * torch.eye(3))
        given = DenseCRFParams(alpha=5.0, beta=50.0, spatial_ker_weight=0.5, bilateral_ker_weight=0.7)
        layer = CrfRnn(3, num_iterations=2, crf_init_params=given)
        torch.manual_seed(0)
        image, logits = 100 * torch.rand(2, 3, 6, 7), torch.randn(2, 3, 6, 7)
        ours = Layer(3, 2, 5.0, 50.0, 3.0, 0.5, 0.7, spatial="lattice")
        torch.testing.assert_close(layer(image, logits), ours(logits, image))

    def test_swapped_arguments(self):
        with raises_saying(ValueError, "(1, 3, 6, 7)", "(batch, 21, height, width)", "crf(image, logits)"):
            CrfRnn(21)(torch.zeros(1, 21, 6, 7), torch.zeros(1, 3, 6, 7))


class TestStates:
    """The port's names are ours, and its compatibility has the opposite sign."""

    def test_are_refused_by_our_layer(self, crfrnn_layer):
        layer = Layer(21)
        before = layer.compatibility_matrix.clone()
        with pytest.raises(RuntimeError, match=r"compatibility_matrix has a diagonal of mean .*adds.*crfrnn convert"):
            layer.load_state_dict(state(crfrnn_layer))
        with pytest.raises(RuntimeError, match=r"1\.compatibility_matrix has a diagonal"):
            torch.nn.Sequential(torch.nn.Identity(), layer).load_state_dict(
                {f"1.{name}": tensor for name, tensor in state(crfrnn_layer).items()}, strict=False
            )
        assert torch.equal(layer.compatibility_matrix, before)
        turned = state(crfrnn_layer)
        turned["compatibility_matrix"] = -turned["compatibility_matrix"]
        ours, port = Layer(21, spatial="lattice"), CrfRnn(21)
        ours.load_state_dict(turned)
        port.load_state_dict(state(crfrnn_layer))
        torch.manual_seed(0)
        image, logits = 100 * torch.rand(1, 3, 6, 7), torch.randn(1, 21, 6, 7)
        torch.testing.assert_close(ours(logits, image), port(image, logits))

    @pytest.mark.parametrize("weights", ["full", "per-class", "scalar"])
    def test_of_our_layer_load_whatever_was_learned(self, weights):
        trained = Layer(3, weights=weights, compatibility=weights)
        torch.nn.init.constant_(trained.compatibility_matrix, 1.0)
        file = io.BytesIO()
        torch.save(trained.state_dict(), file)
        file.seek(0)
        Layer(3, weights=weights, compatibility=weights).load_state_dict(torch.load(file))


class TestNetwork:
    def test_the_whole_network(self, monkeypatch, tmp_path):
        monkeypatch.setattr(fcn, "VGG", tuple((2,) * len(widths) for widths in fcn.VGG))
        monkeypatch.setattr(fcn, "FC_CHANNELS", 2)
        torch.manual_seed(0)
        model = CrfRnnNet().eval()
        for parameter in model.score_fr.parameters():
            torch.nn.init.normal_(parameter)
        torch.save(model.state_dict(), tmp_path / "weights.pth")
        again = CrfRnnNet().eval()
        again.load_state_dict(torch.load(tmp_path / "weights.pth"))
        path = tmp_path / "photo.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(path)
        data, height, width, size = util.get_preprocessed_image(str(path))
        assert (data.shape, data.dtype, height, width, size) == ((1, 3, 500, 500), np.float32, 333, 500, (60, 40))
        small = torch.from_numpy(data[:, :, :64, :64].copy())
        with torch.no_grad():
            refined, alone = again(small), fcn.Fcn8s.forward(again, (small + again.mean).flip(1))
            torch.testing.assert_close(refined, again.crfrnn(small, alone))
            assert torch.equal(refined, model(small))
        image = util.get_label_image(refined[0].numpy(), 40, 60, size)
        assert (image.mode, image.size) == ("P", (60, 40))
        with raises_saying(ValueError, "(1, 21, 64, 64)", "(classes, height, width)", "probs[0]"):
            util.get_label_image(refined.numpy(), 40, 60, size)


def test_install(tmp_path):
    program = (
        "from crfrnn.compat.crfasrnn import install; install()\n"
        "from crfasrnn import util; from crfasrnn.crfasrnn_model import CrfRnnNet; from crfasrnn.crfrnn import CrfRnn\n"
        "from crfasrnn.params import DenseCRFParams; from crfasrnn.fcn8s import Fcn8s; print(CrfRnn.__module__)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.stdout == "crfrnn.compat.crfasrnn.crfrnn\n", ended.stderr


def test_weights_of_the_layer_of_this_package_are_refused():
    """They have the same names, and the compatibility has the opposite sign."""
    state = Layer(3).state_dict()
    with pytest.raises(RuntimeError, match=r"diagonal of mean -1, below 0.*Give -compatibility_matrix"):
        CrfRnn(3).load_state_dict(state)
    state["compatibility_matrix"] = -state["compatibility_matrix"]
    CrfRnn(3).load_state_dict(state)
