"""Gradients to image, mask, given features and θ on devices, against differences, autograd and plain torch.

Interpreted too, as test_device_steps.py is. Values are random: no point lies on the border of simplices, where the
gradient through a lattice jumps.
"""

from dataclasses import replace

import numpy as np
import pytest

from crfrnn import reference, reference_gradients
from crfrnn.crf import CRF, Bilateral, Exact, Given, Kernel, Lattice, MeanField, Spatial
from crfrnn.inference.backend import Execution, Inputs
from specified import THETAS, specified
from tolerances import assert_close, tolerance

torch = pytest.importorskip("torch", reason="needs the torch extra")
from crfrnn.torch import differentiable  # noqa: E402
from crfrnn.torch.gpu import meanfield, plain  # noqa: E402
from crfrnn.torch.gpu import terms as pairwise  # noqa: E402
from places import DTYPES, INTERPRETED, Place, cases  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("unwritten_memory_is_nan")]

CLASSES = 4
EXECUTION = Execution()
NORMALIZATIONS = ("after", "before", "symmetric", "none")
DIFFERENCE = 1e-5  # relative error of a central difference of step 1e-6, in float64
AUTOGRAD = 1e-10


def kernels(normalization="after", rounds=0):
    """One of every kind that has a gradient."""
    options = {"normalization": normalization}
    return [
        Kernel(Spatial(1.57), **options),
        Kernel(Bilateral(5.13, 61.7), filter=Lattice(rounds), **options),
        Kernel(Given("learned"), **options),
    ]


def crf_of(*chosen, iterations=2, damping=0.1):
    return CRF(chosen, solver=MeanField(iterations, damping, tolerance=0))


def drawn(rng, place, spatial=(4, 5), dtype=np.float64, masked=True, thetas=None, spacing=None, channels=3):
    """A batch of two images."""

    def tensor(array):
        return place.tensor(array.astype(dtype))

    thetas = {name: np.array([value]) for name, value in THETAS.items()} if thetas is None else thetas
    return Inputs(
        tensor(rng.normal(size=(2, CLASSES, *spatial))),
        tensor(rng.uniform(0, 255, size=(2, channels, *spatial))),
        tensor(rng.uniform(0.2, 2, size=(2, *spatial))) if masked else None,
        {"learned": tensor(rng.uniform(0, 3, size=(2, 2, *spatial)))},
        spacing,
        {name: tensor(np.asarray(value)) for name, value in thetas.items()},
    )


def couplings_of(rng, place, crf, dtype=np.float64):
    """A number, a diagonal, a matrix, …"""
    shapes = [(CLASSES,) * (k % 3) for k in range(len(crf.kernels))]
    return [place.tensor(np.asarray(0.7 * rng.normal(size=shape), dtype)) for shape in shapes]


def gradients_of(place, crf, inputs, couplings, cotangent, execution=EXECUTION, guide=True):
    _, record = meanfield.forward(crf, inputs, couplings, True, execution, place.steps)
    return meanfield.vjp(crf, inputs, cotangent, record, couplings, execution, guide, place.steps)


def sources(inputs):
    """What kernels are built from, by name, each with a function that puts another in its place."""

    def one_of(field, name):
        return lambda tensor: inputs._replace(**{field: {**getattr(inputs, field), name: tensor}})

    found = {"image": (inputs.image, lambda tensor: inputs._replace(image=tensor))}
    if inputs.mask is not None:
        found["mask"] = inputs.mask, lambda tensor: inputs._replace(mask=tensor)
    for field in ("given", "thetas"):
        found |= {name: (tensor, one_of(field, name)) for name, tensor in getattr(inputs, field).items()}
    return found


def by_name(gradients):
    """Those to the guide that there are."""
    found = {"image": gradients.image, "mask": gradients.mask, **gradients.given, **gradients.thetas}
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def assert_slope(rng, loss, tensor, gradient):
    """Along some direction, the gradient is what a central difference of the loss says."""
    scale = float(tensor.abs().max())
    direction = torch.from_numpy(scale * rng.choice([-1.0, 1.0], size=tuple(tensor.shape))).to(tensor)
    step = 1e-6 * direction
    expected = (loss(tensor + step) - loss(tensor - step)) / 2e-6
    found, size = (gradient * direction).sum(), gradient.norm() * direction.norm()
    assert abs(float(found - expected)) <= DIFFERENCE * float(size)


