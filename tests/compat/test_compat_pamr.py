"""PAMR's signature over the CRF: what it computes, gradients, bad input."""

import numpy as np
import pytest

import crfrnn
from errors import raises_saying

torch = pytest.importorskip("torch", reason="needs the torch extra")
from crfrnn.compat.pamr import PAMR  # noqa: E402

pytestmark = pytest.mark.torch


def example(classes=3, low=(6, 7), dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(2, classes, *low, generator=generator, dtype=dtype).softmax(dim=1)
    image = torch.rand(2, 3, 6, 7, generator=generator, dtype=dtype)
    return image, mask if classes > 1 else torch.rand(2, 1, *low, generator=generator, dtype=dtype)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("low", [(6, 7), (3, 4)])
def test_is_the_crf_of_refine(classes, low):
    image, mask = example(classes, low, torch.float64)
    found = PAMR(num_iter=3, dilations=[1, 2, 4])(image, mask)
    assert found.shape == (2, classes, 6, 7)
    for ours, picture, given in zip(found, image, mask, strict=True):
        levels = np.moveaxis(picture.numpy(), 0, -1)
        thetas = crfrnn.contrast_theta_beta(levels)
        parameters = crfrnn.CRFParameters(theta_alpha=4, theta_beta=thetas, theta_gamma=3, iterations=3)
        logits = np.log(given.numpy().clip(1e-5))
        if classes == 1:
            logits = logits - np.log((1 - given.numpy()).clip(1e-5))
        expected = crfrnn.refine(logits, levels, parameters, upsampling="bilinear")
        np.testing.assert_allclose(ours, expected, atol=2e-3)  # what the tolerance leaves out


def test_levels_of_any_range_give_the_same():
    image, mask = example()
    torch.testing.assert_close(PAMR(2, [4])(255 * image, mask), PAMR(2, [4])(image, mask), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_mask_in_16_bits_leaves_the_image_in_its_precision(dtype):
    """Squares of levels up to 255 are beyond float16, and the image counted for nothing."""
    image, mask = example()
    found = PAMR(2, [4])(255 * image, mask.to(dtype))
    assert found.dtype == dtype
    expected = PAMR(2, [4])(255 * image, mask.to(dtype).float())
    torch.testing.assert_close(found, expected.to(dtype), atol=1e-2, rtol=0)


def test_gradients_to_the_mask():
    image, mask = example(low=(3, 3), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda mask: PAMR(2, [4])(image[:1], mask), mask[:1].clone().requires_grad_())


def test_defaults_are_those_of_pamr_and_nothing_is_saved():
    module = PAMR()
    assert (module.num_iter, module.dilations) == (1, [1])
    assert not module.state_dict()


@pytest.mark.parametrize(
    ("options", "change", "error", "words"),
    [
        ({"dilations": []}, {}, ValueError, ("dilations=[]", "at least one")),
        ({"dilations": [0]}, {}, ValueError, ("dilations=[0]",)),
        ({"num_iter": 1.5}, {}, TypeError, ("num_iter=1.5",)),
        ({}, {"mask": np.zeros((2, 3, 6, 7))}, TypeError, ("mask is a ndarray",)),
        ({}, {"mask": torch.zeros(2, 3, 9, 9)}, ValueError, ("(2, 3, 9, 9)", "make them smaller")),
        ({}, {"x": torch.zeros(1, 3, 6, 7)}, ValueError, ("x has shape (1, 3, 6, 7)",)),
        ({}, {"mask": torch.full((2, 3, 6, 7), torch.nan)}, ValueError, ("NaN",)),
    ],
)
def test_bad_input_is_named(options, change, error, words):
    image, mask = example()
    with raises_saying(error, *words):
        PAMR(**options)(**{"x": image, "mask": mask, **change})
