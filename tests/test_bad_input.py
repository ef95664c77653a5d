"""Bad input is refused at the edge, in words that say what was given and what is expected.

Bad parameters, unaries, thread counts and too little memory are in the tests of those rooms.
"""

import numpy as np
import pytest

from crfrnn import (
    CRFParameters,
    GridGaussian,
    PairwiseTerm,
    PermutohedralLattice,
    RegionTerm,
    bilateral_features,
    energy,
    kl_divergence,
    load_parameters,
    mean_field,
    mean_field_trace,
    mean_field_vjp,
    mean_field_with_marginals,
    pairwise_terms,
    preset,
    reference,
    refine,
    refine_tiled,
    relaxed_energy,
    save_parameters,
    spatial_features,
    upsample,
)
from errors import raises_saying

H, W = 6, 9
IMAGE = np.zeros((H, W, 3), np.uint8)
SCORES = np.zeros((4, H, W), np.float32)


def with_value(array, value):
    spoilt = array.astype(np.float32)
    spoilt.flat[5] = value
    return spoilt


@pytest.mark.parametrize(
    ("scores", "error", "facts"),
    [
        (np.zeros((H, W), int), ValueError, ["scores", "int64", "(6, 9)", "class axis first"]),
        (SCORES[None, None], ValueError, ["image", "(6, 9, 3)", "(1, 1, 4, 6, 9)"]),
        (np.zeros(7), ValueError, ["scores", "(7,)", "(classes, height, width)"]),
        (np.float32(1.0), ValueError, ["scores", "()"]),
        (np.zeros((0, H, W)), ValueError, ["scores", "(0, 6, 9)", "empty"]),
        (np.zeros((4, 0, W)), ValueError, ["scores", "(4, 0, 9)", "empty"]),
        (SCORES.transpose(0, 2, 1), ValueError, ["image", "(6, 9, 3)", "(9, 6", "swap height and width"]),
        (SCORES.transpose(1, 2, 0), ValueError, ["image", "(6, 9, 3)", "(height, width, classes)"]),
        (SCORES[:, :-1], ValueError, ["image", "(6, 9, 3)", "(5, 9"]),
        (with_value(SCORES, np.nan), ValueError, ["scores", "1 NaN", "[0, 0, 5]"]),
        (with_value(SCORES, np.inf), ValueError, ["scores", "1 infinite", "[0, 0, 5]"]),
        (with_value(SCORES, -np.inf), ValueError, ["scores", "1 infinite"]),
        (SCORES.astype(complex), TypeError, ["scores", "real numbers", "complex128"]),
        (SCORES.astype(str), TypeError, ["scores", "real numbers"]),
        (SCORES.astype(object), TypeError, ["scores", "real numbers", "object"]),
        ([[1.0, 2.0], [3.0]], TypeError, ["scores", "array of numbers"]),
        (None, TypeError, ["scores", "real numbers"]),
    ],
)
def test_scores(scores, error, facts):
    with raises_saying(error, *facts):
        refine(scores, IMAGE)


@pytest.mark.parametrize(
    ("image", "error", "facts"),
    [
        (np.zeros((W, H, 3)), ValueError, ["image", "(9, 6, 3)", "(6, 9", "swap height and width"]),
        (np.zeros((3, H, W)), ValueError, ["image", "(3, 6, 9)", "channels come last", "np.moveaxis"]),
        (np.zeros((H, W + 1, 3)), ValueError, ["image", "(6, 10, 3)", "(6, 9"]),
        (np.zeros((H, W, 0)), ValueError, ["image", "(6, 9, 0)", "empty"]),
        (np.zeros((H, W, 3, 3)), ValueError, ["image", "(6, 9, 3, 3)", "(6, 9"]),
        (np.zeros(H), ValueError, ["image", "(6,)", "(6, 9"]),
        (np.zeros((H, W, 15)), ValueError, ["15 channels", "17 features", "at most 16"]),
        (with_value(IMAGE, np.nan), ValueError, ["image", "1 NaN", "[0, 1, 2]"]),
        (with_value(IMAGE, np.inf), ValueError, ["image", "1 infinite"]),
        (IMAGE.astype(complex), TypeError, ["image", "real numbers"]),
        (IMAGE.astype(str), TypeError, ["image", "real numbers"]),
        (None, ValueError, ["bilateral", "image"]),
    ],
)
def test_image(image, error, facts):
    with raises_saying(error, *facts):
        refine(SCORES, image)


