"""Numbers near the limits of their precision in torch, and what a schema of torch would say in its own words."""

import warnings

import numpy as np
import pytest

from crfrnn import CRF, CRFParameters, Exact, Given, Kernel, Spatial
from errors import raises_saying

torch = pytest.importorskip("torch", reason="needs the torch extra")
from crfrnn.torch import CrfRnn, gaussian_filter, mean_field, upsample  # noqa: E402
from crfrnn.torch.differentiable import grid_filter  # noqa: E402
from crfrnn.torch.gpu import plain  # noqa: E402
from crfrnn.torch.gpu.grid import build_grid  # noqa: E402
from crfrnn.torch.losses import DENSE_CRF, dense_crf_loss, gated_crf_loss, normalized_cut_loss  # noqa: E402

pytestmark = pytest.mark.torch
SHAPE = (6, 7)
IMAGE = torch.from_numpy(np.random.default_rng(3).uniform(0, 255, (1, 3, *SHAPE)).astype(np.float32))


def logits_of(classes, dtype=torch.float32):
    return torch.from_numpy(np.random.default_rng(classes).normal(size=(1, classes, *SHAPE))).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("solver", [{}, {"filter": "exact"}, {"solver": "frank-wolfe"}, {"damping": 0.2}], ids=str)
@pytest.mark.parametrize("classes", [2, 3, 8, 9, 21])
def test_masked_classes_have_no_part(classes, solver, dtype):
    """`masked_fill(finfo.min)` of all classes leaves them equally likely; gradients are finite, and 0 by symmetry."""
    for score in (torch.finfo(dtype).min, torch.finfo(dtype).max):
        logits = torch.full((1, classes, *SHAPE), score, dtype=dtype, requires_grad=True)
        result = mean_field(logits, IMAGE, None, CRFParameters(iterations=3, **solver), return_probabilities=True)
        np.testing.assert_allclose(result.detach().numpy(), 1 / classes, rtol=1e-4)
        result.sum().backward()
        np.testing.assert_allclose(logits.grad.numpy(), 0, atol=1e-4)


@pytest.mark.parametrize("classes", [3, 9])
def test_steps_of_devices_leave_padding_out(classes):
    logits = torch.full((1, classes, *SHAPE), torch.finfo(torch.float32).min)
    unary, q = plain.begin(logits, 16, torch.float32)
    np.testing.assert_allclose(q[:, :classes].numpy(), 1 / classes, rtol=1e-6)
    np.testing.assert_array_equal(q[:, classes:].numpy(), 0)
    _, q = plain.update(unary, unary, None, None, None, None, (None, None), 0.3, torch.float32)
    np.testing.assert_allclose(q[:, :classes].numpy(), 1 / classes, rtol=1e-6)


OVERFLOWING = {
    "a weight": (lambda a: mean_field(a, IMAGE, bilateral_weight=1e39), ["bilateral_weight=1e+39", "float32"]),
    "a weight of classes": (lambda a: mean_field(a, IMAGE, bilateral_weight=[1, 1e39, 1]), ["bilateral_weight"]),
    "scores": (lambda a: mean_field(a, IMAGE, spatial_weight=3e38, bilateral_weight=3e38), ["scores", "float32"]),
    "exactly": (
        lambda a: mean_field(a, IMAGE, None, CRFParameters(filter="exact", spatial_weight=3e38, bilateral_weight=3e38)),
        ["scores", "float32"],
    ),
    "by Frank-Wolfe": (
        lambda a: mean_field(a, IMAGE, None, CRFParameters(solver="frank-wolfe", bilateral_weight=3e38)),
        ["scores", "float32"],
    ),
    "differentiably": (
        lambda a: mean_field(
            a,
            None,
            None,
            CRF([Kernel(Given("k"), weight=3e38, filter=Exact(), normalization="none")]),
            given={"k": lambda values: 100 * values},
        ),
        ["scores"],
    ),
    "in float16": (lambda a: mean_field(a.half(), IMAGE, spatial_weight=1e6), ["scores", "float16"]),
    "a mask": (
        lambda a: mean_field(a, IMAGE, torch.full((1, *SHAPE), 1e20), CRFParameters(normalization="none")),
        ["scores", "mask"],
    ),
    "filtered values": (lambda a: gaussian_filter(1e38 * a, IMAGE / 1e3, normalization="none"), ["filtered values"]),
    "filtered exactly": (
        lambda a: gaussian_filter(1e38 * a, IMAGE / 1e3, normalization="none", filter="exact"),
        ["filtered values"],
    ),
    "a layer": (lambda a: CrfRnn(3, spatial_weight=3e38, bilateral_weight=3e38)(a, IMAGE), ["scores"]),
    **{
        loss.__name__: (
            lambda a, loss=loss: loss(torch.softmax(a, 1), IMAGE, torch.full((1, *SHAPE), 1e25), parameters=DENSE_CRF),
            ["grow beyond"],
        )
        for loss in (dense_crf_loss, gated_crf_loss, normalized_cut_loss)
    },
}


