"""What numbers give away: which images and scores are doubted, and which are not."""

import warnings

import numpy as np
import pytest

import crfrnn
from crfrnn import CRFParameters, InputWarning, refine, unary_from_labels
from crfrnn.levels import check_levels, unseen
from crfrnn.plausibility import Likeness, common_sum, likeness
from errors import raises_saying

H, W = 40, 50
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # of ImageNet


def photo() -> np.ndarray:
    """Smooth shapes and noise, as in photos."""
    rng = np.random.default_rng(0)
    levels = np.zeros((H, W, 3))
    levels[:] = np.linspace(40, 120, W)[:, None]
    levels[10:30, 15:35] = (220, 180, 90)
    return np.clip(levels + rng.normal(0, 3, levels.shape), 0, 255).astype(np.uint8)


def scan() -> np.ndarray:
    """An MRI of 12 bits: noise around 600 and 900 in a body, and air around it."""
    rng = np.random.default_rng(1)
    levels = np.zeros((H, W))
    levels[5:35, 5:45] = rng.normal(2000, 60, (30, 40))
    levels[15:25, 15:30] += 1500
    return levels


def black_but(level: float) -> np.ndarray:
    """One object of four pixels in 250 000."""
    image = np.zeros((500, 500, 3))
    image[301:303, 250:252] = level + np.arange(3) / 7
    return image


def doubts(image: np.ndarray, **parameters: object) -> list[str]:
    channels = image[..., np.newaxis] if image.ndim == 2 else image
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_levels(CRFParameters(**parameters).crf, channels)
    assert all(each.category is InputWarning for each in caught)
    return [str(each.message) for each in caught]


FAR = {
    "from 0 to 1": (photo() / 255, "image_range=(0, 1)"),
    "from 0 to 1 in half precision": ((photo() / 255).astype(np.float16), "image_range=(0, 1)"),
    "from -1 to 1": (photo() / 127.5 - 1, "image_range=(-1, 1)"),
    "normalised as for ImageNet": ((photo() / 255 - MEAN) / STD, "image_range=(-"),
    "an MRI of mean 0 and deviation 1": ((scan() - scan().mean()) / scan().std(), "image_range=(-"),
    "16 bits": (photo().astype(np.uint16) * 257, "image_range=(0, 65535)"),
}


@pytest.mark.parametrize("theta_beta", [3.0, 13.0, (5.0,)])
@pytest.mark.parametrize("kind", FAR)
def test_levels_far_from_theta_beta(kind, theta_beta):
    image, said = FAR[kind]
    (message,) = doubts(image, theta_beta=theta_beta)
    for fact in (said, f"theta_beta={np.ravel(theta_beta)[0]:g}", f"to {float(image.max()):.5g},"):
        assert fact in message


def test_levels_of_12_bits():
    """Noise tells neighbours apart."""
    (message,) = doubts(scan(), theta_beta=3.0)
    assert "hardly any pixels are connected" in message


def test_deviations_in_shares_of_the_range_of_a_photo():
    (message,) = doubts(photo(), theta_beta=0.05)
    assert "theta_beta=12.75" in message


