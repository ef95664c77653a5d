"""The losses over pairs of pixels against the published formulas, computed densely in float64; gradients; errors."""

from dataclasses import replace

import numpy as np
import pytest

from crfrnn import CRFParameters
from crfrnn.crf import CRF, Bilateral, Exact, Given, Kernel, Regions
from errors import raises_saying
from pairwise_losses import FILTERS, SIMILAR, kernels, truth
from tolerances import assert_close, tolerance

torch = pytest.importorskip("torch", reason="needs the torch extra")
from crfrnn.torch import losses  # noqa: E402
from crfrnn.torch.losses import dense_crf_loss, gated_crf_loss, normalized_cut_loss  # noqa: E402

pytestmark = pytest.mark.torch

LOSSES = {"dense": dense_crf_loss, "gated": gated_crf_loss, "cut": normalized_cut_loss}
NORMALIZATIONS = ["none", "after", "before", "symmetric"]
SHAPES = [((9,), 1), ((4, 5), 3), ((2, 3, 4), 2)]


def inputs(rng, spatial=(4, 5), channels=3, classes=4):
    """Probabilities, image, and three maps of weights of pixels, some of them 0."""
    q = torch.softmax(torch.from_numpy(2 * rng.normal(size=(2, classes, *spatial))), dim=1)
    image = torch.from_numpy(rng.uniform(0, 255, size=(2, channels, *spatial)))
    return q, image, *(torch.from_numpy(rng.integers(0, 3, size=(2, *spatial)) / 2) for _ in range(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("name", LOSSES)
def test_equals_the_published_formula(rng, name, filters, normalization, dtype):
    q, image, mask, source, destination = inputs(rng)
    crf = kernels(filters, normalization)
    gates = {"source": source, "destination": destination} if name == "gated" else {}
    given = q.to(dtype).clone().requires_grad_()
    found = LOSSES[name](given, image.to(dtype), mask, parameters=crf, **gates)
    assert found.dtype == dtype
    assert found.shape == ()
    (slope,) = torch.autograd.grad(found, given)
    value, gradient = truth(name, crf, q, image, mask, **gates)
    bounds = tolerance(np.dtype(str(dtype)[6:]))
    assert_close(found.detach(), value, bounds.gradient)
    assert_close(slope, gradient, bounds.gradient)


@pytest.mark.parametrize(("spatial", "channels"), SHAPES)
@pytest.mark.parametrize("name", LOSSES)
def test_any_axes_channels_and_classes(rng, name, spatial, channels):
    for classes in (2, 7):
        q, image, mask, *_ = inputs(rng, spatial, channels, classes)
        crf = kernels("lattice")
        everything = torch.ones_like(mask)
        assert_close(LOSSES[name](q, image, parameters=crf), truth(name, crf, q, image, everything)[0], 1e-11)
        assert_close(LOSSES[name](q, image, mask, parameters=crf), truth(name, crf, q, image, mask)[0], 1e-11)


def test_the_published_dense_crf_loss(rng):
    """-Σ_c S_cᵀ A S_c over the images, to which the part that knows no S is added: mᵀ A m, with S = m q."""
    q, image, mask, *_ = inputs(rng)
    parameters = replace(losses.DENSE_CRF, theta_alpha=5.13, theta_beta=61.7, filter="exact")
    published = constant = 0
    for parts in zip(q, image, mask, strict=True):
        probabilities, colours, m = (each.numpy().reshape(*each.shape[:-2], -1) for each in parts)
        rows = np.stack([axis.ravel() for axis in np.indices((4, 5))[::-1]], axis=1) / 5.13
        rows = np.concatenate([rows, colours.T / 61.7], axis=1)
        A = np.exp(-((rows[:, None] - rows) ** 2).sum(axis=2) / 2)
        S = m * probabilities
        published -= np.einsum("ci,ij,cj->", S, A, S) / len(q)
        constant += m @ A @ m / len(q)
    images_over_pixels = len(q) / mask.sum().item()
    assert_close(dense_crf_loss(q, image, mask, parameters), images_over_pixels * (published + constant), 1e-11)


def windowed_gated_crf(q, image, source, destination, theta_alpha, theta_beta, radius):
    """The published gated loss: pairs within a window of two different pixels; the mean over destinations."""
    total = 0.0
    _, _, height, width = q.shape
    for b, y, x in np.ndindex(len(q), height, width):
        for v in range(max(0, y - radius), min(height, y + radius + 1)):
            for u in range(max(0, x - radius), min(width, x + radius + 1)):
                if (v, u) != (y, x):
                    colours = (image[b, :, y, x] - image[b, :, v, u]) / theta_beta
                    squares = (colours**2).sum() + ((y - v) ** 2 + (x - u) ** 2) / theta_alpha**2
                    disagreement = 1 - (q[b, :, y, x] * q[b, :, v, u]).sum()
                    total += destination[b, y, x] * source[b, v, u] * np.exp(-squares / 2) * disagreement
    return total / destination.sum()


def test_the_published_gated_crf_loss(rng):
    q, image, _, source, destination = inputs(rng)
    arrays = [tensor.numpy() for tensor in (q, image, source, destination)]
    parameters = replace(losses.GATED_CRF, filter="exact")
    expected = windowed_gated_crf(*arrays, 6, 25.5, radius=5)
    assert_close(gated_crf_loss(q, image, None, source, destination, parameters), expected, 1e-11)


def test_a_gate_alone(rng):
    """Without a destination the mean is over the sources, as published."""
    q, image, mask, gate, _ = inputs(rng)
    for gates in ({"source": gate}, {"destination": gate}, {}):
        expected, _ = truth("gated", kernels(), q, image, mask, **gates)
        assert_close(gated_crf_loss(q, image, mask, parameters=kernels(), **gates), expected, 1e-11)


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck(rng, name, filters):
    q, image, mask, source, destination = (each[:1] for each in inputs(rng, (2, 3), classes=3))
    logits = q.log().requires_grad_()
    gates = {"source": source, "destination": destination} if name == "gated" else {}

    def loss(logits):
        return LOSSES[name](torch.softmax(logits, 1), image, mask, parameters=kernels(filters, "after"), **gates)

    assert torch.autograd.gradcheck(loss, logits)
    assert torch.autograd.gradgradcheck(loss, logits)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_to_image_and_mask_through_an_exact_filter(rng, name):
    q, image, mask, *_ = inputs(rng, (3, 3), classes=3)
    wanted = q[:1].requires_grad_(), image[:1].requires_grad_(), (mask[:1] + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: LOSSES[name](*given, parameters=kernels()), wanted)


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("name", LOSSES)
def test_never_negative_and_0_for_a_single_class(rng, name, filters):
    q, image, *_ = inputs(rng, (6, 7))
    sharp = torch.softmax(q.log().float() * 100, 1)
    assert (sharp == 1).any()
    assert LOSSES[name](sharp, image.float(), parameters=kernels(filters)) >= 0
    one = torch.zeros_like(sharp)
    one[:, 2] = 1
    assert LOSSES[name](one, image.float(), parameters=kernels(filters)) == 0
    assert LOSSES[name](one, image.float(), torch.zeros(2, 6, 7), parameters=kernels(filters)) == 0


@pytest.mark.parametrize("name", LOSSES)
def test_a_class_that_is_nowhere_has_no_slope(rng, name):
    """Its probabilities are 0 in float32: nothing is divided by them."""
    q, image, *_ = inputs(rng, (6, 7))
    logits = q.log().float()
    logits[:, 1] = -1000
    loss = LOSSES[name](torch.softmax(logits.requires_grad_(), 1), image.float(), parameters=kernels("lattice"))
    (slope,) = torch.autograd.grad(loss, logits)
    assert not slope[:, 1].any()
    assert slope.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_one_channel_is_two_classes(rng, name):
    q, image, mask, *_ = inputs(rng, classes=2)
    both = LOSSES[name](q, image, mask, parameters=kernels())
    assert_close(LOSSES[name](q[:, 1:], image, mask, parameters=kernels()), both, 1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_given_features_kernels_and_spacing(rng, name):
    q, image, *_ = inputs(rng)
    coordinates = torch.stack(torch.meshgrid(*map(torch.arange, (4.0, 5.0)), indexing="ij"))[[1, 0]]
    features = torch.cat([coordinates.expand(2, 2, 4, 5).double() / 5.13, image / 61.7], 1)
    expected = LOSSES[name](q, image, parameters=CRF([Kernel(SIMILAR, 1, Exact())]))
    learned = CRF([Kernel(Given("learned"), 1, Exact())])
    assert_close(LOSSES[name](q, None, parameters=learned, given={"learned": features}), expected, 1e-11)

    def own(values):
        return losses.pair_filter(
            CRF([Kernel(SIMILAR, 1, Exact(), "none")]), losses.Scene(values, image, None, {}, None), True, None
        )(values)

    assert_close(LOSSES[name](q, None, parameters=learned, given={"learned": own}), expected, 1e-11)
    doubled = CRF([Kernel(Bilateral(2 * 5.13, 61.7), 1, Exact())])
    assert_close(LOSSES[name](q, image, parameters=doubled, spacing=2), expected, 1e-11)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_and_autocast_are_computed_in_float32(rng, name, dtype):
    q, image, mask, *_ = inputs(rng)
    q = q.to(dtype)
    expected = LOSSES[name](q.float(), image.to(dtype).float(), mask.float(), parameters=kernels("lattice"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = LOSSES[name](q, image.to(dtype), mask.to(dtype), parameters=kernels("lattice"))
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("module", [losses.DenseCrfLoss, losses.GatedCrfLoss, losses.NormalizedCutLoss])
def test_modules_compile_and_equal_the_functions(rng, module):
    q, image, mask, source, _ = (tensor.float() for tensor in inputs(rng))
    loss = module(theta_alpha=5.13, theta_beta=61.7, spatial_weight=0.5, normalization="after")
    published = losses.GATED_CRF if module is losses.GatedCrfLoss else losses.DENSE_CRF
    changed = replace(published, theta_alpha=5.13, theta_beta=61.7, spatial_weight=0.5, normalization="after")
    assert loss.crf == changed.crf
    assert module().crf == published.crf.active
    assert "Bilateral(theta_alpha=5.13" in repr(loss)
    gates = [source] if module is losses.GatedCrfLoss else []
    logits = q.log().requires_grad_()

    def call(logits):
        return loss(torch.softmax(logits, 1), image, mask, *gates)

    expected = call(logits)
    function = {losses.DenseCrfLoss: "dense", losses.GatedCrfLoss: "gated", losses.NormalizedCutLoss: "cut"}[module]
    assert torch.equal(LOSSES[function](torch.softmax(logits, 1), image, mask, *gates, parameters=changed), expected)
    (slope,) = torch.autograd.grad(expected, logits)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")(logits)
    assert_close(compiled.detach(), expected.detach(), 1e-6)
    assert_close(torch.autograd.grad(compiled, logits)[0], slope, 1e-5)


def test_a_lattice_is_built_once_for_all_classes(rng, monkeypatch):
    built = []
    build = losses.pairwise_filters
    monkeypatch.setattr(losses, "pairwise_filters", lambda *given: built.append(given) or build(*given))
    from crfrnn.inference import batch

    lattices, filters = [], []
    made, filtered = batch.lattices, batch.filtered
    monkeypatch.setattr(batch, "lattices", lambda *given: lattices.append(1) or made(*given))
    monkeypatch.setattr(batch, "filtered", lambda *given: filters.append(1) or filtered(*given))
    q, image, *_ = inputs(rng)
    crf = CRF([Kernel(SIMILAR, normalization="none")])
    dense_crf_loss(q.requires_grad_(), image, parameters=crf).backward()
    assert (len(built), len(lattices), len(filters)) == (1, 1, 2)


def test_the_solver_has_no_use(rng):
    """Not even what leaves out classes, which has no gradient."""
    q, image, *_ = inputs(rng)
    parameters = replace(losses.DENSE_CRF, class_threshold=0.1, damping=0.5)
    assert torch.equal(dense_crf_loss(q, image, parameters=parameters), dense_crf_loss(q, image))


Q, IMAGE, MASK = torch.full((2, 4, 5, 6), 0.25), torch.zeros(2, 3, 5, 6), torch.ones(2, 5, 6)


@pytest.mark.parametrize(
    ("given", "options", "error", "facts"),
    [
        ((3 * Q + 2, IMAGE), {}, ValueError, ["from 2.75 to 2.75", "0 to 1", "softmax(logits)"]),
        ((Q - 1, IMAGE), {}, ValueError, ["from -0.75", "softmax(logits)"]),
        ((Q / 0 * 0, IMAGE), {}, ValueError, ["from nan to nan"]),
        ((Q.long(), IMAGE), {}, TypeError, ["probabilities are torch.int64"]),
        ((Q[0], IMAGE), {}, ValueError, ["image has shape (2, 3, 5, 6)", "(4, channels, 6)"]),
        ((Q, IMAGE[..., :4]), {}, ValueError, ["image has shape (2, 3, 5, 4)", "to go with probabilities"]),
        ((Q[..., :3], IMAGE), {}, ValueError, ["to go with probabilities", "interpolate the logits"]),
        ((Q, None), {}, TypeError, ["image is a NoneType"]),
        ((Q, IMAGE / 0), {}, ValueError, ["image[0] holds", "NaN"]),
        ((Q, IMAGE, MASK[:, :4]), {}, ValueError, ["mask has shape (2, 4, 6)", "probabilities"]),
        ((Q, IMAGE, -MASK), {}, ValueError, ["mask holds -1.0", "at least 0"]),
        ((Q, IMAGE), {"parameters": "deeplap"}, ValueError, ["deeplap", "deeplab"]),
        ((Q, IMAGE), {"parameters": CRFParameters(compatibility=1)}, ValueError, ["compatibility=1.0", "Potts"]),
        ((Q, IMAGE), {"parameters": CRFParameters(bilateral_weight=-1)}, ValueError, ["bilateral_weight=-1.0"]),
        ((Q, IMAGE), {"parameters": CRFParameters(spatial_weight=[1] * 4)}, ValueError, ["spatial_weight=(1.0, 1.0"]),
        ((Q, IMAGE), {"parameters": CRF([])}, ValueError, ["no kernel has a weight above 0"]),
        ((Q, IMAGE), {"parameters": CRF([Kernel(Given("depth"))])}, ValueError, ["'depth'"]),
        ((Q, IMAGE), {"parameters": CRF([], regions=[Regions("ids")])}, ValueError, ["regions 'ids'", "leave out"]),
        ((Q, IMAGE), {"threads": 0}, ValueError, ["threads=0"]),
        ((Q, IMAGE), {"spacing": 0}, ValueError, ["spacing=0"]),
    ],
)
@pytest.mark.parametrize("name", LOSSES)
def test_bad_input_is_named(name, given, options, error, facts):
    with raises_saying(error, *facts):
        LOSSES[name](*given, **options)


@pytest.mark.parametrize("name", ["source", "destination"])
def test_bad_gates_are_named(name):
    with raises_saying(ValueError, f"{name} has shape (2, 5)", "(2, 5, 6)"):
        gated_crf_loss(Q, IMAGE, **{name: MASK[..., 0]})
    with raises_saying(ValueError, f"{name} holds -1.0", "at least 0"):
        gated_crf_loss(Q, IMAGE, **{name: -MASK})


def test_bad_settings_are_named():
    with raises_saying(ValueError, "a loss with theta_alpha", "a list of kernels"):
        losses.DenseCrfLoss(kernels(), theta_alpha=3)
    for name in ("theta_delta", "sigma_xy", "iterations"):
        with raises_saying(TypeError, f"a loss has no {name}", "theta_alpha", "normalization"):
            losses.DenseCrfLoss(**{name: 3})
    with raises_saying(ValueError, "theta_beta=0"):
        losses.GatedCrfLoss(theta_beta=0)
