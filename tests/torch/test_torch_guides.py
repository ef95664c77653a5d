"""Gradients to θ, image, features and mask, through lattice, grid and exact filter, against finite differences."""

import copy

import numpy as np
import pytest

from crfrnn import CRF, Bilateral, CRFParameters, Given, Grid, Kernel, Lattice, MeanField, Spatial
from errors import raises_saying

torch = pytest.importorskip("torch", reason="needs the torch extra")
from torch._dynamo.testing import CompileCounterWithBackend  # noqa: E402

from crfrnn.torch import CrfRnn, gaussian_filter, mean_field  # noqa: E402

pytestmark = pytest.mark.torch

NORMALIZATIONS = ["after", "before", "symmetric", "none"]
SHAPES = [((9,), 1), ((4, 5), 3), ((2, 3, 4), 2)]
FILTERS = [("grid", "lattice"), ("lattice", "lattice"), ("grid", "exact")]
NUMBERS = {"theta_alpha": 3.1, "theta_beta": 61.7, "theta_gamma": 1.27, "iterations": 2, "tolerance": 0}


def scene(rng, spatial, channels, classes=3, size=2):
    """float64 logits, image and a mask above 0, so that there is room for a step."""
    logits = torch.from_numpy(rng.normal(size=(size, classes, *spatial)))
    image = torch.from_numpy(rng.uniform(0, 255, size=(size, channels, *spatial)))
    mask = torch.from_numpy(rng.integers(0, 3, size=(size, *spatial)) / 2) + 0.1
    return logits, image, mask


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize(("spatial", "filter"), FILTERS)
@pytest.mark.parametrize(("shape", "channels"), SHAPES)
def test_gradients_to_everything(rng, shape, channels, spatial, filter, normalization):
    alpha = torch.from_numpy(rng.uniform(2, 4, size=len(shape)))
    beta, gamma = (torch.tensor(theta, dtype=torch.float64) for theta in (61.7, 1.27))
    weights = [torch.from_numpy(rng.normal(size=size)) for size in ((3, 3), (3,), ())]
    parameters = CRFParameters(**NUMBERS, normalization=normalization, damping=0.2, spatial=spatial, filter=filter)

    def refined(logits, image, mask, alpha, beta, gamma, W_s, W_b, M):
        thetas = {"theta_alpha": alpha, "theta_beta": beta, "theta_gamma": gamma}
        weights = {"spatial_weight": W_s, "bilateral_weight": W_b, "compatibility": M}
        return mean_field(logits, image, mask, parameters, **weights, **thetas)

    everything = [each.requires_grad_() for each in (*scene(rng, shape, channels), alpha, beta, gamma, *weights)]
    assert torch.autograd.gradcheck(refined, everything, fast_mode=True)


def test_every_entry(rng):
    """The slow check of all pairs of entries, of fewer inputs."""
    logits, image, mask = scene(rng, (2, 3), 2, classes=2, size=1)
    alpha, beta = torch.tensor([2.0, 3.0]).double(), torch.tensor([50.0, 70.0]).double()

    def refined(logits, image, mask, alpha, beta):
        return mean_field(logits, image, mask, CRFParameters(**NUMBERS), theta_alpha=alpha, theta_beta=beta)

    assert torch.autograd.gradcheck(refined, [each.requires_grad_() for each in (logits, image, mask, alpha, beta)])


@pytest.mark.parametrize("spacing", [0.5, (0.5, 2.0)])
def test_in_the_unit_of_a_spacing(rng, spacing):
    logits, image, mask = scene(rng, (4, 5), 3)
    thetas = [torch.tensor(theta, dtype=torch.float64, requires_grad=True) for theta in (2.3, 0.9)]

    def refined(alpha, gamma):
        return mean_field(
            logits, image, mask, CRFParameters(**NUMBERS), theta_alpha=alpha, theta_gamma=gamma, spacing=spacing
        )

    assert torch.autograd.gradcheck(refined, thetas)