def assert_slopes(rng, place, crf, inputs):
    """To everything; the gradients to logits and couplings are those without the others."""
    couplings = couplings_of(rng, place, crf)
    cotangent = place.tensor(rng.normal(size=tuple(inputs.logits.shape)))
    gradients = gradients_of(place, crf, inputs, couplings, cotangent)
    alone = gradients_of(place, crf, inputs, couplings, cotangent, guide=False)
    assert not by_name(alone)
    bound = tolerance(np.float64).gradient
    for ours, theirs in zip((gradients.logits, *gradients.couplings), (alone.logits, *alone.couplings), strict=True):
        assert_close(ours.cpu(), theirs.cpu(), bound, floor=1.0)

    found = by_name(gradients)
    for name, (tensor, replaced) in sources(inputs).items():
        if name in found:

            def loss(moved, replaced=replaced):
                refined, _ = meanfield.forward(crf, replaced(moved), couplings, False, EXECUTION, place.steps)
                return (refined * cotangent).sum()

            assert found[name].shape == tensor.shape
            assert_slope(rng, loss, tensor, found[name])
    return found


@pytest.mark.skipif(INTERPRETED, reason="compared with plain torch below")
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("masked", [False, True])
def test_slopes_by_normalisation(rng, place, normalization, masked):
    inputs = drawn(rng, place, masked=masked)
    found = assert_slopes(rng, place, crf_of(*kernels(normalization)), inputs)
    assert found.keys() == sources(inputs).keys()


@pytest.mark.skipif(INTERPRETED, reason="no step of its own")
@pytest.mark.parametrize(("iterations", "damping"), [(0, 0.4), (1, 0.0), (3, 0.4)])
def test_slopes_by_iterations(rng, place, iterations, damping):
    crf = crf_of(*kernels()[:2], iterations=iterations, damping=damping)
    found = assert_slopes(rng, place, crf, drawn(rng, place))
    assert (found["mask"].abs().max() > 0) == (iterations > 0)


@pytest.mark.skipif(INTERPRETED, reason="no step of its own")
@pytest.mark.parametrize(("spatial", "each"), [((9,), False), ((4, 5), True), ((3, 2, 4), True)])
def test_slopes_in_every_dimension(rng, place, spatial, each):
    """One θ for all axes and channels, or one for each, with a spacing."""
    axes = len(spatial)
    thetas = {
        "theta_alpha": [5.13, 4.2, 3.3][:axes],
        "theta_beta": [61.7, 47.1],
        "theta_gamma": [1.57, 2.23, 1.3][:axes],
    }
    numbers = {name: values if each else values[:1] for name, values in thetas.items()}
    inputs = drawn(rng, place, spatial, thetas=numbers, spacing=(1.3, 0.7, 0.9)[:axes] if each else None, channels=2)
    assert_slopes(rng, place, crf_of(*kernels()[:2], Kernel(Spatial(2.3), filter=Lattice())), inputs)


@pytest.mark.skipif(INTERPRETED, reason="no step of its own")
def test_slopes_with_added_vertices(rng, place):
    assert_slopes(rng, place, crf_of(*kernels(rounds=1)[:2]), drawn(rng, place))


@pytest.mark.skipif(INTERPRETED, reason="no step of its own")
def test_slopes_of_several_kernels_of_the_same_thetas(rng, place):
    """Sums of all kernels that a θ or the image is in."""
    crf = crf_of(*kernels()[:2], Kernel(Bilateral(3.1, 43.0), normalization="before"), Kernel(Given("learned")))
    assert_slopes(rng, place, crf, drawn(rng, place))


@pytest.mark.parametrize("spatial", cases((5, 6), (3, 4, 2), few=[(3, 4)]))
@pytest.mark.parametrize("normalization", cases("after", "symmetric", few=["after"]))
def test_a_grid_has_the_gradients_of_autograd(rng, place, spatial, normalization):
    crf = crf_of(Kernel(Spatial(1.57), normalization=normalization))
    thetas = {"theta_gamma": [1.2, 1.7, 0.8][: len(spatial)]}
    inputs = drawn(rng, place, spatial, thetas=thetas)
    cotangent = place.tensor(rng.normal(size=tuple(inputs.logits.shape)))
    couplings = [place.tensor(rng.normal(size=(CLASSES, CLASSES)))]
    gradients = gradients_of(place, crf, inputs, couplings, cotangent)

    leaves = [inputs.mask.clone().requires_grad_(), inputs.thetas["theta_gamma"].clone().requires_grad_()]
    there = inputs._replace(mask=leaves[0], thetas={"theta_gamma": leaves[1]})
    refined = differentiable.forward(crf, there, couplings, EXECUTION)
    to_mask, to_theta = torch.autograd.grad((refined * cotangent).sum(), leaves)
    assert_close(gradients.mask.cpu(), to_mask.cpu(), AUTOGRAD)
    assert_close(gradients.thetas["theta_gamma"].cpu(), to_theta.cpu(), AUTOGRAD)


