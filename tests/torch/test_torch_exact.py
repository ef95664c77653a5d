"""`filter="exact"` in crfrnn.torch: values against dense float64, gradients against finite differences, Triton."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crfrnn import CRFParameters, reference
from errors import raises_saying
from tolerances import assert_close, tolerance

torch = pytest.importorskip("torch", reason="needs the torch extra")
from crfrnn.torch import CrfRnn, exact_filter, gaussian_filter, mean_field  # noqa: E402

pytestmark = pytest.mark.torch

NORMALIZATIONS = ["after", "before", "symmetric", "none"]
SHAPES = [((9,), 1), ((4, 5), 3), ((2, 3, 4), 2)]
REGISTERS_OF = "3.9.0"  # the Triton that constraints.txt names; 3.5 to 3.7 take a few more registers, 3.8 many
EXACT = {"theta_alpha": 3.0, "theta_beta": 60.0, "theta_gamma": 1.2, "iterations": 2, "tolerance": 0, "filter": "exact"}


def inputs(rng, spatial, channels, classes=3, size=2):
    """float64 logits and image, and a mask of which some pixels are 0."""
    logits = torch.from_numpy(rng.normal(size=(size, classes, *spatial)))
    image = torch.from_numpy(rng.uniform(0, 255, size=(size, channels, *spatial)))
    mask = torch.from_numpy(rng.integers(0, 3, size=(size, *spatial)) / 2)
    return logits, image, mask


def truth(logits, image, mask, normalization="after", damping=0.0):
    """Refined logits of one image by reference.py, for EXACT and the default weights."""
    spatial = logits.shape[1:]
    grid = np.stack([axis.ravel() for axis in np.indices(spatial)[::-1]], axis=1)
    features = np.concatenate([grid / 3.0, image.reshape(len(image), -1).T / 60.0], axis=1)
    kernels = reference.GridGaussian(spatial, 1.2), reference.DenseGaussian(features)
    terms = [
        reference.Term(kernel, weight, normalization, mask.ravel())
        for kernel, weight in zip(kernels, (3.0, 5.0), strict=True)
    ]
    a, _ = reference.mean_field(logits.reshape(len(logits), -1), terms, iterations=2, damping=damping)
    return a.reshape(logits.shape)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize(("spatial", "channels"), SHAPES)
def test_mean_field_equals_the_reference(rng, spatial, channels, normalization, native):
    """Without gradients to the image in the native loop, with them in torch's."""
    logits, image, mask = inputs(rng, spatial, channels)
    parameters = CRFParameters(**EXACT, normalization=normalization, damping=0.1)
    refined = mean_field(logits, image.requires_grad_(not native), mask, parameters).detach()
    for index in range(2):
        expected = truth(*(t[index].detach().numpy() for t in (logits, image, mask)), normalization, 0.1)
        assert_close(refined[index], expected, tolerance(np.float64).mean_field)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize(("spatial", "channels"), SHAPES)
def test_gradients_to_everything(rng, spatial, channels, normalization):
    logits, image, mask = inputs(rng, spatial, channels)
    alpha = torch.full((len(spatial),), 3.0, dtype=torch.float64)
    beta, gamma = (torch.tensor(theta, dtype=torch.float64) for theta in (60.0, 1.2))
    weights = [torch.from_numpy(rng.normal(size=shape)) for shape in ((3, 3), (3,), ())]
    parameters = CRFParameters(**EXACT, normalization=normalization, damping=0.2)
    mask = mask + 0.1  # weights are at least 0: room for a step

    def refined(logits, image, mask, alpha, beta, gamma, W_s, W_b, M):
        return mean_field(
            logits,
            image,
            mask,
            parameters,
            spatial_weight=W_s,
            bilateral_weight=W_b,
            compatibility=M,
            theta_alpha=alpha,
            theta_beta=beta,
            theta_gamma=gamma,
        )

    everything = [tensor.requires_grad_() for tensor in (logits, image, mask, alpha, beta, gamma, *weights)]
    assert torch.autograd.gradcheck(refined, everything, fast_mode=True)


def test_every_entry_of_the_gradients(rng):
    """The slow check of all pairs of entries, of fewer inputs."""
    logits, image, mask = inputs(rng, (2, 3), 2, classes=2, size=1)
    alpha, beta = torch.tensor([2.0, 3.0]).double(), torch.tensor([50.0, 70.0]).double()

    def refined(logits, image, alpha, beta):
        return mean_field(logits, image, mask, CRFParameters(**EXACT), theta_alpha=alpha, theta_beta=beta)

    assert torch.autograd.gradcheck(refined, [each.requires_grad_() for each in (logits, image, alpha, beta)])


