"""`spacing` in crfrnn.torch: the numbers of `refine`, for each call its own, compiled and exported too."""

import numpy as np
import pytest

from crfrnn import CRFParameters, refine
from errors import raises_saying
from tolerances import assert_close, tolerance

torch = pytest.importorskip("torch", reason="needs the torch extra")
from crfrnn.torch import CrfRnn, mean_field  # noqa: E402

pytestmark = pytest.mark.torch

NUMBERS = {"theta_alpha": 6.13, "theta_beta": 61.7, "theta_gamma": (2.57, 2.13, 3.31), "tolerance": 0}
SPACING = (0.9, 1.1, 3.0)


def volumes(rng, dtype=torch.float64):
    """Two volumes with logits (2, 3, 4, 6, 7)."""
    logits = torch.from_numpy(rng.normal(size=(2, 3, 4, 6, 7)))
    return logits.to(dtype), torch.from_numpy(rng.uniform(0, 255, size=(2, 1, 4, 6, 7))).to(dtype)


@pytest.mark.parametrize("spacing", [SPACING, list(SPACING), np.array(SPACING), torch.tensor(SPACING), 1.5, None])
def test_layer_and_function_are_refine(rng, spacing):
    logits, image = volumes(rng)
    parameters = CRFParameters(**NUMBERS)
    crf = CrfRnn(3, 10, **NUMBERS).double()
    refined = crf(logits, image, spacing=spacing)
    probabilities = mean_field(logits, image, None, parameters, spacing=spacing, return_probabilities=True)
    for index in range(2):
        expected = refine(logits[index].numpy(), image[index, 0].numpy(), parameters, spacing=spacing)
        for result in (torch.softmax(refined, dim=1), probabilities):
            assert_close(result[index].detach(), expected, tolerance(np.float64).mean_field)
    assert crf.crf.kernels[1].features.theta_alpha == 6.13


def test_gradients(rng):
    logits, image = volumes(rng)
    crf = CrfRnn(3, 2, **NUMBERS).double()
    cut = logits[:1, :, :2, :2, :3].requires_grad_()
    assert torch.autograd.gradcheck(lambda z: crf(z, image[:1, :, :2, :2, :3], None, SPACING), (cut,))


@pytest.fixture
def nothing_compiled():
    """Torch compiles a function a few times and then no more, whichever test asks for it."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("nothing_compiled")
def test_every_call_of_a_compiled_layer_has_its_own_spacing(rng):
    logits, image = volumes(rng, torch.float32)
    crf = CrfRnn(3, 2, **NUMBERS)
    compiled = torch.compile(crf, fullgraph=True, backend="aot_eager")
    for spacing in (None, SPACING, (2.0, 2.0, 0.7), 2.0, 0.7, 1.3):
        torch.testing.assert_close(compiled(logits, image, None, spacing), crf(logits, image, None, spacing))


def test_an_exported_layer_keeps_the_spacing(rng):
    logits, image = volumes(rng, torch.float32)
    crf = CrfRnn(3, 2, **NUMBERS)
    with torch.no_grad():
        exported = torch.export.export(crf, (logits, image, None, SPACING)).module()
        assert torch.equal(exported(logits, image, None, SPACING), crf(logits, image, None, SPACING))


@pytest.mark.parametrize(
    ("spacing", "error", "facts"),
    [
        ((1.0, 0.0, 1.0), ValueError, ["spacing=(1.0, 0.0, 1.0)", "above 0"]),
        ((1.0, 1.0), ValueError, ["spacing=(1.0, 1.0)", "2 values", "3 spatial axes"]),
        ("wide", TypeError, ["spacing='wide'", "number"]),
    ],
)
def test_bad_spacing_is_named(rng, spacing, error, facts):
    with raises_saying(error, *facts):
        CrfRnn(3)(*volumes(rng), spacing=spacing)
    with raises_saying(error, *facts):
        mean_field(*volumes(rng), spacing=spacing)
