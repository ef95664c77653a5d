"""The FCNs on VGG-16: against the original's layers written out in NumPy, their geometry on a ramp, sizes and names."""

import numpy as np
import pytest

import keras_fcn8s
from errors import raises_saying
from tolerances import assert_close

torch = pytest.importorskip("torch", reason="needs the models extra")
pytest.importorskip("safetensors", reason="needs the models extra")
from torch.nn import functional  # noqa: E402

from crfrnn.models import Fcn8s, Fcn16s, Fcn32s, fcn  # noqa: E402

pytestmark = pytest.mark.torch

NETWORKS = [Fcn8s, Fcn16s, Fcn32s]
OFFICIAL_NAMES = {
    *(f"conv{block}_{place}" for block, count in keras_fcn8s.CONVOLUTIONS for place in range(1, count + 1)),
    *("fc6", "fc7", "score_fr", "score_pool3", "score_pool4", "upscore2", "upscore_pool4", "upscore8"),
}
RED_MEAN = 123.68


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of two channels a layer."""
    monkeypatch.setattr(fcn, "VGG", tuple((2,) * len(widths) for widths in fcn.VGG))
    monkeypatch.setattr(fcn, "FC_CHANNELS", 2)


def test_equals_the_original_layer_by_layer(rng, narrow):
    layers = keras_fcn8s.random_layers(rng, classes=3, width=2)
    network = Fcn8s(3).double().eval()
    keras_names = {"upscore2": "score2", "upscore_pool4": "score4", "upscore8": "upsample"}
    for key, tensor in network.state_dict().items():
        layer, part = key.split(".")
        array = layers[keras_names.get(layer, layer.replace("_", "-") if "score" in layer else layer)][
            "kernel" if part == "weight" else part
        ]
        tensor.copy_(torch.from_numpy(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array))
    photo = rng.uniform(0, 255, (keras_fcn8s.SIZE, keras_fcn8s.SIZE, 3))
    with torch.no_grad():
        scores = network(torch.from_numpy(photo).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    expected = keras_fcn8s.forward(layers, photo)
    assert expected.shape == (500, 500, 3)
    assert expected.std() > 0.01
    assert_close(scores, expected, 1e-6)  # the mean is float32 in the network


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize(
    ("network", "scored", "stride"),
    [
        (Fcn32s, "score_fr", 32),
        (Fcn16s, "score_fr", 32),
        (Fcn16s, "score_pool4", 16),
        (Fcn8s, "score_fr", 32),
        (Fcn8s, "score_pool4", 16),
        (Fcn8s, "score_pool3", 8),
    ],
)
def test_scores_lie_over_the_pixels_they_are_of(narrow, network, scored, stride, padded):
    """A ramp of red levels goes through every layer unchanged, but that pools take the end of each cell.

    Levels at ends of cells, interpolated between centres of cells, are half a cell more than the ramp.
    """
    made = network(2, padded=padded).eval()
    state = made.state_dict()
    for name, tensor in state.items():
        if name.startswith(("conv", "fc")):
            tensor.zero_()
            if name.endswith("weight"):
                middle = tensor.shape[-1] // 2
                tensor[0, 2 if name == "conv1_1.weight" else 0, middle, middle] = 1
    state[f"{scored}.weight"][0, 0] = 1
    y, x = np.indices((300, 270))
    for levels, axis in ((y, 2), (x, 3)):
        photo = torch.zeros(1, 3, 300, 270)
        photo[0, 0] = torch.from_numpy(200.0 + levels)
        with torch.no_grad():
            scores = made(photo)[:, :1]
        inside = scores.narrow(2, 100, 100).narrow(3, 100, 70)
        ramp = photo[:, :1].narrow(2, 100, 100).narrow(3, 100, 70) - RED_MEAN
        torch.testing.assert_close(inside, ramp + (stride - 1) / 2, atol=2e-3, rtol=0, msg=f"axis {axis}")


@pytest.mark.parametrize("stride", [2, 8, 32])
def test_upsampling_starts_bilinear(rng, stride):
    coarse = torch.from_numpy(rng.normal(size=(1, 3, 5, 6))).float()
    with torch.no_grad():
        grown = fcn._upsampling(3, stride, biased=True)(coarse)
    border = stride // 2
    expected = functional.interpolate(coarse, scale_factor=stride, mode="bilinear", align_corners=False)
    inside = grown[..., border:-border, border:-border][..., stride:-stride, stride:-stride]
    torch.testing.assert_close(inside, expected[..., stride:-stride, stride:-stride])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (1, 70), (33, 32), (97, 45)])
def test_any_size(rng, narrow, network, padded, size):
    made = network(4, padded=padded)
    photo = torch.from_numpy(rng.uniform(0, 255, (2, 3, *size))).float()
    scores = made(photo)
    assert scores.shape == (2, 4, *size)
    torch.nn.init.normal_(made.score_fr.weight)
    made(photo).sum().backward()
    assert made.score_fr.weight.grad.isfinite().all()


def test_padding_changes_no_weights(narrow):
    shapes = [{key: tensor.shape for key, tensor in Fcn8s(3, padded=padded).state_dict().items()} for padded in (0, 1)]
    assert shapes[0] == shapes[1]


def test_names_and_shapes_are_the_official_ones():
    with torch.device("meta"):
        state = Fcn8s().state_dict()
    assert {key.partition(".")[0] for key in state} == OFFICIAL_NAMES
    assert sum(tensor.numel() for tensor in state.values()) == sum(
        int(np.prod(shape)) for parts in keras_fcn8s.shapes().values() for shape in parts.values()
    )
    assert "upscore8.bias" not in state
    assert state["upscore2.bias"].shape == (21,)


def test_bad_number_of_classes():
    with raises_saying(ValueError, "num_classes=0", "at least 1"):
        Fcn8s(0)
