"""MONAI's bilateral filters against dense sums in float64, their gradients, and bad input."""

import warnings

import numpy as np
import pytest

from crfrnn import reference
from errors import raises_saying
from tolerances import assert_close

torch = pytest.importorskip("torch", reason="needs the torch extra")
from crfrnn.compat.monai import (  # noqa: E402
    BilateralFilter,
    PHLFilter,
    TrainableBilateralFilter,
    TrainableJointBilateralFilter,
)

pytestmark = pytest.mark.torch

SHAPES = {1: (11,), 2: (5, 7), 3: (3, 4, 5)}
SIGMAS = (1.7, 2.3, 0.9)


def example(axes, channels=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(axes)
    return torch.rand(2, channels, *SHAPES[axes], generator=generator, dtype=dtype)


def dense(values, guide, spatial, color):
    """Σ_j w_ij v_j / Σ_j w_ij with the weights of all pairs, in torch, for autograd."""
    shape = values.shape[2:]
    places = torch.stack(torch.meshgrid(*map(torch.arange, shape), indexing="ij")).flatten(1).to(values.dtype)
    columns = torch.cat([places.expand(len(values), -1, -1) / spatial[:, None], guide.flatten(2) / color], dim=1)
    apart = columns[:, :, :, None] - columns[:, :, None]
    weights = (-0.5 * apart.square().sum(dim=1)).exp()
    return (values.flatten(2) @ weights / weights.sum(dim=1, keepdim=True)).view(values.shape)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_bilateral_filter_is_the_sum_over_all_pairs(axes, channels):
    values = example(axes, channels)
    expected = dense(values, values, torch.full((axes,), 2.0).double(), 0.4)
    assert_close(BilateralFilter.apply(values, 2.0, 0.4, False), expected, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8])
def test_positions_are_not_rounded_to_the_levels_precision(dtype):
    """Of 300 pixels in a row, bfloat16 tells only half apart beyond 256, and uint8 counts to 255."""
    generator = torch.Generator().manual_seed(0)
    values, guide = torch.rand(2, 1, 1, 1, 300, generator=generator, dtype=torch.float64)
    guide = (4 * guide).round().to(dtype)
    expected = dense(values, guide.double(), torch.tensor([1.0, 1.5]).double(), 2.0)
    with torch.no_grad():
        found = TrainableJointBilateralFilter([1.0, 1.5], 2.0, filter="exact").double()(values, guide)
        assert_close(found, expected, 1e-5)
        if dtype.is_floating_point:
            found = BilateralFilter.apply(guide, 1.5, 2.0, False)
            assert_close(found.double(), dense(*[guide.double()] * 2, torch.full((2,), 1.5).double(), 2.0), 2e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64])
def test_features_of_any_type_are_divided_in_full(dtype):
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(1, 2, 40, generator=generator)
    features = torch.randint(0, 2000, (1, 2, 40), generator=generator).to(dtype)
    expected = PHLFilter.apply(values, features.float() / torch.tensor([300.0, 0.5])[:, None])
    assert_close(PHLFilter.apply(values, features, [300.0, 0.5]), expected, 1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch warns of lists of arrays
        assert_close(PHLFilter.apply(values, features, [np.float32(300), np.array(0.5)]), expected, 1e-6)


@pytest.mark.parametrize("number", [np.float32(2), np.int64(2), torch.tensor(2.0)])
def test_a_number_of_any_type_is_for_all_axes(number):
    values = example(2)
    with torch.no_grad():
        found = TrainableBilateralFilter(number, 0.5)(values)
        assert torch.equal(found, TrainableBilateralFilter(2.0, 0.5)(values))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_bilateral_filter_on_a_lattice(axes):
    """Its features run as MONAI's do: axes in their order, then channels."""
    values = example(axes, 2)
    found = BilateralFilter.apply(values)
    for ours, each in zip(found, values.numpy(), strict=True):
        places = np.stack(np.meshgrid(*map(np.arange, SHAPES[axes]), indexing="ij")).reshape(axes, -1)
        lattice = reference.Lattice(np.concatenate([places / 5, each.reshape(2, -1) / 0.5]).T)
        expected = reference.Term(lattice).filter(each.reshape(2, -1))
        assert_close(ours.reshape(2, -1), expected, 1e-9)


@pytest.mark.parametrize("fast", [False, True])
def test_gradients_of_the_bilateral_filter(fast):
    values = example(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: BilateralFilter.apply(values, 2.07, 0.41, fast), values)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_trainable_filters(axes):
    values, guide = example(axes), example(axes, 2).flip(-1)
    spatial = torch.tensor(SIGMAS[:axes], dtype=torch.float64)
    alone = TrainableBilateralFilter(SIGMAS[:axes], 0.3, filter="exact").double()
    joint = TrainableJointBilateralFilter(SIGMAS[:axes], 0.3, filter="exact").double()
    sigmas = torch.stack([alone.sigma_x, alone.sigma_y, alone.sigma_z])[:axes].detach()
    assert_close(sigmas, spatial, 1e-7)
    color = alone.sigma_color.item()
    assert_close(alone(values).detach(), dense(values, values, sigmas, color), 1e-12)
    assert_close(joint(values, guide).detach(), dense(values, guide, sigmas, color), 1e-12)


@pytest.mark.parametrize("axes", [1, 2])
def test_gradients_of_trainable_filters(axes):
    """To the input, the guidance and every deviation: those of the dense sum, and finite differences."""
    values, guide = example(axes).requires_grad_(), example(axes).flip(-1).requires_grad_()
    module = TrainableJointBilateralFilter(SIGMAS[:axes], 0.3, filter="exact").double()
    cotangent = torch.rand(values.shape, dtype=torch.float64)
    trained = [module.sigma_x, *([module.sigma_y] if axes == 2 else []), module.sigma_color]
    found = torch.autograd.grad(module(values, guide), [values, guide, *trained], cotangent)
    spatial = torch.stack(trained[:-1])
    expected = torch.autograd.grad(dense(values, guide, spatial, trained[-1]), [values, guide, *trained], cotangent)
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, 1e-10)
    if axes == 1:
        for filter in ("exact", "lattice"):
            alone = TrainableBilateralFilter(SIGMAS[:axes], 0.3, filter=filter).double()
            assert torch.autograd.gradcheck(alone, values)


