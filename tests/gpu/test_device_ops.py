"""The operators on other devices than the CPU: autograd, compile, what is kept, errors; on real GPUs under `-m gpu`.

Without a GPU the code registered for other devices takes tensors of the CPU, in the native core's place.
"""

import copy
import gc

import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

from crfrnn.torch import CrfRnn, gaussian_filter, gpu, kept, mean_field, ops  # noqa: E402
from crfrnn.torch.gpu import plain  # noqa: E402
from crfrnn.torch.gpu.terms import fixed_order  # noqa: E402
from errors import raises_saying  # noqa: E402
from specified import specified  # noqa: E402

pytestmark = pytest.mark.torch

OPERATORS = (ops.mean_field, ops.mean_field_vjp, ops.lattice, ops.gaussian_filter, ops.lattice_gradient)
SPECIFIED = specified(iterations=2, damping=0.1, threads=None)
NUMBERS = ("", SPECIFIED.crf.text, None, *SPECIFIED.execution)
STORED = (*NUMBERS[:-3], False, torch.bfloat16, True)


@pytest.fixture
def elsewhere(monkeypatch):
    for operator in OPERATORS:
        monkeypatch.setitem(operator.kernels, "cpu", operator.kernels["default"])


@pytest.fixture(autouse=True)
def nothing_stays_behind():
    yield
    gc.collect()
    assert not kept._entries


@pytest.fixture(params=[pytest.param(index, marks=pytest.mark.gpu) for index in (0, 1)], ids=lambda i: f"cuda:{i}")
def card(request):
    """The first GPU, and the second one, which is not the current device."""
    if torch.cuda.device_count() <= request.param:
        pytest.skip(f"there is no CUDA device {request.param}")
    return torch.device("cuda", request.param)


def layer(**options):
    return CrfRnn(4, 3, theta_alpha=5.13, theta_beta=61.7, theta_gamma=1.57, tolerance=0, **options)


def inputs(rng, spatial=(6, 7), dtype=torch.float32, size=2):
    logits = torch.from_numpy(rng.normal(size=(size, 4, *spatial)))
    return logits.to(dtype), torch.from_numpy(rng.uniform(0, 255, size=(size, 3, *spatial))).to(dtype)


def gradients(crf, logits, call):
    """The result of `call(logits)`, and the gradients of a function of it to logits and parameters, on the CPU."""
    crf.zero_grad()
    given = logits.clone().requires_grad_()
    refined = call(given)
    refined.square().sum().backward()
    results = [refined.detach(), given.grad, *(parameter.grad for parameter in crf.parameters())]
    return [each.cpu().clone() for each in results]


def assert_same(actual, expected, **bounds):
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **bounds)