@pytest.mark.parametrize(
    ("parameters", "error", "facts"),
    [
        ("crf-rnn", ValueError, ["'crf-rnn'", "crfrnn", "deeplab"]),
        ({"theta_alpha": 3.0}, TypeError, ["parameters", "CRFParameters", "dict"]),
        (CRFParameters(spatial_weight=np.ones(5)), ValueError, ["spatial_weight", "(5,)", "4 classes"]),
        (CRFParameters(bilateral_weight=np.eye(3)), ValueError, ["bilateral_weight", "(3, 3)", "4 classes"]),
        (CRFParameters(compatibility=np.eye(21)), ValueError, ["compatibility", "(21, 21)", "4 classes"]),
        (CRFParameters(theta_beta=(1e-30, 3.0, 3.0), theta_alpha=1e-30), ValueError, ["lattice cells", "theta"]),
        (CRFParameters(theta_beta=(3.0, 3.0)), ValueError, ["theta_beta", "2 values", "3 image channels"]),
        (CRFParameters(theta_alpha=(3.0, 3.0, 3.0)), ValueError, ["theta_alpha", "3 values", "2 spatial axes"]),
        (CRFParameters(theta_gamma=(3.0, 3.0, 3.0)), ValueError, ["theta_gamma", "3 values", "2 spatial axes"]),
    ],
)
def test_parameters_that_do_not_fit(parameters, error, facts):
    with raises_saying(error, *facts):
        refine(SCORES, IMAGE, parameters)


@pytest.mark.parametrize(
    ("scores", "options", "error", "facts"),
    [
        (SCORES, {"input": "energies"}, ValueError, ["input='energies'", "'logits', 'probabilities', 'labels'"]),
        (SCORES, {"num_classes": 5}, ValueError, ["(4, 6, 9)", "num_classes=5"]),
        (SCORES, {"num_classes": 0}, ValueError, ["num_classes=0"]),
        (SCORES, {"input": "labels"}, TypeError, ["labels", "integer", "float32"]),
        (SCORES + 1, {"input": "probabilities"}, ValueError, ["probabilities", "sum to 4"]),
        (SCORES - 1, {"input": "probabilities"}, ValueError, ["probabilities", "-1", "logits"]),
        (np.full((H, W), 5), {"input": "labels", "num_classes": 3}, ValueError, ["5 at [0, 0]", "3 classes"]),
        (np.full((H, W), 255, np.uint8), {"input": "labels"}, ValueError, ["no known label", "num_classes"]),
        (np.ones((W, H), int), {"input": "labels"}, ValueError, ["image", "(6, 9, 3)", "swap height and width"]),
        (SCORES, {"mask": np.ones((W, H))}, ValueError, ["mask", "(9, 6)", "(6, 9)", "swap height and width"]),
        (SCORES, {"mask": np.ones(H)}, ValueError, ["mask", "(6,)", "(6, 9)"]),
        (SCORES, {"mask": np.full((H, W), -0.5)}, ValueError, ["mask", "-0.5", "at least 0"]),
        (SCORES, {"mask": np.full((H, W), np.nan)}, ValueError, ["mask", "54 NaN"]),
        (SCORES, {"mask": np.full((H, W), "yes")}, TypeError, ["mask", "real numbers"]),
    ],
)
def test_refine_options(scores, options, error, facts):
    with raises_saying(error, *facts):
        refine(scores, IMAGE, **options)