CLOSE = {
    "a photo": photo(),
    "a photo in floating point": photo() + 0.25,
    "a dark photo": photo() // 30,
    "a dark photo in floating point": (photo() // 30).astype(np.float32),
    "a photo without contrast": 100 + photo() / 100,
    "a photo of mean 0": photo() - 118.5,
    "one level": np.full((H, W, 3), 0.5),
    "black": np.zeros((H, W, 3)),
    "black but for an object": black_but(200),
    "a mask": (photo()[..., 0] > 100).astype(np.float32),
    "a mask of truth values": photo()[..., 0] > 100,
    "a mask of 0 and 255": 255 * (photo()[..., 0] > 100).astype(np.uint8),
    "noise": np.random.default_rng(2).integers(0, 256, (H, W, 3)).astype(np.uint8),
    "one pixel": np.array([[[0.2, 0.2, 0.2]]]),
}


@pytest.mark.parametrize("theta_beta", [1.0, 3.0, 13.0, 60.0])
@pytest.mark.parametrize("kind", CLOSE)
def test_levels_that_may_be_meant(kind, theta_beta):
    assert doubts(CLOSE[kind], theta_beta=theta_beta) == []


@pytest.mark.parametrize("kind", [*FAR, *CLOSE])
def test_what_the_contrast_suggests_is_not_doubted(kind):
    image = FAR[kind][0] if kind in FAR else CLOSE[kind]
    image = image.astype(float)
    shape = image.shape[:2]
    assert doubts(image, theta_beta=crfrnn.contrast_theta_beta(image, shape=shape)) == []


@pytest.mark.parametrize(("image", "low", "high"), [(photo() / 255, 0, 1), (photo().astype(np.uint16) * 257, 0, 65535)])
def test_a_range_that_was_said_is_not_doubted(image, low, high):
    assert doubts(image, image_range=(low, high)) == []


def test_a_range_that_cannot_be():
    (message,) = doubts(photo().astype(float), image_range=(0, 1))
    assert "far outside image_range=(0, 1)" in message


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (photo() / 255, (0, 255)),
        (photo() / 255, (0, 65535)),
        (photo(), (0, 65535)),
        (photo().astype(np.uint16) * 4, (0, 65535)),
    ],
)
def test_levels_in_a_small_part_of_the_range_that_was_said(image, said):
    (message,) = doubts(image, image_range=said)
    assert f"a small part of image_range=({said[0]:g}, {said[1]:g})" in message


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (photo() // 30, (0, 255)),
        ((photo() // 30).astype(np.uint16) * 771, (0, 65535)),
        (photo() / 255, (0, 1)),
        (photo() / 510, (0, 1)),
        (np.zeros((H, W, 3)), (0, 1)),
        (black_but(200).astype(np.uint16) * 257, (0, 65535)),
        (scan() - 1000, (-1000, 3000)),
        (np.clip(scan(), 800, 1200), (-1000, 3000)),
    ],
)
def test_dark_and_faint_levels_of_a_range_that_was_said(image, said):
    assert doubts(image, image_range=said) == []


def test_kernels_without_an_image_or_a_weight_are_not_asked():
    assert doubts(photo() / 255, bilateral_weight=0) == []


def test_two_tones_from_0_to_1():
    """Nothing is lost in silence, and saying the range gives what levels of 0-255 give."""
    image = np.full((64, 64, 3), (40, 60, 50), np.uint8)
    image[20:40, 20:40] = (200, 150, 120)
    p = np.full((64, 64), 0.3)
    p[20:40, 20:40] = 0.7
    scores, options = np.stack([1 - p, p]), {"input": "probabilities", "return_labels": True}
    assert refine(scores, image, "pydensecrf", **options).sum() == 400
    with pytest.warns(InputWarning, match=r"0\.7843.*theta_beta=13.*image_range=\(0, 1\)"):
        assert refine(scores, image / 255, "pydensecrf", **options).sum() == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert refine(scores, image / 255, "pydensecrf", image_range=(0, 1), **options).sum() == 400
        whole = crfrnn.preset("pydensecrf").crf
        assert refine(scores, image / 255, whole, image_range=(0, 1), **options).sum() == 400


@pytest.mark.parametrize("filter", ["lattice", "exact"])
def test_a_range_is_a_theta_beta(filter):
    """θ_β = 13 of 255 levels is 13 / 255 of a range of 1, and 26 / 255 of one of 2."""
    scores = np.random.default_rng(3).normal(size=(3, 12, 13))
    image = photo()[:12, :13] / 255.0
    said = refine(scores, image, CRFParameters(theta_beta=13, image_range=(0, 1), filter=filter))
    np.testing.assert_array_equal(said, refine(scores, image, CRFParameters(theta_beta=13 / 255, filter=filter)))
    said = refine(scores, 2 * image - 1, CRFParameters(theta_beta=13, image_range=(-1, 1), filter=filter))
    np.testing.assert_array_equal(
        said, refine(scores, 2 * image - 1, CRFParameters(theta_beta=13 * (2 / 255), filter=filter))
    )


@pytest.mark.parametrize("wrong", [(1, 0), (0,), 1.0, (0, np.inf), "photo", (0, 1, 2), (0, 0)])
def test_a_wrong_range(wrong):
    with pytest.raises((ValueError, TypeError), match="image_range"):
        CRFParameters(image_range=wrong)


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=0))
    return e / e.sum(axis=0)


LOGITS = np.random.default_rng(4).normal(0, 2, (4, H, W))
P = softmax(LOGITS)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("kind", "scores"), [("probabilities", P), ("log-probabilities", np.log(P)), ("energies", -np.log(P))]
)
def test_what_scores_look_like(kind, scores, last, dtype):
    given = (np.moveaxis(scores, 0, -1).reshape(scores.shape) if last else scores).astype(dtype)
    assert likeness(given) == Likeness(kind, last)
    if not last:  # in the memory of a network with channels last
        assert likeness(np.moveaxis(np.ascontiguousarray(np.moveaxis(given, 0, -1)), -1, 0)) == Likeness(kind, False)


@pytest.mark.parametrize(
    "scores",
    [
        LOGITS,
        np.random.default_rng(5).random((4, H, W)),  # logits that happen to lie from 0 to 1
        np.full((4, H, W), 0.25),
        np.zeros((4, H, W)),
        np.eye(4)[np.random.default_rng(6).integers(0, 4, (H, W))].transpose(2, 0, 1),
        20 * np.eye(4)[np.random.default_rng(6).integers(0, 4, (H, W))].transpose(2, 0, 1),
        P[:, :1, :3],
        P[:1],
    ],
)
def test_scores_that_give_nothing_away(scores):
    assert likeness(scores) is None
    assert common_sum(scores) is None