def test_the_layer_and_its_gradients(rng, monkeypatch):
    crf = layer(damping=0.2)
    logits, image = inputs(rng)
    expected = gradients(crf, logits, lambda given: crf(given, image))
    for operator in OPERATORS:
        monkeypatch.setitem(operator.kernels, "cpu", operator.kernels["default"])
    assert_same(gradients(crf, logits, lambda given: crf(given, image)), expected, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(gradients(crf, logits, lambda given: crf(given, image)), expected, rtol=1e-4, atol=1e-4)


def test_modes_of_the_layer(rng, monkeypatch):
    crf = layer(deterministic=False, storage=torch.bfloat16)
    logits, image = inputs(rng)
    expected = layer()(logits, image)
    assert torch.equal(crf(logits, image), expected)  # the CPU has one mode
    seen = []
    compute = gpu.meanfield.forward
    monkeypatch.setattr(gpu.meanfield, "forward", lambda *given: seen.append(compute(*given)) or seen[-1])
    for operator in OPERATORS:
        monkeypatch.setitem(operator.kernels, "cpu", operator.kernels["default"])
    refined = crf(logits, image)
    assert refined.dtype == torch.float32
    torch.testing.assert_close(refined, expected, rtol=0, atol=0.1)
    assert not torch.equal(refined, expected)
    assert all(marginals.dtype == torch.bfloat16 for marginals in seen.pop()[1].marginals)


def test_torch_overrules_any_order():
    assert fixed_order(True)
    assert not fixed_order(False)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert fixed_order(False)
    finally:
        torch.use_deterministic_algorithms(False)


def test_bad_storage_is_named():
    with raises_saying(TypeError, "count_vertices='all'"):
        layer(count_vertices="all")
    with raises_saying(ValueError, "storage=torch.float32", "torch.float16, torch.bfloat16 or None"):
        layer(storage=torch.float32)
    with raises_saying(ValueError, "filter='exact'", "torch.bfloat16", "leave out storage"):
        layer(storage=torch.bfloat16, filter="exact")
    with raises_saying(ValueError, "storage='bfloat16'", "torch.bfloat16"):
        mean_field(torch.zeros(1, 2, 3), torch.zeros(1, 1, 3), storage="bfloat16")


def test_gradcheck(rng, elsewhere):
    crf = layer(damping=0.1).double()
    logits, image = inputs(rng, (3, 4), torch.float64)
    mask = torch.from_numpy(rng.integers(0, 3, size=(2, 3, 4)) / 2)
    names = [name for name, _ in crf.named_parameters()]

    def refined(logits, *parameters):
        parameters = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(crf, parameters, (logits, image, mask))

    arguments = (logits.requires_grad_(), *(parameter.detach().requires_grad_() for parameter in crf.parameters()))
    assert torch.autograd.gradcheck(refined, arguments)


def test_gradients_of_the_filter(rng, elsewhere):
    values, features = inputs(rng, (3, 4), torch.float64)

    def filtered(values):
        return gaussian_filter(values, features / 61.7, normalization="symmetric")

    assert torch.autograd.gradcheck(filtered, values.requires_grad_())
    assert torch.autograd.gradgradcheck(lambda values: filtered(values).sin(), values)


def guides(rng, spatial=(6, 7), dtype=torch.float64):
    """Logits, image, mask and θ, all with gradients."""
    logits, image = inputs(rng, spatial, dtype)
    mask = torch.from_numpy(rng.uniform(0.2, 2, size=(2, *spatial))).to(dtype)
    thetas = (torch.tensor(numbers, dtype=dtype) for numbers in ([5.13, 4.2], [61.7, 47.1, 77.7], 1.57))
    return [each.requires_grad_() for each in (logits, image, mask, *thetas)]


def refined_by(logits, image, mask, alpha, beta, gamma, **options):
    """In the unit of a spacing."""
    options = {"spacing": (1.3, 0.7), "theta_alpha": alpha, "theta_beta": beta, "theta_gamma": gamma} | options
    return mean_field(logits, image, mask, SPECIFIED.crf, **options)


def slopes(everything, result):
    return [each.cpu() for each in torch.autograd.grad(result.sin().sum(), everything)]


def test_gradients_to_the_guide_are_the_native_ones(rng, monkeypatch):
    everything = guides(rng)
    features = guides(rng)[1].detach().div(61.7).requires_grad_()
    pair = [everything[0], features]
    calls = [
        (everything, lambda: refined_by(*everything)),
        *((pair, lambda name=name: gaussian_filter(*pair, normalization=name)) for name in ("after", "symmetric")),
    ]
    expected = [slopes(leaves, call()) for leaves, call in calls]
    for operator in OPERATORS:
        monkeypatch.setitem(operator.kernels, "cpu", operator.kernels["default"])
    for (leaves, call), theirs in zip(calls, expected, strict=True):
        assert_same(slopes(leaves, call()), theirs, rtol=1e-9, atol=1e-11)


def test_gradients_to_the_guide_compiled_and_mapped(rng, elsewhere):
    everything = guides(rng, dtype=torch.float32)
    expected = slopes(everything, refined_by(*everything))
    compiled = torch.compile(refined_by, fullgraph=True, backend="aot_eager")
    assert_same(slopes(everything, compiled(*everything)), expected)
    batches, thetas = [torch.stack([tensor, tensor]) for tensor in everything[:3]], everything[3:]
    mapped = slopes(everything, torch.vmap(lambda *batch: refined_by(*batch, *thetas))(*batches))
    assert_same(mapped, [2 * gradient for gradient in expected], rtol=1e-4, atol=1e-5)


def test_opcheck(rng, elsewhere):
    logits, image = inputs(rng)
    couplings = [torch.rand(4, 4, requires_grad=True), torch.rand((), requires_grad=True)]
    arguments = (logits.requires_grad_(), image, torch.ones(2, 6, 7), [], [], couplings)
    torch.library.opcheck(ops.mean_field.overload, (True, *arguments, *NUMBERS))
    torch.library.opcheck(ops.mean_field.overload, (True, *arguments, *STORED))
    plain = (*(each.detach() for each in arguments[:3]), [], [], [each.detach() for each in couplings])
    refined, handle = ops.mean_field(True, *plain, *NUMBERS)
    torch.library.opcheck(ops.mean_field_vjp.overload, (refined, handle, False, *plain, *NUMBERS))
    torch.library.opcheck(ops.mean_field_vjp.overload, (refined, handle, True, *plain, *NUMBERS))
    lattice = (plain[1], None, "after", 0, True, None)
    torch.library.opcheck(ops.lattice.overload, lattice)
    torch.library.opcheck(ops.gaussian_filter.overload, (logits, ops.lattice(*lattice), False, *lattice))


@pytest.mark.parametrize("mode", [{}, {"deterministic": False, "storage": torch.float16}])
def test_compiled_and_exported(rng, elsewhere, mode):
    crf = layer(**mode)
    logits, image = inputs(rng)
    expected = gradients(crf, logits, lambda given: crf(given, image))
    compiled = torch.compile(crf, fullgraph=True, backend="aot_eager")
    assert_same(gradients(crf, logits, lambda given: compiled(given, image)), expected)
    exported = torch.export.export(crf, (logits, image)).module()
    assert_same(gradients(exported, logits, lambda given: exported(given, image)), expected)


def test_a_copied_handle_costs_time_but_no_accuracy(rng, elsewhere):
    crf = layer()
    logits, image = inputs(rng)
    expected = gradients(crf, logits, lambda given: crf(given, image))
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda tensor: tensor):
        actual = gradients(crf, logits, lambda given: crf(given, image))
    assert_same(actual, expected)


