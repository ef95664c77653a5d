"""`crfrnn.upsample` against the formula, and scores smaller than the image in `refine` and at the command line."""

import numpy as np
import pytest
from PIL import Image

import crfrnn
from crfrnn import Bilateral, Exact, Given, Lattice, Spatial, contrast_theta_beta, refine, upsample
from crfrnn.cli import main
from crfrnn.crf import Grid
from crfrnn.upsampling import Grids, JointBilateral, Linear, image_guide, interpolate
from errors import raises_saying
from tolerances import assert_close, tolerance
from upsampled import interpolation, upsampling

CASES = {  # low, grid, covers, channels of the image
    "signal": ((4,), (11,), None, 2),
    "photo": ((3, 4), (8, 13), None, 3),
    "padded photo": ((5, 5), (7, 13), (13, 13), 3),
    "centres beyond": ((2, 3), (5, 6), (40, 9), 1),
    "volume": ((2, 2, 3), (4, 4, 5), None, 1),
    "same size": ((6, 5), (6, 5), None, 4),
}
SMALL = crfrnn.CRFParameters(theta_alpha=5, theta_beta=40, theta_gamma=2, iterations=3)


def case(rng, name, dtype=np.float64):
    low, grid, covers, channels = CASES[name]
    scores = rng.normal(size=(3, *low)).astype(dtype)
    return scores, rng.uniform(0, 255, size=(*grid, channels)), covers


def spread(matrix, scores, grid):
    return (scores.reshape(len(scores), -1) @ matrix.T).reshape(len(scores), *grid)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_the_formula(rng, name, dtype):
    scores, image, covers = case(rng, name, dtype)
    alphas, betas = rng.uniform(1, 3, image.ndim - 1), rng.uniform(50, 90, image.shape[-1])
    matrix = upsampling(scores.shape[1:], image, alphas, betas, covers)
    features = Bilateral(tuple(alphas[::-1]), tuple(betas))
    found = upsample(scores, image, features, Exact(), covers=covers)
    assert found.dtype == dtype
    assert_close(found, spread(matrix, scores, image.shape[:-1]), 10 * tolerance(dtype).filter)


@pytest.mark.parametrize("name", CASES)
def test_what_is_taken_when_nothing_is_given(rng, name):
    scores, image, covers = case(rng, name)
    step = np.array(image.shape[:-1] if covers is None else covers) / scores.shape[1:]
    betas = 4 * np.array(contrast_theta_beta(image, shape=image.shape[:-1]))
    expected = spread(upsampling(scores.shape[1:], image, step, betas, covers), scores, image.shape[:-1])
    assert_close(upsample(scores, image, filter=Exact(), covers=covers), expected, 1e-11)


@pytest.mark.parametrize("name", CASES)
def test_linear_interpolation(rng, name):
    scores, image, covers = case(rng, name)
    expected = spread(interpolation(scores.shape[1:], image.shape[:-1], covers), scores, image.shape[:-1])
    assert_close(interpolate(scores, image, covers=covers), expected, 1e-12)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("filter", [None, Lattice(), Exact(), "linear"])
def test_transpose_is_the_adjoint(rng, name, filter):
    scores, image, covers = case(rng, name)
    grids = Grids.of(scores, image_guide(image, scores.shape), covers)
    linear = filter == "linear"
    there = Linear(grids) if linear else JointBilateral(grids, grids.features, filter or Lattice(1), scores.dtype, None)
    cotangent = rng.normal(size=(3, *image.shape[:-1]))
    sides = (there.apply(scores) * cotangent).sum(), (scores * there.transpose(cotangent)).sum()
    assert_close(*sides, 1e-12, floor=1)


def test_a_lattice_is_near_the_exact_filter(rng):
    """Smooth images, whose lattices err least: an edge that the scores cross between two low pixels."""
    image = np.where(np.arange(40) < 17, 40.0, 200.0)[None, :, None] + rng.normal(size=(30, 40, 3))
    scores = np.where(np.arange(5) < 2, -1.0, 1.0)[None, None] * np.ones((2, 4, 1))
    features = Bilateral(8, 30)
    exact, found = (upsample(scores, image, features, filter) for filter in (Exact(), Lattice(1)))
    assert np.abs(found - exact).max() < 0.15
    assert (np.sign(found[0]) == np.where(np.arange(40) < 17, -1, 1)).all()
    assert (np.sign(interpolate(scores, image)[0]) != np.sign(found[0])).any()


