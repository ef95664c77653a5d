"""Frank-Wolfe and implicit gradients in torch: by the native core, and in operations of torch where that lacks one."""

from dataclasses import replace

import numpy as np
import pytest

import crfrnn
from crfrnn.crf import CRF, Bilateral, Exact, FrankWolfe, Given, Kernel, Lattice, MeanField, Spatial
from crfrnn.inference import batch
from crfrnn.inference.adjoint import ConvergenceWarning
from crfrnn.inference.backend import Ability, Execution, Inputs, UnsupportedError, able, asked_by
from kernel_lists import CLASSES, CRFS, scene, smooth
from solver_cases import CONVERGING, FRANK_WOLFES, KERNELS, marginals_of, softmax, solved_by
from tolerances import assert_close, tolerance

torch = pytest.importorskip("torch", reason="needs the torch extra")
from crfrnn.torch import CrfRnn, differentiable, frankwolfe, functional, gpu, mean_field, ops  # noqa: E402

pytestmark = pytest.mark.torch

BOUNDS = tolerance(np.float64)
OPERATORS = (ops.mean_field, ops.mean_field_vjp, ops.lattice, ops.gaussian_filter)
EVERY_SOLVER = pytest.mark.parametrize("solver", FRANK_WOLFES.values(), ids=FRANK_WOLFES)


@pytest.fixture(params=["native", "operations of torch"])
def place(request, monkeypatch):
    """The operators of the CPU; and, as on other devices, the backend that is asked after `gpu`."""
    if request.param != "native":
        monkeypatch.setattr(functional, "batch", gpu)
        for operator in OPERATORS:
            monkeypatch.setitem(operator.kernels, "cpu", operator.kernels["default"])
    return request.param


def tensors(given):
    """Logits, image, mask and what is given as tensors."""
    logits, image, mask = map(torch.from_numpy, given[:3])
    return logits, image, mask, {name: torch.from_numpy(features) for name, features in given.given.items()}


@EVERY_SOLVER
@pytest.mark.parametrize("name", KERNELS)
def test_the_function(rng, place, solver, name):
    crf, given = solved_by(solver, name), scene(rng)
    logits, image, mask, features = tensors(given)
    refined = mean_field(logits, image, mask, crf, given=features)
    expected = marginals_of(crf, given)
    assert_close(softmax(refined), expected, BOUNDS.mean_field)


def gradients(crf, given, couplings, cotangent, of_torch):
    """Logits, and gradients to logits and couplings, of the native core or in operations of torch."""
    if not of_torch:
        inputs = Inputs(*given)
        refined, record = batch.forward(crf, inputs, couplings, True, Execution(1))
        to_logits, to_couplings = batch.vjp(crf, inputs, cotangent, record, couplings, Execution(1), False)[:2]
        return [refined, to_logits, *to_couplings]
    logits, image, mask, features = tensors(given)
    inputs = [logits.requires_grad_(), *(torch.tensor(each, requires_grad=True) for each in couplings)]
    scene_of_tensors = Inputs(logits, image, mask, features)
    refined = differentiable.forward(crf, scene_of_tensors, inputs[1:], Execution())
    found = torch.autograd.grad(refined, inputs, torch.from_numpy(cotangent), materialize_grads=True)
    return [each.detach().numpy() for each in (refined, *found)]


