"""`Segmenter` and `attach`: every way networks answer, sizes, masks, gradients, and what is said of misfits."""

from types import SimpleNamespace

import numpy as np
import pytest

from errors import raises_saying

torch = pytest.importorskip("torch", reason="needs the models extra")
pytest.importorskip("safetensors", reason="needs the models extra")
from torch import nn  # noqa: E402

from crfrnn.models import Segmenter, attach  # noqa: E402
from crfrnn.torch import CrfRnn  # noqa: E402

pytestmark = pytest.mark.torch

CLASSES = 4
CRF = {"theta_alpha": 7.3, "theta_beta": 31.7, "theta_gamma": 1.57}


class Answering(nn.Module):
    """A 1×1 convolution whose answer is wrapped."""

    def __init__(self, wrapped=lambda logits: logits, classes=CLASSES, stride=1):
        super().__init__()
        self.score = nn.Conv2d(3, classes, 1, stride=stride)
        nn.init.normal_(self.score.weight, std=0.02)
        self.wrapped = wrapped

    def forward(self, images):
        return self.wrapped(self.score(images))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def photos(rng):
    """Two photos (2, 3, 13, 17) of flat colours with noise."""
    flat = np.repeat(np.repeat(rng.uniform(0, 255, (2, 3, 4, 5)), 4, axis=2), 4, axis=3)[..., :13, :17]
    return torch.from_numpy(flat + rng.normal(0, 3, flat.shape)).float().clamp(0, 255)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda logits: logits,
        lambda logits: {"out": logits, "aux": -logits},
        lambda logits: {"loss": logits.sum(), "logits": logits},
        lambda logits: SimpleNamespace(logits=logits),
    ],
    ids=["tensor", "out", "logits", "attribute"],
)
def test_every_way_to_answer(photos, wrapped):
    segmenter = attach(Answering(wrapped), CLASSES, **CRF)
    plain = segmenter.network.score(photos)
    assert torch.equal(segmenter.unary(photos), plain)
    assert torch.equal(segmenter(photos), segmenter.crf(plain, photos))
    assert not torch.equal(segmenter(photos), plain)


def test_without_a_crf(photos):
    segmenter = Segmenter(Answering(), None)
    assert torch.equal(segmenter(photos), segmenter.network(photos))


def test_smaller_logits_are_stretched(photos):
    segmenter = Segmenter(Answering(stride=4), None)
    coarse = segmenter.network(photos)
    assert coarse.shape[-2:] == (4, 5)
    logits = segmenter(photos)
    assert logits.shape[-2:] == (13, 17)
    # Pixel centres at (x + ½) · 5 / 17 - ½ of the coarse grid, by hand.
    x = (8 + 0.5) * 5 / 17 - 0.5
    y = (6 + 0.5) * 4 / 13 - 0.5
    assert (x, y) == (2.0, 1.5)
    torch.testing.assert_close(logits[..., 6, 8], (coarse[..., 1, 2] + coarse[..., 2, 2]) / 2)


def test_network_sees_normalised_levels_and_the_crf_the_photo(photos):
    mean, std = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)
    segmenter = attach(Answering(), CLASSES, mean=mean, std=std, **CRF)
    column = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
    normalised = (photos - column[0]) / column[1]
    plain = segmenter.network(normalised)
    torch.testing.assert_close(segmenter.unary(photos), plain)
    torch.testing.assert_close(segmenter(photos), segmenter.crf(plain, photos))
    alike = Segmenter(segmenter.network, None, mean=3.0)
    torch.testing.assert_close(alike(photos), segmenter.network(photos - 3))
    assert set(segmenter.state_dict()) == {
        *("network.score.weight", "network.score.bias"),
        *("crf.spatial_ker_weights", "crf.bilateral_ker_weights", "crf.compatibility_matrix"),
    }


def test_bytes_are_levels(photos):
    segmenter = attach(Answering(), CLASSES, **CRF)
    photos = photos.round()
    torch.testing.assert_close(segmenter(photos.byte()), segmenter(photos))


