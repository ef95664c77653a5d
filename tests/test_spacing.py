"""Volumes whose spacing differs from axis to axis: `spacing` against Gaussians over physical coordinates."""

from dataclasses import replace

import numpy as np
import pytest

from crfrnn import CRFParameters, pairwise_terms, reference, refine
from errors import raises_saying
from tolerances import assert_close, tolerance

SHAPE = (4, 6, 7)
SPACING = (0.9, 1.1, 3.0)
"""Millimetres along x, y and z, that is along the last axis, the one before it and the first one."""
MILLIMETRES = CRFParameters(theta_alpha=6.13, theta_beta=61.7, theta_gamma=2.57, iterations=3, tolerance=0)


def volume(rng, shape=SHAPE):
    return rng.normal(size=(3, *shape)), rng.uniform(0, 255, size=shape)


def coordinates(shape=SHAPE, spacing=SPACING):
    """(N, axes) physical positions, x first."""
    axes = np.indices(shape)[::-1]
    return np.stack([step * axis.ravel() for step, axis in zip(spacing, axes, strict=True)], axis=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_spatial_kernel_is_the_gaussian_of_the_distance(rng, dtype):
    """The grid's kernel is cut at 4σ, which is beyond this volume."""
    dense = reference.DenseGaussian(coordinates() / 2.57)
    (term,) = pairwise_terms(
        None, replace(MILLIMETRES, bilateral_weight=0.0), shape=SHAPE, spacing=SPACING, dtype=dtype
    )
    values = rng.normal(size=(dense.num_points, 2)).astype(dtype)
    expected = reference.Term(dense).filter(values.T).T
    assert_close(term.filter(values), expected, tolerance(dtype).filter)


@pytest.mark.parametrize("theta_alpha", [6.13, (6.13, 5.21, 7.39)])
@pytest.mark.parametrize("spatial", ["grid", "lattice"])
def test_refine_in_millimetres(rng, spatial, theta_alpha):
    """Against reference.py on features made of physical coordinates."""
    logits, image = volume(rng)
    parameters = replace(MILLIMETRES, spatial=spatial, theta_alpha=theta_alpha)
    bilateral = np.concatenate([coordinates() / np.asarray(theta_alpha), image.reshape(-1, 1) / 61.7], axis=1)
    lattice = reference.Lattice(coordinates() / 2.57)
    kernel = reference.DenseGaussian(coordinates() / 2.57) if spatial == "grid" else lattice
    terms = [reference.Term(kernel, 3.0), reference.Term(reference.Lattice(bilateral), 5.0)]
    a, _ = reference.mean_field(logits.reshape(3, -1), terms, iterations=3)
    expected = reference.softmax(a).reshape(logits.shape)
    assert_close(refine(logits, image, parameters, spacing=SPACING), expected, 1e-9)


def test_the_bilateral_kernel_is_near_the_gaussian_of_the_distance(rng):
    """Closer to it than what ignores the spacing, on a volume of two smooth parts."""
    shape = (7, 14, 15)
    z, y, x = np.indices(shape)
    logits = rng.normal(size=(2, *shape))
    image = 80.0 * (x + 2 * y + 3 * z > 35) + 0.7 * x + 5 * rng.random(shape)
    parameters = CRFParameters(theta_alpha=5.0, theta_beta=20.0, spatial_weight=0.0, bilateral_weight=4.0)
    rows = np.concatenate([coordinates(shape) / 5, image.reshape(-1, 1) / 20], axis=1)
    a, _ = reference.mean_field(
        logits.reshape(2, -1), [reference.Term(reference.DenseGaussian(rows), 4.0)], iterations=10
    )
    exact = reference.softmax(a).reshape(logits.shape)
    error, blind = (
        np.abs(refine(logits, image, parameters, spacing=spacing) - exact).mean() for spacing in (SPACING, None)
    )
    assert error < 0.5 * blind


@pytest.mark.parametrize(
    "spacing", [2.0, (2.0,), (2.0, 2.0, 2.0), [2, 2, 2], np.full(3, 2.0), np.float32(2), np.array(2)]
)
def test_a_number_is_the_spacing_of_all_axes(rng, spacing):
    logits, image = volume(rng)
    expected = refine(logits, image, replace(MILLIMETRES, theta_alpha=6.13 / 2, theta_gamma=2.57 / 2))
    np.testing.assert_array_equal(refine(logits, image, MILLIMETRES, spacing=spacing), expected)


def test_pixels_are_the_unit_without_spacing(rng):
    logits, image = volume(rng)
    plain = refine(logits, image, MILLIMETRES)
    np.testing.assert_array_equal(refine(logits, image, MILLIMETRES, spacing=(1, 1, 1)), plain)
    assert MILLIMETRES.in_pixels(1.0, 2).theta_alpha == (6.13, 6.13)


def test_the_unit_does_not_matter(rng):
    """Micrometres are a thousand to the millimetre."""
    logits, image = volume(rng)
    micrometres = replace(MILLIMETRES, theta_alpha=6130.0, theta_gamma=2570.0)
    result = refine(logits, image, micrometres, spacing=tuple(1000 * step for step in SPACING))
    assert_close(result, refine(logits, image, MILLIMETRES, spacing=SPACING), 1e-9)


@pytest.mark.parametrize(("shape", "spacing"), [((13,), 0.5), ((9, 12), (0.5, 2.0))])
def test_signals_and_pictures(rng, shape, spacing):
    logits, image = volume(rng, shape)
    axes = len(shape)
    thetas = {
        name: tuple(getattr(MILLIMETRES, name) / np.broadcast_to(spacing, axes))
        for name in ("theta_alpha", "theta_gamma")
    }
    expected = refine(logits, image, replace(MILLIMETRES, **thetas))
    np.testing.assert_array_equal(refine(logits, image, MILLIMETRES, spacing=spacing), expected)


@pytest.mark.parametrize(
    ("spacing", "error", "facts"),
    [
        (0.0, ValueError, ["spacing=0.0", "above 0"]),
        ((1.0, -1.0, 1.0), ValueError, ["spacing=(1.0, -1.0, 1.0)", "above 0"]),
        ((1.0, np.nan, 1.0), ValueError, ["spacing=(1.0, nan, 1.0)", "finite"]),
        (np.inf, ValueError, ["spacing=inf", "finite"]),
        ((1.0, 1.0), ValueError, ["spacing=(1.0, 1.0)", "2 values", "3 spatial axes"]),
        ((), ValueError, ["spacing=()", "0 values", "3 spatial axes"]),
        ("wide", TypeError, ["spacing='wide'", "number"]),
        (np.ones(2), ValueError, ["spacing=(1.0, 1.0)", "2 values", "3 spatial axes"]),
        ([[1.0, 2.0, 3.0]], TypeError, ["spacing=[[1.0, 2.0, 3.0]]", "number"]),
    ],
)
def test_bad_spacing_is_named(rng, spacing, error, facts):
    logits, image = volume(rng)
    with raises_saying(error, *facts):
        refine(logits, image, MILLIMETRES, spacing=spacing)


def test_deviations_for_other_axes_are_named(rng):
    logits, image = volume(rng)
    parameters = replace(MILLIMETRES, theta_gamma=(1.0, 2.0))
    with raises_saying(ValueError, "theta_gamma=(1.0, 2.0)", "2 values", "3 spatial axes"):
        refine(logits, image, parameters, spacing=SPACING)