def smooth(rng, place, side=16):
    """Photos and scores without noise, as far apart as a lattice of θ_β = 61.7 follows."""
    y, x = np.mgrid[:side, :side] / side
    waves = [np.sin(a * x + b * y + c) for a, b, c in rng.uniform(-4, 4, size=(2 * (CLASSES + 3), 3))]
    planes = np.stack(waves).reshape(2, CLASSES + 3, side, side)
    thetas = {"theta_alpha": [9.0, 7.0], "theta_beta": [50.0, 60.0, 70.0], "theta_gamma": [2.0]}
    tensors = {name: place.tensor(np.array(values)) for name, values in thetas.items()}
    return Inputs(place.tensor(planes[:, :CLASSES]), place.tensor(100 * planes[:, CLASSES:]), thetas=tensors)


@pytest.mark.skipif(INTERPRETED, reason="no step of its own")
def test_direction_of_the_exact_gradient(rng, place):
    """On smooth photos and a lattice without gaps, by the angle to the gradient through all pairs of points."""
    inputs = smooth(rng, place)
    crf = crf_of(Kernel(Spatial(2.0)), Kernel(Bilateral(9.0, 60.0), filter=Lattice(1)), iterations=3)
    exact = replace(crf, kernels=[replace(kernel, filter=Exact()) for kernel in crf.kernels])
    couplings = [inputs.logits.new_tensor(-1.0), inputs.logits.new_tensor(-2.0)]
    cotangent = torch.softmax(2 * inputs.logits.roll(1, dims=1), 1) - torch.softmax(inputs.logits, 1)
    gradients = gradients_of(place, crf, inputs, couplings, cotangent)

    leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.thetas.items()}
    image = inputs.image.clone().requires_grad_()
    refined = differentiable.forward(exact, inputs._replace(image=image, thetas=leaves), couplings, EXECUTION)
    *to_thetas, to_image = torch.autograd.grad((refined * cotangent).sum(), [*leaves.values(), image])
    scaled = [
        torch.cat([each * theta for each, theta in zip(found, inputs.thetas.values(), strict=True)])
        for found in (gradients.thetas.values(), to_thetas)
    ]
    assert torch.cosine_similarity(*scaled, dim=0) > 0.95
    assert torch.cosine_similarity(gradients.image.flatten(), to_image.flatten(), dim=0) > 0.7


def test_thetas_take_the_place_of_the_specification(rng, place):
    """Also where Gaussians reach much further than those of the specification, and with a spacing."""
    thetas = {"theta_alpha": [3.3, 6.1], "theta_beta": [43.0], "theta_gamma": [0.4, 4.9]}
    shape = (3, 21) if INTERPRETED else (7, 33)
    for dtype in cases(np.float32, np.float64, few=[np.float32]):
        inputs = drawn(rng, place, shape, dtype, thetas=thetas, spacing=(1.2, 0.7))
        crf = specified(iterations=2).crf
        couplings = couplings_of(rng, place, crf, dtype)
        refined, _ = meanfield.forward(crf, inputs, couplings, False, EXECUTION, place.steps)
        written = crf.with_thetas(**{name: tuple(values) for name, values in thetas.items()})
        expected, _ = meanfield.forward(written, inputs._replace(thetas={}), couplings, False, EXECUTION, place.steps)
        assert_close(refined.cpu(), expected.cpu(), tolerance(dtype).mean_field)


def in_dtype(inputs, like):
    """All tensors on the device and in the dtype of another."""
    return torch.utils._pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to(like), inputs)


@pytest.mark.parametrize(
    ("storage", "deterministic"), [(None, True), (None, False), (torch.bfloat16, True), (torch.float16, False)]
)
def test_as_plain_torch_in_float64(rng, place, monkeypatch, storage, deterministic):
    """In float32, and stored in 16 bits, where θ sum roundings over all points."""
    monkeypatch.setattr(pairwise, "fixed_order", lambda deterministic: deterministic)
    crf = crf_of(*kernels("symmetric")[:3])
    inputs = drawn(rng, place, (3, 5), np.float32)
    couplings = couplings_of(rng, place, crf, np.float32)
    cotangent = place.tensor(rng.normal(size=tuple(inputs.logits.shape)).astype(np.float32))
    execution = Execution(None, deterministic, storage)
    found = by_name(gradients_of(place, crf, inputs, couplings, cotangent, execution))
    there = in_dtype((inputs, couplings, cotangent), torch.zeros((), dtype=torch.float64))
    expected = by_name(gradients_of(Place("cpu", plain), crf, *there))
    assert found.keys() == sources(inputs).keys()
    errors = []
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32
        assert_close(gradient.cpu(), expected[name], 1e-4 if storage is None else 0.15)
        errors.append(float((gradient.cpu() - expected[name]).abs().max() / expected[name].abs().max()))
    assert (max(errors) > 1e-3) == (storage is not None)