def test_padding_is_left_out(rng, photos):
    """Whatever the network says of the padding changes nothing in the photo where the mask leaves it out."""
    mask = torch.zeros(2, 13, 17)
    mask[:, :10, :12] = 1
    nonsense = torch.from_numpy(rng.normal(0, 5, (2, CLASSES, 13, 17))).float() * (1 - mask[:, None])
    segmenter = attach(Answering(), CLASSES, **CRF)
    disturbed = Segmenter(Answering(lambda logits: logits + nonsense), segmenter.crf)
    disturbed.network.score = segmenter.network.score
    inside = np.s_[..., :10, :12]
    torch.testing.assert_close(disturbed(photos, mask)[inside], segmenter(photos, mask)[inside])
    assert not torch.allclose(disturbed(photos)[inside], segmenter(photos)[inside], atol=1e-2)


def test_network_and_crf_train_together(photos):
    segmenter = attach(Answering(), CLASSES, num_iterations=2, **CRF)
    labels = torch.zeros(2, 13, 17, dtype=torch.long)
    labels[..., 8:] = 2
    nn.functional.cross_entropy(segmenter(photos), labels).backward()
    for name, parameter in segmenter.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_options_reach_the_crf():
    segmenter = attach(Answering(), CLASSES, num_iterations=3, weights="scalar", normalization="symmetric")
    assert segmenter.crf.num_iterations == 3
    assert {kernel.normalization for kernel in segmenter.crf.crf.kernels} == {"symmetric"}
    assert segmenter.crf.spatial_ker_weights.ndim == 0


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 4, 8, 8), (1, 3, 0, 8), (0, 3, 8, 8)])
def test_images_of_another_shape(shape):
    with raises_saying(ValueError, f"images have shape {shape}", "(batch, 3, height, width)", "0-255"):
        attach(Answering(), CLASSES)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("answer", "facts"),
    [
        ("text", ["Answering returns a str", "tensor of logits", "'out' or 'logits'"]),
        ({"masks": 1, "boxes": 2}, ["Answering returns a dict with 'masks', 'boxes'"]),
        ({"out": None}, ["Answering returns a dict with 'out'"]),
        (SimpleNamespace(scores=1), ["Answering returns a SimpleNamespace", "attribute logits"]),
    ],
)
def test_answers_without_logits(photos, answer, facts):
    with raises_saying(TypeError, *facts):
        attach(Answering(lambda _: answer), CLASSES)(photos)


def test_answers_of_another_shape(photos):
    with raises_saying(ValueError, "(2, 4)", "(2, 3, 13, 17)", "(2, classes, height, width)"):
        attach(Answering(lambda logits: logits.mean((2, 3))), CLASSES)(photos)
    with raises_saying(ValueError, "(1, 4, 13, 17)", "(2, classes, height, width)"):
        attach(Answering(lambda logits: logits[:1]), CLASSES)(photos)


def test_another_number_of_classes(photos):
    with raises_saying(ValueError, "logits of 5 classes", "made for 4"):
        attach(Answering(classes=5), CLASSES)(photos)


def test_parts_that_are_none():
    with raises_saying(TypeError, "network is a function", "torch.nn.Module"):
        Segmenter(lambda images: images, None)
    with raises_saying(TypeError, "crf is a Conv2d", "CrfRnn"):
        Segmenter(Answering(), nn.Conv2d(3, 3, 1))
    with raises_saying(ValueError, "return_probabilities=False"):
        Segmenter(Answering(), CrfRnn(4, return_probabilities=True))
    with raises_saying(TypeError, "images are a ndarray", "torch.Tensor"):
        Segmenter(Answering(), None)(np.zeros((1, 3, 8, 8)))


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"mean": (1.0, 2.0)}, ["mean=(1.0, 2.0)", "three for red, green and blue"]),
        ({"std": (1.0, 0.0, 1.0)}, ["std=(1.0, 0.0, 1.0)", "above 0"]),
        ({"mean": float("nan")}, ["mean=nan", "finite"]),
        ({"mean": "red"}, ["mean='red'", "a finite number"]),
        ({"std": [1, [2], 3]}, ["std=[1, [2], 3]", "three for red"]),
    ],
)
def test_bad_mean_or_deviation(options, facts):
    with raises_saying(ValueError, *facts):
        Segmenter(Answering(), None, **options)
