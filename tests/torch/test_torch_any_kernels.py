"""Any list of kernels in torch: on the CPU, by the steps for other devices, and in operations of torch.

Without a GPU the code registered for other devices takes tensors of the CPU, in the native core's place.
"""

import copy
import gc
import pickle
from dataclasses import replace

import numpy as np
import pytest

import crfrnn
from crfrnn.crf import CRF, Bilateral, Exact, Given, Kernel, Lattice, MeanField, Spatial
from crfrnn.inference.backend import Execution, Inputs, UnsupportedError
from crfrnn.kernels.lattice import PermutohedralLattice
from errors import raises_saying
from kernel_lists import CLASSES, COMPATIBILITY, CRFS, GIVEN, MATRIX, scene, smooth, truth
from tolerances import assert_close, tolerance

torch = pytest.importorskip("torch", reason="needs the torch extra")
from crfrnn.torch import CrfRnn, differentiable, functional, gpu, kept, mean_field, ops  # noqa: E402
from crfrnn.torch.gpu import terms as gpu_terms  # noqa: E402

pytestmark = pytest.mark.torch

OPERATORS = (ops.mean_field, ops.mean_field_vjp, ops.lattice, ops.gaussian_filter)
BOUNDS = tolerance(np.float64)
EVERY = pytest.mark.parametrize("name", CRFS)
DTYPES = {np.float32: torch.float32, np.float64: torch.float64}


@pytest.fixture(params=["native", "plain steps"])
def place(request, monkeypatch):
    """The operators of the CPU, and those of other devices."""
    if request.param == "plain steps":
        elsewhere(monkeypatch)
    return request.param


def elsewhere(monkeypatch):
    monkeypatch.setattr(functional, "batch", gpu)
    for operator in OPERATORS:
        monkeypatch.setitem(operator.kernels, "cpu", operator.kernels["default"])


@pytest.fixture(autouse=True, scope="module")
def nothing_stays_behind():
    yield
    gc.collect()
    assert not kept._entries


def tensors(given):
    """Logits, image, mask and what is given as tensors."""
    logits, image, mask = map(torch.from_numpy, given[:3])
    return logits, image, mask, {name: torch.from_numpy(features) for name, features in given.given.items()}


def trained(*arrays):
    return [torch.tensor(np.asarray(array), requires_grad=True) for array in arrays]


def assert_gradients(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, BOUNDS.gradient)


@EVERY
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
def test_the_function(rng, place, name, dtype):
    crf, given = CRFS[name], scene(rng, dtype)
    logits, image, mask, features = tensors(given)
    refined = mean_field(logits, image, mask, crf, given=features)
    assert refined.dtype == DTYPES[dtype]
    double = {key: np.asarray(each, np.float64) for key, each in given.given.items()}
    assert_close(refined, truth(crf, given._replace(given=double)).logits, tolerance(dtype).mean_field)


def random_layer(rng, crf, **options):
    """A float64 layer with random weights, and numbers in the place of the weights at the start."""
    kernels = [Kernel(k.features, float(bool(np.any(k.weight))), k.filter, k.normalization) for k in crf.kernels]
    made = CrfRnn(CLASSES, crf=CRF(kernels, solver=crf.solver), **options).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.from_numpy(np.asarray(rng.normal(size=tuple(parameter.shape))))
    return made


@EVERY
def test_the_layer_and_its_gradients(rng, place, name):
    """Weights that are 0 at the start are trained like others."""
    given = scene(rng)
    layer = random_layer(rng, CRFS[name], weights="per-class")
    cotangent = rng.normal(size=given.logits.shape)
    *weights, compatibility = [parameter.detach().numpy() for parameter in layer.parameters()]
    expected = truth(layer.crf, given, cotangent, weights, compatibility)
    logits, image, mask, features = tensors(given)
    refined = layer(logits.requires_grad_(), image, mask, given=features)
    assert_close(refined.detach(), expected.logits, BOUNDS.mean_field)
    inputs = [logits, *layer.parameters()]
    found = torch.autograd.grad(refined, inputs, torch.from_numpy(cotangent), materialize_grads=True)
    assert_gradients(found, [expected.to_unary, *expected.to_weights, expected.to_compatibility])