def test_several_programs_share_the_points(rng, place, monkeypatch):
    """Tiles of 4 rows, and of 2 corners at a vertex."""
    if place.steps is not plain:
        tiles = ("TILE", 32), ("RUN_TILE", 16), ("JOINT_TILE", 16), ("POINTS", 16)
        for name, size in (*tiles, ("RUN", 2), ("SIDE", 2), ("UNROLL", 2)):
            monkeypatch.setattr(place.steps, name, size)
    crf = crf_of(Kernel(Given("learned"), filter=Lattice()), iterations=1)
    inputs = drawn(rng, place, (3, 3))
    couplings, cotangent = couplings_of(rng, place, crf), inputs.logits.flip(1)
    found = by_name(gradients_of(place, crf, inputs, couplings, cotangent))
    expected = by_name(
        gradients_of(
            Place("cpu", plain), crf, *in_dtype((inputs, couplings, cotangent), torch.zeros((), dtype=torch.float64))
        )
    )
    assert found.keys() == {"learned", "mask"}
    for name, gradient in found.items():
        assert_close(gradient.cpu(), expected[name], tolerance(np.float64).gradient)


@pytest.mark.skipif(INTERPRETED, reason="no step of its own")
def test_where_there_is_no_gradient(rng, place):
    """No kernel is built from it, or it has no fractions."""
    inputs = drawn(rng, place, masked=False)
    couplings = [inputs.logits.new_ones(())]
    for given, kernel, expected in (
        (inputs, Kernel(Bilateral(5.13, 61.7)), {"image", "theta_alpha", "theta_beta"}),
        (inputs, Kernel(Given("learned")), {"learned"}),
        (inputs._replace(image=inputs.image.to(torch.uint8), thetas={}), Kernel(Bilateral(5.13, 61.7)), set()),
        (
            inputs._replace(mask=torch.ones_like(inputs.logits[:, 0], dtype=torch.bool)),
            Kernel(Spatial(2.1)),
            {"theta_gamma"},
        ),
    ):
        gradients = gradients_of(place, crf_of(kernel, iterations=1), given, couplings, inputs.logits)
        assert by_name(gradients).keys() == expected
        assert gradients.given.keys() == given.given.keys()
        assert gradients.thetas.keys() == given.thetas.keys()


@pytest.mark.parametrize("normalization", cases(*NORMALIZATIONS, few=["after"]))
def test_points_of_weight_0(rng, place, normalization):
    """All gradients are finite; such a point's colour has none, as it neither sends nor receives."""
    inputs = drawn(rng, place, (3, 8), np.float32)
    inputs.mask[:, :, 3:] = 0
    inputs.image[:, :, :, 3:] += 1e4  # far from all others
    crf = crf_of(*kernels(normalization)[:2])
    found = by_name(gradients_of(place, crf, inputs, couplings_of(rng, place, crf, np.float32), inputs.logits))
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert not found["image"][:, :, :, 3:].any()
    assert found["image"][:, :, :, :3].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", cases(1, 2, 5, few=[3]))
def test_the_lattice_has_the_gradients_of_the_oracle(rng, place, d, dtype):
    features = rng.uniform(0, 3, size=(2, d, 20)).astype(dtype)
    values, cotangent = rng.normal(size=(2, 2, 3, 20)).astype(dtype)
    tensors = [place.tensor(each) for each in (cotangent, values, features)]
    term = meanfield.lattices(tensors[2], None, "none", 0, True, place.steps)
    found = meanfield.lattice_gradient(*tensors, term, place.steps)
    expected = [
        reference_gradients.lattice_gradient(reference.Lattice(f.T), v.T, g.T).T
        for f, v, g in zip(features, values, cotangent, strict=True)
    ]
    assert_close(found.cpu(), np.stack(expected), tolerance(dtype).gradient)


@pytest.mark.parametrize("normalization", cases(*NORMALIZATIONS, few=["after"]))
@pytest.mark.parametrize("masked", [False, True])
def test_slopes_of_a_filter(rng, place, normalization, masked):
    """To the features of `meanfield.lattices`."""
    inputs = drawn(rng, place, masked=masked)
    features, cotangent = inputs.given["learned"], place.tensor(rng.normal(size=tuple(inputs.logits.shape)))

    def lattices(features):
        return meanfield.lattices(features, inputs.mask, normalization, 0, True, place.steps)

    def loss(features):
        return (meanfield.filtered(inputs.logits, lattices(features), False, place.steps) * cotangent).sum()

    gradient = meanfield.lattice_gradient(cotangent, inputs.logits, features, lattices(features), place.steps)
    assert_slope(rng, loss, features, gradient)
