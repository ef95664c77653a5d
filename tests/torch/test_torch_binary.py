"""`CrfRnn` and `mean_field` of crfrnn.torch on logits of one channel, against those of two and against `refine`."""

import numpy as np
import pytest

from crfrnn import CRFParameters, refine
from errors import raises_saying
from tolerances import assert_close, tolerance

torch = pytest.importorskip("torch", reason="needs the torch extra")
from crfrnn.torch import CrfRnn, mean_field  # noqa: E402

pytestmark = pytest.mark.torch

NUMBERS = {"theta_alpha": 5.13, "theta_beta": 61.7, "theta_gamma": 1.57, "tolerance": 0}
KINDS = ["full", "per-class", "scalar"]


def batch(rng, spatial=(6, 7), dtype=torch.float64):
    """Log-odds (2, 1, *spatial) and an image."""
    logits = torch.from_numpy(2 * rng.normal(size=(2, 1, *spatial)))
    return logits.to(dtype), torch.from_numpy(rng.uniform(0, 255, size=(2, 3, *spatial))).to(dtype)


def both(logits):
    return torch.cat([torch.full_like(logits, 0.5), logits + 0.5], dim=1)


def layers(rng, **options):
    """A layer of one channel and one of two classes, with the same random weights."""
    one, two = (CrfRnn(classes, **{**NUMBERS, **options}).double() for classes in (1, 2))
    with torch.no_grad():
        for parameter, other in zip(one.parameters(), two.parameters(), strict=True):
            parameter += 0.3 * torch.from_numpy(np.asarray(rng.normal(size=tuple(parameter.shape))))
            other.copy_(parameter)
    return one, two


@pytest.mark.parametrize("spatial", [(13,), (6, 7), (3, 4, 5)])
@pytest.mark.parametrize("weights", KINDS)
def test_one_channel_is_the_foreground_of_two(rng, weights, spatial):
    """The result, log-odds or probabilities, and the gradients to what both have."""
    one, two = layers(rng, weights=weights, compatibility=weights)
    logits, image = batch(rng, spatial)
    cotangent = torch.from_numpy(rng.normal(size=tuple(logits.shape)))
    results = []
    for crf, channels in ((one, lambda z: z), (two, both)):
        given = logits.clone().requires_grad_()
        refined = crf(channels(given), image)
        odds = refined if crf is one else refined[:, 1:] - refined[:, :1]
        results.append([odds, *torch.autograd.grad(odds, [given, *crf.parameters()], cotangent)])
    assert results[0][0].shape == logits.shape
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours.detach(), theirs.detach(), tolerance(np.float64).gradient)
    one.return_probabilities = True
    assert_close(one(logits, image).detach(), torch.sigmoid(results[1][0]).detach(), tolerance(np.float64).mean_field)


@pytest.mark.parametrize("weights", KINDS)
def test_gradients(rng, weights):
    crf, _ = layers(rng, weights=weights, compatibility=weights, num_iterations=2, damping=0.1)
    logits, image = batch(rng, (3, 4))
    mask = torch.from_numpy(rng.integers(0, 3, size=(2, 3, 4)) / 2)
    names = [name for name, _ in crf.named_parameters()]

    def refined(logits, *parameters):
        return torch.func.functional_call(crf, dict(zip(names, parameters, strict=True)), (logits, image, mask))

    arguments = (logits.requires_grad_(), *(parameter.detach().requires_grad_() for parameter in crf.parameters()))
    assert torch.autograd.gradcheck(refined, arguments)


def test_starts_with_the_weights_of_two_classes():
    crf = CrfRnn(1)
    assert torch.equal(crf.spatial_ker_weights, 3 * torch.eye(2))
    assert torch.equal(crf.compatibility_matrix, -torch.eye(2))
    assert CrfRnn(1, weights="per-class").bilateral_ker_weights.shape == (2,)
    assert crf.num_classes == 1
    CrfRnn(2).load_state_dict(crf.state_dict())


def test_the_function_is_refine(rng):
    logits, image = batch(rng)
    parameters = CRFParameters(**NUMBERS, spatial_weight=(1.0, 2.0), compatibility=[[-1.0, 0.4], [0.7, -0.9]])
    result = mean_field(logits, image, parameters=parameters, return_probabilities=True)
    for index in range(2):
        expected = refine(logits[index].numpy(), image[index].permute(1, 2, 0).numpy(), parameters)
        assert_close(result[index], expected, tolerance(np.float64).mean_field)


def test_half_precision_is_computed_in_float32(rng):
    crf = CrfRnn(1, **NUMBERS)
    logits, image = batch(rng, dtype=torch.float16)
    refined = crf(logits, image)
    assert refined.dtype == torch.float16
    assert torch.equal(refined, crf(logits.float(), image.float()).half())


def test_compile_in_one_graph(rng):
    torch.compiler.reset()  # other tests may have used up how often torch compiles the same function
    crf = CrfRnn(1, **NUMBERS)
    logits, image = batch(rng, dtype=torch.float32)
    compiled = torch.compile(crf, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, image), crf(logits, image))
    torch.compiler.reset()


def test_a_network_of_one_channel(rng):
    pytest.importorskip("safetensors", reason="needs the models extra")
    from crfrnn.models import attach

    network = torch.nn.Conv2d(3, 1, 3, padding=1)
    segmenter = attach(network, 1, mean=127.0, std=50.0, **NUMBERS)
    images = batch(rng, dtype=torch.float32)[1]
    refined = segmenter(images)
    expected = segmenter.crf(network((images - 127) / 50), images)
    assert torch.equal(refined, expected)
    torch.nn.functional.binary_cross_entropy_with_logits(refined, (images[:, :1] > 99).float()).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in segmenter.parameters())


def test_misfits_are_named(rng):
    logits, image = batch(rng)
    with raises_saying(ValueError, "(2, 2, 6, 7)", "made for 1 classes"):
        CrfRnn(1)(both(logits), image)
    with raises_saying(ValueError, "bilateral_weight", "(1,)", "(2, 2)", "one channel"):
        mean_field(logits, image, bilateral_weight=torch.ones(1))