def test_records_live_as_long_as_the_graph(rng, elsewhere):
    crf = layer()
    logits, image = inputs(rng)
    refined = crf(logits, image)
    assert len(kept._entries) == 1
    refined.sum().backward()
    assert not kept._entries
    with torch.no_grad():
        crf(logits, image)
    assert not kept._entries


def test_shapes_and_devices_are_known_without_a_gpu():
    with FakeTensorMode(), torch.device("cuda"):
        logits, image, coupling = torch.empty(2, 4, 5, 6), torch.empty(2, 3, 5, 6), torch.empty(4, 4)
        model = (logits, image, None, [], [], [coupling, coupling])
        refined, handle = ops.mean_field(True, *model, *NUMBERS)
        gradients = ops.mean_field_vjp(refined, handle, False, *model, *NUMBERS)
        filtered = ops.gaussian_filter(
            logits, ops.lattice(image, None, "after", 0, True, None), False, image, None, "after", 0, True, None
        )
        for result, like in (
            (refined, logits),
            (filtered, logits),
            *zip(gradients, (logits, coupling, coupling), strict=True),
        ):
            assert (result.shape, result.device, result.dtype) == (like.shape, like.device, like.dtype)
        assert handle.device.type == "cpu"


def test_tensors_on_several_devices_are_named():
    with FakeTensorMode():
        logits, image = torch.empty(2, 4, 5, 6, device="cuda:1"), torch.empty(2, 3, 5, 6, device="cuda:0")
        crf = layer()
        with pytest.raises(ValueError, match="image is on cuda:0, but logits are on cuda:1; move all"):
            crf(logits, image)
        with pytest.raises(ValueError, match="spatial_weight is on cpu, but logits are on cuda:1"):
            crf(logits, image.to("cuda:1"))
        with pytest.raises(ValueError, match="mask is on cuda:0, but logits are on cuda:1"):
            crf(logits, image.to("cuda:1"), torch.empty(2, 5, 6, device="cuda:0"))
        with pytest.raises(ValueError, match="features is on cuda:0, but values are on cuda:1"):
            gaussian_filter(logits, image)
        assert mean_field(logits, image.to("cuda:1")).device == logits.device