@pytest.mark.parametrize("what", OVERFLOWING)
def test_results_that_would_not_be_finite_are_refused(what):
    call, facts = OVERFLOWING[what]
    with raises_saying(ValueError, *facts):
        call(logits_of(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sigma", [1e-30, 1e-13, 1e-3])
def test_a_gaussian_narrower_than_a_point_has_no_slope(sigma, dtype):
    values = torch.arange(9, dtype=dtype).reshape(1, 1, 9)
    given = torch.tensor(sigma, dtype=dtype, requires_grad=True)
    filtered = grid_filter(values, [given])
    np.testing.assert_array_equal(filtered.detach().numpy(), values.numpy())
    filtered.sum().backward()
    assert given.grad == 0
    grid = build_grid((9,), [given.detach()], dtype, torch.device("cpu"), plain)
    assert grid.slopes[0] is not None
    np.testing.assert_array_equal(grid.slopes[0].values.numpy(), 0)


@pytest.mark.parametrize("given", ["yes", None, 2, [True], 0.5], ids=str)
@pytest.mark.parametrize("name", ["deterministic", "return_probabilities"])
def test_flags_that_are_none(name, given):
    with raises_saying(TypeError, f"{name}={given!r}", "True or False"):
        mean_field(logits_of(3), IMAGE, **{name: given})


@pytest.mark.parametrize("given", [np.True_, 1, np.int64(1)], ids=repr)
def test_flags_of_other_types(given):
    logits = logits_of(3)
    expected = mean_field(logits, IMAGE, return_probabilities=True, deterministic=True)
    torch.testing.assert_close(mean_field(logits, IMAGE, return_probabilities=given, deterministic=given), expected)
    layer = CrfRnn(3, deterministic=given, return_probabilities=given, learn_theta=given)
    assert layer.deterministic is True
    assert layer.log_thetas
    torch.testing.assert_close(
        gaussian_filter(logits, IMAGE, deterministic=given), gaussian_filter(logits, IMAGE, deterministic=True)
    )


def test_arguments_that_a_schema_would_refuse_in_its_own_words():
    logits = logits_of(3)
    expected = mean_field(logits, IMAGE)
    for threads in (np.int64(2), 2**70):
        torch.testing.assert_close(mean_field(logits, IMAGE, threads=threads), expected)
    with raises_saying(TypeError, "spatial_weight is a str", "tensor"):
        mean_field(logits, IMAGE, spatial_weight="3")
    with raises_saying(TypeError, "logits", "sparse", "to_dense"):
        mean_field(logits.to_sparse(), IMAGE)
    with raises_saying(ValueError, "normalization=", "'after'"):
        gaussian_filter(logits, IMAGE, normalization=np.array(["after", "none"]))
    with raises_saying(TypeError, "deterministic='no'"):
        upsample(logits[:, :, ::2, ::2], IMAGE, deterministic="no")


class TestOddTensors:
    LOGITS, IMAGE = torch.zeros(1, 3, 5, 6), torch.full((1, 3, 5, 6), 9.0)

    @pytest.mark.parametrize(
        ("options", "error", "facts"),
        [
            ({"spatial_weight": torch.eye(3).to_sparse()}, TypeError, ["spatial_weight", "layout", "to_dense"]),
            ({"compatibility": torch.eye(3).to_sparse()}, TypeError, ["compatibility", "layout"]),
            ({"theta_alpha": torch.tensor(2.0, device="meta")}, ValueError, ["theta_alpha is on meta", "cpu"]),
            ({"spacing": torch.tensor(2.0, device="meta")}, TypeError, ["spacing"]),
            ({"storage": np.array(["a", "b"])}, ValueError, ["storage=", "torch.float16"]),
            ({"image": IMAGE.to(torch.float8_e4m3fn)}, TypeError, ["image is torch.float8_e4m3fn", ".float()"]),
            ({"logits": LOGITS.to(torch.float8_e4m3fn)}, TypeError, ["logits is torch.float8_e4m3fn", ".float()"]),
        ],
    )
    def test_are_refused_by_name(self, options, error, facts):
        with raises_saying(error, *facts):
            mean_field(**{"logits": self.LOGITS, "image": self.IMAGE} | options)

    def test_integers_beyond_64_bits_are_numbers(self):
        huge = mean_field(self.LOGITS, self.IMAGE, spatial_weight=2**64, return_probabilities=True)
        torch.testing.assert_close(huge, torch.full_like(huge, 1 / 3))

    def test_of_no_device_are_no_parameters(self):
        with raises_saying(TypeError, "theta_beta", "meta", "no numbers"):
            CrfRnn(3, theta_beta=torch.empty(3, device="meta"))

    def test_covers_of_a_tensor(self):
        covers = torch.tensor([6.0, 6.0], requires_grad=True)
        with raises_saying(TypeError, "covers"):
            upsample(self.LOGITS[:, :, ::2, ::2], self.IMAGE, covers=covers)
        found = upsample(self.LOGITS[:, :, ::2, ::2], self.IMAGE, covers=covers.detach())
        torch.testing.assert_close(found, upsample(self.LOGITS[:, :, ::2, ::2], self.IMAGE, covers=(6, 6)))


def test_weights_in_a_list_of_arrays(rng):
    logits = torch.from_numpy(rng.normal(size=(1, 2, 5, 6)))
    crf = CRF([Kernel(Spatial(2))])
    matrix = np.array([[-1, 0.5], [0.25, -2]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch warns of lists of arrays
        found = mean_field(logits, None, None, crf, compatibility=[*matrix])
    assert torch.equal(found, mean_field(logits, None, None, crf, compatibility=matrix))