def test_given_features_and_kernels_that_share_a_theta(rng):
    """Two kernels with one θ each, one over features of the caller's, and one that is not there."""
    logits, image, mask = scene(rng, (4, 5), 2)
    depth = torch.from_numpy(rng.normal(size=(2, 1, 4, 5)))
    crf = CRF(
        [
            Kernel(Bilateral(2.5, 60), weight=2),
            Kernel(Bilateral(2.5, 60), weight=1, filter=Lattice(1), normalization="symmetric"),
            Kernel(Given("depth"), weight=3, normalization="before"),
            Kernel(Spatial(9.0), weight=0),
        ],
        solver=MeanField(2),
    )
    beta = torch.tensor([50.0, 70.0], dtype=torch.float64)

    def refined(logits, image, mask, depth, beta):
        return mean_field(logits, image, mask, crf, given={"depth": depth}, theta_beta=beta)

    everything = [each.requires_grad_() for each in (logits, image, mask, depth, beta)]
    assert torch.autograd.gradcheck(refined, everything, fast_mode=True)


def test_only_what_is_asked_for(rng):
    """Other gradients do not change, and an image in whole numbers, without one, does not matter."""
    logits, image, mask = scene(rng, (4, 5), 3)
    levels = image.to(torch.uint8)
    theta = torch.tensor(61.7, dtype=torch.float64, requires_grad=True)
    found = []
    for thetas in ({}, {"theta_beta": theta}):
        given = logits.clone().requires_grad_()
        mean_field(given, levels, mask, CRFParameters(**NUMBERS), **thetas).square().sum().backward()
        found.append(given.grad)
    torch.testing.assert_close(*found)
    assert theta.grad.abs() > 0


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("neighbour_rounds", [0, 1])
def test_the_filter(rng, normalization, neighbour_rounds):
    values = torch.from_numpy(rng.normal(size=(2, 3, 4, 5)))
    features = torch.from_numpy(rng.normal(size=(2, 2, 4, 5)))
    mask = scene(rng, (4, 5), 3)[2]

    def filtered(values, features, mask):
        return gaussian_filter(values, features, mask, normalization=normalization, neighbour_rounds=neighbour_rounds)

    everything = [each.requires_grad_() for each in (values, features, mask)]
    assert torch.autograd.gradcheck(filtered, everything, fast_mode=True)
    (gradient,) = torch.autograd.grad(filtered(*everything).square().sum(), features, create_graph=True)
    with pytest.raises(NotImplementedError, match="cannot be differentiated again"):
        gradient.sum().backward()


def test_in_float32_as_in_float64(rng):
    logits, image, mask = scene(rng, (12, 16), 3)
    found = []
    for dtype in (torch.float32, torch.float64):
        tensors = [each.to(dtype).requires_grad_() for each in (logits, image, mask)]
        starts = {name: value for name, value in NUMBERS.items() if name.startswith("theta")}
        thetas = {name: torch.tensor(value, dtype=dtype, requires_grad=True) for name, value in starts.items()}
        mean_field(*tensors, CRFParameters(**NUMBERS), **thetas).square().sum().backward()
        found.append([each.grad.double() for each in (*tensors, *thetas.values())])
    for single, double in zip(*found, strict=True):
        assert (single - double).norm() <= 1e-3 * double.norm()


# The layer.


def test_the_layer_trains_its_thetas(rng):
    """As `mean_field` with the same tensors."""
    logits, image, _ = scene(rng, (4, 5), 3)
    layer = CrfRnn(3, 2, (3.1, 2.9), 61.7, 1.27, tolerance=0, learn_theta=True).double()
    assert [name for name, _ in layer.named_parameters() if "theta" in name] == [
        "log_thetas.theta_gamma",
        "log_thetas.theta_alpha",
        "log_thetas.theta_beta",
    ]
    layer(logits, image).square().sum().backward()
    thetas = {name: log.detach().exp().requires_grad_() for name, log in layer.log_thetas.items()}
    parameters = CRFParameters(
        theta_alpha=(3.1, 2.9), theta_beta=61.7, theta_gamma=1.27, iterations=2, tolerance=0, compatibility=-1
    )
    mean_field(logits, image, parameters=parameters, **thetas).square().sum().backward()
    for name, theta in thetas.items():
        torch.testing.assert_close(layer.log_thetas[name].grad, theta.grad * theta.detach())