@pytest.mark.parametrize(
    ("features", "options", "error", "facts"),
    [
        (np.zeros(5), {}, ValueError, ["features", "(5,)", "(points, dimensions)"]),
        (np.zeros((0, 3)), {}, ValueError, ["features", "(0, 3)"]),
        (np.zeros((5, 0)), {}, ValueError, ["features", "(5, 0)"]),
        (np.zeros((5, 17)), {}, ValueError, ["17 dimensions", "at most 16"]),
        (np.zeros((3, 500)), {}, ValueError, ["500 dimensions", "at most 16", "transpose"]),
        (np.array([[0.0], [np.nan]]), {}, ValueError, ["features", "1 NaN", "[1, 0]"]),
        (np.array([[0.0], [np.inf]]), {}, ValueError, ["features", "1 infinite", "[1, 0]"]),
        (np.array([[0.0], [1e200]]), {}, ValueError, ["features", "lattice cells", "theta"]),
        (np.array([[0.0], [1e30]], np.float32), {}, ValueError, ["features", "lattice cells", "theta"]),
        (np.array([["a"]]), {}, TypeError, ["features", "real numbers"]),
        (np.zeros((5, 2)), {"batch": np.zeros(4, int)}, ValueError, ["batch", "(4,)", "(5,)"]),
        (np.zeros((5, 2)), {"batch": np.zeros(5)}, TypeError, ["batch", "integer", "float64"]),
        (np.zeros((5, 2)), {"batch": np.full(5, -1)}, ValueError, ["batch", "-1", "at least 0"]),
        (np.zeros((5, 2)), {"batch": np.full(5, 2**40)}, ValueError, ["batch", "1099511627776"]),
        (np.zeros((5, 2)), {"neighbour_rounds": -1}, ValueError, ["neighbour_rounds=-1", "at least 0"]),
        (np.zeros((5, 2)), {"neighbour_rounds": 9}, ValueError, ["neighbour_rounds=9", "at most 3"]),
        (np.zeros((5, 2)), {"neighbour_rounds": 0.5}, TypeError, ["neighbour_rounds=0.5", "integer"]),
    ],
)
def test_lattice(features, options, error, facts):
    with raises_saying(error, *facts):
        PermutohedralLattice(features, **options)


@pytest.mark.parametrize(
    ("shape", "sigma", "options", "error", "facts"),
    [
        ((), 1.0, {}, ValueError, ["()", "1 to 4 axes"]),
        ((2,) * 5, 1.0, {}, ValueError, ["(2, 2, 2, 2, 2)", "1 to 4 axes"]),
        ((3, 0), 1.0, {}, ValueError, ["(3, 0)", "at least one point"]),
        ((3, -1), 1.0, {}, ValueError, ["(3, -1)"]),
        (12, 1.0, {}, TypeError, ["shape=12", "(height, width)"]),
        ((3, 1.5), 1.0, {}, TypeError, ["shape=(3, 1.5)", "integers"]),
        ((3, 4), -1.0, {}, ValueError, ["sigma=-1.0", "at least 0"]),
        ((3, 4), np.nan, {}, ValueError, ["sigma=nan", "finite"]),
        ((3, 4), np.inf, {}, ValueError, ["sigma=inf", "finite"]),
        ((3, 4), (1.0, 2.0, 3.0), {}, ValueError, ["sigma=(1.0, 2.0, 3.0)", "2 axes"]),
        ((3, 4), "wide", {}, TypeError, ["sigma", "real numbers"]),
        ((3, 4), 1.0, {"dtype": np.float16}, TypeError, ["float16", "float32 or float64"]),
        ((3, 4), 1.0, {"dtype": int}, TypeError, ["int64", "float32 or float64"]),
    ],
)
def test_grid(shape, sigma, options, error, facts):
    with raises_saying(error, *facts):
        GridGaussian(shape, sigma, **options)


@pytest.mark.parametrize("build", [lambda: GridGaussian((4, 5), 1.0), lambda: PermutohedralLattice(np.zeros((20, 2)))])
@pytest.mark.parametrize(
    ("values", "error", "facts"),
    [
        (np.zeros(19), ValueError, ["values", "(19,)", "(20,)"]),
        (np.zeros((3, 20)), ValueError, ["values", "(3, 20)", "(20, channels)", "transpose"]),
        (np.zeros((20, 0)), ValueError, ["values", "(20, 0)", "at least one channel"]),
        (np.zeros((4, 5, 2)), ValueError, ["values", "(4, 5, 2)", "(20, channels)"]),
        (np.full(20, np.nan), ValueError, ["values", "20 NaN"]),
        (np.full(20, np.inf), ValueError, ["values", "20 infinite"]),
        (np.full(20, 1j), TypeError, ["values", "real numbers"]),
        (np.full(20, "a"), TypeError, ["values", "real numbers"]),
    ],
)
def test_filtered_values(build, values, error, facts):
    with raises_saying(error, *facts):
        build().filter(values)


def test_numbers_too_large_for_float32_are_named():
    kernel = GridGaussian((4, 5), 1.0)
    with raises_saying(ValueError, "values", "1e+300", "float32"):
        kernel.filter(np.full(20, 1e300))


