"""Any list of kernels in NumPy: `refine`, `mean_field` over `pairwise_terms`, and the batch, against the oracles."""

import numpy as np
import pytest

import crfrnn
from crfrnn import reference
from crfrnn.crf import CRF, Exact, Given, Kernel, MeanField, Spatial
from crfrnn.inference import batch
from crfrnn.inference.backend import Execution, Inputs
from crfrnn.inference.coupling import coupling
from crfrnn.inference.meanfield import mean_field_vjp, mean_field_with_marginals
from errors import raises_saying
from kernel_lists import COMPATIBILITY, CRFS, MATRIX, SPATIAL, scene, smooth, truth
from tolerances import assert_close, tolerance

EVERY = pytest.mark.parametrize("crf", CRFS.values(), ids=CRFS)
EVERY_PRECISION = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def in_double(given):
    """What the oracle takes, in float64, for features of float32 as they are."""
    double = {name: np.asarray(features, np.float64) for name, features in given.given.items()}
    return given._replace(logits=given.logits.astype(np.float64), given=double)


@EVERY
@EVERY_PRECISION
def test_refine(rng, crf, dtype):
    given = scene(rng, dtype)
    expected = reference.softmax(np.moveaxis(truth(crf, in_double(given)).logits, 1, 0))
    for index in range(2):
        one = given.item(index)
        arguments = (one.logits, one.image, crf)
        refined = crfrnn.refine(*arguments, mask=one.mask, given=one.given)
        assert refined.dtype == dtype
        assert_close(refined, expected[:, index], tolerance(dtype).mean_field)
        labels = crfrnn.refine(*arguments, mask=one.mask, given=one.given, return_labels=True)
        np.testing.assert_array_equal(labels, refined.argmax(axis=0))


@EVERY
def test_terms_and_their_mean_field(rng, crf):
    given = scene(rng)
    cotangent = rng.normal(size=given.logits.shape)
    expected = truth(crf.active, given, cotangent)
    bounds = tolerance(np.float64)
    solver = crf.solver
    compatibility = crf.compatibility
    to_weights = [0] * len(crf.active.kernels)
    for index in range(2):
        one = given.item(index)
        terms = crfrnn.pairwise_terms(one.image, crf, mask=one.mask, given=one.given)
        assert len(terms) == len(crf.active.kernels)
        options = {"compatibility": compatibility, "damping": solver.damping}
        logits = crfrnn.mean_field(one.logits, terms, iterations=solver.iterations, tolerance=0, **options)
        assert_close(logits, expected.logits[index], bounds.mean_field)
        again, marginals = mean_field_with_marginals(one.logits, terms, iterations=solver.iterations, **options)
        np.testing.assert_array_equal(again, logits)
        gradients = mean_field_vjp(cotangent[index], marginals, terms, **options)
        assert_close(gradients.unary, expected.to_unary[index], bounds.gradient)
        to_weights = [total + part for total, part in zip(to_weights, gradients.weights, strict=True)]
    for ours, theirs in zip(to_weights, expected.to_weights, strict=True):
        assert_close(ours, theirs, bounds.gradient)


@EVERY
@EVERY_PRECISION
def test_the_batch_and_its_gradients(rng, crf, dtype):
    """Backends compute kernels of weight 0 too: their couplings may be others, and they have gradients."""
    given = scene(rng, dtype)
    cotangent = rng.normal(size=given.logits.shape).astype(dtype)
    expected = truth(crf, in_double(given), cotangent)
    M = None if crf.compatibility is None else np.asarray(crf.compatibility)
    full = [reference.as_matrix(coupling(M, np.asarray(kernel.weight)), 4).astype(dtype) for kernel in crf.kernels]
    results = []
    for threads in (1, 2):
        execution = Execution(threads)
        refined, records = batch.forward(crf, Inputs(*given), full, True, execution)
        gradients = batch.vjp(crf, Inputs(*given), cotangent, records, full, execution, False)
        results.append([refined, gradients.logits, *gradients.couplings])
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)
    bounds = tolerance(dtype)
    assert refined.dtype == dtype
    assert_close(refined, expected.logits, bounds.mean_field)
    assert_close(gradients.logits, expected.to_unary, bounds.gradient)
    for ours, theirs in zip(gradients.couplings, expected.to_couplings, strict=True):
        assert_close(ours, theirs, bounds.gradient)


