"""`crfrnn.torch.upsample`, and scores smaller than the image in `mean_field` and `CrfRnn`."""

import copy
import pickle

import numpy as np
import pytest

import crfrnn
from crfrnn import Bilateral, Exact, Lattice, contrast_theta_beta
from crfrnn.upsampling import interpolate
from errors import raises_saying
from tolerances import assert_close, tolerance
from upsampled import upsampling

torch = pytest.importorskip("torch", reason="needs the torch extra")
from crfrnn.torch import CrfRnn, mean_field, upsample  # noqa: E402
from crfrnn.torch.upsampling import in_contrasts  # noqa: E402

pytestmark = pytest.mark.torch

CASES = {  # low, grid, covers, channels of the image
    "signal": ((4,), (11,), None, 2),
    "photo": ((3, 4), (8, 13), None, 3),
    "padded photo": ((5, 5), (7, 13), (13, 13), 3),
    "volume": ((2, 2, 3), (4, 4, 5), None, 1),
}


def case(rng, name, dtype=torch.float64):
    low, grid, covers, channels = CASES[name]
    scores = torch.from_numpy(rng.normal(size=(2, 3, *low))).to(dtype)
    return scores, torch.from_numpy(rng.uniform(0, 255, size=(2, channels, *grid))).to(dtype), covers