@EVERY
def test_operations_of_torch(rng, name):
    """With couplings that are matrices, and their gradients."""
    crf, given = CRFS[name], scene(rng)
    cotangent = rng.normal(size=given.logits.shape)
    expected = truth(crf, given, cotangent)
    M = np.diag([-1.0] * CLASSES) if crf.compatibility is None else np.asarray(crf.compatibility)
    M = np.diag(M) if M.ndim == 1 else M
    full = [np.diag(np.broadcast_to(k.weight, CLASSES)) if np.ndim(k.weight) < 2 else k.weight for k in crf.kernels]
    logits, *couplings = trained(given.logits, *(M @ np.asarray(weight) for weight in full))
    inputs = Inputs(logits, *tensors(given)[1:])
    refined = differentiable.forward(crf, inputs, couplings, Execution())
    assert_close(refined.detach(), expected.logits, BOUNDS.mean_field)
    found = torch.autograd.grad(
        refined, [logits, *couplings], torch.from_numpy(cotangent), allow_unused=True, materialize_grads=True
    )
    assert_gradients(found, [expected.to_unary, *expected.to_couplings])


@pytest.mark.parametrize("name", ["three", "given", "each its own", "lattice and exact", "empty"])
def test_gradcheck(rng, place, name):
    layer = random_layer(rng, CRFS[name])
    layer.num_iterations = 2
    logits, image, mask, features = tensors(scene(rng, spatial=(2, 3), size=1))
    names = [name for name, _ in layer.named_parameters()]

    def refined(logits, *parameters):
        parameters = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(layer, parameters, (logits, image, mask), {"given": features})

    used = layer.parameters() if layer.crf.kernels else []
    arguments = (logits.requires_grad_(), *(parameter.detach().requires_grad_() for parameter in used))
    names = names[: len(arguments) - 1]
    assert torch.autograd.gradcheck(refined, arguments, fast_mode=True)


def test_gradients_to_what_is_given_by_exact_kernels(rng):
    crf = CRF([Kernel(Given("learned"), 0.6, Exact()), smooth], solver=MeanField(2, tolerance=0))
    logits, _, mask, features = tensors(scene(rng, spatial=(2, 3), size=1))
    features = features["learned"].requires_grad_()
    arguments = logits.requires_grad_(), mask.requires_grad_(), features
    assert torch.autograd.gradcheck(lambda u, m, f: mean_field(u, None, m + 1, crf, given={"learned": f}), arguments)


