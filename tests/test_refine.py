"""`refine` against the NumPy oracle, for every kind of input, and on a real photo where the data is there."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from crfrnn import (
    CRF,
    PRESETS,
    CRFParameters,
    Given,
    Kernel,
    MeanField,
    _native,
    bilateral_features,
    preset,
    reference,
    refine,
    spatial_features,
)
from errors import raises_saying
from tolerances import assert_close, tolerance

SHAPE = (11, 14)
DTYPES = [np.float32, np.float64]
DENSE = CRFParameters(tolerance=0)


def expected(logits, image, parameters, mask=None):
    """The same call, out of reference.py alone."""
    classes, shape = len(logits), logits.shape[1:]
    axes = len(shape)
    image = np.asarray(image).reshape(*shape, -1)
    dtype = np.float64 if logits.dtype == np.float64 else np.float32
    if parameters.spatial == "grid":
        spatial = reference.GridGaussian(shape, np.broadcast_to(parameters.theta_gamma, axes)[::-1])
    else:
        spatial = reference.Lattice(
            spatial_features(shape, parameters.theta_gamma, dtype=dtype), None, parameters.neighbour_rounds
        )
    features = bilateral_features(image, parameters.theta_alpha, parameters.theta_beta, shape=shape, dtype=dtype)
    bilateral = reference.Lattice(features, None, parameters.neighbour_rounds)
    a, _ = reference.mean_field(
        logits.reshape(classes, -1),
        [
            reference.Term(spatial, parameters.spatial_weight, parameters.normalization, mask),
            reference.Term(bilateral, parameters.bilateral_weight, parameters.normalization, mask),
        ],
        iterations=parameters.iterations,
        compatibility=parameters.compatibility,
        damping=parameters.damping,
    )
    return reference.softmax(a).reshape(logits.shape)


def textured(rng, shape, channels=3):
    """A noisy image: no two pixels lie on the border of the same simplex, so rounding cannot choose between two."""
    return rng.random((*shape, channels)) * 60 + 20 * (np.indices(shape).sum(axis=0) > sum(shape) / 2)[..., None]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spatial", ["grid", "lattice"])
@pytest.mark.parametrize("name", PRESETS)
def test_presets(rng, name, spatial, dtype):
    logits = rng.normal(size=(3, *SHAPE)).astype(dtype)
    image = textured(rng, SHAPE)
    parameters = replace(preset(name), spatial=spatial, tolerance=0)
    result = refine(logits, image, parameters)
    assert result.dtype == dtype
    assert_close(result, expected(logits, image, parameters), tolerance(dtype).mean_field * 10)
    if spatial == "grid":
        np.testing.assert_array_equal(refine(logits, image, name), refine(logits, image, preset(name)))


@pytest.mark.parametrize(
    "changes",
    [
        {"neighbour_rounds": 1},
        {"damping": 0.4},
        {"iterations": 0},
        {"iterations": 1},
        {"theta_alpha": (10.0, 30.0), "theta_gamma": (1.0, 2.5), "theta_beta": (5.0, 10.0, 20.0)},
        {"spatial_weight": (1.0, 2.0, 3.0), "bilateral_weight": np.eye(3) + 0.1},
        {"compatibility": 1.0 - 2 * np.eye(3)},
        {"compatibility": (-1.0, -0.5, -2.0)},
        {"spatial": "lattice", "neighbour_rounds": 1},
        {"normalization": "before"},
    ],
)
def test_parameters(rng, changes):
    logits, image = rng.normal(size=(3, *SHAPE)), textured(rng, SHAPE)
    parameters = replace(DENSE, **{"theta_alpha": 20.0, "theta_beta": 15.0, **changes})
    assert_close(refine(logits, image, parameters), expected(logits, image, parameters), 1e-9)


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
@pytest.mark.parametrize("shape", [(40,), (9, 12), (5, 6, 7)])
def test_any_axes_and_channels(rng, shape, channels):
    logits, image = rng.normal(size=(2, *shape)), textured(rng, shape, channels)
    parameters = replace(DENSE, theta_alpha=10.0, theta_beta=12.0, theta_gamma=2.0)
    result = refine(logits, image, parameters)
    assert_close(result, expected(logits, image, parameters), 1e-9)
    if channels == 1:
        np.testing.assert_array_equal(refine(logits, image[..., 0], parameters), result)


@pytest.mark.parametrize("kind", ["binary", "soft"])
def test_mask(rng, kind):
    logits, image = rng.normal(size=(3, *SHAPE)), textured(rng, SHAPE)
    mask = rng.random(SHAPE) > 0.4
    mask = mask if kind == "binary" else mask * rng.random(SHAPE)
    result = refine(logits, image, DENSE, mask=mask)
    assert_close(result, expected(logits, image, CRFParameters(), mask), 1e-9)
    np.testing.assert_allclose(result[:, mask == 0], reference.softmax(logits)[:, mask == 0], rtol=1e-12)


def test_probabilities(rng):
    probabilities = rng.dirichlet(np.ones(3), size=SHAPE).transpose(2, 0, 1)
    image = textured(rng, SHAPE)
    result = refine(probabilities, image, DENSE, input="probabilities")
    assert_close(result, expected(np.log(np.maximum(probabilities, 1e-5)), image, CRFParameters()), 1e-9)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_labels(rng, dtype):
    labels, image = rng.integers(0, 3, SHAPE).astype(dtype), textured(rng, SHAPE)
    labels[0, 0] = 255
    probabilities = np.where(np.arange(3)[:, None, None] == labels, 0.7, 0.15)
    probabilities[:, 0, 0] = 1 / 3
    result = refine(labels, image, DENSE, input="labels")
    assert result.dtype == np.float32
    assert_close(result, expected(np.log(probabilities).astype(np.float32), image, CRFParameters()), 2e-4)
    assert refine(labels, image, input="labels", num_classes=5).shape == (5, *SHAPE)


def test_without_an_image_only_the_spatial_kernel_is_left(rng):
    logits = rng.normal(size=(3, *SHAPE))
    parameters = replace(DENSE, bilateral_weight=0.0)
    spatial = reference.Term(reference.GridGaussian(SHAPE, 3.0), 3.0)
    a, _ = reference.mean_field(logits.reshape(3, -1), [spatial], iterations=10)
    assert_close(refine(logits, None, parameters), reference.softmax(a).reshape(logits.shape), 1e-9)


def test_left_out_classes(rng):
    logits, image = rng.normal(size=(6, *SHAPE)), textured(rng, SHAPE)
    logits[[1, 4]] -= 12
    exact = refine(logits, image, DENSE)
    result = refine(logits, image, replace(DENSE, class_threshold=1e-3))
    assert 0 < np.abs(result - exact).max() < 1e-2
    np.testing.assert_allclose(result.sum(axis=0), 1)


def test_uint8_images_and_their_floats_are_the_same(rng):
    logits = rng.normal(size=(3, *SHAPE)).astype(np.float32)
    image = rng.integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    np.testing.assert_array_equal(refine(logits, image), refine(logits, image.astype(np.float64)))


def test_one_lattice_is_built_for_all_iterations(rng, monkeypatch):
    built = []

    class Counted(_native.Lattice32):
        def __init__(self, *arguments):
            built.append(self)
            super().__init__(*arguments)

    monkeypatch.setattr(_native, "Lattice32", Counted)
    refine(rng.normal(size=(3, *SHAPE)).astype(np.float32), textured(rng, SHAPE), CRFParameters(iterations=7))
    assert len(built) == 1


def test_real_photo_grid_or_lattice(voc_photo):
    """The default's exact spatial kernel and the lattice's, as other tools have it, lead to almost the same labels."""
    photo, logits = voc_photo
    labels = [refine(logits, photo, CRFParameters(spatial=spatial)).argmax(axis=0) for spatial in ("grid", "lattice")]
    assert (labels[0] != logits.argmax(axis=0)).mean() > 0.005
    assert (labels[0] != labels[1]).mean() < 0.005


@pytest.mark.parametrize("name", ["crfrnn", "pydensecrf"])
def test_real_photo_against_the_exact_filter(voc_photo, name):
    """A photo an eighth as large, with bandwidths to match, against exact Gaussians for both kernels.

    The bounds are twice what the lattice does here: 1.5 % of labels, and 1.7 % of the probability mass.
    """
    photo, logits = voc_photo
    size = (photo.shape[1] // 8, photo.shape[0] // 8)
    image = np.asarray(Image.fromarray(photo).resize(size, Image.BICUBIC))
    small = np.stack([np.asarray(Image.fromarray(plane).resize(size, Image.BILINEAR)) for plane in logits])
    parameters = replace(preset(name), theta_alpha=preset(name).theta_alpha / 8, theta_gamma=0.5)
    terms = [
        reference.Term(
            reference.DenseGaussian(spatial_features(image.shape[:2], parameters.theta_gamma)),
            parameters.spatial_weight,
            parameters.normalization,
        ),
        reference.Term(
            reference.DenseGaussian(bilateral_features(image, parameters.theta_alpha, parameters.theta_beta)),
            parameters.bilateral_weight,
            parameters.normalization,
        ),
    ]
    exact, _ = reference.mean_field(small.reshape(21, -1), terms, iterations=parameters.iterations)
    result = refine(small, image, parameters)
    assert (result.argmax(axis=0).ravel() != exact.argmax(axis=0)).mean() < 0.03
    moved = 0.5 * np.abs(result.reshape(21, -1) - reference.softmax(exact)).sum(axis=0)
    assert moved.mean() < 0.035
    assert (result.argmax(axis=0) != small.argmax(axis=0)).mean() > 0.05


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 7, 21, 300])
@pytest.mark.parametrize("options", [{}, {"class_threshold": 0.2, "damping": 0.1}, {"iterations": 0}])
def test_labels_are_the_likeliest_classes(rng, dtype, classes, options):
    logits, image = rng.normal(0, 2, (classes, *SHAPE)).astype(dtype), textured(rng, SHAPE)
    parameters = CRFParameters(theta_alpha=5, theta_beta=30, **options)
    expected_labels = refine(logits, image, parameters).argmax(axis=0)
    for scores in (logits, np.moveaxis(np.ascontiguousarray(np.moveaxis(logits, 0, -1)), -1, 0)):
        labels = refine(scores, image, parameters, return_labels=True)
        assert labels.dtype == (np.uint8 if classes <= 256 else np.uint16)
        np.testing.assert_array_equal(labels, expected_labels)


def test_labels_of_other_input(rng):
    image = textured(rng, SHAPE)
    probabilities = rng.random((1, *SHAPE))
    labels = refine(probabilities, image, input="probabilities", return_labels=True)
    np.testing.assert_array_equal(labels, refine(probabilities, image, input="probabilities")[0] > 0.5)
    given = rng.integers(0, 3, SHAPE)
    labels = refine(given, image, input="labels", return_labels=True)
    np.testing.assert_array_equal(labels, refine(given, image, input="labels").argmax(axis=0))


def test_of_classes_alike_the_first_is_the_label(rng):
    logits = np.repeat(rng.normal(size=(1, *SHAPE)), 3, axis=0)
    assert not refine(logits, textured(rng, SHAPE), return_labels=True).any()


@pytest.mark.parametrize("return_labels", [False, True])
@pytest.mark.parametrize("classes", [1, 5])
def test_activity(rng, classes, return_labels):
    logits, image = rng.normal(size=(classes, *SHAPE)), textured(rng, SHAPE)
    options = {"return_labels": return_labels}
    result, activity = refine(logits, image, DENSE, return_activity=True, **options)
    np.testing.assert_array_equal(result, refine(logits, image, DENSE, **options))
    assert (activity.iterations, activity.classes) == (10, (max(classes, 2),) * 10)
    assert (activity.evaluated.shape, activity.evaluated.dtype) == ((10, *SHAPE), bool)
    assert activity.evaluated.all()
    _, none = refine(logits, image, replace(DENSE, iterations=0), return_activity=True, **options)
    assert (none.iterations, none.classes, none.evaluated.shape) == (0, (), (0, *SHAPE))


def test_activity_of_an_early_end(rng, monkeypatch):
    """What the native core says of the iterations that ran."""
    evaluated = (rng.random((7, 11 * 14)) > 0.5).astype(np.uint8)

    def three(unary, *_):
        return np.zeros(unary.shape[1], np.int32), (3, [4, 2, 1], evaluated)

    monkeypatch.setattr(_native, "mean_field_labels64", three)
    logits = rng.normal(size=(4, *SHAPE))
    parameters = CRFParameters(iterations=7)
    _, activity = refine(logits, textured(rng, SHAPE), parameters, return_labels=True, return_activity=True)
    assert (activity.iterations, activity.classes) == (3, (4, 2, 1))
    np.testing.assert_array_equal(activity.evaluated, evaluated[:3].reshape(3, *SHAPE))


def test_activity_of_a_kernel_of_ones_own(rng):
    """The loop in NumPy works everything out, in the classes that the threshold leaves in."""

    class Same:
        def filter(self, values, transpose=False):
            return np.array(values)

    logits = rng.normal(size=(4, *SHAPE))
    logits[1] -= 20
    crf = CRF([Kernel(Given("same"))], solver=MeanField(3, class_threshold=0.1))
    _, activity = refine(logits, None, crf, given={"same": Same()}, return_activity=True)
    assert (activity.iterations, activity.classes) == (3, (3, 3, 3))
    assert activity.evaluated.shape == (3, *SHAPE)
    assert activity.evaluated.all()


@pytest.mark.torch
def test_a_device_without_numbers_and_arrays_that_cannot_be_written_to(rng, recwarn):
    pytest.importorskip("torch", reason="needs the torch extra")
    scores, image = rng.normal(size=(4, *SHAPE)).astype(np.float32), textured(rng, SHAPE)
    with raises_saying(ValueError, "device='meta'", "not available"):
        refine(scores, image, device="meta")
    scores.flags.writeable = image.flags.writeable = False
    refine(scores, image, device="cpu")
    assert not recwarn.list


def test_activity_on_a_device_is_not_known(rng):
    with raises_saying(ValueError, "return_activity=True", "device='cpu'"):
        refine(rng.normal(size=(4, *SHAPE)), textured(rng, SHAPE), device="cpu", return_activity=True)