def test_gradients_of_both_paths_agree(rng):
    """Native backward pass without the image, torch's with it."""
    logits, image, mask = inputs(rng, (6, 7), 3)
    cotangent = torch.from_numpy(rng.normal(size=tuple(logits.shape)))
    crf = CrfRnn(3, 2, 3.0, 60.0, 1.2, filter="exact").double()
    found = []
    for needed in (False, True):
        given = [logits.clone().requires_grad_(), *crf.parameters()]
        refined = crf(given[0], image.clone().requires_grad_(needed), mask)
        found.append(torch.autograd.grad(refined, given, cotangent))
    for native, other in zip(*found, strict=True):
        assert_close(native, other, tolerance(np.float64).gradient)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_computed_in_float32(rng, dtype):
    logits, image, _ = (tensor.float() for tensor in inputs(rng, (6, 7), 3))
    crf = CrfRnn(3, 2, 3.0, 60.0, 1.2, filter="exact")
    expected = crf(logits.to(dtype).float(), image.clone().requires_grad_())
    expected.sum().backward()
    weights = [parameter.grad.clone() for parameter in crf.parameters()]
    crf.zero_grad()
    with torch.autocast("cpu", dtype=dtype):
        refined = crf(logits.to(dtype), image.requires_grad_())
    refined.float().sum().backward()
    assert torch.equal(refined, expected.to(dtype))
    for parameter, weight in zip(crf.parameters(), weights, strict=True):
        assert torch.equal(parameter.grad, weight)


def test_log_odds_of_one_channel(rng):
    logits, image, mask = inputs(rng, (4, 5), 3, classes=1)
    two = mean_field(torch.cat([torch.zeros_like(logits), logits], 1), image, mask, CRFParameters(**EXACT))
    one = mean_field(logits, image.requires_grad_(), mask, CRFParameters(**EXACT))
    assert_close(one.detach(), two[:, 1:] - two[:, :1], tolerance(np.float64).mean_field)


def test_spacing_divides_tensors_too(rng):
    logits, image, mask = inputs(rng, (4, 5), 3)
    thetas = {name: torch.tensor(EXACT[name]).double() for name in ("theta_alpha", "theta_gamma")}
    parameters = CRFParameters(**EXACT)
    expected = mean_field(logits, image, mask, parameters, spacing=(0.5, 2.0))
    refined = mean_field(logits, image, mask, parameters, **thetas, spacing=(0.5, 2.0))
    assert_close(refined, expected, 1e-6)


def test_compiles_and_passes_torchs_checks(rng):
    logits, image, _ = (tensor.float() for tensor in inputs(rng, (6, 7), 3))
    crf = CrfRnn(3, 2, 3.0, 60.0, 1.2, filter="exact")
    expected = crf(logits, image.requires_grad_())
    (gradient,) = torch.autograd.grad(expected.sum(), image)
    compiled = torch.compile(crf, fullgraph=True, backend="aot_eager")(logits, image)
    assert_close(compiled.detach(), expected.detach(), 1e-6)
    assert_close(torch.autograd.grad(compiled.sum(), image)[0], gradient, 1e-5)
    values, features = torch.rand(2, 3, 8), torch.rand(2, 4, 8)
    torch.library.opcheck(exact_filter.exact_filter.overload, (values.requires_grad_(), features.requires_grad_(), 1))
    torch.library.opcheck(exact_filter.exact_order.overload, (features.detach(),))
    torch.library.opcheck(exact_filter.exact_filter_vjp.overload, (values.detach(), values.detach(), features.detach()))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaussian_filter_equals_the_reference(rng, dtype, normalization):
    """Also with more features than a lattice takes."""
    values = torch.from_numpy(rng.normal(size=(2, 4, 5, 6))).to(dtype)
    features = torch.from_numpy(rng.normal(size=(2, 20, 5, 6))).to(dtype) / 3
    mask = torch.from_numpy(rng.integers(0, 3, size=(2, 5, 6)) / 2)
    filtered = gaussian_filter(values, features, mask, normalization=normalization, filter="exact")
    assert filtered.dtype == dtype
    for index in range(2):
        kernel = reference.DenseGaussian(features[index].reshape(20, -1).T.numpy())
        term = reference.Term(kernel, normalization=normalization, mask=mask[index].numpy().ravel())
        expected = term.filter(values[index].reshape(4, -1).double().numpy()).reshape(4, 5, 6)
        assert_close(filtered[index], expected, 2 * tolerance(filtered.numpy().dtype).filter)