def term(weight=1.0, dtype=np.float32):
    return PairwiseTerm(GridGaussian((H, W), 1.0, dtype=dtype), weight)


@pytest.mark.parametrize(
    ("unary", "options", "error", "facts"),
    [
        (SCORES[:, :-1], {}, ValueError, ["(5, 9)", "45 points", "pairwise[0]", "54"]),
        (SCORES.transpose(0, 2, 1), {}, ValueError, ["(9, 6)", "(6, 9)", "swap height and width"]),
        (with_value(SCORES, np.nan), {}, ValueError, ["unary", "1 NaN"]),
        (with_value(SCORES, np.inf), {}, ValueError, ["unary", "1 infinite"]),
        (np.zeros(5), {}, ValueError, ["unary", "(5,)"]),
        (np.zeros((3, 0)), {}, ValueError, ["unary", "(3, 0)", "empty"]),
        (SCORES.astype(str), {}, TypeError, ["unary", "real numbers"]),
        (SCORES, {"compatibility": np.eye(5)}, ValueError, ["compatibility", "(5, 5)", "4 classes"]),
        (SCORES, {"compatibility": np.ones((4, 3))}, ValueError, ["compatibility", "(4, 3)"]),
        (SCORES, {"compatibility": [np.nan] * 4}, ValueError, ["compatibility", "4 NaN"]),
        (SCORES, {"iterations": -1}, ValueError, ["iterations=-1", "at least 0"]),
        (SCORES, {"iterations": 1.0}, TypeError, ["iterations=1.0", "integer"]),
        (SCORES, {"damping": 1}, ValueError, ["damping=1", "below 1"]),
    ],
)
@pytest.mark.parametrize("function", [mean_field, mean_field_with_marginals, mean_field_trace])
def test_mean_field(function, unary, options, error, facts):
    with raises_saying(error, *facts):
        function(unary, [term()], **options)


@pytest.mark.parametrize("function", [mean_field, mean_field_with_marginals, mean_field_trace])
def test_terms_that_do_not_fit(function):
    with raises_saying(TypeError, "pairwise[0]", "GridGaussian", "PairwiseTerm"):
        function(SCORES, [GridGaussian((H, W), 1.0)])
    with raises_saying(TypeError, "pairwise is a PairwiseTerm", "list of PairwiseTerm"):
        function(SCORES, term())
    with raises_saying(ValueError, "pairwise[1]", "(3,)", "4 classes"):
        function(SCORES, [term(), term(np.ones(3))])
    with raises_saying(ValueError, "float32", "float64", "one precision"):
        function(SCORES, [term(), term(dtype=np.float64)])


def test_class_threshold_and_tolerance():
    with raises_saying(ValueError, "class_threshold=1.0", "below 1"):
        mean_field(SCORES, [term()], class_threshold=1.0)
    with raises_saying(ValueError, "tolerance=-1.0", "at least 0"):
        mean_field(SCORES, [term()], tolerance=-1)


@pytest.mark.parametrize(
    ("options", "error", "facts"),
    [
        ({"kernel": "lattice"}, TypeError, ["kernel is a str", "PermutohedralLattice", "num_points and filter"]),
        ({"weight": np.ones((2, 3))}, ValueError, ["weight", "(2, 3)", "(classes, classes)"]),
        ({"weight": np.nan}, ValueError, ["weight is nan", "finite number"]),
        ({"weight": "strong"}, TypeError, ["weight", "real numbers"]),
        ({"normalization": "both"}, ValueError, ["normalization='both'", "'symmetric'"]),
        ({"mask": np.ones(H * W - 1)}, ValueError, ["mask", "(53,)", "(54,)"]),
        ({"mask": -np.ones(H * W)}, ValueError, ["mask", "-1", "at least 0"]),
    ],
)
def test_pairwise_term(options, error, facts):
    with raises_saying(error, *facts):
        PairwiseTerm(**{"kernel": GridGaussian((H, W), 1.0), **options})


