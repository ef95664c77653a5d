"""Properties that hold for any shape, stride, precision and content, looked for by hypothesis."""

from functools import partial

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import crfrnn
from crfrnn import GridGaussian, PairwiseTerm, PermutohedralLattice, reference, refine
from tolerances import assert_close, tolerance

CRFParameters = partial(crfrnn.CRFParameters, tolerance=0)
mean_field = partial(crfrnn.mean_field, tolerance=0)

shapes = hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=9)
seeds = st.integers(0, 2**32 - 1)
precisions = st.sampled_from([np.float32, np.float64])
dtypes = st.sampled_from([np.float16, np.float32, np.float64, np.int16, np.uint8, np.dtype(">f4")])


@st.composite
def views(draw, array):
    """The same values behind other strides: reversed, every second of a larger array, Fortran order, read-only."""
    kind = draw(st.sampled_from(["as is", "reversed", "strided", "fortran", "moved", "read-only"]))
    if kind == "reversed":
        return np.ascontiguousarray(array[::-1])[::-1]
    if kind == "strided":
        larger = np.full(tuple(2 * n for n in array.shape), 77, array.dtype)
        view = larger[tuple(slice(None, None, 2) for _ in array.shape)]
        view[...] = array
        return view
    if kind == "fortran":
        return np.asfortranarray(array)
    if kind == "moved":
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 0, -1)), -1, 0)
    view = array.copy()
    view.flags.writeable = kind != "read-only"
    return view


@given(st.data(), shapes, st.integers(1, 6), st.integers(0, 4), dtypes, dtypes, seeds)
def test_refine_takes_any_array(data, shape, classes, channels, score_dtype, image_dtype, seed):
    """Probabilities come out of any strides and types, the same as from plain copies; inputs are not written to."""
    rng = np.random.default_rng(seed)
    scores = (rng.normal(size=(classes, *shape)) * 3).astype(score_dtype)
    image = (rng.random((*shape, channels) if channels else shape) * 255).astype(image_dtype)
    assume(scores.shape not in (image.shape, (*shape, 1)))  # which is a map of the foreground
    parameters = CRFParameters(theta_alpha=5.0, theta_beta=20.0, iterations=2)
    plain = refine(np.array(scores), np.array(image), parameters)
    assert plain.shape == scores.shape
    assert plain.dtype == (np.float64 if score_dtype == np.float64 else np.float32)
    assert (plain >= 0).all()
    if classes == 1:  # of the foreground
        assert (plain <= 1).all()
    else:
        np.testing.assert_allclose(plain.sum(axis=0), 1, atol=1e-5)
    given_scores, given_image = data.draw(views(scores)), data.draw(views(image))
    np.testing.assert_array_equal(refine(given_scores, given_image, parameters), plain)
    np.testing.assert_array_equal(given_scores, scores)
    np.testing.assert_array_equal(given_image, image)


@given(
    st.data(),
    st.integers(1, 60),
    st.integers(1, 6),
    st.integers(1, 30),
    precisions,
    seeds,
)
def test_lattice_filter_takes_any_array(data, n, d, channels, dtype, seed):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, d)).astype(dtype)
    values = rng.normal(size=(n, channels)).astype(dtype)
    expected = reference.Lattice(features).filter(values)
    result = PermutohedralLattice(data.draw(views(features))).filter(data.draw(views(values)))
    assert_close(result, expected, tolerance(dtype).filter)


@given(
    hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=7),
    st.data(),
    st.integers(1, 20),
    precisions,
    seeds,
)
def test_grid_filter_takes_any_grid(shape, data, channels, dtype, seed):
    sigmas = data.draw(st.lists(st.sampled_from([0.0, 0.3, 1.0, 2.5, 30.0]), min_size=len(shape), max_size=len(shape)))
    values = np.random.default_rng(seed).normal(size=(np.prod(shape), channels)).astype(dtype)
    result = GridGaussian(shape, sigmas, dtype=dtype).filter(data.draw(views(values)))
    assert_close(result, reference.GridGaussian(shape, sigmas).filter(values), tolerance(dtype).filter)


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 30), st.integers(1, 4)), elements=st.floats(-1e4, 1e4)))
def test_filter_of_any_points_is_positive_and_finite(features):
    """Hypothesis likes coincident points, integers and points far apart: borders of simplices, and no neighbours."""
    lattice = PermutohedralLattice(features)
    norm = lattice.filter(np.ones(len(features)))
    assert np.isfinite(norm).all()
    assert (norm > 0).all()
    assert (norm <= 2 * len(features)).all()


