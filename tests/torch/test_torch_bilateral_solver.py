"""`crfrnn.torch.bilateral_solver` against that in NumPy, by the native core and by the steps for other devices."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")

import crfrnn  # noqa: E402
from crfrnn import Bilateral, Exact, Lattice  # noqa: E402
from crfrnn.torch import bilateral_solver, ops  # noqa: E402
from errors import raises_saying  # noqa: E402
from tolerances import assert_close  # noqa: E402

pytestmark = pytest.mark.torch
FEATURES = Bilateral(3.1, 61.7)
IMAGE = torch.zeros(1, 3, 2, 3)


@pytest.fixture(params=["cpu", "elsewhere", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if request.param == "elsewhere":
        for operator in (ops.lattice, ops.gaussian_filter):
            monkeypatch.setitem(operator.kernels, "cpu", operator.kernels["default"])
    return "cpu" if request.param == "elsewhere" else request.param


def case(rng, spatial=(6, 7), dtype=torch.float64):
    """A batch of two."""
    confidence = rng.uniform(0.1, 1, size=(2, *spatial)) * (rng.random((2, *spatial)) < 0.7)
    arrays = rng.normal(size=(2, 2, *spatial)), confidence, rng.uniform(0, 255, (2, 3, *spatial))
    return [torch.from_numpy(array).to(dtype) for array in arrays]


def alone(target, confidence, image, filter, **options):
    """Each image by NumPy."""
    found = [
        crfrnn.bilateral_solver(t, c, np.moveaxis(i, 0, -1), FEATURES, filter, **options)
        for t, c, i in zip(*(each.numpy() for each in (target, confidence, image)), strict=True)
    ]
    return np.stack(found)


@pytest.mark.parametrize("filter", [None, Lattice(), Exact()])
@pytest.mark.parametrize("spatial", [(12,), (4, 5), (3, 2, 3)])
def test_equals_the_one_in_numpy(rng, device, spatial, filter):
    given, options = case(rng, spatial), {"smoothness": 3.0, "iterations": 50, "tolerance": 1e-12}
    found = bilateral_solver(*(each.to(device) for each in given), FEATURES, filter, **options)
    assert_close(found.cpu(), alone(*given, filter, **options), 1e-9)


def test_single_precision_and_solved_channels(rng, device):
    """A channel that is 0 is solved from the start, and so is one that is the same everywhere."""
    given = case(rng, dtype=torch.float32)
    given[0][0, 0] = 0
    given[0][1, 0] = 2.5
    found = bilateral_solver(*(each.to(device) for each in given), FEATURES, smoothness=3.0).cpu()
    assert found.dtype == torch.float32
    assert_close(found, alone(*given, None, smoothness=3.0), 1e-4)
    assert not found[0, 0].any()
    torch.testing.assert_close(found[1, 0], torch.full_like(found[1, 0], 2.5))


@pytest.mark.parametrize("filter", [Lattice(), Exact()])
def test_gradients(rng, device, filter):
    target, confidence, image = (each.to(device) for each in case(rng, (3, 4)))
    target = target * 0.1 + torch.linspace(-1, 1, 4, dtype=torch.float64, device=device)  # nothing is at its bound

    def solved(target, confidence):
        options = {"smoothness": 0.5, "iterations": 25, "tolerance": 1e-13}
        return bilateral_solver(target, confidence + 0.3, image, FEATURES, filter, **options)

    assert torch.autograd.gradcheck(
        solved, (target.requires_grad_(), confidence.requires_grad_()), atol=1e-6, fast_mode=True
    )


@pytest.mark.parametrize(
    ("changes", "error", "facts"),
    [
        ({"target": np.zeros((1, 2, 2, 3))}, TypeError, ["target", "ndarray"]),
        ({"target": torch.zeros(1, 2, 2, 3, dtype=torch.int32)}, TypeError, ["target", "int32"]),
        ({"target": torch.full((1, 2, 2, 3), torch.inf)}, ValueError, ["target"]),
        ({"confidence": torch.ones(1, 3, 2)}, ValueError, ["confidence", "(1, 3, 2)", "(1, 2, 3)"]),
        ({"confidence": torch.zeros(1, 2, 3)}, ValueError, ["confidence[0]", "above 0 somewhere"]),
        ({"confidence": torch.full((1, 2, 3), -1.0)}, ValueError, ["confidence[0]", "from -1.0"]),
        ({"image": torch.zeros(1, 3, 3, 2)}, ValueError, ["image", "(1, 3, 3, 2)"]),
        ({"image": IMAGE.clone().requires_grad_()}, ValueError, ["gradient", "image.detach()"]),
        ({"smoothness": 0}, ValueError, ["smoothness=0"]),
        ({"iterations": -1}, ValueError, ["iterations=-1"]),
        ({"filter": "lattice"}, TypeError, ["filter"]),
    ],
)
def test_what_does_not_fit_is_named(changes, error, facts):
    given = {"target": torch.zeros(1, 2, 2, 3), "confidence": torch.ones(1, 2, 3), "image": IMAGE} | changes
    with raises_saying(error, *facts):
        bilateral_solver(**given)
