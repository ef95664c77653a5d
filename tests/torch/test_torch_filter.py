"""`crfrnn.torch.gaussian_filter` against the reference lattice; its gradients; errors."""

import numpy as np
import pytest

from crfrnn import reference
from crfrnn.inference import batch
from tolerances import assert_close, tolerance

torch = pytest.importorskip("torch", reason="needs the torch extra")
from crfrnn.torch import gaussian_filter, kept  # noqa: E402

pytestmark = pytest.mark.torch


def inputs(rng, spatial=(5, 6), dimensions=3, dtype=torch.float64):
    values = torch.from_numpy(rng.normal(size=(2, 4, *spatial)))
    features = torch.from_numpy(rng.uniform(0, 3, size=(2, dimensions, *spatial)))
    return values.to(dtype), features.to(dtype)


@pytest.mark.parametrize("normalization", ["after", "before", "symmetric"])
@pytest.mark.parametrize(("spatial", "dimensions"), [((20,), 1), ((5, 6), 3), ((2, 3, 4), 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_reference(rng, normalization, spatial, dimensions, dtype):
    values, features = inputs(rng, spatial, dimensions, dtype)
    mask = torch.from_numpy(rng.integers(0, 3, size=(2, *spatial)) / 2)
    filtered = gaussian_filter(values, features, mask, normalization=normalization)
    assert filtered.dtype == dtype
    for index in range(2):
        lattice = reference.Lattice(features[index].reshape(dimensions, -1).T.numpy())
        term = reference.Term(lattice, normalization=normalization, mask=mask[index].numpy().ravel())
        expected = term.filter(values[index].reshape(4, -1).double().numpy()).reshape(4, *spatial)
        assert_close(filtered[index], expected, tolerance(filtered.numpy().dtype).filter)


def test_neighbour_rounds(rng):
    values, features = inputs(rng)
    filtered = gaussian_filter(values, features, neighbour_rounds=1)
    lattice = reference.Lattice(features[1].reshape(3, -1).T.numpy(), neighbour_rounds=1)
    expected = reference.Term(lattice).filter(values[1].reshape(4, -1).numpy())
    assert_close(filtered[1].reshape(4, -1), expected, tolerance(np.float64).filter)


@pytest.mark.parametrize("normalization", ["after", "before", "symmetric", "none"])
def test_gradients_of_first_and_second_order(rng, normalization):
    values, features = inputs(rng, (3, 4))
    mask = torch.from_numpy(rng.integers(0, 3, size=(2, 3, 4)) / 2)

    def filtered(values):
        return gaussian_filter(values, features, mask, normalization=normalization)

    assert torch.autograd.gradcheck(filtered, values.requires_grad_())
    assert torch.autograd.gradgradcheck(lambda values: filtered(values).sin(), values)


def test_lattices_are_built_once_and_freed(rng, monkeypatch):
    built = []
    build = batch.PermutohedralLattice

    def counting(rows, **more):
        built.append(rows)
        return build(rows, **more)

    monkeypatch.setattr(batch, "PermutohedralLattice", counting)
    values, features = inputs(rng)
    filtered = gaussian_filter(values.requires_grad_(), features)
    filtered.square().sum().backward()
    assert len(built) == 2
    del filtered
    with torch.no_grad():
        gaussian_filter(values, features)
    assert not kept._entries


def test_a_copied_handle_costs_time_but_no_accuracy(rng):
    values, features = inputs(rng)
    cotangent = torch.from_numpy(rng.normal(size=tuple(values.shape)))
    (expected,) = torch.autograd.grad(gaussian_filter(values.requires_grad_(), features), values, cotangent)
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda tensor: tensor):
        filtered = gaussian_filter(values, features)
    assert torch.equal(torch.autograd.grad(filtered, values, cotangent)[0], expected)


def test_gradients_that_are_not_finite_pass_through(rng):
    values, features = inputs(rng)
    filtered = gaussian_filter(values.requires_grad_(), features)
    filtered.backward(torch.full_like(filtered, torch.nan))
    assert values.grad.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(rng, dtype):
    values, features = inputs(rng, dtype=dtype)
    filtered = gaussian_filter(values, features)
    assert torch.equal(filtered, gaussian_filter(values.float(), features.float()).to(dtype))


GOOD = torch.zeros(2, 4, 5, 6), torch.zeros(2, 3, 5, 6)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        (
            (GOOD[0], GOOD[1][..., :4]),
            {},
            ValueError,
            r"features has shape \(2, 3, 5, 4\); expected \(2, channels, 5, 6\)",
        ),
        ((GOOD[0], torch.zeros(2, 17, 5, 6)), {}, ValueError, "features have 17 dimensions, .* at most 16"),
        ((GOOD[0] / 0, GOOD[1]), {}, ValueError, r"values\[0\] holds 120 NaN"),
        ((GOOD[0], GOOD[1] / 0), {}, ValueError, "features holds 90 NaN"),
        (GOOD, {"neighbour_rounds": 1.5}, TypeError, "neighbour_rounds=1.5 must be an integer"),
        (GOOD, {"normalization": "both"}, ValueError, "normalization='both' is unknown"),
        (GOOD, {"threads": 0}, ValueError, "threads=0 must be at least 1"),
    ],
)
def test_bad_input_is_named(arguments, options, error, words):
    with pytest.raises(error, match=words):
        gaussian_filter(*arguments, **options)