@pytest.mark.parametrize(
    ("scores", "facts"),
    [
        (P, "input='probabilities'"),
        (100 * P, "sum to 100 .*percentages.*input='probabilities'"),
        (np.floor(255 * P).astype(np.float32), r"sum to 25\d.* at every pixel"),
        (np.random.default_rng(7).multinomial(9, P[:, 0, 0], (H, W)).transpose(2, 0, 1) / 1.0, "sum to 9 .*votes"),
        (-np.log(P), "energies"),
        (np.moveaxis(np.log(P), 0, -1).reshape(P.shape), r"np\.moveaxis\(scores, -1, 0\)"),
        (P[0], "output of a sigmoid.*input='probabilities'"),
        (0.4 * P[0], "output of a sigmoid.*none is below 0"),
        ((P[0] > 0.5).astype(float), "a mask.*0 is a probability of 0.5 and 1 one of 0.73"),
        ((P[0] > 0.5) * 255.0, "a mask.*input='probabilities'"),
        (np.eye(4)[P.argmax(axis=0)].transpose(2, 0, 1), "labels of 4 classes one-hot"),
        (np.eye(4, dtype=bool)[P.argmax(axis=0)].transpose(2, 0, 1), "labels of 4 classes one-hot"),
    ],
)
def test_logits_that_are_something_else(scores, facts):
    with pytest.warns(InputWarning, match=facts):
        refine(scores, photo())


def test_probabilities_whose_classes_were_last():
    with raises_saying(ValueError, "(4, 40, 50)", "np.moveaxis(scores, -1, 0)"):
        refine(np.moveaxis(P, 0, -1).reshape(P.shape), photo(), input="probabilities")


@pytest.mark.parametrize(
    ("scores", "facts"),
    [
        (np.floor(P * 255).astype(np.uint8), ["rounded", "scores.sum(axis=0)"]),
        (0.8 * P, ["sum to 0.8", "scores.sum(axis=0)"]),
        (-np.log(np.broadcast_to(P[:, :1, :1], P.shape)), ["energies, -log p", "give -scores"]),
        (100 * P, ["sum to about 100", "scores.sum(axis=0)"]),
        (-np.log(P), ["energies", "give -scores"]),
        (LOGITS, ["logits"]),
        (1 / (1 + np.exp(-LOGITS)), ["sigmoid", "scores[c]"]),
        (255 * P[:1], ["divide levels up to 255"]),
    ],
)
def test_advice_on_probabilities_that_are_none(scores, facts):
    with raises_saying(ValueError, *facts):
        refine(scores, photo(), input="probabilities")


@pytest.mark.parametrize("scores", [1 / (1 + np.exp(-LOGITS)), np.sqrt(P)])
def test_maps_of_each_class_as_logits(scores):
    """Outputs of a sigmoid and activation maps do not sum to 1, and are no logits either."""
    with pytest.warns(InputWarning, match=r"logits of all 4 classes are from .* to .*before the sigmoid"):
        refine(scores, photo())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refine(scores - 0.1, photo())
        refine(scores * 1.5, photo())
        refine(scores / 3, photo())


def test_a_warning_is_shown_once_for_each_line():
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        for level in (1, 2, 3):
            check_levels(CRFParameters().crf, level * photo() / 1000)
        check_levels(CRFParameters().crf, photo() / 1000)
    assert len(caught) == 2
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("labels", "classes", "doubted"),
    [
        ([0, 1], 2, True),
        ([0, 1, 2], 3, True),
        ([0, 2], 3, True),
        ([0, 1, 255], 2, True),
        ([0, 1, 2], 2, False),
        ([1, 2], 3, False),
        ([0, 1, 5], 21, False),
        ([0, 0], 2, False),
    ],
)
def test_a_class_0_that_would_be_unknown(labels, classes, doubted):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        unary_from_labels(labels, classes)
        assert bool(caught) == doubted
        unary_from_labels(np.minimum(labels, classes - 1), classes, zero_unsure=False)
    assert all("zero_unsure=False" in str(each.message) for each in caught)
    assert len(caught) == doubted


def test_probabilities_of_8_bits():
    levels = np.round(P * 255).astype(np.uint8)
    rounded = levels.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(
        refine(levels, photo(), input="probabilities"), refine(rounded, photo(), input="probabilities")
    )


def test_levels_beyond_float64():
    """They are looked at in float64, without NumPy's word on the cast."""
    image = np.array([[[np.longdouble(np.finfo(np.longdouble).max)] * 3], [[np.longdouble(1)] * 3]])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert unseen(image, [3.0]) in (None, "hardly any pixels are connected")