def test_spatial_features_do_not_read_the_colours(rng):
    scores, image, _ = case(rng, "photo")
    found = [upsample(scores, each, Spatial(3), Exact()) for each in (image, 0 * image)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("image", ["grey", "flat", "one pixel"])
def test_images_that_tell_little(rng, image):
    shape = {"grey": (8, 9), "flat": (8, 9, 3), "one pixel": (1, 1, 3)}[image]
    levels = rng.uniform(size=shape) if image == "grey" else np.full(shape, 7)
    scores = np.full((2, *np.minimum(shape[:2], (3, 2))), 1.5)
    np.testing.assert_allclose(upsample(scores, levels), np.full((2, *shape[:2]), 1.5), atol=1e-12)


def test_levels_of_any_range_give_the_same(rng):
    scores, image, _ = case(rng, "photo")
    assert_close(upsample(scores, image / 255), upsample(scores, image), 1e-9)


def test_results_stay_in_the_range_of_the_scores(rng):
    scores, image, covers = case(rng, "padded photo", np.float32)
    found = upsample(scores, image, covers=covers)
    for channel, given in zip(found, scores, strict=True):
        assert given.min() - 1e-6 <= channel.min()
        assert channel.max() <= given.max() + 1e-6


def test_threads_give_the_same_bits(rng):
    scores, image = rng.normal(size=(3, 9, 9)), rng.uniform(0, 255, (90, 91, 3))
    np.testing.assert_array_equal(upsample(scores, image, threads=1), upsample(scores, image, threads=3))


GOOD = np.zeros((2, 3, 4)), np.zeros((6, 8, 3))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((np.zeros((2, 9, 4)), GOOD[1]), {}, ValueError, ("(2, 9, 4)", "more than (6, 8) pixels", "make them smaller")),
        ((GOOD[0][0], GOOD[1]), {}, ValueError, ("(3, 4)", "1 spatial axes", "[None] makes it (1, 3, 4)")),
        ((GOOD[0], np.zeros((6, 8, 3, 1))), {}, ValueError, ("(6, 8, 3, 1)", "2 spatial axes", "(2, 3, 4)")),
        ((GOOD[0], GOOD[1] + np.nan), {}, ValueError, ("image holds 144 NaN",)),
        ((GOOD[0] + np.nan, GOOD[1]), {}, ValueError, ("scores holds 24 NaN",)),
        ((np.zeros((0, 3, 4)), GOOD[1]), {}, ValueError, ("scores has shape (0, 3, 4) and is empty",)),
        ((["a"], GOOD[1]), {}, TypeError, ("scores must hold real numbers",)),
        (GOOD, {"features": Given("depth")}, TypeError, ("Given", "expected Bilateral")),
        (GOOD, {"features": "bilateral"}, TypeError, ("a str", "expected Bilateral")),
        (GOOD, {"filter": Grid()}, TypeError, ("Grid", "expected Lattice", "Exact")),
        (GOOD, {"covers": (6, 7)}, ValueError, ("covers=(6, 7)", "at least (6, 8)")),
        (GOOD, {"covers": (9,)}, ValueError, ("covers=(9,)", "along each axis")),
        (GOOD, {"covers": (np.inf, 9)}, ValueError, ("covers=(inf, 9)",)),
        (GOOD, {"covers": 20}, TypeError, ("covers=20", "one for each axis")),
        (GOOD, {"threads": 0}, ValueError, ("threads=0",)),
        ((GOOD[0], np.zeros((6, 8, 15))), {}, ValueError, ("17 dimensions", "at most 16")),
    ],
)
def test_bad_input_is_named(arguments, options, error, words):
    with raises_saying(error, *words):
        upsample(*arguments, **options)


# Refine.


@pytest.mark.parametrize("method", ["joint-bilateral", "bilinear"])
@pytest.mark.parametrize("input", ["logits", "probabilities", "labels"])
def test_refine_brings_scores_to_size(rng, method, input):
    image = rng.integers(0, 256, (12, 16, 3))
    logits = rng.normal(size=(3, 4, 5))
    scores = {
        "logits": logits,
        "probabilities": np.exp(logits) / np.exp(logits).sum(axis=0),
        "labels": logits.argmax(axis=0),
    }[input]
    bring = upsample if method == "joint-bilateral" else interpolate
    if input == "labels":
        larger, kind = bring(crfrnn.unary_from_labels(scores, 3, zero_unsure=False), image), "logits"
    else:
        larger, kind = bring(scores, image), input
    found = refine(scores, image, SMALL, input=input, num_classes=3, upsampling=method)
    np.testing.assert_array_equal(found, refine(larger, image, SMALL, input=kind))
    assert refine(scores, image, SMALL, input=input, upsampling=method, return_labels=True).shape == (12, 16)