def test_a_wrong_theta_is_found_again(rng):
    """A layer that starts elsewhere learns the θ_β that made the targets, in plain gradient descent."""
    logits, image, _ = scene(rng, (16, 20), 3, size=1)
    image = (image / 255).round() * 120 + 0.1 * image
    with torch.no_grad():
        targets = CrfRnn(3, 2, 5.0, 40.0, 1.5)(logits, image).softmax(1)
    layer = CrfRnn(3, 2, 5.0, 120.0, 1.5, learn_theta=True)
    layer.requires_grad_(False).log_thetas["theta_beta"].requires_grad_()
    optimizer = torch.optim.Adam([layer.log_thetas["theta_beta"]], 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        loss = -(targets * layer(logits, image).log_softmax(1)).mean()
        loss.backward()
        optimizer.step()
    assert abs(np.log(layer.theta_beta / 40)) < 0.25  # a lattice is rough: its loss is not smooth in θ


def test_attributes_follow_what_is_trained():
    layer = CrfRnn(3, theta_beta=7.0, learn_theta=True)
    with torch.no_grad():
        layer.log_thetas["theta_beta"] += np.log(2)
    assert layer.theta_beta == pytest.approx(14, rel=1e-6)
    assert layer.crf.thetas["theta_beta"] == layer.theta_beta
    layer.num_iterations = 3
    assert (layer.num_iterations, layer.theta_beta) == (3, pytest.approx(14, rel=1e-6))
    layer.theta_beta = 9
    assert layer.log_thetas["theta_beta"].item() == pytest.approx(np.log(9), rel=1e-6)
    assert layer.theta_alpha == pytest.approx(160, rel=1e-6)
    other = copy.deepcopy(layer)
    other.theta_beta = 5
    assert layer.theta_beta == pytest.approx(9, rel=1e-6)
    layer.load_state_dict(other.state_dict())
    assert layer.theta_beta == pytest.approx(5, rel=1e-6)
    with raises_saying(ValueError, "theta_beta is trained as 1 numbers", "has 3", "new layer"):
        layer.theta_beta = (1, 2, 3)
    before = layer._crf, layer.theta_gamma
    with raises_saying(ValueError, "theta_beta is trained as 1 numbers", "has 3", "new layer"):
        layer.crf = CRFParameters(theta_gamma=7, theta_beta=(1, 2, 3))
    with raises_saying(ValueError, "begin with different ones"):
        pair = CrfRnn(3, crf=CRF([Kernel(Bilateral(80, 13)), Kernel(Bilateral(80, 13))]), learn_theta=True)
        pair.crf = CRF([Kernel(Bilateral(80, 13)), Kernel(Bilateral(80, 20))])
    assert (layer._crf, layer.theta_gamma) == before


def test_second_derivatives_are_refused(rng):
    logits = torch.from_numpy(rng.normal(size=(1, 3, 4, 5))).requires_grad_()
    refined = mean_field(logits, torch.zeros(1, 3, 4, 5)).square().sum()
    (gradient,) = torch.autograd.grad(refined, logits, create_graph=True)
    with raises_saying(NotImplementedError, "cannot be differentiated again", "create_graph"):
        gradient.sum().backward()


def test_what_cannot_be_trained():
    different = CRF([Kernel(Bilateral(80, 13)), Kernel(Bilateral(80, 20))])
    with raises_saying(ValueError, "one θ of each name", "different ones", "theta_beta=13.0", "theta_beta=20.0"):
        CrfRnn(3, crf=different, learn_theta=True)
    with raises_saying(ValueError, "finds no θ", "depth"):
        CrfRnn(3, crf=CRF([Kernel(Given("depth"))]), learn_theta=True)
    logits = torch.zeros(1, 3, 4, 5)
    with raises_saying(ValueError, "theta_beta", "above 0"):
        mean_field(logits, torch.zeros(1, 3, 4, 5), theta_beta=torch.tensor(-1.0))
    with raises_saying(ValueError, "no kernel has theta_beta"):
        mean_field(logits, None, None, CRF([Kernel(Spatial(3), filter=Grid())]), theta_beta=torch.tensor(1.0))


def test_one_compilation_for_all_values(rng):
    """New values of θ need no compilation."""
    logits, image, _ = (each.float() for each in scene(rng, (6, 7), 3))
    layer = CrfRnn(3, 2, 3.0, 60.0, 1.2, learn_theta=True)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    optimizer = torch.optim.SGD(layer.parameters(), 0.01)
    for _ in range(3):
        optimizer.zero_grad()
        refined = compiled(logits, image)
        torch.testing.assert_close(refined, layer(logits, image))
        refined.square().mean().backward()
        optimizer.step()
    assert counter.frame_count == 1