def test_vjp():
    _, marginals = mean_field_with_marginals(SCORES, [term()], iterations=2)
    with raises_saying(ValueError, "marginals", "4 classes", "54 points"):
        mean_field_vjp(SCORES, marginals[:, :-1], [term()])
    with raises_saying(ValueError, "marginals", str(marginals[0].shape)):
        mean_field_vjp(SCORES, marginals[0], [term()])
    with raises_saying(ValueError, "cotangent", "1 NaN"):
        mean_field_vjp(with_value(SCORES, np.nan), marginals, [term()])
    with raises_saying(ValueError, "45 points", "54"):
        mean_field_vjp(SCORES[:, :-1], marginals, [term()])
    with raises_saying(ValueError, "pairwise[0]", "(9, 6)", "swap height and width"):
        mean_field_vjp(SCORES.transpose(0, 2, 1), marginals, [term()])


def test_energy():
    with raises_saying(ValueError, "labels", "(9, 6)", "(6, 9)"):
        energy(np.zeros((W, H), int), SCORES, [term()])
    with raises_saying(ValueError, "labels", "0 to 4", "4 classes"):
        energy(np.arange(H * W).reshape(H, W) % 5, SCORES, [term()])
    with raises_saying(TypeError, "labels", "integer"):
        energy(np.zeros((H, W)), SCORES, [term()])
    with raises_saying(ValueError, "marginals", "(3, 6, 9)", "(4, 6, 9)"):
        kl_divergence(SCORES[:3], SCORES, [term()])


def test_features():
    with raises_saying(ValueError, "theta_gamma=0", "above 0"):
        spatial_features((H, W), 0)
    with raises_saying(ValueError, "theta_alpha=-1", "above 0"):
        bilateral_features(IMAGE, -1, 3.0)
    with raises_saying(ValueError, "theta_beta", "2 values", "3 image channels"):
        bilateral_features(IMAGE, 3.0, (3.0, 3.0))
    with raises_saying(ValueError, "(0,)"):
        spatial_features((0,), 1.0)
    with raises_saying(ValueError, "image", "empty"):
        bilateral_features(np.zeros((0, 4, 3)), 3.0, 3.0)
    for dtype in (np.float16, int):
        with raises_saying(TypeError, f"dtype={np.dtype(dtype)}", "float32 or float64"):
            spatial_features((H, W), 3.0, dtype=dtype)
        with raises_saying(TypeError, f"dtype={np.dtype(dtype)}", "float32 or float64"):
            bilateral_features(IMAGE, 3.0, 3.0, dtype=dtype)
    with raises_saying(ValueError, "theta_beta=1e-50", "float32", "at least 1.18e-38"):
        bilateral_features(IMAGE, 3.0, 1e-50)
    with raises_saying(ValueError, "theta_gamma=1e-320", "float64", "at least 2.23e-308"):
        spatial_features((H, W), 1e-320, dtype=np.float64)


def test_pairwise_terms_of_something_else_than_parameters():
    assert len(pairwise_terms(IMAGE, "deeplab")) == 2
    with raises_saying(TypeError, "parameters", "preset", "dict"):
        pairwise_terms(IMAGE, {})


def test_pairwise_terms_without_an_image():
    with raises_saying(ValueError, "shape="):
        pairwise_terms(None, CRFParameters(bilateral_weight=0.0))
    with raises_saying(ValueError, "bilateral", "image"):
        pairwise_terms(None, CRFParameters(), shape=(H, W))
    terms = pairwise_terms(None, CRFParameters(bilateral_weight=0.0), shape=(H, W))
    assert len(terms) == 1


@pytest.mark.parametrize(
    ("build", "facts"),
    [
        (lambda: reference.DenseGaussian(np.zeros((20_001, 2))), ["20001 points", "PermutohedralLattice"]),
        (lambda: reference.DenseGaussian(np.zeros(4)), ["(4,)", "(N, d)"]),
        (lambda: reference.MatrixKernel(np.zeros((3, 4))), ["(3, 4)", "(N, N)"]),
        (lambda: reference.Lattice(np.zeros((3, 0))), ["(3, 0)", "(N, d)"]),
        (
            lambda: reference.normalisation(reference.MatrixKernel(np.eye(2)), 2, "both"),
            ["'both'", "'symmetric'"],
        ),
    ],
)
def test_the_reference_says_what_it_needs(build, facts):
    with raises_saying(ValueError, *facts):
        build()