@pytest.mark.parametrize("gradient", ["unrolled", "implicit"])
@pytest.mark.parametrize("name", CONVERGING)
@pytest.mark.parametrize("kernels", ["standard", "three", "given exactly", "empty"])
def test_both_ways_agree(rng, name, kernels, gradient):
    """The native core and NumPy, with gradients of their own, and autograd."""
    solver = replace(CONVERGING[name], gradient=gradient)
    if gradient == "unrolled":
        solver = replace(solver, iterations=7, tolerance=0)
    crf, given = solved_by(solver, kernels), scene(rng)
    couplings = [-0.4 * np.eye(CLASSES) + 0.1 * rng.normal(size=(CLASSES,) * 2), np.array(-0.6), np.array(0.3)]
    couplings = couplings[: len(crf.kernels)]
    cotangent = rng.normal(size=given.logits.shape)
    if isinstance(solver, FrankWolfe):
        cotangent *= np.exp(batch.forward(crf, Inputs(*given), couplings, False, Execution(1))[0])
    native, torchs = (gradients(crf, given, couplings, cotangent, of_torch) for of_torch in (False, True))
    for ours, theirs in zip(native, torchs, strict=True):
        assert_close(ours, theirs, 1e-7)


@pytest.mark.parametrize("gradient", ["unrolled", "implicit"])
@pytest.mark.parametrize("name", CONVERGING)
def test_gradcheck(rng, place, name, gradient):
    """Through the layer, in float64; of marginals, as logarithms of small ones are steep."""
    strong = {"strength": 6.0} if name == "Euclidean" else {}
    solver = replace(CONVERGING[name], iterations=40, gradient=gradient, **strong)
    if gradient == "unrolled":
        solver = replace(solver, iterations=3, tolerance=0)
    layer = CrfRnn(CLASSES, crf=CRF([smooth, Kernel(Bilateral(5.13, 61.7), 0.6)], solver=solver)).double()
    layer.return_probabilities = True
    given = scene(rng, spatial=(2, 3), size=1)
    logits, image, mask, _ = tensors(given)
    names = [name for name, _ in layer.named_parameters()]

    def refined(logits, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (logits, image, mask))

    arguments = [logits.requires_grad_(), *(each.detach().requires_grad_() for each in layer.parameters())]
    assert torch.autograd.gradcheck(refined, arguments, fast_mode=True, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("gradient", ["unrolled", "implicit"])
@pytest.mark.parametrize("name", CONVERGING)
@pytest.mark.parametrize("filter", [Exact(), Lattice()], ids=["exact", "lattice"])
def test_gradcheck_of_deviations_and_mask(rng, name, gradient, filter):
    """With a kernel that is not symmetric beside it, and a coupling that is not."""
    strong = {"strength": 6.0} if name == "Euclidean" else {}
    solver = replace(CONVERGING[name], gradient=gradient, **strong)
    if gradient == "unrolled":
        solver = replace(solver, iterations=3, tolerance=0)
    weight = 0.6 * np.eye(CLASSES) + np.triu(np.full((CLASSES, CLASSES), 0.05), 1)
    crf = CRF([smooth, Kernel(Bilateral(5.13, 61.7), weight, filter, normalization="before")], solver=solver)
    logits, image, mask, _ = tensors(scene(rng, spatial=(2, 3), size=1))
    options = {"return_probabilities": True}

    def refined(theta, mask):
        return mean_field(logits, image, mask, crf, theta_beta=10 * theta, **options)

    arguments = torch.tensor(6.17, dtype=torch.float64, requires_grad=True), (mask + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(refined, arguments, fast_mode=True, atol=1e-5, rtol=1e-3)


@pytest.mark.filterwarnings("ignore::crfrnn.ConvergenceWarning")
@pytest.mark.parametrize("solver", CONVERGING.values(), ids=CONVERGING)
def test_memory(rng, solver):
    """How much autograd saves: with implicit gradients it does not grow."""
    given, saved = scene(rng), {}
    for gradient in ("unrolled", "implicit"):
        for count in (5, 25):
            crf = solved_by(replace(solver, iterations=count, tolerance=0, gradient=gradient))
            logits, image, mask, _ = tensors(given)
            logits.requires_grad_()
            couplings = [torch.tensor(-0.5, dtype=torch.float64)] * 2
            with Saved() as held:
                differentiable.forward(crf, Inputs(logits, image, mask), couplings, Execution())
            saved[gradient, count] = held.count
    assert saved["implicit", 5] == saved["implicit", 25] < saved["unrolled", 5]
    assert saved["unrolled", 25] > 3 * saved["unrolled", 5]


class Saved(torch.autograd.graph.saved_tensors_hooks):
    """Counts the tensors that autograd saves, and holds none: an output that is saved as it is would never be freed."""

    def __init__(self):
        self.count = 0
        super().__init__(self.pack, lambda nothing: nothing)

    def __enter__(self):
        super().__enter__()
        return self

    def pack(self, tensor):
        self.count += 1


@pytest.mark.parametrize("step", ["line-search", "open-loop"])
def test_images_of_a_batch_end_by_themselves(rng, place, step):
    """One that has settled stays as it is while others go on."""
    crf = solved_by(FrankWolfe(50, step=step, tolerance=0.02))
    logits, image, mask, _ = tensors(scene(rng, size=3))
    logits = logits * torch.tensor([0.1, 1.0, 10.0])[:, None, None, None]
    together = mean_field(logits, image, mask, crf)
    for index in range(3):
        part = slice(index, index + 1)
        assert_close(together[part], mean_field(logits[part], image[part], mask[part], crf), 1e-12)


@pytest.mark.parametrize("solver", CONVERGING.values(), ids=CONVERGING)
def test_gradients_to_the_image(rng, solver):
    """With exact filters, also at the fixed point."""
    strong = {"strength": 6.0} if getattr(solver, "regularization", "") == "euclidean" else {}
    kernels = [Kernel(Bilateral(5.13, 61.7), 0.6, Exact()), Kernel(Spatial(1.57), 0.5)]
    crf = CRF(kernels, solver=replace(solver, iterations=40, gradient="implicit", **strong))
    logits, image, mask, _ = tensors(scene(rng, spatial=(2, 3), size=1))
    theta = torch.tensor(60.3, dtype=torch.float64, requires_grad=True)

    def refined(logits, image, mask, theta):
        return mean_field(logits, image, mask, crf, theta_beta=theta, return_probabilities=True)

    arguments = logits.requires_grad_(), image.requires_grad_(), (mask + 0.5).requires_grad_(), theta
    assert torch.autograd.gradcheck(refined, arguments, fast_mode=True, atol=1e-5, rtol=1e-3)


class Shifted(torch.nn.Module):
    """A kernel that is not symmetric, with a weight of its own."""

    def __init__(self):
        super().__init__()
        self.share = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, values):
        return self.share * torch.roll(values, 1, dims=-1) + 0.5 * values


@pytest.mark.parametrize("gradient", ["unrolled", "implicit"])
@pytest.mark.parametrize("solver", CONVERGING.values(), ids=CONVERGING)
def test_a_kernel_of_torch(rng, solver, gradient):
    """Its transpose comes from autograd, and gradients reach its weight."""
    solver = replace(solver, gradient=gradient)
    if gradient == "unrolled":
        solver = replace(solver, iterations=4, tolerance=0)
    crf = CRF([Kernel(Given("own"), 0.6)], solver=solver)
    logits, _, mask, _ = tensors(scene(rng, spatial=(3, 4), size=1))
    own = Shifted()

    def refined(logits, share):
        def kernel(values):
            return torch.func.functional_call(own, {"share": share}, (values,))

        return mean_field(logits, None, mask, crf, given={"own": kernel}, return_probabilities=True)

    if gradient == "unrolled" and isinstance(solver, FrankWolfe):
        shifted = np.roll(np.eye(4), 1, axis=1).T  # values of a row of four pixels move on by one
        matrix = np.kron(np.eye(3), 0.7 * shifted + 0.5 * np.eye(4))

        class Matrix:
            num_points = 12

            def filter(self, values, transpose=False):
                return (matrix.T if transpose else matrix) @ values

        inputs = Inputs(logits.numpy(), mask=mask.numpy(), given={"own": Matrix()})
        expected, _ = batch.forward(crf, inputs, [np.array(-0.6)], False, Execution(1))
        assert_close(refined(logits, own.share).detach(), softmax(expected), 1e-10)
    arguments = logits.requires_grad_(), own.share
    assert torch.autograd.gradcheck(refined, arguments, fast_mode=True, atol=1e-5, rtol=1e-3)


def test_what_has_not_converged(rng, place):
    crf = CRF([replace(smooth, weight=5.0)], solver=MeanField(2, gradient="implicit"))
    logits, image, mask, _ = tensors(scene(rng))
    with pytest.warns(ConvergenceWarning, match="MeanField had not converged"):
        mean_field(3 * logits.requires_grad_(), image, mask, crf)
    with torch.no_grad():
        mean_field(3 * logits, image, mask, crf)  # nothing to warn of


def test_what_backends_are_asked(rng):
    """On another device, implicit gradients and Frank-Wolfe come from the backend in operations of torch."""
    asked = asked_by(CRF([smooth], solver=FrankWolfe()))
    assert able((gpu, differentiable), asked, "here") is differentiable
    with pytest.raises(UnsupportedError, match="FrankWolfe is not available"):
        able((gpu,), asked, "here")
    with_guide = {**asked, Ability.GRADIENT_TO_GUIDE: "a gradient"}
    assert able((batch, differentiable), asked, "here") is batch
    assert able((batch, differentiable), with_guide, "here") is batch


def test_layers_are_copied_with_their_solver(rng):
    crf = solved_by(FrankWolfe(3, "euclidean", 2.0), "bilateral")
    layer = CrfRnn(CLASSES, crf=replace(crf, kernels=[replace(crf.kernels[0], weight=1)]))
    layer.num_iterations = 7
    assert layer.crf.solver == FrankWolfe(7, "euclidean", 2.0)
    assert not hasattr(layer, "damping")
    assert CRFS["bilateral"] == replace(crf, solver=CRFS["bilateral"].solver)


@pytest.mark.parametrize("scale", [1.0, 1e5, 1e8])
def test_euclidean_marginals_of_large_scores(rng, scale):
    """The nearest point of the simplex, beside which float32 would round 1 away."""
    solver = FrankWolfe(regularization="euclidean", strength=0.01)
    scores = (scale * rng.normal(size=(1, 4, 5, 6))).astype(np.float32)
    p, above = frankwolfe._nearest(solver, torch.from_numpy(scores))
    largest = scores.max(axis=1, keepdims=True)
    exact = (scores.astype(np.float64) - largest) / solver.strength
    for place in np.ndindex(scores.shape[2:]):
        column = exact[(0, slice(None), *place)]
        low, high = column.min() - 1, column.max()
        for _ in range(200):  # bisection of Σ max(s - τ, 0) = 1
            threshold = (low + high) / 2
            low, high = (threshold, high) if np.maximum(column - threshold, 0).sum() > 1 else (low, threshold)
        assert_close(p[(0, slice(None), *place)], np.maximum(column - threshold, 0), 1e-5)
    assert torch.isfinite(above).all()


@pytest.mark.parametrize("strength", [1e-3, 1e-2, 1.0])
@pytest.mark.parametrize("regularization", ["entropic", "euclidean"])
def test_hard_marginals_stay_marginals(rng, place, regularization, strength):
    """Where an iteration moves by less than float32 can square, rounding made a step of -∞."""
    solver = FrankWolfe(20, regularization, strength, tolerance=0)
    crf = CRF([Kernel(Spatial(2), weight=1.0)], solver=solver)
    for size in (1, 10, 1000):
        logits = (size * rng.normal(size=(3, 4, 5, 5))).astype(np.float32)
        found = mean_field(torch.from_numpy(logits), None, parameters=crf, return_probabilities=True)
        expected = [crfrnn.refine(each.astype(np.float64), None, crf) for each in logits]
        assert_close(found, expected, 1e-3)