@given(shapes, st.integers(2, 5), st.floats(0, 255), seeds)
def test_constant_images_smooth_like_the_spatial_position_alone(shape, classes, level, seed):
    """Colour that is the same everywhere cannot matter, whatever it is."""
    assume((classes, *shape) not in ((*shape, 3), (*shape, 1)))  # which is a map of the foreground
    scores = np.random.default_rng(seed).normal(size=(classes, *shape))
    parameters = CRFParameters(theta_alpha=5.0, iterations=3, spatial_weight=1.0, bilateral_weight=2.0)
    first = refine(scores, np.full((*shape, 3), level), parameters)
    assert np.isfinite(first).all()
    uniform = refine(np.full((classes, *shape), 0.25), np.full((*shape, 3), level), parameters)
    np.testing.assert_allclose(uniform, 1 / classes, atol=1e-9)


@given(shapes, seeds)
def test_one_class_is_certain(shape, seed):
    """Of labels, and of the mean field itself; scores of one channel are those of two classes for `refine`."""
    rng = np.random.default_rng(seed)
    image = rng.random((*shape, 3))
    result = refine(np.zeros(shape, np.uint8), image, input="labels", num_classes=1)
    np.testing.assert_array_equal(result, np.ones((1, *shape)))
    terms = [PairwiseTerm(GridGaussian(shape, 1.5, dtype=np.float64), 2.0)]
    result = mean_field(rng.normal(size=(1, *shape)), terms, return_probabilities=True)
    np.testing.assert_array_equal(result, np.ones((1, *shape)))


@given(st.integers(1, 3), st.integers(2, 8), seeds)
def test_one_pixel_only_hears_itself(axes, classes, seed):
    """With one pixel the normalised filters are the identity: a = U + (w_s + w_b) softmax(a), step by step."""
    rng = np.random.default_rng(seed)
    unary = rng.normal(size=classes)
    a = unary
    for _ in range(10):
        a = unary + 8 * reference.softmax(a)
    result = refine(unary.reshape(classes, *[1] * axes), rng.random((*[1] * axes, 3)), CRFParameters())
    np.testing.assert_allclose(result.ravel(), reference.softmax(a), atol=1e-9)


@given(st.integers(2, 6), seeds)
def test_permuting_classes_permutes_the_result(classes, seed):
    rng = np.random.default_rng(seed)
    scores, image, order = rng.normal(size=(classes, 5, 7)), rng.random((5, 7, 3)) * 50, rng.permutation(classes)
    parameters = CRFParameters()
    np.testing.assert_allclose(
        refine(scores[order], image, parameters), refine(scores, image, parameters)[order], atol=1e-9
    )


@given(st.floats(-1e3, 1e3), seeds)
def test_a_constant_added_to_the_logits_of_a_pixel_changes_nothing(offset, seed):
    rng = np.random.default_rng(seed)
    scores, image = rng.normal(size=(3, 5, 7)), rng.random((5, 7, 3)) * 50
    shifted = scores + offset * rng.random((5, 7))
    parameters = CRFParameters()
    np.testing.assert_allclose(refine(shifted, image, parameters), refine(scores, image, parameters), atol=1e-8)


@given(seeds)
def test_mirrored_images_give_mirrored_results_with_the_grid(seed):
    """The spatial kernel on the grid has no preferred direction."""
    scores = np.random.default_rng(seed).normal(size=(3, 6, 8))
    terms = [PairwiseTerm(GridGaussian((6, 8), 1.5, dtype=np.float64), 2.0)]
    mirrored = mean_field(scores[:, ::-1, ::-1], terms)
    np.testing.assert_allclose(mirrored[:, ::-1, ::-1], mean_field(scores, terms), atol=1e-9)