def test_gaussian_filter_gradients(rng):
    values = torch.from_numpy(rng.normal(size=(2, 2, 7))).requires_grad_()
    features = torch.from_numpy(rng.normal(size=(2, 3, 7))).requires_grad_()
    mask = torch.from_numpy(rng.uniform(0.5, 1, size=(2, 7))).requires_grad_()
    for normalization in NORMALIZATIONS:

        def filtered(values, features, mask, normalization=normalization):
            return gaussian_filter(values, features, mask, normalization=normalization, filter="exact")

        assert torch.autograd.gradcheck(filtered, (values, features, mask))
    still = features.detach()
    assert torch.autograd.gradgradcheck(lambda v: filtered(v, still, mask.detach()).sin(), values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_of_plain_torch_equal_the_native_kernel(rng, monkeypatch, dtype):
    """What devices without Triton run, in several blocks of rows and columns."""
    values, features = torch.from_numpy(rng.normal(size=(2, 5, 100))).to(dtype), torch.rand(2, 3, 100, dtype=dtype)
    expected = exact_filter.exact_filter(values, features, 1)
    gradients = exact_filter.exact_filter_vjp(values, values, features)
    monkeypatch.setattr(exact_filter, "CPU_BLOCK", 2 * 31**2)
    bound = tolerance(np.dtype(str(dtype).removeprefix("torch."))).gradient
    assert_close(exact_filter.filter_in_blocks(values, features), expected, bound)
    for blocked, whole in zip(exact_filter.exact_filter_vjp(values, values, features), gradients, strict=True):
        assert_close(blocked, whole, bound)


def test_far_features_keep_their_gradients(rng):
    """Differences come first: an offset of all features costs no more digits than float64 has lost in them."""
    values, cotangent = torch.from_numpy(rng.normal(size=(2, 1, 3, 40)))
    features = torch.from_numpy(rng.normal(size=(1, 4, 40)))
    near = exact_filter.exact_filter_vjp(cotangent, values, features)
    for there, here in zip(exact_filter.exact_filter_vjp(cotangent, values, features + 1e4), near, strict=True):
        assert_close(there, here, 1e-10)


def test_second_derivatives_to_features_are_refused(rng):
    values, features = torch.rand(1, 2, 6, requires_grad=True), torch.rand(1, 3, 6, requires_grad=True)
    filtered = gaussian_filter(values, features, filter="exact")
    (gradient,) = torch.autograd.grad(filtered.square().sum(), values, create_graph=True)
    with raises_saying(NotImplementedError, "cannot be differentiated again", ".detach()"):
        gradient.sum().backward()


GOOD = torch.zeros(1, 2, 4, 5), torch.zeros(1, 3, 4, 5)


@pytest.mark.parametrize(
    ("options", "error", "facts"),
    [
        ({"theta_alpha": 3.0}, TypeError, ("theta_alpha is a float", "torch.Tensor")),
        ({"theta_alpha": torch.tensor(0.0)}, ValueError, ("theta_alpha=0.0", "above 0")),
        ({"theta_beta": torch.ones(1, 1)}, ValueError, ("theta_beta", "(1, 1)", "a number or one for each")),
        ({"theta_gamma": torch.tensor(3)}, ValueError, ("theta_gamma is torch.int64", "floating-point")),
        ({"theta_beta": torch.ones(2)}, ValueError, ("theta_beta", "2 values", "3 image channels")),
        ({"theta_gamma": torch.ones(3)}, ValueError, ("theta_gamma", "3 values", "2 spatial axes")),
        ({"mask": -torch.ones(1, 4, 5)}, ValueError, ("mask holds -1.0", "at least 0")),
        ({"image": GOOD[1] / 0}, ValueError, ("image", "holds 60 NaN")),
        ({"logits": GOOD[0] / 0}, ValueError, ("logits[0] holds 40 NaN",)),
    ],
)
def test_bad_input_is_named(options, error, facts):
    logits, image = options.pop("logits", GOOD[0]), options.pop("image", GOOD[1]).clone().requires_grad_()
    with raises_saying(error, *facts):
        mean_field(logits, image, options.pop("mask", None), CRFParameters(**EXACT), **options)


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"filter": "dense"}, ("filter='dense'", "'lattice', 'exact'")),
        ({"filter": "exact", "neighbour_rounds": 1}, ("neighbour_rounds=1", "0")),
        ({"filter": "exact", "normalization": "both"}, ("normalization='both'",)),
    ],
)
def test_bad_settings_of_the_filter_are_named(options, facts):
    with raises_saying(ValueError, *facts):
        gaussian_filter(torch.zeros(1, 2, 5), torch.zeros(1, 3, 5), **options)