def test_kernels_of_weight_0_are_not_built(rng, monkeypatch):
    from crfrnn.kernels import build

    made = []
    of_rows = build.PermutohedralLattice.of_rows
    monkeypatch.setattr(build.PermutohedralLattice, "of_rows", lambda *given: made.append(given) or of_rows(*given))
    one = scene(rng).item(0)
    crfrnn.refine(one.logits, one.image, CRFS["weights of 0"])
    assert len(made) == 1
    alone = crfrnn.refine(one.logits, None, CRFS["nothing but 0"])  # without the image
    assert_close(alone, reference.softmax(one.logits), tolerance(np.float64).mean_field)
    assert len(made) == 1


@pytest.mark.parametrize("name", [name for name, crf in CRFS.items() if len(crf.kernels) > 1])
def test_the_order_of_kernels_does_not_matter(rng, name):
    one, crf = scene(rng).item(0), CRFS[name]
    turned = CRF(crf.kernels[::-1], crf.compatibility, crf.solver)
    first, second = (crfrnn.refine(one.logits, one.image, each, given=one.given) for each in (crf, turned))
    assert_close(second, first, tolerance(np.float64).mean_field)


class Own:
    """A kernel of which nothing is known but its filter."""

    def __init__(self, matrix):
        self.matrix = matrix

    def filter(self, values, transpose=False):
        return (self.matrix.T if transpose else self.matrix) @ values


@EVERY_PRECISION
@pytest.mark.parametrize("normalization", ["after", "before", "symmetric", "none"])
def test_a_kernel_of_ones_own(rng, dtype, normalization):
    """Not symmetric, so that the transpose matters; beside one of ours, in either precision."""
    matrix = rng.uniform(size=(30, 30))
    crf = CRF(
        [Kernel(Given("own"), MATRIX, normalization=normalization), smooth],
        COMPATIBILITY,
        MeanField(3, 0.1, tolerance=0),
    )
    given = scene(rng, dtype)
    one = given.item(0)
    mask = one.mask.astype(np.float64).ravel()
    terms = [
        reference.Term(reference.MatrixKernel(matrix), MATRIX, normalization, mask),
        reference.Term(reference.GridGaussian(SPATIAL, 1.57), 0.7, "after", mask),
    ]
    unary = one.logits.reshape(4, -1)
    options = {"compatibility": COMPATIBILITY, "damping": 0.1}
    logits, marginals = reference.mean_field(unary, terms, iterations=3, **options)
    refined = crfrnn.refine(one.logits, None, crf, mask=one.mask, given={"own": Own(matrix)})
    assert refined.dtype == dtype
    assert_close(refined.reshape(4, -1), reference.softmax(logits), tolerance(dtype).mean_field)
    cotangent = rng.normal(size=unary.shape)
    ours = crfrnn.pairwise_terms(None, crf, shape=SPATIAL, mask=one.mask, given={"own": Own(matrix)}, dtype=dtype)
    refined, kept = mean_field_with_marginals(one.logits, ours, iterations=3, **options)
    assert refined.dtype == dtype
    gradients = mean_field_vjp(cotangent.reshape(one.logits.shape), kept, ours, **options)
    expected = reference.mean_field_vjp(cotangent, marginals, terms, **options)
    bound = tolerance(dtype).gradient
    assert_close(gradients.unary.reshape(4, -1), expected.unary, bound)
    assert_close(gradients.compatibility, expected.compatibility, bound)
    for found, theirs in zip(gradients.weights, expected.weights, strict=True):
        assert_close(found, theirs, bound)


GIVEN_ONLY = CRF([Kernel(Given("learned"))])


