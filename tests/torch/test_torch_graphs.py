"""The operators in torch's own machinery: opcheck, compile, export, checkpoints, hooks; what they keep in memory."""

import gc
import io
import weakref
from pathlib import Path

import numpy as np
import pytest

import crfrnn
from crfrnn.inference import batch
from specified import specified

torch = pytest.importorskip("torch", reason="needs the torch extra")
from torch._dynamo.testing import CompileCounterWithBackend  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from crfrnn.torch import CrfRnn, gaussian_filter, kept, ops  # noqa: E402

pytestmark = pytest.mark.torch

SPECIFIED = specified(iterations=2, damping=0.1, threads=None)
NUMBERS = ("", SPECIFIED.crf.text, None, *SPECIFIED.execution)


@pytest.fixture
def crf():
    return CrfRnn(4, 3, theta_alpha=5.13, theta_beta=61.7, theta_gamma=1.57, tolerance=0)


@pytest.fixture
def built(monkeypatch):
    """The images whose kernels were built so far."""
    images = []
    build = batch.build_terms

    def counting(image, *args, **more):
        images.append(image)
        return build(image, *args, **more)

    monkeypatch.setattr(batch, "build_terms", counting)
    return images


@pytest.fixture(autouse=True)
def nothing_stays_behind():
    yield
    gc.collect()
    assert not kept._entries


def inputs(rng, spatial=(6, 7), size=2):
    logits = torch.from_numpy(rng.normal(size=(size, 4, *spatial)).astype(np.float32))
    image = torch.from_numpy(rng.uniform(0, 255, size=(size, 3, *spatial)).astype(np.float32))
    return logits, image


def gradients(crf, logits, call):
    """The result of `call(logits)`, and the gradients of a function of it to logits and parameters."""
    crf.zero_grad()
    given = logits.clone().requires_grad_()
    refined = call(given)
    refined.square().sum().backward()
    return [refined.detach(), given.grad, *(parameter.grad for parameter in crf.parameters())]


def assert_same(actual, expected):
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (4,), (4, 4)])
def test_opcheck_of_the_mean_field(rng, dtype, shape):
    logits, image = inputs(rng)
    couplings = [torch.from_numpy(np.asarray(rng.normal(size=shape))).to(dtype).requires_grad_() for _ in range(2)]
    scene = (logits.to(dtype).requires_grad_(), image, torch.ones(2, 6, 7))
    torch.library.opcheck(ops.mean_field.overload, (True, *scene, [], [], couplings, *NUMBERS))
    plain = (*(each.detach() for each in scene), [], [], [coupling.detach() for coupling in couplings])
    refined, handle = ops.mean_field(True, *plain, *NUMBERS)
    torch.library.opcheck(ops.mean_field_vjp.overload, (refined, handle, False, *plain, *NUMBERS))


@pytest.mark.parametrize("transpose", [False, True])
def test_opcheck_of_the_filter(rng, transpose):
    values, features = inputs(rng)
    features = features / 61.7
    torch.library.opcheck(ops.lattice.overload, (features, None, "after", 0, True, None))
    handle = ops.lattice(features, None, "after", 0, True, None)
    arguments = (values.requires_grad_(), handle, transpose, features, None, "after", 0, True, None)
    torch.library.opcheck(ops.gaussian_filter.overload, arguments)


def test_kernels_are_built_once_for_forward_and_backward(rng, crf, built):
    logits, image = inputs(rng)
    gradients(crf, logits, lambda given: crf(given, image))
    assert len(built) == 2


def test_records_live_as_long_as_the_graph(rng, crf, monkeypatch):
    terms = []
    build = batch.build_terms

    def watched(*args, **more):
        made = build(*args, **more)
        terms.extend(map(weakref.ref, made))
        return made

    monkeypatch.setattr(batch, "build_terms", watched)
    logits, image = inputs(rng)
    refined = crf(logits, image)
    assert len(kept._entries) == 1
    assert all(term() is not None for term in terms)
    refined.sum().backward(retain_graph=True)
    assert len(kept._entries) == 1
    refined.sum().backward()
    assert len(kept._entries) == 0
    refined = crf(logits, image)
    del refined
    assert len(kept._entries) == 0
    assert len(terms) == 8
    assert all(term() is None for term in terms)


def test_nothing_is_kept_without_gradients(rng, crf):
    logits, image = inputs(rng)
    with torch.no_grad():
        refined = crf(logits, image)
        assert not kept._entries
    crf.requires_grad_(False)
    frozen = crf(logits, image)
    assert not kept._entries
    assert torch.equal(refined, frozen)
    assert not frozen.requires_grad


def test_a_copied_handle_costs_time_but_no_accuracy(rng, crf, built):
    logits, image = inputs(rng)
    expected = gradients(crf, logits, lambda given: crf(given, image))
    built.clear()
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda tensor: tensor):
        actual = gradients(crf, logits, lambda given: crf(given, image))
    assert_same(actual, expected)
    assert len(built) == 4


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(rng, crf, use_reentrant):
    logits, image = inputs(rng)
    expected = gradients(crf, logits, lambda given: crf(given, image))
    actual = gradients(crf, logits, lambda given: checkpoint(crf, given, image, use_reentrant=use_reentrant))
    assert_same(actual, expected)


def test_an_image_changed_before_the_backward_pass_is_an_error(rng, crf):
    logits, image = inputs(rng)
    refined = crf(logits, image)
    image += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        refined.sum().backward()


