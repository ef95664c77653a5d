"""Regions in torch: by the native core, in operations of torch on the CPU and for other devices, and as a layer."""

import copy

import numpy as np
import pytest

import crfrnn
from crfrnn.crf import CRF, Kernel, MeanField, Regions, Spatial
from crfrnn.inference.backend import UnsupportedError
from errors import raises_saying
from region_cases import CLASSES, GRID, IDS, ORDERS, crf_of, memberships_of, page_blocks, soft
from tolerances import assert_close, tolerance

torch = pytest.importorskip("torch", reason="needs the torch extra")
from crfrnn.torch import CrfRnn, differentiable, functional, gpu, mean_field  # noqa: E402

pytestmark = pytest.mark.torch
BOUNDS = tolerance(np.float64)
EVERY_ORDER = pytest.mark.parametrize("order", ORDERS)


@pytest.fixture(params=["native", "operations"])
def place(request, monkeypatch):
    """The native core, and what other devices fall through to."""
    if request.param == "operations":
        monkeypatch.setattr(functional, "batch", gpu)
    return request.param


def scene(rng, dtype=np.float64):
    """Two images whose maps have other ids: logits, mask, and what is given."""
    logits = torch.from_numpy(rng.normal(size=(2, CLASSES, *GRID)).astype(dtype))
    mask = torch.from_numpy(rng.choice([0, 0.5, 1, 2], size=(2, *GRID)))
    ids = np.stack([IDS, 3 * IDS[::-1]])
    return logits, mask, {"ids": torch.from_numpy(ids), "shares": torch.from_numpy(np.stack([soft(rng), soft(rng)]))}


@EVERY_ORDER
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_are_those_of_numpy(rng, place, order, dtype):
    logits, mask, given = scene(rng, dtype)
    crf = crf_of(order)
    refined = mean_field(logits, None, mask, crf, given=given, return_probabilities=True)
    for index in range(2):
        one = {name: each[index].numpy() for name, each in given.items()}
        expected = crfrnn.refine(logits[index].double().numpy(), None, crf, mask=mask[index].numpy(), given=one)
        assert_close(refined[index], expected, tolerance(dtype).mean_field)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32])
def test_ids_of_any_integer_type(rng, place, dtype):
    """An id of -1, which stands for no segment, is 255 in uint8."""
    logits, _, given = scene(rng)
    ids = given["ids"].clamp(min=0)
    crf = CRF([], regions=[Regions("ids", 2.0)])
    expected = mean_field(logits, None, parameters=crf, given={"ids": ids})
    assert_close(mean_field(logits, None, parameters=crf, given={"ids": ids.to(dtype)}), expected, 1e-12)


@EVERY_ORDER
def test_on_a_device(rng, order):
    logits, mask, given = scene(rng)
    one = {name: each[0].numpy() for name, each in given.items()}
    arguments = (logits[0].numpy(), None, crf_of(order))
    expected = crfrnn.refine(*arguments, mask=mask[0].numpy(), given=one)
    found = crfrnn.refine(*arguments, mask=mask[0].numpy(), given=one, device="cpu")
    assert_close(found, expected, BOUNDS.mean_field)


@EVERY_ORDER
def test_gradients(rng, place, order):
    """Of logits, and of weights and compatibility, which are matrices."""
    logits, mask, given = scene(rng)
    layer = CrfRnn(CLASSES, crf=crf_of(order, 0.9, solver=MeanField(2, tolerance=0))).double()
    names = [name for name, _ in layer.named_parameters()]
    assert names == ["spatial_ker_weights", "ids_ker_weights", "shares_ker_weights", "compatibility_matrix"]
    parameters = [parameter.detach() + 0.1 * torch.randn(CLASSES, CLASSES) for parameter in layer.parameters()]

    def refined(logits, *parameters):
        changed = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(layer, changed, (logits, None, mask), {"given": given})

    assert torch.autograd.gradcheck(refined, [each.requires_grad_() for each in (logits, *parameters)], fast_mode=True)


@EVERY_ORDER
def test_gradients_to_memberships(rng, order):
    """By operations of torch, whatever the device."""
    logits, mask, given = scene(rng)
    shares = torch.from_numpy(rng.uniform(0.1, 0.9, size=(2, 3, *GRID))).requires_grad_()

    def refined(logits, shares):
        return mean_field(logits, None, mask, crf_of(order), given=given | {"shares": shares})

    assert torch.autograd.gradcheck(refined, (logits.requires_grad_(), shares), fast_mode=True)