def test_refine_leaves_scores_of_the_images_size_alone(rng):
    scores, image = rng.normal(size=(2, 6, 7)), rng.uniform(0, 255, (6, 7, 3))
    np.testing.assert_array_equal(
        refine(scores, image, SMALL, upsampling="joint-bilateral"), refine(scores, image, SMALL)
    )


def test_refine_of_one_channel_and_without_a_kernel_of_the_image(rng):
    odds, image = rng.normal(size=(1, 4, 5)), rng.uniform(0, 255, (8, 10, 3))
    assert refine(odds, image, SMALL, upsampling="joint-bilateral").shape == (1, 8, 10)
    smooth = crfrnn.CRFParameters(bilateral_weight=0, iterations=2)
    expected = refine(interpolate(odds, image), None, smooth)
    np.testing.assert_array_equal(refine(odds, image, smooth, upsampling="bilinear"), expected)


@pytest.mark.parametrize(
    ("scores", "image", "options", "words"),
    [
        (np.zeros((2, 5, 8)), GOOD[1], {}, ("(6, 8, 3)", "(2, 5, 8)", "upsampling='joint-bilateral' or 'bilinear'")),
        (np.zeros((2, 8, 4)), np.zeros((20, 40)), {}, ("8 × 4 pixels", "20 × 40", "swap height and width")),
        (GOOD[0], GOOD[1], {"upsampling": "nearest"}, ("upsampling='nearest' is unknown", "'joint-bilateral'")),
        (GOOD[0], None, {"upsampling": "bilinear"}, ("upsampling='bilinear'", "an image")),
        (np.zeros((2, 9, 9)), GOOD[1], {"upsampling": "bilinear"}, ("(2, 9, 9)", "make them smaller")),
    ],
)
def test_refine_names_what_is_wrong(scores, image, options, words):
    with raises_saying(ValueError, *words):
        refine(scores, image, SMALL, **options)


def test_other_errors_do_not_name_the_option():
    for scores, image in ((np.zeros((2, 6, 8)), np.zeros((8, 6, 3))), (np.zeros((2, 7, 9)), GOOD[1])):
        with pytest.raises(ValueError, match="image has shape") as caught:
            refine(scores, image, SMALL)
        assert "upsampling" not in str(caught.value)


# The command.


@pytest.fixture
def files(tmp_path, rng, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(rng.integers(0, 256, (10, 16, 3), np.uint8)).save("photo.png")
    np.save("scores.npy", rng.normal(size=(3, 4, 4)).astype(np.float32))
    return np.load("scores.npy"), np.asarray(Image.open("photo.png"))


@pytest.mark.parametrize("square", [False, True])
def test_command(files, capsys, square):
    scores, photo = files
    options = ["--upsampling", "joint-bilateral", *(["--square-scores"] if square else [])]
    assert main(["refine", "scores.npy", "photo.png", "-o", "out.npy", *options]) == 0
    assert "upsampled from 4×4 along the photo's edges" in capsys.readouterr().out
    expected = refine(upsample(scores, photo, covers=(16, 16) if square else None), photo)
    np.testing.assert_allclose(np.load("out.npy"), expected, atol=1e-6)
    assert main(["refine", "scores.npy", "photo.png", "-o", "out.npy", "--upsampling", "bilinear"]) == 0
    assert "stretched from 4×4" in capsys.readouterr().out
    np.testing.assert_allclose(np.load("out.npy"), refine(scores, photo, upsampling="bilinear"), atol=1e-3)


def test_command_refuses(files, capsys):
    np.save("scores.npy", np.zeros((3, 4, 5), np.float32))
    options = ["--upsampling", "joint-bilateral", "--square-scores"]
    assert main(["refine", "scores.npy", "photo.png", "-o", "out.npy", *options]) == 1
    assert "covers no square" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["refine", "scores.npy", "photo.png", "-o", "out.npy", "--tile", "8", "--upsampling", "bilinear"])
    assert "--upsampling does not go with tiles" in capsys.readouterr().err