def arrays(scores, image):
    return zip(scores.numpy(), np.moveaxis(image.numpy(), 1, -1), strict=True)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("filter", [None, Lattice(1), Exact()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_numpy(rng, name, filter, dtype):
    """Each image of the batch with the θ_β of its own contrast."""
    scores, image, covers = case(rng, name, dtype)
    found = upsample(scores, image, filter=filter, covers=covers)
    assert found.dtype == dtype
    bound = 1e-3 if dtype == torch.float32 else 1e-9  # rounding decides which simplex a point on a border is in
    for ours, (each, picture) in zip(found, arrays(scores, image), strict=True):
        assert_close(ours, crfrnn.upsample(each, picture, filter=filter, covers=covers), bound)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_formula(rng, name):
    scores, image, covers = case(rng, name)
    found = upsample(scores, image, Bilateral(2.5, 70.0), Exact(), covers=covers)
    for ours, (each, picture) in zip(found, arrays(scores, image), strict=True):
        matrix = upsampling(each.shape[1:], picture, 2.5, 70.0, covers)
        assert_close(ours.reshape(3, -1), each.reshape(3, -1) @ matrix.T, tolerance(np.float64).filter * 10)


@pytest.mark.parametrize("filter", [Lattice(), Exact()])
def test_gradients(rng, filter):
    scores, image, covers = case(rng, "signal")
    assert torch.autograd.gradcheck(
        lambda scores: upsample(scores, image, filter=filter, covers=covers), scores.requires_grad_()
    )
    assert torch.autograd.gradgradcheck(
        lambda scores: upsample(scores, image, filter=filter, covers=covers).sin().sum(), scores
    )


@pytest.mark.parametrize("filter", [Lattice(), Exact()])
def test_gradients_to_the_image(rng, filter):
    scores, image, _ = case(rng, "signal")
    assert torch.autograd.gradcheck(
        lambda image: upsample(scores, image, Bilateral(2.53, 71.7), filter), image.requires_grad_()
    )


def test_contrast_is_that_of_numpy(rng):
    image = torch.from_numpy(rng.uniform(0, 255, (3, 4, 5, 6)))
    image[0, 1], image[1] = 7, 0
    for ours, picture in zip(in_contrasts(image), np.moveaxis(image.numpy(), 1, -1), strict=True):
        assert_close(ours, np.moveaxis(picture / contrast_theta_beta(picture), -1, 0), 1e-12)
    assert (in_contrasts(torch.full((1, 2, 1), 5.0)) == 1).all()


@pytest.mark.parametrize("scale", [1e-35, 1e-10, 1e18, 1e36])
def test_levels_of_any_size(rng, scale):
    """Multiplying levels changes nothing, also where their squares are beyond float32."""
    scores, image = torch.randn(1, 2, 3, 4), torch.from_numpy(rng.uniform(0, 255, (1, 3, 6, 8)).astype(np.float32))
    assert_close(upsample(scores, image * scale, filter=Exact()), upsample(scores, image, filter=Exact()), 1e-4)


def test_gradients_of_the_largest_scores(rng):
    scores, image, _ = case(rng, "photo", torch.float32)
    scores = scores / scores.abs().max()
    gradients = []
    for scale in (1.0, 2.0**127):
        leaf = image.clone().requires_grad_()
        upsample(scale * scores, leaf).sum().div(scale).backward()
        gradients.append(leaf.grad)
    assert gradients[0].abs().max() > 0
    assert_close(gradients[1], gradients[0], 1e-4 * gradients[0].abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(rng, dtype):
    scores, image, _ = case(rng, "photo", dtype)
    assert torch.equal(upsample(scores, image), upsample(scores.float(), image.float()).to(dtype))


def test_autocast_and_integer_images(rng):
    scores, image, _ = case(rng, "photo", torch.float32)
    levels = image.to(torch.uint8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(upsample(scores, levels), upsample(scores, levels.float()))


GOOD = torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 8, 10)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((torch.zeros(2, 3, 9, 5), GOOD[1]), {}, ValueError, ("(2, 3, 9, 5)", "more than (8, 10) pixels")),
        ((GOOD[0], torch.zeros(1, 3, 8, 10)), {}, ValueError, ("(1, 3, 8, 10)", "(2, channels, *spatial)")),
        ((GOOD[0], torch.zeros(2, 3, 8)), {}, ValueError, ("(2, 3, 8)", "2 spatial axes")),
        ((GOOD[0].numpy(), GOOD[1]), {}, TypeError, ("scores is a ndarray",)),
        ((GOOD[0].long(), GOOD[1]), {}, TypeError, ("scores are torch.int64", "floating-point")),
        ((GOOD[0] / 0, GOOD[1]), {}, ValueError, ("scores holds 120 NaN",)),
        ((GOOD[0], GOOD[1] / 0), {}, ValueError, ("image holds 480 NaN",)),
        ((GOOD[0], GOOD[1].to("meta")), {}, ValueError, ("image is on meta",)),
        (GOOD, {"filter": "exact"}, TypeError, ("filter is a str", "Exact(…)")),
        (GOOD, {"threads": 0}, ValueError, ("threads=0",)),
    ],
)
def test_bad_input_is_named(arguments, options, error, words):
    with raises_saying(error, *words):
        upsample(*arguments, **options)


# The layer.

SMALL = {"theta_alpha": 5.0, "theta_beta": 40.0, "theta_gamma": 2.0}


@pytest.mark.parametrize("method", ["joint-bilateral", "bilinear"])
@pytest.mark.parametrize("classes", [1, 3])
def test_layer_and_function(rng, method, classes):
    logits = torch.from_numpy(rng.normal(size=(2, classes, 4, 5)))
    image = torch.from_numpy(rng.uniform(0, 255, (2, 3, 8, 10)))
    larger = (
        upsample(logits, image)
        if method == "joint-bilateral"
        else torch.nn.functional.interpolate(logits, (8, 10), mode="bilinear", align_corners=False)
    )
    layer = CrfRnn(classes, 2, **SMALL, upsampling=method).double()
    assert_close(layer(logits, image).detach(), layer(larger, image).detach(), 1e-9)
    assert f"upsampling='{method}'" in repr(layer)
    parameters = crfrnn.CRFParameters(**SMALL, iterations=2)
    found = mean_field(logits, image, parameters=parameters, upsampling=method)
    assert_close(found, mean_field(larger, image, parameters=parameters), 1e-9)
    for ours, (each, picture) in zip(
        mean_field(logits, image, parameters=parameters, upsampling=method, return_probabilities=True),
        arrays(logits, image),
        strict=True,
    ):
        assert_close(ours, crfrnn.refine(each, picture, parameters, upsampling=method), 3e-3)


def test_interpolation_equals_numpy(rng):
    for name in CASES:
        scores, image, _ = case(rng, name)
        layer = CrfRnn(3, 0, upsampling="bilinear")
        for ours, (each, picture) in zip(layer(scores, image).detach(), arrays(scores, image), strict=True):
            assert_close(ours, interpolate(each, picture), 1e-12)


@pytest.mark.parametrize("method", ["joint-bilateral", "bilinear"])
def test_gradients_of_the_layer(rng, method):
    logits = torch.from_numpy(rng.normal(size=(1, 3, 3, 3))).requires_grad_()
    image = torch.from_numpy(rng.uniform(0, 255, (1, 3, 6, 7)))
    layer = CrfRnn(3, 2, **SMALL, upsampling=method).double()
    assert torch.autograd.gradcheck(lambda logits: layer(logits, image), logits)


def test_layers_keep_it(rng):
    layer = CrfRnn(3, 2, upsampling="bilinear")
    assert copy.deepcopy(layer).upsampling == pickle.loads(pickle.dumps(layer)).upsampling == "bilinear"
    layer.upsampling = "joint-bilateral"
    assert "joint-bilateral" in repr(layer)
    state = CrfRnn(3).__getstate__()
    del state["upsampling"]
    before = CrfRnn.__new__(CrfRnn)
    before.__setstate__(state)
    assert before.upsampling is None


def test_logits_of_fewer_pixels_are_interpolated_with_a_warning(rng):
    logits = torch.from_numpy(rng.normal(size=(2, 3, 4, 5))).requires_grad_()
    image = torch.from_numpy(rng.uniform(0, 255, (2, 3, 8, 10)))
    larger = torch.nn.functional.interpolate(logits, (8, 10), mode="bilinear", align_corners=False)
    layer = CrfRnn(3, 2, **SMALL).double()
    for call in (layer, lambda scores, levels: mean_field(scores, levels, parameters=layer.crf)):
        with pytest.warns(crfrnn.InputWarning, match="logits are 4 × 5 pixels and the image 8 × 10.*'bilinear'"):
            found = call(logits, image)
        assert_close(found.detach(), call(larger, image).detach(), 1e-9)
    found.sum().backward()
    assert logits.grad.abs().sum() > 0
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    assert_close(compiled(logits, image).detach(), layer(larger, image).detach(), 1e-9)


def test_compiled(rng):
    logits, image = torch.randn(1, 3, 4, 5), torch.rand(1, 3, 8, 10) * 255
    layer = CrfRnn(3, 2, **SMALL, upsampling="joint-bilateral")
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(logits, image), layer(logits, image))


@pytest.mark.parametrize(
    ("logits", "image", "options", "words"),
    [
        (torch.zeros(2, 3, 7, 10), GOOD[1], {}, ("(2, 3, 8, 10)", "upsampling='joint-bilateral' or 'bilinear'")),
        (*GOOD, {"upsampling": "nearest"}, ("upsampling='nearest' is unknown",)),
        (GOOD[0], None, {"upsampling": "bilinear"}, ("upsampling='bilinear'", "give one")),
        (torch.zeros(2, 3, 9, 5), GOOD[1], {"upsampling": "bilinear"}, ("(2, 3, 9, 5)", "more than (8, 10)")),
    ],
)
def test_the_layer_names_what_is_wrong(logits, image, options, words):
    with raises_saying(ValueError, *words):
        CrfRnn(3, **options)(logits, image)
    with raises_saying(ValueError, *words):
        mean_field(logits, image, **options)