@pytest.mark.parametrize(
    ("given", "error", "facts"),
    [
        (None, ValueError, ["given={'learned': …}"]),
        (np.ones((5, 6, 2)), TypeError, ["given is a ndarray", "{name: "]),
        ({"learnt": np.ones((5, 6, 2))}, ValueError, ["given={'learned': …}", "there is 'learnt'"]),
        ({"learned": np.ones((6, 5, 2))}, ValueError, ["given['learned'] has shape (6, 5, 2)", "(5, 6, d) or (30, d)"]),
        ({"learned": np.ones((5, 6))}, ValueError, ["given['learned'] has shape (5, 6)", "(5, 6, d)"]),
        ({"learned": np.ones(30)}, ValueError, ["given['learned'] has shape (30,)", "(5, 6, d)"]),
        ({"learned": 3.0}, ValueError, ["given['learned'] has shape ()", "(5, 6, d)"]),
        ({"learned": np.ones((5, 6, 0))}, ValueError, ["given['learned'] has shape (5, 6, 0)"]),
        ({"learned": np.ones((5, 6, 17))}, ValueError, ["17 features", "at most 16", "Exact()"]),
        ({"learned": np.full((5, 6, 1), np.nan)}, ValueError, ["given['learned'] holds 30 NaN"]),
        ({"learned": np.full((5, 6, 1), 1e39)}, ValueError, ["given['learned'] holds 30 infinite"]),
        ({"learned": "features"}, TypeError, ["given['learned']", "numbers"]),
        ({"learned": None}, TypeError, ["given['learned']", "numbers"]),
        ({"learned": Own(np.ones((29, 30)))}, ValueError, ["filter of Own", "(30, 1)", "(29, 1)"]),
    ],
)
def test_what_is_wrong_with_what_is_given(given, error, facts):
    scores = np.zeros((2, *SPATIAL), np.float32)
    with raises_saying(error, *facts):
        crfrnn.refine(scores, None, GIVEN_ONLY, given=given)
    with raises_saying(error, *facts):
        crfrnn.pairwise_terms(None, GIVEN_ONLY, shape=SPATIAL, given=given)


def test_given_features_as_rows(rng):
    one = scene(rng).item(0)
    rows = {"learned": one.given["learned"].reshape(30, 2)}
    crf = CRFS["given"]
    expected = crfrnn.refine(one.logits, None, crf, given=one.given)
    np.testing.assert_array_equal(crfrnn.refine(one.logits, None, crf, given=rows), expected)
    np.testing.assert_array_equal(crfrnn.refine(one.logits, None, crf, given=one.given | {"other": None}), expected)


def test_weights_that_do_not_fit_the_classes_are_named():
    scores, image = np.zeros((3, 4, 5)), np.zeros((4, 5, 3))
    for crf, fact in ((CRFS["bilateral"], "bilateral_weight"), (CRFS["two bilateral"], "bilateral_weight")):
        with raises_saying(ValueError, fact, "3 classes"):
            crfrnn.refine(scores, image, crf)
    crf = CRF([Kernel(Spatial(2)), Kernel(Spatial(4), [1, 2])])
    with raises_saying(ValueError, "spatial_2_weight", "3 classes"):
        crfrnn.refine(scores, None, crf)
    with raises_saying(ValueError, "the bilateral kernel needs an image"):
        crfrnn.refine(np.zeros((4, 4, 5)), None, CRFS["standard"])


def test_spacing_scales_every_kernel(rng):
    given = scene(rng)
    crf = CRF(
        [*CRFS["three"].kernels, Kernel(Spatial((1.3, 2.9)), 0.4, Exact())], COMPATIBILITY, MeanField(2, tolerance=0)
    )
    for spacing in (0.7, (0.7, 1.9)):
        expected = reference.softmax(truth(crf, given, spacing=spacing).logits[0])
        one = given.item(0)
        refined = crfrnn.refine(one.logits, one.image, crf, mask=one.mask, spacing=spacing)
        assert_close(refined, expected, tolerance(np.float64).mean_field)
