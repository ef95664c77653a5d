"""The mean field and its gradients, fused and as a loop, against the NumPy oracle and finite differences."""

from functools import partial

import numpy as np
import pytest

import crfrnn
from crfrnn import (
    CRFParameters,
    GridGaussian,
    PairwiseTerm,
    PermutohedralLattice,
    mean_field_trace,
    mean_field_vjp,
    mean_field_with_marginals,
    pairwise_terms,
    reference,
)
from tolerances import assert_close, tolerance

SHAPE = (9, 13)
mean_field = partial(crfrnn.mean_field, tolerance=0)
N = 9 * 13
DTYPES = [np.float32, np.float64]
NORMALIZATIONS = ["none", "before", "after", "symmetric"]
COUPLINGS = ["number", "vector", "matrix"]
CHANNELS = [1, 2, 3, 5, 8, 21, 24, 40, 70]


class Model:
    """The same random CRF for both sides: unary, terms and keywords of ours, and terms of the reference."""

    def __init__(
        self,
        rng,
        dtype=np.float64,
        classes=4,
        kernels=("grid", "lattice"),
        weight="number",
        compatibility=None,
        normalization="after",
        mask=None,
        damping=0.0,
        iterations=3,
        attraction=0.5,
    ):
        self.unary = rng.normal(size=(classes, *SHAPE)).astype(dtype) * 2
        self.cotangent = rng.normal(size=self.unary.shape).astype(dtype)
        inside = rng.random(SHAPE) > 0.3
        self.mask = {None: None, "binary": inside, "soft": inside * rng.random(SHAPE)}[mask]
        self.compatibility = self._coupling(rng, compatibility, classes)
        self.weights = [self._coupling(rng, weight, classes, attraction) for _ in kernels]
        features = rng.normal(size=(N, 5)).astype(dtype) * 0.6
        ours = {
            "grid": lambda: GridGaussian(SHAPE, (1.5, 2.0), dtype=dtype),
            "lattice": lambda: PermutohedralLattice(features),
            # Not one of the fast kernels, so that the loop in NumPy runs in place of the fused one.
            "other": lambda: reference.Lattice(features),
        }
        truth = {
            "grid": lambda: reference.GridGaussian(SHAPE, (1.5, 2.0)),
            "lattice": lambda: reference.Lattice(features),
            "other": lambda: reference.Lattice(features),
        }
        # With raw kernels sums are of the order of N: small weights keep the marginals away from 0 and 1.
        scale = 0.05 if normalization == "none" else 1.0
        self.weights = [weight * scale for weight in self.weights]
        self.terms = [
            PairwiseTerm(ours[kernel](), weight, normalization, self.mask)
            for kernel, weight in zip(kernels, self.weights, strict=True)
        ]
        self.truth = [
            reference.Term(truth[kernel](), weight, normalization, self.mask)
            for kernel, weight in zip(kernels, self.weights, strict=True)
        ]
        self.options = {"compatibility": self.compatibility, "damping": damping}
        self.iterations = iterations

    @staticmethod
    def _coupling(rng, kind, classes, mean=0.5):
        shape = {None: None, "number": (), "vector": (classes,), "matrix": (classes, classes)}[kind]
        return None if shape is None else np.asarray(rng.normal(size=shape) + (mean if kind == "number" else 0.0))

    def check(self):
        """Logits, probabilities, marginals and all gradients."""
        classes, dtype = len(self.unary), self.unary.dtype
        bound = tolerance(dtype)
        expected, kept = reference.mean_field(
            self.unary.reshape(classes, -1), self.truth, iterations=self.iterations, **self.options
        )
        logits, marginals = mean_field_with_marginals(
            self.unary, self.terms, iterations=self.iterations, **self.options
        )
        assert logits.dtype == marginals.dtype == dtype
        assert_close(logits, expected.reshape(self.unary.shape), bound.mean_field)
        assert marginals.shape[:2] == (self.iterations, N)
        if self.iterations:
            assert_close(marginals[..., :classes], kept.transpose(0, 2, 1), bound.mean_field)
        assert not marginals[..., classes:].any()
        assert_close(mean_field(self.unary, self.terms, iterations=self.iterations, **self.options), logits, 1e-6)
        q = mean_field(self.unary, self.terms, iterations=self.iterations, return_probabilities=True, **self.options)
        assert_close(q, reference.softmax(expected).reshape(q.shape), bound.mean_field)
        np.testing.assert_allclose(q.sum(axis=0), 1, atol=4e-6 if dtype == np.float32 else 1e-14)

        truth = reference.mean_field_vjp(self.cotangent.reshape(classes, -1), kept, self.truth, **self.options)
        ours = mean_field_vjp(self.cotangent, marginals, self.terms, **self.options)
        assert_close(ours.unary, truth.unary.reshape(self.unary.shape), bound.gradient)
        for mine, theirs in zip(ours.weights, truth.weights, strict=True):
            assert_close(mine, theirs, bound.gradient, floor=1.0)
        if self.compatibility is None:
            assert ours.compatibility is None
        else:
            assert_close(ours.compatibility, truth.compatibility, bound.gradient, floor=1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask", [None, "binary", "soft"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_normalizations_and_masks(rng, normalization, mask, dtype):
    Model(rng, dtype, normalization=normalization, mask=mask).check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight", COUPLINGS)
@pytest.mark.parametrize("compatibility", [None, *COUPLINGS])
def test_shapes_of_weights_and_compatibility(rng, compatibility, weight, dtype):
    Model(rng, dtype, weight=weight, compatibility=compatibility).check()


@pytest.mark.parametrize(
    "kernels", [(), ("grid",), ("lattice",), ("lattice", "grid", "lattice"), ("other",), ("other", "grid")]
)
@pytest.mark.parametrize("weight", COUPLINGS)
def test_any_list_of_kernels(rng, kernels, weight):
    """With none the mean field is the unary; with a kernel that is not ours the loop in NumPy runs."""
    Model(rng, kernels=kernels, weight=weight, compatibility="matrix", damping=0.25, mask="soft").check()


@pytest.mark.parametrize("damping", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("iterations", [0, 1, 2, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_iterations_and_damping(rng, iterations, damping, dtype):
    Model(rng, dtype, iterations=iterations, damping=damping).check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight", COUPLINGS)
@pytest.mark.parametrize("classes", CHANNELS)
def test_every_class_count(rng, classes, weight, dtype):
    Model(rng, dtype, classes=classes, weight=weight, iterations=2).check()


def test_weights_may_differ_in_shape(rng):
    model = Model(rng, kernels=("grid", "lattice", "grid"))
    weights = [np.asarray(0.7), rng.normal(size=4), rng.normal(size=(4, 4))]
    for terms, kind in ((model.terms, PairwiseTerm), (model.truth, reference.Term)):
        terms[:] = [kind(term.kernel, weight) for term, weight in zip(terms, weights, strict=True)]
    model.check()


@pytest.mark.parametrize("kernels", [("grid", "lattice"), ("other",)])
@pytest.mark.parametrize("parameter", ["unary", "weight", "compatibility"])
def test_gradients_are_those_of_finite_differences(rng, parameter, kernels):
    model = Model(
        rng,
        kernels=kernels,
        weight="matrix",
        compatibility="matrix",
        damping=0.2,
        mask="soft",
        normalization="symmetric",
    )
    unary, weights, compatibility = model.unary, [term.weight for term in model.terms], model.compatibility

    def loss(unary, weight, compatibility):
        terms = [PairwiseTerm(t.kernel, w, "symmetric", model.mask) for t, w in zip(model.terms, weight, strict=True)]
        logits = mean_field(unary, terms, iterations=3, compatibility=compatibility, damping=0.2)
        return np.vdot(model.cotangent, logits)

    _, marginals = mean_field_with_marginals(unary, model.terms, iterations=3, compatibility=compatibility, damping=0.2)
    gradients = mean_field_vjp(model.cotangent, marginals, model.terms, compatibility=compatibility, damping=0.2)
    for _ in range(4):
        step = 1e-5
        du, dw, dm = np.zeros_like(unary), [np.zeros_like(w) for w in weights], np.zeros_like(compatibility)
        if parameter == "unary":
            du = rng.normal(size=du.shape)
        elif parameter == "weight":
            dw = [rng.normal(size=w.shape) for w in weights]
        else:
            dm = rng.normal(size=dm.shape)
        ends = [
            loss(unary + s * du, [w + s * d for w, d in zip(weights, dw, strict=True)], compatibility + s * dm)
            for s in (-step, step)
        ]
        slope = (ends[1] - ends[0]) / (2 * step)
        expected = np.vdot(gradients.unary, du) + np.vdot(gradients.compatibility, dm)
        expected += sum(np.vdot(g, d) for g, d in zip(gradients.weights, dw, strict=True))
        assert slope == pytest.approx(expected, rel=1e-6)


def test_masked_pixels_neither_send_nor_receive(rng):
    model = Model(rng, mask="binary")
    out = ~model.mask
    result = mean_field(model.unary, model.terms)
    np.testing.assert_allclose(result[:, out], model.unary[:, out], rtol=1e-12)
    changed = model.unary.copy()
    changed[:, out] = rng.normal(size=changed[:, out].shape) * 9
    np.testing.assert_array_equal(mean_field(changed, model.terms)[:, model.mask], result[:, model.mask])


def test_everything_masked_is_the_unary(rng):
    terms = [PairwiseTerm(GridGaussian(SHAPE, 2.0, dtype=np.float64), 3.0, n, np.zeros(SHAPE)) for n in NORMALIZATIONS]
    unary = rng.normal(size=(3, *SHAPE))
    np.testing.assert_allclose(mean_field(unary, terms), unary, rtol=1e-12)


def test_potts_is_minus_the_identity(rng):
    model = Model(rng)
    potts = mean_field(model.unary, model.terms)
    assert_close(mean_field(model.unary, model.terms, compatibility=-np.eye(4)), potts, 1e-12)
    assert_close(mean_field(model.unary, model.terms, compatibility=-np.ones(4)), potts, 1e-12)


@pytest.mark.parametrize("normalization", ["after", "symmetric"])
def test_labels_on_constant_images_are_smoothed(normalization):
    """A lone pixel of another class, no surer than its neighbours, gives in to them."""
    unary = np.zeros((2, *SHAPE))
    unary[0] = 1.0
    unary[:, 4, 6] = 0.0, 1.0
    parameters = CRFParameters(normalization=normalization)
    q = mean_field(unary, pairwise_terms(np.full((*SHAPE, 3), 128.0), parameters), return_probabilities=True)
    assert q[0].min() > 0.9


def test_damping_reaches_the_same_fixed_point(rng):
    model = Model(rng)
    plain = mean_field(model.unary, model.terms, iterations=200)
    damped = mean_field(model.unary, model.terms, iterations=200, damping=0.5)
    assert_close(damped, plain, 1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("compatibility", [None, "vector", "matrix"])
@pytest.mark.parametrize("damping", [0.0, 0.3])
@pytest.mark.parametrize("kernels", [("grid", "lattice"), ("grid", "other")])
@pytest.mark.parametrize("classes", [3, 11])
def test_left_out_classes(rng, classes, kernels, damping, compatibility, dtype):
    """At the start and between iterations; what they hear of the others in the end is part of the result."""
    model = Model(rng, dtype, classes, kernels, iterations=6, attraction=5.0)
    model.unary[0] += 2
    model.unary[1] -= 12
    noise = 0.1 * rng.normal(size=(classes, classes))
    options = {
        "iterations": 6,
        "class_threshold": 0.4,
        "damping": damping,
        "compatibility": {None: None, "vector": noise[0] - 1, "matrix": noise - np.eye(classes)}[compatibility],
    }
    expected, marginals = reference.mean_field(model.unary.reshape(classes, -1), model.truth, **options)
    filtered = [int((q.max(axis=1) > 0).sum()) for q in marginals]
    assert classes > filtered[0] == filtered[1]
    if classes == 11:
        assert filtered[1] > filtered[-1]
    for return_probabilities in (False, True):
        result = mean_field(model.unary, model.terms, return_probabilities=return_probabilities, **options)
        truth = reference.softmax(expected) if return_probabilities else expected
        assert_close(result, truth.reshape(result.shape), tolerance(dtype).mean_field)


def test_a_threshold_never_leaves_all_classes_out(rng):
    model = Model(rng)
    unary = np.zeros((4, *SHAPE))
    unary[2, 3, 3] = 1e-3
    result = mean_field(unary, model.terms, class_threshold=0.9)
    np.testing.assert_array_equal(result[[0, 1, 3]], unary[[0, 1, 3]])
    assert_close(result[2:3], mean_field(unary[2:3], model.terms), 1e-12)


def test_leaving_unlikely_classes_out_hardly_changes_the_rest(rng):
    model = Model(rng, classes=8)
    model.unary[[2, 5]] -= 12
    exact = mean_field(model.unary, model.terms, return_probabilities=True)
    approximate = mean_field(model.unary, model.terms, return_probabilities=True, class_threshold=1e-3)
    assert 0 < np.abs(approximate - exact).max() < 5e-3


def test_large_logits_do_not_overflow(rng):
    for dtype, size in ((np.float32, 1e4), (np.float64, 1e8)):
        model = Model(rng, dtype, kernels=("grid", "lattice"))
        q = mean_field((model.unary * size).astype(dtype), model.terms, return_probabilities=True)
        assert np.isfinite(q).all()
        np.testing.assert_allclose(q.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("kernels", [("grid", "lattice"), ("other",)])
def test_trace_follows_the_mean_field(rng, kernels):
    model = Model(rng, kernels=kernels, compatibility="vector", damping=0.2)
    steps = list(mean_field_trace(model.unary, model.terms, iterations=4, **model.options))
    assert len(steps) == 5
    for iterations, (marginals, _) in enumerate(steps):
        expected = mean_field(
            model.unary, model.terms, iterations=iterations, return_probabilities=True, **model.options
        )
        assert_close(marginals, expected, 1e-11)


def test_the_callers_unary_is_left_alone(rng):
    model = Model(rng)
    before = model.unary.copy()
    model.unary.flags.writeable = False
    for class_threshold in (0.0, 0.4):
        result = mean_field(model.unary, model.terms, iterations=0, class_threshold=class_threshold)
        assert not np.shares_memory(result, model.unary)
        np.testing.assert_array_equal(result, before)
    mean_field(model.unary, model.terms)
    np.testing.assert_array_equal(model.unary, before)
