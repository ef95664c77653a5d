"""The backward pass of the fused mean field to kernels and factors of terms: against NumPy and finite differences."""

from dataclasses import replace

import numpy as np
import pytest

from crfrnn import ExactGaussian, GridGaussian, PermutohedralLattice, reference
from crfrnn.crf import MeanField
from crfrnn.kernels import native
from crfrnn.kernels.native import FusedTerm
from crfrnn.reference_gradients import term_gradients
from tolerances import assert_close, tolerance

SHAPE = (9, 13)
N = 9 * 13
SIGMA = (1.3, 2.1)
DTYPES = [np.float32, np.float64]
KINDS = ["grid", "lattice", "exact"]
COUPLINGS = {"number": 0, "vector": 1, "matrix": 2}


class Model:
    """A random mean field for both sides: scores and terms of ours, and terms of the reference."""

    def __init__(
        self,
        rng,
        dtype=np.float64,
        classes=4,
        kinds=("grid", "lattice"),
        coupling="number",
        normalization="after",
        mask=None,
        damping=0.0,
        iterations=3,
        tolerance=0.0,
    ):
        self.solver = MeanField(iterations, damping, tolerance=tolerance)
        self.unary = (rng.normal(size=(classes, N)) * 2).astype(dtype)
        self.cotangent = rng.normal(size=(classes, N)).astype(dtype)
        inside = rng.random(N) > 0.3
        weights = {None: None, "binary": inside.astype(float), "soft": inside * rng.random(N)}[mask]
        self.features = {
            "lattice": rng.normal(size=(N, 5)).astype(dtype) * 0.6,
            "exact": rng.normal(size=(N, 3)).astype(dtype),
        }
        self.kinds, self.terms, self.truth = kinds, [], []
        for kind in kinds:
            axes = COUPLINGS[coupling]
            # With raw kernels sums are of the order of N: small weights keep the marginals away from 0 and 1.
            weight = (rng.normal(size=(classes,) * axes) + (axes == 0)) * (0.02 if normalization == "none" else 1.0)
            truth = {
                "grid": lambda: reference.GridGaussian(SHAPE, SIGMA),
                "lattice": lambda: reference.Lattice(self.features["lattice"]),
                "exact": lambda: reference.DenseGaussian(np.asarray(self.features["exact"], np.float64)),
            }[kind]()
            pre, post = reference.normalisation(truth, N, normalization, weights)
            self.truth.append(reference.Term(truth, weight, normalization, weights))
            self.terms.append(
                FusedTerm(self.kernel(kind, dtype), pre.astype(dtype), post.astype(dtype), -np.asarray(weight))
            )

    def kernel(self, kind, dtype=np.float64, change=None):
        if kind == "grid":
            return GridGaussian(SHAPE, np.asarray(SIGMA) + (0 if change is None else change), dtype)
        features = self.features[kind] + (0 if change is None else change)
        return PermutohedralLattice(features) if kind == "lattice" else ExactGaussian(features)

    def backward(self, guide=True, threads=1, keep="computed", **changes):
        _, kept, _ = native.mean_field(self.unary, self.terms, self.solver, "logits", keep, threads)
        return native.mean_field_vjp(self.cotangent, kept, self.terms, self.solver, threads, guide=guide)

    def check(self):
        dtype = self.unary.dtype
        damping = self.solver.damping
        _, kept = reference.mean_field(self.unary, self.truth, iterations=self.solver.iterations, damping=damping)
        truth = term_gradients(self.cotangent, kept, self.truth, damping=damping)
        for keep in ("with messages", "computed"):
            unary, couplings, ours = self.backward(keep=keep)
            assert len(ours) == len(truth)
            for mine, theirs in zip(ours, truth, strict=True):
                for name in ("kernel", "pre", "post"):
                    result, expected = getattr(mine, name), np.asarray(getattr(theirs, name))
                    assert result.dtype == dtype
                    # The sums of a grid cancel, as their terms have either sign.
                    expected = np.broadcast_to(expected, result.shape)
                    assert_close(result, expected, 4 * tolerance(dtype).gradient, floor=1e-2)
        plain_unary, plain_couplings, none = self.backward(guide=False)
        assert none == []
        assert_close(unary, plain_unary, tolerance(dtype).gradient)
        for mine, theirs in zip(couplings, plain_couplings, strict=True):
            assert_close(mine, theirs, tolerance(dtype).gradient, floor=1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask", [None, "binary", "soft"])
@pytest.mark.parametrize("normalization", ["none", "before", "after", "symmetric"])
def test_normalizations_and_masks(rng, normalization, mask, dtype):
    Model(rng, dtype, normalization=normalization, mask=mask, kinds=KINDS).check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("damping", [0.0, 0.3])
@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("kinds", [("grid",), ("lattice",), ("exact",), ("lattice", "grid", "lattice")])
def test_kernels_and_couplings(rng, kinds, coupling, damping, dtype):
    Model(rng, dtype, kinds=kinds, coupling=coupling, damping=damping).check()


@pytest.mark.parametrize("coupling", ["number", "matrix"])
@pytest.mark.parametrize("classes", [1, 2, 3, 8, 21, 24, 40, 70])
def test_class_counts(rng, classes, coupling):
    Model(rng, classes=classes, coupling=coupling, kinds=KINDS).check()


@pytest.mark.parametrize("iterations", [0, 1, 6])
def test_iteration_counts(rng, iterations):
    Model(rng, iterations=iterations, mask="soft").check()


def test_without_terms(rng):
    assert Model(rng, kinds=()).backward()[2] == []


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_against_finite_differences(rng, kind, coupling):
    """Of the fused mean field, along a random direction of what the kernel was built from, pre and post together."""
    model = Model(rng, coupling=coupling, damping=0.2, kinds=("grid", kind), mask="soft", iterations=4)
    term, gradient = model.terms[1], model.backward()[2][1]
    directions = [rng.normal(size=part.shape) for part in gradient]
    if kind == "lattice":  # points near the border of a simplex stay where they are
        directions[0] *= term.kernel.weights.min(axis=1, keepdims=True) > 1e-4

    def loss(step):
        moved, pre, post = (step * direction for direction in directions)
        changed = term._replace(kernel=model.kernel(kind, change=moved), pre=term.pre + pre, post=term.post + post)
        logits, _, _ = native.mean_field(model.unary, [model.terms[0], changed], model.solver, "logits", None, 1)
        return np.vdot(model.cotangent, logits)

    expected = sum(np.vdot(part, direction) for part, direction in zip(gradient, directions, strict=True))
    assert (loss(1e-6) - loss(-1e-6)) / 2e-6 == pytest.approx(expected, rel=1e-6)


def test_factors_that_are_none_are_ones(rng):
    model = Model(rng, normalization="none", kinds=KINDS)
    given = model.backward()
    model.terms = [term._replace(pre=None, post=None) for term in model.terms]
    for mine, theirs in zip(model.backward()[2], given[2], strict=True):
        assert_close(mine.kernel, theirs.kernel, 1e-12)
        assert mine.pre is None
        assert mine.post is None


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("unlikely", [3, 14])
@pytest.mark.parametrize("mask", [None, "binary"])
@pytest.mark.parametrize("keep", ["computed", "with messages"])
def test_classes_left_out_are_nothing_sent(rng, keep, mask, unlikely, coupling):
    """With a tolerance, gradients are those of a backward pass whose cotangents lack the classes of equation (21)."""
    model = Model(rng, kinds=KINDS, classes=21, coupling=coupling, mask=mask, tolerance=0.05)
    model.unary[unlikely:] -= 16
    _, kept, _ = native.mean_field(model.unary, model.terms, model.solver, "logits", keep, 1)
    unary, _, found = native.mean_field_vjp(model.cotangent, kept, model.terms, model.solver, 1, guide=True)
    alone, _, _ = native.mean_field_vjp(model.cotangent, kept, model.terms, model.solver, 1)
    assert_close(unary, alone, 1e-12)
    all_out = replace(model.solver, tolerance=0)
    complete, _, truth = native.mean_field_vjp(model.cotangent, kept, model.terms, all_out, 1, guide=True)
    assert not np.array_equal(unary, complete)
    for mine, theirs in zip(found, truth, strict=True):
        for part, other in zip(mine, theirs, strict=True):
            assert_close(part, other, 1e-4)
            assert not np.array_equal(part, other)


def test_point_major_scores(rng):
    model = Model(rng, classes=5)
    expected = model.backward()
    model.unary, model.cotangent = (np.ascontiguousarray(each.T).T for each in (model.unary, model.cotangent))
    for mine, theirs in zip(model.backward()[2], expected[2], strict=True):
        for part, other in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(part, other)


@pytest.mark.parametrize("keep", ["float16", "bfloat16"])
def test_marginals_kept_in_16_bits(rng, keep):
    model = Model(rng, np.float32, kinds=KINDS)
    for mine, theirs in zip(model.backward(keep=keep)[2], model.backward()[2], strict=True):
        for part, other in zip(mine, theirs, strict=True):
            assert_close(part, other, 2e-3 if keep == "float16" else 2e-2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("coupling", ["number", "matrix"])
def test_threads_change_no_bit(rng, coupling, dtype):
    shape, classes = (130, 140), 3
    points = shape[0] * shape[1]
    lattice = PermutohedralLattice((rng.normal(size=(points, 3)) * 4).astype(dtype))
    factors = rng.random(points).astype(dtype)
    weight = -0.1 * np.eye(classes) - 0.01 if coupling == "matrix" else np.asarray(-0.1)
    terms = [
        FusedTerm(GridGaussian(shape, SIGMA, dtype), None, factors, weight),
        FusedTerm(lattice, factors, None, weight),
    ]
    solver = MeanField(3, tolerance=0)
    unary, cotangent = rng.normal(size=(2, classes, points)).astype(dtype)
    _, kept, _ = native.mean_field(unary, terms, solver, "logits", "computed", 1)
    one, three = (native.mean_field_vjp(cotangent, kept, terms, solver, threads, guide=True)[2] for threads in (1, 3))
    for part, other in zip(one, three, strict=True):
        for mine, theirs in zip(part, other, strict=True):
            np.testing.assert_array_equal(mine, theirs)