TERM = PairwiseTerm(GridGaussian((H, W), 2.0))
FLAGS = {
    "return_labels": lambda flag: refine(SCORES, IMAGE, return_labels=flag),
    "return_activity": lambda flag: refine(SCORES, IMAGE, return_activity=flag)[0],
    "return_probabilities": lambda flag: mean_field(SCORES, [TERM], return_probabilities=flag),
    "transpose": lambda flag: TERM.kernel.filter(np.ones(H * W), transpose=flag),
    "guide": lambda flag: (
        mean_field_vjp(SCORES, mean_field_with_marginals(SCORES, [TERM])[1], [TERM], guide=flag).unary
    ),
}


@pytest.mark.parametrize("name", FLAGS)
def test_flags(name):
    """NumPy's booleans, 1 and 0 are flags; whatever else Python takes for true is none."""
    for given in (True, False):
        expected = FLAGS[name](given)
        for other in (np.bool_(given), int(given), np.int64(given)):
            np.testing.assert_array_equal(FLAGS[name](other), expected)
    for wrong in ("yes", None, 2, 0.5, np.array([True]), [True]):
        with raises_saying(TypeError, f"{name}={wrong!r}", "True or False"):
            FLAGS[name](wrong)


@pytest.mark.parametrize(
    ("origin", "error", "facts"),
    [
        (5, TypeError, ["origin=5", "(x, y[, z])"]),
        ("ab", TypeError, ["origin='ab'"]),
        ((1.5, 2), TypeError, ["origin=(1.5, 2)", "integers"]),
        ((1,), ValueError, ["origin=(1,)", "2 spatial axes"]),
        ((2**62, 0), ValueError, ["origin=", "further away"]),
    ],
)
def test_origin(origin, error, facts):
    for call in (lambda: refine(SCORES, IMAGE, origin=origin), lambda: pairwise_terms(IMAGE, "photos", origin=origin)):
        with raises_saying(error, *facts):
            call()
    with raises_saying(error, *facts):
        bilateral_features(IMAGE, 5.0, 5.0, origin=origin)


def test_origin_of_an_array():
    np.testing.assert_array_equal(
        bilateral_features(IMAGE, 5.0, 5.0, origin=np.array([3, 4])), bilateral_features(IMAGE, 5.0, 5.0, origin=(3, 4))
    )


NAMES = np.array(["after", "none"])


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: refine(SCORES, IMAGE, input=NAMES), "input="),
        (lambda: refine(SCORES, IMAGE, upsampling=NAMES), "upsampling="),
        (lambda: CRFParameters(normalization=NAMES), "normalization="),
        (lambda: CRFParameters(solver=NAMES), "solver="),
        (lambda: PairwiseTerm(TERM.kernel, normalization=NAMES), "normalization="),
        (lambda: preset(NAMES), "preset"),
        (lambda: preset(None), "preset"),
    ],
)
def test_arrays_for_names(call, name):
    with raises_saying(ValueError, name):
        call()


def test_lists_and_amounts_of_memory_for_tiles(rng):
    scores, image = rng.normal(size=(3, H, W)), rng.integers(0, 256, (H, W, 3))
    expected = refine_tiled(scores, image)
    np.testing.assert_array_equal(refine_tiled(scores.tolist(), image.tolist()), expected)
    for memory in ("4GB", "500 mb", 10**400, np.float32(1e9)):
        np.testing.assert_array_equal(refine_tiled(scores, image, memory=memory), expected)
    for wrong, error in (("4 GiB", ValueError), ("x", ValueError), (0, ValueError), (None.__class__, TypeError)):
        with raises_saying(error, "memory"):
            refine_tiled(scores, image, memory=wrong)
    with raises_saying(ValueError, "scores", "()"):
        refine_tiled(None, image)


ODD_OBJECTS = [np.array([1, "a", None], object), np.array([]), np.zeros(2, [("a", "f4")]), np.array(["a", "b"])]
RAGGED = [[1, 2], [3]]
PARAMETERS = CRFParameters()


@pytest.mark.parametrize("value", ODD_OBJECTS, ids=str)
@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("strength", "mean-field"),
        ("regularization", "mean-field"),
        ("step", "mean-field"),
        ("damping", "frank-wolfe"),
        ("class_threshold", "frank-wolfe"),
    ],
)
def test_arrays_for_numbers_that_the_solver_lacks(name, solver, value):
    """They are refused as numbers, not by NumPy because they cannot be compared with one."""
    with pytest.raises((TypeError, ValueError), match=name):
        CRFParameters(solver=solver, **{name: value})