@EVERY_ORDER
def test_hard_memberships_are_a_map_of_ids(rng, place, order):
    logits = scene(rng)[0][:1]
    crf = CRF([], regions=[Regions("a", 0.8, order)])
    shares = torch.from_numpy(memberships_of(IDS))[None]
    results = [
        mean_field(logits, None, None, crf, given={"a": segments})
        for segments in (torch.from_numpy(IDS)[None], shares, shares.bool())
    ]
    for other in results[1:]:
        assert_close(other, results[0].numpy(), BOUNDS.mean_field)


def test_second_derivatives_of_ids(rng):
    """Sums over segments and their transpose are each other's derivatives."""
    crf = CRF([], regions=[Regions("a", 0.8, 3)], solver=MeanField(1))
    ids, shares = torch.from_numpy(IDS)[None], torch.ones(1, 1, *GRID, dtype=torch.float64)
    inputs = scene(rng)[0][:1].requires_grad_()

    def refined(logits):
        inputs = differentiable.Inputs(logits, given={"a": ids + 3})
        return differentiable.forward(crf, inputs, [-shares.new_tensor(0.8)], differentiable.Execution())

    assert torch.autograd.gradgradcheck(refined, (inputs,), fast_mode=True)


def test_the_layer_is_copied_saved_and_described(rng):
    logits, _, given = scene(rng)
    layer = CrfRnn(CLASSES, crf=crf_of(None, 0.9)).double()
    twin = CrfRnn(CLASSES, crf=CRF.from_text(layer.crf.text)).double()
    twin.load_state_dict(layer.state_dict())
    for other in (twin, copy.deepcopy(layer)):
        torch.testing.assert_close(other(logits, None, given=given), layer(logits, None, given=given), rtol=0, atol=0)
    assert "Regions(name='ids'" in repr(layer)


def test_a_compiled_layer(rng):
    logits, _, given = scene(rng)
    layer = CrfRnn(CLASSES, crf=crf_of(3, 0.9)).double()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, None, given=given), layer(logits, None, given=given))


def test_a_weight_beside_regions(rng):
    """A given weight of a kernel leaves those of the regions as they are; a weight of 0 leaves regions out."""
    logits, _, given = scene(rng)
    crf = crf_of(3)
    found = mean_field(logits, None, None, crf, given=given, spatial_weight=torch.tensor(0.6))
    torch.testing.assert_close(found, mean_field(logits, None, None, crf, given=given))
    without = CRF(crf.kernels, solver=crf.solver, regions=[Regions("ids", 0), Regions("shares", 0.0)])
    found = mean_field(logits, None, None, without, spatial_weight=torch.tensor(0.6))
    torch.testing.assert_close(found, mean_field(logits, None, None, CRF(crf.kernels, solver=crf.solver)))


def test_torch_of_the_page():
    names = {}
    for block in page_blocks():
        exec(compile(block, "docs/regions.md", "exec"), names)
    assert names["refined"].shape == (1, 3, 40, 60)
    names["refined"].sum().backward()
    assert names["layer"].superpixels_ker_weights.grad.abs().sum() > 0


LOGITS = torch.zeros(1, 2, 3, 4)


@pytest.mark.parametrize(
    ("given", "error", "facts"),
    [
        ({}, ValueError, ["regions need given={'a': …}"]),
        ({"a": np.zeros((1, 3, 4), int)}, TypeError, ["given['a'] is a ndarray", "torch.Tensor"]),
        ({"a": lambda values: values}, TypeError, ["given['a'] is a function"]),
        ({"a": torch.zeros(1, 4, 3, dtype=torch.int64)}, ValueError, ["(1, 4, 3)", "(1, 3, 4)", "(1, segments, 3, 4)"]),
        ({"a": torch.zeros(3, 4, dtype=torch.int64)}, ValueError, ["(3, 4)", "(1, 3, 4)"]),
        ({"a": torch.zeros(1, 3, 4)}, TypeError, ["torch.float32", "integers", ".long()"]),
        ({"a": torch.zeros(2, 5, 3, 4)}, ValueError, ["(2, 5, 3, 4)", "(1, channels, 3, 4)"]),
        ({"a": torch.full((1, 5, 3, 4), 1.5)}, ValueError, ["1.5", "from 0"]),
        ({"a": torch.full((1, 5, 3, 4), float("nan"))}, ValueError, ["NaN"]),
    ],
)
def test_what_does_not_fit_is_named(place, given, error, facts):
    with raises_saying(error, *facts):
        mean_field(LOGITS, None, None, CRF([], regions=[Regions("a")]), given=given)


def test_16_bits_beside_regions_on_a_device(monkeypatch):
    monkeypatch.setattr(functional, "batch", gpu)
    crf = CRF([Kernel(Spatial(1))], regions=[Regions("a")])
    with raises_saying(UnsupportedError, "torch.float16 is not available"):
        mean_field(LOGITS, None, None, crf, given={"a": LOGITS[:, 0].long()}, storage=torch.float16)