@pytest.mark.parametrize("axes", [1, 2])
def test_gradients_on_a_lattice(axes):
    """To the input, the guidance and every deviation: finite differences."""
    module = TrainableJointBilateralFilter(SIGMAS[:axes], 0.31)
    assert module.filter == "lattice"
    values, guide = example(axes)[:1, ..., :3], example(axes).flip(-1)[:1, ..., :3]
    sigmas = torch.tensor([*SIGMAS[:axes], 0.31], dtype=torch.float64)

    def filtered(values, guide, sigmas):
        names = [*(f"sigma_{name}" for name in "xyz"[:axes]), "sigma_color"]
        return torch.func.functional_call(module, dict(zip(names, sigmas, strict=True)), (values, guide))

    inputs = [tensor.clone().requires_grad_() for tensor in (values, guide, sigmas)]
    assert torch.autograd.gradcheck(filtered, inputs)


def test_a_number_is_for_any_axes():
    module = TrainableBilateralFilter(2.0, 0.3, filter="exact").double()
    spread = [each.item() for each in (module.sigma_x, module.sigma_y, module.sigma_z)]
    assert spread == [2.0] * 3
    for axes in (1, 2, 3):
        values = example(axes)
        expected = dense(values, values, torch.full((axes,), 2.0).double(), module.sigma_color.item())
        assert_close(module(values).detach(), expected, 1e-12)


def test_names_of_weights_are_those_of_monai():
    for made in (TrainableBilateralFilter([1.0, 2.0], 0.5), TrainableJointBilateralFilter((1.0, 2.0), 0.5)):
        state = {name: round(value.item(), 6) for name, value in made.state_dict().items()}
        assert state == {"sigma_x": 1.0, "sigma_y": 2.0, "sigma_z": 0.01, "sigma_color": 0.5}


@pytest.mark.parametrize(("filter", "near"), [("exact", 0.1), ("lattice", 0.25)])
def test_a_deviation_learns(filter, near):
    """From twice the deviation that made the target to near it; on a lattice of few points the loss is rough."""
    values = example(2)
    target = TrainableBilateralFilter(1.0, 0.3, filter=filter).double()(values).detach()
    module = TrainableBilateralFilter(2.0, 0.3, filter=filter).double()
    module.sigma_color.requires_grad_(False)
    optimizer = torch.optim.Adam(module.parameters(), 0.1)
    for _ in range(40):
        optimizer.zero_grad()
        (module(values) - target).square().sum().backward()
        optimizer.step()
    assert abs(module.sigma_x.item() - 1) < near
    assert abs(module.sigma_y.item() - 1) < near


def test_on_a_lattice():
    module = TrainableBilateralFilter(2.0, 0.3).double()
    expected = BilateralFilter.apply(example(2), 2.0, module.sigma_color.item())
    assert_close(module(example(2)).detach(), expected, 1e-6)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: BilateralFilter.apply(np.zeros((1, 1, 4))), TypeError, ("input is a ndarray",)),
        (lambda: BilateralFilter.apply(torch.zeros(4, 4)), ValueError, ("(4, 4)", "1 to 3 spatial axes")),
        (lambda: BilateralFilter.apply(torch.zeros(1, 1, 4).long()), TypeError, ("floating-point",)),
        (lambda: BilateralFilter.apply(torch.zeros(1, 1, 4), 0), ValueError, ("spatial_sigma=0",)),
        (lambda: BilateralFilter.apply(torch.zeros(1, 1, 4, 4), (1, 2)), ValueError, ("must be numbers",)),
        (lambda: TrainableBilateralFilter(-1.0, 1.0), ValueError, ("spatial_sigma=-1.0",)),
        (lambda: TrainableBilateralFilter([1.0] * 4, 1.0), ValueError, ("1 to 3 numbers",)),
        (lambda: TrainableBilateralFilter(1.0, 1.0, filter="grid"), ValueError, ("filter='grid' is unknown",)),
        (lambda: TrainableBilateralFilter([1.0, 2.0], 1.0)(torch.zeros(1, 1, 4)), ValueError, ("was given for 2",)),
        (
            lambda: TrainableJointBilateralFilter(1.0, 1.0)(torch.zeros(1, 1, 4), torch.zeros(1, 1, 5)),
            ValueError,
            ("guidance_tensor has shape (1, 1, 5)",),
        ),
        (lambda: TrainableBilateralFilter(1.0, 1.0)(torch.zeros(1, 1, 4) / 0), ValueError, ("NaN",)),
    ],
)
def test_bad_input_is_named(call, error, words):
    with raises_saying(error, *words):
        call()