@pytest.mark.parametrize(
    ("call", "error", "facts"),
    [
        (lambda: PairwiseTerm(TERM.kernel, mask=RAGGED), TypeError, ["mask", "array of numbers"]),
        (lambda: RegionTerm(RAGGED), TypeError, ["segments", "array of numbers"]),
        (lambda: RegionTerm(np.zeros((H, W), int), mask=RAGGED), TypeError, ["mask", "array of numbers"]),
        (lambda: PermutohedralLattice(np.zeros((2, 3)), batch=RAGGED), TypeError, ["batch", "array of numbers"]),
        (lambda: energy(RAGGED, SCORES, [TERM]), TypeError, ["labels", "array of numbers"]),
        (lambda: upsample(SCORES, RAGGED), TypeError, ["image", "array of numbers"]),
        (lambda: relaxed_energy(SCORES, SCORES, None), TypeError, ["pairwise", "NoneType"]),
        (lambda: GridGaussian((3, 3), 1.0, "\udcff"), TypeError, ["dtype", "float32"]),
        (lambda: refine_tiled(SCORES, IMAGE, output="labels.npy"), TypeError, ["output", "str"]),
        (lambda: refine_tiled(SCORES, IMAGE, progress=True), TypeError, ["progress=True", "function"]),
        (lambda: refine(SCORES, IMAGE, spacing=Unreadable()), TypeError, ["spacing"]),
        (lambda: load_parameters(None), TypeError, ["path=None", "pathlib.Path"]),
        (lambda: load_parameters(b"a.json"), TypeError, ["path=b'a.json'", "text"]),
        (lambda: save_parameters(3, PARAMETERS), TypeError, ["path=3"]),
        (lambda: save_parameters("a\0b", PARAMETERS), OSError, ["cannot write", "null byte"]),
        (lambda: save_parameters("a.json", PARAMETERS, notes=[1]), TypeError, ["notes=[1]", "mapping"]),
    ],
)
def test_odd_objects_are_refused_by_their_name(call, error, facts):
    with raises_saying(error, *facts):
        call()


class Unreadable:
    def __array__(self, *args, **options):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "make", [lambda mask: PairwiseTerm(TERM.kernel, mask=mask), lambda mask: RegionTerm(IDS, mask=mask)]
)
def test_masks_that_hide_something(make):
    """What is hidden would count."""
    with raises_saying(ValueError, "mask", "hides 1 of 54"):
        make(np.ma.masked_less(np.arange(H * W).reshape(H, W), 1))


IDS = np.zeros((H, W), int)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    ("values", "facts"),
    [
        ({"spatial_weight": np.longdouble("1e4000")}, ["spatial_weight", "finite"]),
        ({"compatibility": np.longdouble("-1e4000")}, ["compatibility", "finite"]),
        ({"theta_beta": 1e-30}, ["image", "theta_beta", "float32"]),
        ({"theta_alpha": 1.2e-38}, ["position", "theta_alpha", "float32"]),
        ({"theta_gamma": 1.2e-38, "spatial": "lattice"}, ["position", "theta_gamma", "float32"]),
    ],
)
@pytest.mark.filterwarnings("ignore::crfrnn.InputWarning")
def test_numbers_beyond_the_precision_are_named(values, facts):
    """The message names what was given, not what was made of it, and NumPy warns of nothing."""
    with raises_saying(ValueError, *facts):
        refine(SCORES, np.linspace(0, 1e20, IMAGE.size).reshape(IMAGE.shape), **values)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.filterwarnings("ignore::crfrnn.InputWarning")
def test_images_of_any_level_are_looked_at(rng):
    image = 1e300 * rng.random((H, W, 3))
    result = refine(SCORES.astype(float), image, filter="exact")
    np.testing.assert_allclose(result, 0.25, rtol=1e-12)
    with raises_saying(ValueError, "the image divided by theta_beta", "float32", "scale the image down"):
        refine(SCORES, image)
    with raises_saying(ValueError, "probabilities range from"):
        refine(np.full(SCORES.shape, np.finfo(np.float32).min), IMAGE, input="probabilities")
    with raises_saying(ValueError, "num_classes=4611686018427387905"):
        refine_tiled(np.full((H, W), 2**62), IMAGE, input="labels")