def test_other_devices_take_plain_torch():
    assert gpu.steps_of(torch.device("cpu")) is plain
    assert gpu.steps_of(torch.device("mps")) is plain


@pytest.mark.parametrize(
    ("capability", "version", "expected"),
    [
        ((7, 5), "3.6.0", "plain"),
        ((9, 0), "3.4.0", "plain"),
        ((9, 0), "3.5.0+git1", "triton_steps"),
        ((12, 0), "4.0.0", "triton_steps"),
    ],
)
def test_which_cards_take_triton(monkeypatch, capability, version, expected):
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(triton, "__version__", version)
    steps = gpu.steps_of.__wrapped__(torch.device("cuda", 0))
    assert steps.__name__ == f"crfrnn.torch.gpu.{expected}"
    monkeypatch.setattr(torch.version, "hip", "7.0")  # AMD's, which torch calls cuda too
    assert gpu.steps_of.__wrapped__(torch.device("cuda", 0)) is plain


def on(card, *tensors):
    return [tensor.to(card) for tensor in tensors]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gpu_gives_what_the_cpu_gives(rng, card, dtype):
    crf = layer(damping=0.2).to(dtype)
    logits, image = inputs(rng, (40, 50), dtype)
    expected = gradients(crf, logits, lambda given: crf(given, image))
    there = copy.deepcopy(crf).to(card)
    given, picture = on(card, logits, image)
    actual = gradients(there, given, lambda given: there(given, picture))
    bound = 1e-3 if dtype == torch.float32 else 1e-9
    assert_same(actual, expected, rtol=bound, atol=bound)
    again = gradients(there, given, lambda given: there(given, picture))
    assert all(torch.equal(a, b) for a, b in zip(actual, again, strict=True))


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_gpu_is_never_waited_for(rng, card, deterministic):
    crf = layer(deterministic=deterministic).to(card)
    logits, image = on(card, *inputs(rng))
    gradients(crf, logits, lambda given: crf(given, image))
    torch.cuda.synchronize(card)
    torch.cuda.set_sync_debug_mode("error")
    try:
        refined = crf(logits.requires_grad_(), image)
        refined.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_cuda_graphs(rng, card):
    crf = layer().to(card).requires_grad_(False)
    logits, image = on(card, *inputs(rng, (20, 30)))
    with torch.cuda.device(card):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            crf(logits, image)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            refined = crf(logits, image)
        for _ in range(2):
            others = on(card, *inputs(rng, (20, 30)))
            logits.copy_(others[0])
            image.copy_(others[1])
            graph.replay()
            torch.testing.assert_close(refined, crf(*others))


def test_a_gpu_under_autocast_and_compile(rng, card):
    crf = layer().to(card)
    logits, image = on(card, *inputs(rng, (20, 30)))
    expected = gradients(crf, logits, lambda given: crf(given, image))
    with torch.autocast("cuda", torch.bfloat16):
        assert_same(gradients(crf, logits, lambda given: crf(given, image)), expected)
        assert crf(logits.half(), image).dtype == torch.float16
    compiled = torch.compile(crf, fullgraph=True)
    assert_same(gradients(crf, logits, lambda given: compiled(given, image)), expected)


def test_long_training_does_not_grow(rng, card):
    crf = layer().to(card)
    logits, image = on(card, *inputs(rng, (20, 30)))
    used = []
    for _ in range(4):
        gradients(crf, logits, lambda given: crf(given, image))
        used.append(torch.cuda.memory_allocated(card))
    assert used[1] == used[3]