class Own(torch.nn.Module):
    """Features made of values by a linear map, with a parameter."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = torch.nn.Parameter(matrix)

    def forward(self, values):
        return (values.flatten(2) @ self.matrix.mT).view(values.shape)


OWN = [Kernel(Given("own"), normalization="symmetric"), Kernel(Spatial(1.57), 0.5)]


def own_layer(rng):
    made = CrfRnn(CLASSES, crf=CRF(OWN, solver=MeanField(2, tolerance=0))).double()
    return made, Own(torch.from_numpy(rng.uniform(0.1, 1, size=(6, 6))))


def test_a_kernel_of_ones_own(rng):
    layer, own = own_layer(rng)
    logits, *_ = tensors(scene(rng, spatial=(2, 3), size=1))

    class InNumPy:
        @staticmethod
        def filter(values, transpose=False):
            matrix = own.matrix.detach().numpy()
            return (matrix.T if transpose else matrix) @ values

    expected = crfrnn.refine(
        logits[0].numpy(), None, CRF(OWN, solver=MeanField(2, tolerance=0)), given={"own": InNumPy}
    )
    layer.return_probabilities = True
    assert_close(layer(logits, None, given={"own": own})[0].detach(), expected, BOUNDS.mean_field)

    def refined(logits, matrix):
        return layer(logits, None, given={"own": lambda v: (v.flatten(2) @ matrix.mT).view(v.shape)})

    assert torch.autograd.gradcheck(refined, (logits.requires_grad_(), own.matrix.detach().requires_grad_()))


def test_a_kernel_of_ones_own_compiled(rng):
    layer, own = own_layer(rng)
    logits, *_ = tensors(scene(rng, spatial=(2, 3)))
    compiled = torch.compile(lambda u: layer(u, None, given={"own": own}), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits), layer(logits, None, given={"own": own}))


@pytest.mark.parametrize("name", ["three", "given", "empty"])
def test_compiled_and_exported(rng, place, name):
    layer = random_layer(rng, CRFS[name])
    logits, image, mask, features = tensors(scene(rng))

    def results(call):
        layer.zero_grad()
        unary = logits.clone().requires_grad_()
        refined = call(unary, image, mask, None, features)
        refined.square().sum().backward()
        return [refined.detach(), unary.grad, *(p.grad for p in layer.parameters() if p.grad is not None)]

    expected = results(layer)
    for ours, theirs in zip(results(torch.compile(layer, fullgraph=True, backend="aot_eager")), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    exported = torch.export.export(layer, (logits, image, mask, None, features)).module()
    torch.testing.assert_close(exported(logits, image, mask, None, features).detach(), expected[0])


@pytest.mark.parametrize(
    ("features", "names"),
    [
        ([Spatial(2), Bilateral(3, 4)], ["spatial", "bilateral"]),
        ([Bilateral(3, 4), Spatial(2), Bilateral(4, 5)], ["bilateral", "spatial", "bilateral_2"]),
        ([Given("spatial_2"), Spatial(1), Spatial(2)], ["spatial_2", "spatial", "spatial_3"]),
        ([Given("my.own features"), Given("spatial"), Spatial(1)], ["my_own_features", "spatial", "spatial_2"]),
        ([], []),
    ],
)
def test_names_in_the_state(features, names):
    layer = CrfRnn(3, crf=CRF([Kernel(each, 1.5) for each in features], compatibility=-2))
    assert list(layer.state_dict()) == [*(f"{name}_ker_weights" for name in names), "compatibility_matrix"]
    assert all(torch.equal(layer.get_parameter(f"{name}_ker_weights"), 1.5 * torch.eye(3)) for name in names)
    assert torch.equal(layer.compatibility_matrix, -2 * torch.eye(3))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.crf == layer.crf
        other.load_state_dict(layer.state_dict())


@pytest.mark.parametrize("name", ["weights of 0", "nothing but 0"])
def test_kernels_of_weight_0_are_not_built(rng, place, name, monkeypatch):
    made = []
    of_rows, build = PermutohedralLattice.of_rows, gpu_terms.build_lattice
    monkeypatch.setattr(PermutohedralLattice, "of_rows", lambda *given: made.append(given) or of_rows(*given))
    monkeypatch.setattr(gpu_terms, "build_lattice", lambda *given: made.append(given) or build(*given))
    logits, image, *_ = tensors(scene(rng, size=1))
    image = None if name == "nothing but 0" else image
    mean_field(logits, image, parameters=CRFS[name])
    assert len(made) == len(CRFS[name].active.kernels)


def test_weights_in_the_place_of_the_specifications(rng, place):
    """By the names of kernels; one that was 0 then counts."""
    given = scene(rng)
    logits, image, mask, _ = tensors(given)
    crf = CRFS["weights of 0"]
    expected = truth(crf, given, weights=[MATRIX, MATRIX, [0.0] * CLASSES], compatibility=COMPATIBILITY)
    options = {"spatial_weight": torch.tensor(MATRIX), "compatibility": torch.tensor(COMPATIBILITY)}
    given_in_double = {name: tensor.double() for name, tensor in options.items()}
    refined = mean_field(logits, image, mask, crf, **given_in_double)
    assert_close(refined, expected.logits, 1e-6)  # they are of float32


@pytest.mark.parametrize("spacing", [0.7, (0.7, 1.9)])
def test_spacing_scales_every_kernel(rng, place, spacing):
    given = scene(rng)
    crf = CRF(
        [*CRFS["three"].kernels, Kernel(Spatial((1.3, 2.9)), 0.4, Lattice())], COMPATIBILITY, MeanField(2, tolerance=0)
    )
    logits, image, mask, _ = tensors(given)
    refined = mean_field(logits, image, mask, crf, spacing=spacing)
    assert_close(refined, truth(crf, given, spacing=spacing).logits, BOUNDS.mean_field)


@pytest.mark.parametrize("device", ["cpu", "cpu plain"])
@pytest.mark.parametrize("name", CRFS)
def test_refine_on_a_device(rng, device, name, monkeypatch):
    if device == "cpu plain":
        elsewhere(monkeypatch)
    one, crf = scene(rng).item(0), CRFS[name]
    options = {"mask": one.mask, "given": one.given | {"not asked for": object()}}
    expected = crfrnn.refine(one.logits, one.image, crf, **options)
    assert_close(crfrnn.refine(one.logits, one.image, crf, device="cpu", **options), expected, BOUNDS.mean_field)


# What no backend does.

LOGITS, IMAGE = torch.zeros(1, CLASSES, 2, 3), torch.zeros(1, 3, 2, 3)
FEATURES = {"learned": torch.zeros(1, GIVEN, 2, 3)}


def needing(tensor):
    return tensor.clone().requires_grad_()


@pytest.mark.parametrize(
    ("arguments", "options", "facts"),
    [
        ((LOGITS, IMAGE), {"parameters": CRF([Kernel(Given("own"))], solver=MeanField(2, class_threshold=0.1))},
         ["class_threshold", "set it to 0"]),
        ((needing(LOGITS), IMAGE), {"parameters": CRF([smooth], solver=MeanField(2, class_threshold=0.1))},
         ["class_threshold", "set it to 0"]),
    ],
)  # fmt: skip
def test_what_is_not_to_be_had(arguments, options, facts):
    own = {"own": lambda values: values}
    with raises_saying(UnsupportedError, *facts):
        mean_field(*arguments, **({"given": own} | options))


def test_class_thresholds_elsewhere(rng, monkeypatch):
    scores = torch.from_numpy(rng.normal(size=LOGITS.shape))
    crf = CRF([smooth], solver=MeanField(3, class_threshold=0.6, tolerance=0))
    expected = mean_field(scores, None, None, crf)
    assert not torch.allclose(expected, mean_field(scores, None, None, replace(crf, solver=MeanField(3))))
    elsewhere(monkeypatch)
    torch.testing.assert_close(mean_field(scores, None, None, crf), expected)
    with raises_saying(UnsupportedError, "class_threshold", "set it to 0"):
        mean_field(LOGITS, None, None, replace(crf, kernels=[Kernel(Spatial(1), filter=Exact())]))


@pytest.mark.parametrize(
    ("call", "error", "facts"),
    [
        (lambda: CrfRnn(3, crf={"kernels": []}), TypeError, ["crf is a dict", "CRF(…)"]),
        (lambda: CrfRnn(3, crf=CRF([Kernel(Spatial(1), [1, 2, 3])])), ValueError, ["spatial_weight", "a number"]),
        (lambda: CrfRnn(3, crf=CRFS["standard"], storage=torch.float32), ValueError, ["storage"]),
        (lambda: CrfRnn(3, crf=CRFS["lattice and exact"], storage=torch.float16), ValueError, ["leave out storage"]),
        (lambda: mean_field(LOGITS, None, None, CRFS["standard"]), TypeError, ["image is a NoneType"]),
        (lambda: mean_field(LOGITS, IMAGE, None, CRFS["given"]), ValueError, ["given={'learned': …}"]),
        (
            lambda: mean_field(LOGITS, IMAGE, None, CRFS["given"], given={"learnt": IMAGE}),
            ValueError,
            ["given={'learned': …}", "there is 'learnt'"],
        ),
        (
            lambda: mean_field(LOGITS, IMAGE, None, CRFS["given"], given=IMAGE),
            TypeError,
            ["given is a Tensor", "{name: "],
        ),
        (
            lambda: mean_field(LOGITS, IMAGE, None, CRFS["given"], given={"learned": IMAGE.mT}),
            ValueError,
            ["given['learned'] has shape (1, 3, 3, 2)", "(1, channels, 2, 3)"],
        ),
        (
            lambda: mean_field(LOGITS, IMAGE, None, CRFS["given"], given={"learned": IMAGE.numpy()}),
            TypeError,
            ["given['learned'] is a ndarray", "torch.Tensor"],
        ),
        (
            lambda: mean_field(LOGITS, IMAGE, None, CRFS["bilateral"], spatial_weight=torch.ones(())),
            ValueError,
            ["spatial_weight", "no kernel 'spatial'", "bilateral"],
        ),
        (
            lambda: mean_field(LOGITS, None, None, CRFS["spatial"], theta_beta=torch.ones(())),
            ValueError,
            ["no kernel has theta_beta", "theta_gamma"],
        ),
        (
            lambda: mean_field(LOGITS, None, None, CRF([Kernel(Given("own"))]), given={"own": lambda v: v[..., :1]}),
            ValueError,
            ["given['own']", "(1, 1, 2, 3)", "(1, 1, 2, 1)", "the same shape"],
        ),
    ],
)
def test_what_is_wrong_is_named(call, error, facts):
    with raises_saying(error, *facts):
        call()


def test_image_gradients_beside_a_lattice_of_positions(rng):
    """The lattice stands between the image and nothing."""
    crf = CRF(
        [Kernel(Spatial(1.57), 0.5, Lattice()), Kernel(Bilateral(5.13, 61.7), 0.6, Exact())],
        solver=MeanField(2, tolerance=0),
    )
    logits, image, mask, _ = tensors(scene(rng, spatial=(2, 3), size=1))
    arguments = logits.requires_grad_(), image.requires_grad_()
    assert torch.autograd.gradcheck(lambda u, i: mean_field(u, i, mask, crf), arguments, eps=1e-4, atol=1e-6)