def test_a_new_specification_compiles_once_more(rng, crf):
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(crf, fullgraph=True, backend=counter)
    logits, image = inputs(rng)
    for iterations, graphs in ((3, 1), (3, 1), (2, 2), (3, 2), (2, 2)):
        crf.num_iterations = iterations
        torch.testing.assert_close(compiled(logits, image), crf(logits, image))
        assert counter.frame_count == graphs
    with torch.no_grad():
        crf.spatial_ker_weights += 1  # what trains compiles nothing
    compiled(logits, image)
    assert counter.frame_count == 2


def test_compile_in_one_graph(rng, crf, built):
    """With the default backend: whatever it does to tensors, the handle must come through."""
    logits, image = inputs(rng)
    compiled = torch.compile(crf, fullgraph=True)
    expected = gradients(crf, logits, lambda given: crf(given, image))
    built.clear()
    assert_same(gradients(crf, logits, lambda given: compiled(given, image)), expected)
    assert len(built) == 2


def test_compile_follows_options_and_masks(rng, crf):
    logits, image = inputs(rng)
    mask = torch.from_numpy(rng.integers(0, 2, size=(2, 6, 7)).astype(np.float32))
    compiled = torch.compile(crf, fullgraph=True, backend="aot_eager")
    for iterations, probabilities in ((1, False), (4, True)):
        crf.num_iterations, crf.return_probabilities = iterations, probabilities
        with torch.no_grad():
            torch.testing.assert_close(compiled(logits, image, mask), crf(logits, image, mask))
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(compiled(logits, image, mask), crf(logits, image, mask))


def test_compile_with_changing_sizes_compiles_once(rng, crf):
    compiles = []

    def counting(graph, arguments):
        compiles.append(graph)
        return graph.forward

    compiled = torch.compile(crf, fullgraph=True, dynamic=True, backend=counting)
    for size, spatial in ((2, (6, 7)), (3, (5, 8)), (4, (9, 4))):
        logits, image = inputs(rng, spatial, size)
        expected = gradients(crf, logits, lambda given, image=image: crf(given, image))
        assert_same(gradients(crf, logits, lambda given, image=image: compiled(given, image)), expected)
    assert len(compiles) == 1


def test_compile_of_the_filter(rng):
    values, features = inputs(rng)
    compiled = torch.compile(gaussian_filter, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(values, features / 61.7), gaussian_filter(values, features / 61.7))


def test_export_with_dynamic_sizes(rng, crf, tmp_path):
    size, height, width = (torch.export.Dim(name, min=2) for name in ("batch", "height", "width"))
    shape = {0: size, 2: height, 3: width}
    with torch.no_grad():
        program = torch.export.export(crf, inputs(rng), dynamic_shapes=(shape, shape))
    torch.export.save(program, tmp_path / "crf.pt2")
    loaded = torch.export.load(tmp_path / "crf.pt2").module()
    for given in (inputs(rng), inputs(rng, (9, 4), 3)):
        with torch.no_grad():
            assert torch.equal(loaded(*given), crf(*given))


def test_an_exported_layer_trains(rng, crf):
    logits, image = inputs(rng)
    exported = torch.export.export(crf, (logits, image)).module()
    expected = gradients(crf, logits, lambda given: crf(given, image))
    assert_same(gradients(exported, logits, lambda given: exported(given, image)), expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("gradients", [False, True])
def test_traces_take_any_size(tmp_path: Path, gradients) -> None:
    layer = CrfRnn(3)

    def inputs(*size: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(size[0], 3, *size[1:]), 255 * torch.rand(size[0], 3, *size[1:])

    with torch.set_grad_enabled(gradients):
        traced = torch.jit.trace(layer, inputs(1, 12, 9), check_trace=not gradients)
    torch.jit.save(traced, tmp_path / "layer.pt")
    loaded = torch.jit.load(tmp_path / "layer.pt")
    with torch.set_grad_enabled(gradients):
        for size in ((1, 12, 9), (2, 7, 15)):
            logits, images = inputs(*size)
            assert torch.equal(loaded(logits, images), layer(logits, images))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("behind_a_network", [False, True])
def test_script_and_onnx_say_what_can_be_done(behind_a_network) -> None:
    network = crfrnn.attach(torch.nn.Conv2d(3, 3, 1), 3) if behind_a_network else CrfRnn(3)
    images = 255 * torch.rand(1, 3, 8, 9)
    given = (images,) if behind_a_network else (torch.randn(1, 3, 8, 9), images)
    with pytest.raises(TypeError, match=r"CrfRnn cannot be scripted.*torch\.export"):
        torch.jit.script(network)
    with pytest.raises(ValueError, match="cannot be exported to ONNX"):
        torch.onnx.export(network, given, io.BytesIO(), dynamo=False)


@pytest.mark.filterwarnings("ignore")
def test_the_onnx_exporter_of_graphs_says_it_too() -> None:
    """It tries several ways to trace, of which a compiler takes torch's own answer to be False."""
    pytest.importorskip("onnxscript")
    given = torch.randn(1, 3, 8, 9), 255 * torch.rand(1, 3, 8, 9)
    with pytest.raises(Exception, match="CrfRnn cannot be exported to ONNX"):
        torch.onnx.export(CrfRnn(3), given, io.BytesIO(), dynamo=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("strict", [False, True])
def test_a_graph_for_onnx_is_refused_where_it_is_traced(strict: bool, monkeypatch) -> None:
    given = torch.randn(1, 3, 8, 9), 255 * torch.rand(1, 3, 8, 9)
    torch.export.export(CrfRnn(3), given, strict=strict)
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    with pytest.raises(Exception, match="CrfRnn cannot be exported to ONNX"):
        torch.export.export(CrfRnn(3), given, strict=strict)
