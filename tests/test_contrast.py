"""`contrast_theta_beta`, and images of any number of channels and depth, refined with it and against dense kernels."""

import numpy as np
import pytest

from crfrnn import CRFParameters, contrast_theta_beta, reference, refine
from errors import raises_saying
from tolerances import assert_close

SHAPE = (9, 12)


def picture(rng, channels=3, shape=SHAPE):
    """Two regions with noise, (*shape, channels) uint8."""
    region = np.indices(shape).sum(axis=0) > sum(shape) / 2
    levels = rng.uniform(40, 200, size=(2, channels))[region.astype(int)]
    return np.clip(levels + rng.normal(0, 8, levels.shape), 0, 255).astype(np.uint8)


def refined(logits, image, theta_beta=None):
    theta_beta = contrast_theta_beta(image, shape=logits.shape[1:]) if theta_beta is None else theta_beta
    return refine(logits, image, CRFParameters(theta_alpha=6.13, theta_beta=theta_beta, theta_gamma=1.57, tolerance=0))


@pytest.mark.parametrize("shape", [(13,), SHAPE, (4, 5, 6)])
def test_is_an_eighth_of_the_mean_square_of_all_steps(rng, shape):
    """Pair by pair, in plain Python."""
    image = picture(rng, 2, shape)
    squares = []
    for pixel in np.ndindex(*shape):
        for axis in range(len(shape)):
            after = tuple(position + (axis == other) for other, position in enumerate(pixel))
            if after[axis] < shape[axis]:
                squares.append([(int(a) - int(b)) ** 2 for a, b in zip(image[after], image[pixel], strict=True)])
    expected = 0.125 * np.sqrt(2 * np.mean(squares, axis=0))
    np.testing.assert_allclose(contrast_theta_beta(image, shape=shape), expected, rtol=1e-12)


@pytest.mark.parametrize("channels", [1, 3, 11])
def test_neighbours_are_as_far_apart_for_any_number_of_channels(rng, channels):
    """GrabCut's exponent ½ ⟨|Δ/θ|²⟩ is ½ there, and with an eighth of its θ 64 times that."""
    image = picture(rng, channels)
    scaled = image / np.array(contrast_theta_beta(image))
    squares = np.concatenate([(np.diff(scaled, axis=axis) ** 2).sum(axis=-1).ravel() for axis in (0, 1)])
    assert squares.mean() == pytest.approx(64)


def test_channels_given_twice_change_nothing(rng):
    image, logits = picture(rng), rng.normal(size=(3, *SHAPE))
    twice = np.concatenate([image, image], axis=-1)
    np.testing.assert_allclose(contrast_theta_beta(twice), np.sqrt(2) * np.tile(contrast_theta_beta(image), 2))
    rows = [
        each.reshape(-1, each.shape[-1]) / np.array(contrast_theta_beta(each), np.float64) for each in (image, twice)
    ]
    kernels = [reference.DenseGaussian(each).matrix for each in rows]
    assert_close(kernels[1], kernels[0], 1e-12)
    assert np.isfinite(refined(logits, twice)).all()


@pytest.mark.parametrize(
    ("convert", "factor", "bound"),
    [
        (lambda image: image.astype(np.uint16) * 257, 257, 1e-9),
        (lambda image: image / 255, 1 / 255, 1e-9),
        (lambda image: (image / 255).astype(np.float32), 1 / 255, 1e-3),
        (lambda image: image * np.array([0.001, 1, 40000.0]), np.array([0.001, 1, 40000.0]), 1e-9),
    ],
    ids=["16 bits", "0 to 1", "0 to 1 in float32", "each channel its own"],
)
def test_refine_gives_the_same_at_any_depth(rng, convert, factor, bound):
    image, logits = picture(rng), rng.normal(size=(3, *SHAPE))
    other = convert(image)
    np.testing.assert_allclose(contrast_theta_beta(other), factor * np.array(contrast_theta_beta(image)), rtol=1e-6)
    assert np.abs(refined(logits, other) - refined(logits, image)).max() < bound


def test_only_differences_count(rng):
    image = picture(rng)
    assert contrast_theta_beta(image.astype(np.int16) - 1000) == contrast_theta_beta(image)


def test_unsigned_levels_do_not_wrap():
    image = np.array([[0, 255], [255, 0]], np.uint8)
    assert contrast_theta_beta(image) == (0.125 * 255,)
    assert contrast_theta_beta(image > 0) == (0.125,)


@pytest.mark.parametrize("exponent", [-120, 500, 1020])
def test_levels_of_any_size(rng, exponent):
    """Multiplying levels multiplies θ_β, also where their squares are beyond float64."""
    levels = rng.uniform(-1, 1, (*SHAPE, 2))
    few = np.array([[1.0, 0.0, 0.0]])
    for each in (levels, few):
        scaled = contrast_theta_beta(np.ldexp(each, exponent))
        np.testing.assert_allclose(scaled, np.ldexp(contrast_theta_beta(each), exponent), rtol=1e-12)