def test_the_triton_kernel_in_the_interpreter():
    pytest.importorskip("triton", reason="needs triton")
    suite = Path(__file__).parents[1] / "gpu" / "exact_triton_suite.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(suite)],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """A Triton kernel for compute capability 9.0, which takes no GPU, its registers, and bytes spilled from them."""
    triton = pytest.importorskip("triton", reason="needs triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.backends.compiler import GPUTarget

    from crfrnn.torch.gpu import triton_exact

    other = {"points": "i32", "blocks": "i32", "channels": "i32", "reach": "fp32", "order": "*i64", "code": "*i64"}

    def compile_kernel(name, **constants):
        kernel = getattr(triton_exact, name)
        types = {argument: other.get(argument, "*fp32") for argument in kernel.arg_names}
        signature = types | dict.fromkeys(constants, "constexpr")
        aligned = {(i,): [["tt.divisibility", 16]] for i, each in enumerate(signature.values()) if each[0] == "*"}
        source = triton.compiler.ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
        options = {"num_warps": triton_exact.WARPS, "enable_fp_fusion": True}
        built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        binary = tmp_path / "kernel.cubin"
        binary.write_bytes(built.asm["cubin"])
        tool = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(binary)]
        usage = subprocess.run(tool, capture_output=True, text=True, check=True).stdout
        return built, *(int(re.search(rf"{what}:(\d+)", usage)[1]) for what in ("REG", "STACK"))

    return compile_kernel


@pytest.mark.parametrize(("features", "channels"), [(3, 16), (4, 32), (5, 16), (5, 32), (5, 64), (20, 32)])
def test_the_triton_filter_compiles_for_a_gpu(compiled, features, channels):
    """To products on the matrix units, each block's from 0, and without weights in memory.

    The interpreter accepts what the compiler does not.
    """
    from crfrnn.torch.gpu import triton_exact

    sizes = {"SIDE": triton_exact.SIDE, "SPAN": triton_exact.SPAN, "CHANNELS": channels}
    built, registers, spilled = compiled("_filter", DIMENSIONS=features, **sizes)
    assert f"wgmma.mma_async.sync.aligned.m64n{channels}k8.f32.tf32.tf32" in built.asm["ptx"]
    started_from = re.findall(r"warp_group_dot %[\w#]+, %[\w#]+, %(\w+)", built.asm["ttgir"])
    assert len(started_from) == 3
    assert started_from[0].startswith("cst")
    if importlib.metadata.version("triton") == REGISTERS_OF:
        assert spilled == 0
        if (features, channels) == (5, 32):
            assert registers <= 168, "three programs of 128 threads no longer fit in the 65536 registers"


@pytest.mark.parametrize(("given", "used", "bits"), [(1, 1, 16), (5, 5, 12), (70, 63, 1)])
def test_the_order_of_points_compiles_for_a_gpu(compiled, given, used, bits):
    _, _, spilled = compiled("_trace", GIVEN=given, DIMENSIONS=used, BITS=bits, BLOCK=256)
    assert spilled == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_agrees_with_the_native_kernel(rng):
    """Photo-like features of thousands of points, launched and recorded in a CUDA graph: nothing waits."""
    features = torch.from_numpy(rng.normal(size=(2, 5, 9000)).astype(np.float32)) * 8
    values = torch.from_numpy(rng.random((2, 21, 9000)).astype(np.float32))
    expected = exact_filter.exact_filter(values.double(), features.double(), None)
    given = values.cuda(), features.cuda()
    bound = tolerance(np.float32).filter
    assert_close(exact_filter.exact_filter(*given, None).cpu(), expected, bound)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        exact_filter.exact_filter(*given, None)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = exact_filter.exact_filter(*given, None)
    given[0].mul_(2)
    given[1].copy_(features.flip(2))
    graph.replay()
    again = exact_filter.exact_filter(2 * values.double(), features.flip(2).double(), None)
    assert_close(recorded.cpu(), again, bound)


def test_triton_is_imported_only_for_a_gpu():
    check = (
        "import sys, torch, crfrnn.torch as c; c.gaussian_filter(torch.rand(1, 2, 5), torch.rand(1, 3, 5), "
        "filter='exact'); print('crfrnn.torch.gpu.triton_exact' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
