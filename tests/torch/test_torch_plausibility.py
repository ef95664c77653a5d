"""What layers and functions of torch say about levels and logits: once, and nothing where looking would cost."""

import copy
import warnings

import pytest

import crfrnn
from crfrnn import InputWarning

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from crfrnn.torch import CrfRnn, losses, mean_field  # noqa: E402


def scene(channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, channels, 12, 14, generator=generator)
    return logits, torch.randint(0, 256, (2, 3, 12, 14), generator=generator).float() + 0.25


def said(call) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(each.message) for each in caught if each.category is InputWarning]


def test_a_layer_warns_once():
    logits, image = scene()
    layer = CrfRnn(3, 2)
    (message,) = said(lambda: layer(logits, image / 255))
    assert "theta_beta=3" in message
    assert "image_range=(0, 1)" in message
    assert said(lambda: layer(logits, image / 255)) == []
    layer.theta_beta = 5.0
    assert len(said(lambda: layer(logits, image / 255))) == 1


def test_an_image_without_contrast_is_not_the_last_word():
    logits, image = scene()
    layer = CrfRnn(3, 2)
    assert said(lambda: layer(logits, torch.zeros_like(image))) == []
    assert len(said(lambda: layer(logits, image / 255))) == 1


@pytest.mark.parametrize("learn_theta", [False, True])
@pytest.mark.parametrize("filter", ["lattice", "exact"])
def test_a_range_that_a_layer_was_told(filter, learn_theta):
    """Results and gradients are those of levels of 0-255."""
    logits, image = scene()
    theta = {"num_iterations": 2, "theta_beta": 40.0, "filter": filter, "learn_theta": learn_theta}
    told, plain = CrfRnn(3, image_range=(0, 1), **theta), CrfRnn(3, **theta)
    assert told.image_range == (0, 1)
    assert said(lambda: told(logits, image / 255)) == []
    torch.testing.assert_close(told(logits, image / 255), plain(logits, image), rtol=1e-3, atol=1e-3)
    if learn_theta and filter == "exact":
        found = [
            torch.autograd.grad(layer(logits, levels).square().sum(), layer.log_thetas["theta_beta"])[0]
            for layer, levels in ((told, image / 255), (plain, image))
        ]
        torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


def test_a_range_is_kept_with_the_layer(tmp_path):
    layer = CrfRnn(3, image_range=(0, 1))
    torch.save(layer, tmp_path / "layer.pt")
    for other in (copy.deepcopy(layer), torch.load(tmp_path / "layer.pt", weights_only=False)):
        assert other.image_range == (0, 1)
    assert crfrnn.CRF.from_text(layer.crf.text) == layer.crf
    layer.image_range = None
    assert layer.image_range is None


@pytest.mark.parametrize(
    ("logits", "image", "fact"),
    [
        (scene()[0].softmax(1), scene()[1], "softmax"),
        (-scene()[0].log_softmax(1), scene()[1], "energies"),
        (scene()[1].round(), scene()[0], "swapped"),
        (scene()[1] / 256, scene()[0], "swapped"),
        (torch.sigmoid(scene(1)[0]), scene()[1], "sigmoid"),
    ],
)
def test_logits_that_are_something_else(logits, image, fact):
    layer = CrfRnn(logits.shape[1], 1)
    assert any(fact in message for message in said(lambda: layer(logits, image)))
    assert any(fact in message for message in said(lambda: mean_field(logits, image)))


@pytest.mark.parametrize("logits", [scene()[0], scene()[0].relu(), scene()[0].log_softmax(1), scene(1)[0]])
@pytest.mark.parametrize("image", [scene()[1], scene()[1] - 118, scene()[1].byte()])
def test_nothing_to_say(logits, image):
    assert said(lambda: CrfRnn(logits.shape[1], 1)(logits, image)) == []
    assert said(lambda: mean_field(logits, image)) == []


def test_thetas_of_a_call_are_those_that_count():
    logits, image = scene()
    assert said(lambda: mean_field(logits, image / 255, theta_beta=torch.tensor(0.05))) == []
    assert len(said(lambda: mean_field(logits, image / 255, theta_beta=torch.tensor(5.0)))) == 1


@pytest.mark.parametrize("loss", [losses.dense_crf_loss, losses.gated_crf_loss, losses.normalized_cut_loss])
def test_losses(loss):
    logits, image = scene()
    assert len(said(lambda: loss(logits.softmax(1), image / 255))) == 1
    assert said(lambda: loss(logits.softmax(1), image)) == []
    module = losses.DenseCrfLoss(image_range=(0, 1))
    assert said(lambda: module(logits.softmax(1), image / 255)) == []


def test_a_compiled_layer_looks_at_nothing():
    logits, image = scene()
    layer = CrfRnn(3, 1)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert said(lambda: compiled(logits, image / 255)) == []
    assert len(said(lambda: layer(logits, image / 255))) == 1


def test_other_devices_are_not_read():
    """A tensor without numbers stands for a device that would wait."""
    logits, image = (each.to("meta") for each in scene())
    assert said(lambda: CrfRnn(3, 1).to("meta")(logits, image / 255)) == []


def test_refine_on_a_device_warns_once():
    logits, image = scene()
    array = image[0].movedim(0, -1).numpy() / 255
    assert len(said(lambda: crfrnn.refine(logits[0].numpy(), array, device="cpu"))) == 1