def test_channels_without_steps_do_not_count(rng):
    """θ_β of theirs is finite and leaves the kernel as it is without them."""
    image, logits = picture(rng), rng.normal(size=(3, *SHAPE))
    flat = np.concatenate([image, np.full((*SHAPE, 1), 60000.0), np.zeros((*SHAPE, 1))], axis=-1)
    thetas = contrast_theta_beta(flat)
    assert thetas == (*contrast_theta_beta(image), 60000.0, 1.0)
    assert np.isfinite(refined(logits, flat)).all()
    assert contrast_theta_beta(np.full((4, 5), -3.0)) == (3.0,)
    assert contrast_theta_beta(np.zeros((1, 1, 3))) == (1.0, 1.0, 1.0)


def test_mask(rng):
    """Pairs count where both pixels do: those of the part that is left, here."""
    image = picture(rng)
    image[:, 7:] = 0
    mask = np.ones(SHAPE, bool)
    mask[:, 7:] = False
    assert contrast_theta_beta(image, mask=mask) == pytest.approx(contrast_theta_beta(image[:, :7]), rel=1e-12)
    assert contrast_theta_beta(image, mask=0.5 * np.ones(SHAPE)) == pytest.approx(contrast_theta_beta(image))
    assert contrast_theta_beta(image, mask=np.zeros(SHAPE)) == tuple(map(float, image.max(axis=(0, 1))))


def test_shape_tells_grey_volumes_from_channels(rng):
    volume = picture(rng, 1, (4, 5, 6))[..., 0]
    assert len(contrast_theta_beta(volume, shape=volume.shape)) == 1
    assert len(contrast_theta_beta(volume)) == 6


@pytest.mark.parametrize(
    ("image", "options", "error", "facts"),
    [
        (np.array([[1.0, np.nan]]), {}, ValueError, ["image", "1 NaN", "[0, 1, 0]"]),
        (np.zeros((0, 4, 3)), {}, ValueError, ["image", "(0, 4, 3)", "empty"]),
        (np.zeros((4, 5, 3)), {"shape": (5, 4)}, ValueError, ["(4, 5, 3)", "swap height and width"]),
        (np.zeros((4, 5, 3)), {"mask": np.ones((5, 4))}, ValueError, ["mask", "(5, 4)", "(4, 5)"]),
        (np.zeros((4, 5), complex), {}, TypeError, ["image", "real numbers"]),
    ],
)
def test_bad_input_is_named(image, options, error, facts):
    with raises_saying(error, *facts):
        contrast_theta_beta(image, **options)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [4, 11, 14])
def test_multispectral_images_of_any_depth(rng, channels, dtype):
    """Up to 16 features, each channel with its own θ, against the reference's lattice on the same numbers."""
    scale = {np.uint8: 1, np.uint16: 200, np.float32: 1 / 255, np.float64: 1 / 255}[dtype]
    image = (picture(rng, channels) * scale).astype(dtype)
    image = image + rng.uniform(0, 0.01, image.shape).astype(dtype) if image.dtype.kind == "f" else image
    theta_beta = scale * rng.uniform(20, 60, size=channels)
    logits = rng.normal(size=(3, *SHAPE))
    y, x = np.indices(SHAPE).reshape(2, -1, 1)
    rows = np.concatenate([x / 6.13, y / 6.13, image.reshape(-1, channels) / theta_beta], axis=1)
    terms = [
        reference.Term(reference.GridGaussian(SHAPE, 1.57), 3.0),
        reference.Term(reference.Lattice(rows), 5.0),
    ]
    a, _ = reference.mean_field(logits.reshape(3, -1), terms, iterations=10)
    assert_close(refined(logits, image, tuple(theta_beta)), reference.softmax(a).reshape(logits.shape), 1e-7)


@pytest.mark.parametrize("channels", [1, 3, 11])
def test_many_channels_are_near_the_dense_gaussian(rng, channels):
    """Four times the helper's θ_β, to share vertices of 13 dimensions; every channel tells two regions apart."""
    shape = (20, 24)
    image, (y, x) = picture(rng, channels, shape), np.indices(shape)
    region = x + y > sum(shape) / 2
    logits = np.stack([np.zeros(shape), 2 * region - 1 + 1.5 * rng.normal(size=shape)])
    theta_beta = 4 * np.array(contrast_theta_beta(image))
    rows = np.concatenate([np.stack([x, y], axis=-1) / 6.13, image / theta_beta], axis=-1).reshape(x.size, -1)
    terms = [
        reference.Term(reference.GridGaussian(shape, 1.57), 0.5),
        reference.Term(reference.DenseGaussian(rows), 1.5),
    ]
    a, _ = reference.mean_field(logits.reshape(2, -1), terms, iterations=10)
    exact = reference.softmax(a).reshape(logits.shape)
    parameters = CRFParameters(
        theta_alpha=6.13, theta_beta=theta_beta, theta_gamma=1.57, spatial_weight=0.5, bilateral_weight=1.5
    )
    result = refine(logits, image, parameters)
    moved = np.abs(exact - reference.softmax(logits)).mean()
    assert np.abs(result - exact).mean() < 0.05 * moved
