"""What people have in their hands: files, pictures, tensors, masks, maps of the foreground, batches and graphs."""

import warnings

import numpy as np
import pytest
from PIL import Image

import crfrnn
from crfrnn import CRF, Bilateral, CRFParameters, Given, InputWarning, Kernel, MeanField, pairwise_terms, refine
from crfrnn.unary import mask_labels
from errors import raises_saying

H, W = 12, 15
RANDOM = np.random.default_rng(0)
PHOTO = RANDOM.integers(0, 256, (H, W, 3)).astype(np.uint8)
SCORES = RANDOM.normal(0, 2, (3, H, W)).astype(np.float32)
FOREGROUND = RANDOM.normal(0, 2, (H, W))
SHORT = CRFParameters(theta_alpha=5, theta_beta=30, iterations=3)
EXPECTED = refine(SCORES, PHOTO, SHORT)


@pytest.mark.parametrize(
    ("start", "values", "same"),
    [
        ("deeplab", {"theta_beta": 10, "iterations": 2}, {"theta_beta": 10, "iterations": 2}),
        ("deeplab", {"solver": "frank-wolfe"}, {"solver": "frank-wolfe"}),
        (CRFParameters(theta_alpha=9), {"normalization": "symmetric"}, {"normalization": "symmetric"}),
    ],
)
def test_values_of_parameters(start, values, same):
    from dataclasses import replace

    whole = replace(crfrnn.preset(start) if isinstance(start, str) else start, **same)
    np.testing.assert_array_equal(refine(SCORES, PHOTO, start, **values), refine(SCORES, PHOTO, whole))


def test_values_of_a_crf_of_any_kernels():
    crf = CRF([Kernel(Bilateral(5, 30), weight=2)], solver=MeanField(3))
    expected = refine(SCORES, PHOTO, CRF([Kernel(Bilateral(5, 30), weight=2)], solver=MeanField(7, damping=0.5)))
    np.testing.assert_array_equal(refine(SCORES, PHOTO, crf, iterations=7, damping=0.5), expected)
    with raises_saying(ValueError, "spatial_weight", "change the kernels"):
        refine(SCORES, PHOTO, crf, spatial_weight=1)


def test_values_elsewhere():
    tiled = crfrnn.refine_tiled(SCORES, PHOTO, theta_alpha=5, theta_beta=30)
    np.testing.assert_array_equal(tiled, refine(SCORES, PHOTO, theta_alpha=5, theta_beta=30, return_labels=True))
    assert len(pairwise_terms(PHOTO, "deeplab", spatial_weight=0)) == 1


def test_a_mistyped_value():
    with raises_saying(TypeError, "theta_bta", "did you mean theta_beta?"):
        refine(SCORES, PHOTO, theta_bta=3)
    with raises_saying(TypeError, "no parameter colour", "theta_alpha"):
        refine(SCORES, PHOTO, colour=3)


@pytest.mark.parametrize("input", ["logits", "probabilities"])
@pytest.mark.parametrize("image", [PHOTO, PHOTO[..., 0]])
def test_a_map_of_the_foreground(input, image):
    scores = FOREGROUND if input == "logits" else 1 / (1 + np.exp(-FOREGROUND))
    expected = refine(scores[np.newaxis], image, SHORT, input=input)
    np.testing.assert_array_equal(refine(scores, image, SHORT, input=input), expected[0])
    np.testing.assert_array_equal(refine(scores[..., np.newaxis], image, SHORT, input=input), expected[0][..., None])
    labels = refine(scores, image, SHORT, input=input, return_labels=True)
    np.testing.assert_array_equal(labels, (expected[0] > 0.5).astype(np.uint8))


def test_a_map_of_the_foreground_of_a_volume():
    volume, scores = RANDOM.integers(0, 256, (6, H, W)).astype(np.uint8), RANDOM.normal(size=(6, H, W))
    np.testing.assert_array_equal(refine(scores, volume, SHORT), refine(scores[None], volume, SHORT)[0])
    with raises_saying(ValueError, "(3, 12, 15)", "np.moveaxis(image, 0, -1)", "scores[np.newaxis]"):
        refine(SCORES, np.moveaxis(PHOTO, -1, 0))


@pytest.mark.parametrize("side", [2, 6])
def test_one_class_of_a_cube_is_no_batch_of_slices(side):
    """Each axis is as long as all others: the shape of a batch of 1 with as many classes and channels."""
    cube, levels = RANDOM.normal(0, 2, (side,) * 3), RANDOM.integers(0, 256, (side,) * 3)
    both = refine(np.stack([0 * cube, cube]), levels, SHORT)
    np.testing.assert_allclose(refine(cube[np.newaxis], levels, SHORT)[0], both[1], atol=1e-6)


def test_batches():
    other = PHOTO[::-1]
    scores, images = np.stack([SCORES, SCORES[:, ::-1]]), np.stack([PHOTO, other])
    expected = np.stack([EXPECTED, refine(SCORES[:, ::-1], other, SHORT)])
    np.testing.assert_array_equal(refine(scores, images, SHORT), expected)
    np.testing.assert_array_equal(refine(scores[:1], PHOTO, SHORT), expected[:1])
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    lone = refine(torch.tensor(scores[:1]), torch.tensor(PHOTO).permute(2, 0, 1), SHORT)
    np.testing.assert_array_equal(lone, expected[:1])
    mask = np.ones((2, H, W))
    mask[:, :3] = 0
    masked = refine(scores, images, SHORT, mask=mask, return_labels=True)
    np.testing.assert_array_equal(masked[1], refine(scores[1], other, SHORT, mask=mask[1], return_labels=True))
    with raises_saying(ValueError, "one at a time"):
        refine(scores, images, SHORT, return_activity=True)


def test_a_batch_of_as_many_images_as_classes():
    """It may be a volume as well: probabilities tell, logits do not."""
    scores, images = np.stack([SCORES, SCORES * 2, SCORES / 2]), np.stack([PHOTO] * 3)
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    refined = refine(p, images, SHORT, input="probabilities")
    np.testing.assert_array_equal(refined[0], refine(p[0], PHOTO, SHORT, input="probabilities"))
    with pytest.warns(InputWarning, match=r"\(3, 3, 12, 15\).*volume of 3 slices.*one at a time"):
        refine(scores, images, SHORT)


def test_files(tmp_path):
    np.save(tmp_path / "scores.npy", SCORES)
    np.savez(tmp_path / "scores.npz", SCORES)
    np.save(tmp_path / "photo.npy", PHOTO)
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    for scores in ("scores.npy", "scores.npz"):
        for photo in ("photo.png", "photo.npy"):
            np.testing.assert_array_equal(refine(tmp_path / scores, str(tmp_path / photo), SHORT), EXPECTED)
    with raises_saying(ValueError, "photo.png", "input='labels'"):
        refine(tmp_path / "photo.png", PHOTO)
    with raises_saying(ValueError, "scan.nii.gz", "crfrnn refine"):
        refine(SCORES, tmp_path / "scan.nii.gz")
    with raises_saying(ValueError, "none.png", "no such file"):
        refine(SCORES, tmp_path / "none.png")


def test_a_photo_that_an_exif_tag_turns(tmp_path):
    turned = Image.fromarray(np.rot90(PHOTO, 1).copy())  # stored on its side
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as picture:
        assert picture.size == (H, W)
        np.testing.assert_array_equal(refine(SCORES, picture, SHORT), EXPECTED)
    np.testing.assert_array_equal(refine(SCORES, tmp_path / "turned.png", SHORT), EXPECTED)


@pytest.mark.parametrize(
    ("white", "dtype"), [(255, np.uint8), (1, np.uint8), (65535, np.uint16), (255, float), (200, int), (1, bool)]
)
def test_a_mask_of_two_levels(white, dtype):
    mask = np.where(FOREGROUND > 0, white, 0).astype(dtype)
    expected = refine((FOREGROUND > 0).astype(int), PHOTO, SHORT, input="labels", num_classes=2)
    np.testing.assert_array_equal(refine(mask, PHOTO, SHORT, input="labels"), expected)
    np.testing.assert_array_equal(refine(mask, PHOTO, SHORT, input="labels", num_classes=2), expected)
    assert set(np.unique(refine(mask, PHOTO, SHORT, input="labels", return_labels=True))) <= {0, 1}


@pytest.mark.parametrize("labels", [[0, 15], [0, 1, 255], [3, 3], [0, 21, 255], [1, 2], [255, 255], [-1, 4]])
def test_labels_are_no_mask(labels):
    assert mask_labels(np.array(labels)) is None


def test_a_soft_mask():
    soft = np.round(255 / (1 + np.exp(-FOREGROUND * 4))).astype(np.uint8)
    with raises_saying(ValueError, "soft edges", "input='probabilities'", "num_classes="):
        refine(soft, PHOTO, SHORT, input="labels")
    expected = refine(soft[np.newaxis] / np.float32(255), PHOTO, SHORT, input="probabilities")[0]
    np.testing.assert_array_equal(refine(soft, PHOTO, SHORT, input="probabilities"), expected)
    np.testing.assert_array_equal(refine(soft.astype(np.uint16), PHOTO, SHORT, input="probabilities"), expected)
    with raises_saying(ValueError, "probabilities", "0 to 2"):
        refine(RANDOM.integers(0, 3, (H, W)), PHOTO, SHORT, input="probabilities")
    assert refine(soft, PHOTO, SHORT, input="labels", num_classes=256).shape == (256, H, W)
    with raises_saying(ValueError, "uint8", "input='labels'", "input='probabilities'"):
        refine(soft, PHOTO, SHORT)


def test_labels_that_no_class_has():
    labels = np.full((H, W), 2**64 - 1, np.uint64)
    with raises_saying(ValueError, str(2**64 - 1), "signed"):
        refine(labels, PHOTO, SHORT, input="labels")


def test_masked_arrays():
    """What is hidden is unknown among labels, and refused elsewhere."""
    hidden = RANDOM.random((H, W)) < 0.3
    labels = np.ma.MaskedArray(RANDOM.integers(0, 3, (H, W)), hidden)
    expected = refine(labels.filled(-1), PHOTO, SHORT, input="labels", num_classes=3)
    np.testing.assert_array_equal(refine(labels, PHOTO, SHORT, input="labels", num_classes=3), expected)
    with raises_saying(ValueError, "image", f"{3 * hidden.sum()} of {3 * H * W}", "mask="):
        refine(SCORES, np.ma.MaskedArray(PHOTO, np.repeat(hidden[..., None], 3, axis=-1)), SHORT)
    with raises_saying(ValueError, "scores is a masked array", "mask="):
        refine(np.ma.MaskedArray(SCORES, np.stack([hidden] * 3)), PHOTO, SHORT)
    np.testing.assert_array_equal(refine(np.ma.MaskedArray(SCORES), PHOTO, SHORT), EXPECTED)


def same_segment() -> np.ndarray:
    segments = np.arange(H * W) // 7
    return (segments[:, None] == segments).astype(float)


def graph(kind: str) -> object:
    sparse = pytest.importorskip("scipy.sparse")
    return getattr(sparse, kind)(same_segment())


@pytest.mark.parametrize("kind", ["array", "csr_matrix", "coo_array", "csc_matrix"])
def test_a_kernel_given_by_its_matrix(kind):
    class SameSegment:
        def filter(self, values, transpose=False):
            return same_segment().astype(values.dtype) @ values

    crf = CRF([Kernel(Given("near"), weight=2, normalization="symmetric"), *SHORT.crf.kernels], solver=MeanField(3))
    matrix = same_segment() if kind == "array" else graph(kind)
    expected = refine(SCORES, PHOTO, crf, given={"near": SameSegment()})
    np.testing.assert_allclose(refine(SCORES, PHOTO, crf, given={"near": matrix}), expected, atol=1e-6)
    term = crfrnn.PairwiseTerm(matrix, weight=2.0)
    assert term.num_points == H * W
    rows = np.random.default_rng(1).random((H * W, 2))
    np.testing.assert_allclose(term.filter(rows), same_segment() @ rows / same_segment().sum(axis=1)[:, None])


def test_a_directed_graph():
    matrix = np.triu(same_segment())
    term = crfrnn.PairwiseTerm(matrix, normalization="none")
    rows = np.random.default_rng(1).random((H * W, 2))
    np.testing.assert_allclose(term.filter(rows, transpose=True), matrix.T @ rows)


@pytest.mark.parametrize(
    ("matrix", "error", "facts"),
    [
        (lambda: graph("csr_matrix")[:-1, :-1], ValueError, ["(179, 179)", "(180, 180)"]),
        (lambda: same_segment() * np.nan, ValueError, ["NaN", "matrix"]),
        (lambda: same_segment() * 1j, TypeError, ["real numbers", "complex128"]),
    ],
)
def test_a_wrong_matrix(matrix, error, facts):
    with raises_saying(error, *facts):
        refine(SCORES, PHOTO, CRF([Kernel(Given("near"))]), given={"near": matrix()})


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_tensors(dtype):
    torch = pytest.importorskip("torch")
    tensor = torch.tensor(SCORES).to(getattr(torch, dtype))
    expected = refine(tensor.double().numpy(), PHOTO, SHORT)
    image = torch.tensor(PHOTO)
    for given in (image, image.movedim(-1, 0), image.to(getattr(torch, dtype))):
        refined = refine(tensor, given, SHORT)
        assert isinstance(refined, np.ndarray)
        np.testing.assert_allclose(refined, expected, atol=1e-5)
    batch = refine(tensor[None], image.movedim(-1, 0)[None], SHORT)
    np.testing.assert_allclose(batch, expected[None], atol=1e-5)
    np.testing.assert_allclose(
        refine(tensor[0], image, SHORT), refine(tensor[0].double().numpy(), PHOTO, SHORT), atol=1e-5
    )


@pytest.mark.torch
def test_tensors_that_require_a_gradient():
    torch = pytest.importorskip("torch")
    tensor = torch.tensor(SCORES, requires_grad=True)
    with pytest.warns(InputWarning, match=r"crfrnn\.torch\.CrfRnn"):
        np.testing.assert_array_equal(refine(tensor, PHOTO, SHORT), EXPECTED)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        refine(tensor, PHOTO, SHORT)
    with raises_saying(TypeError, "image", "detach"):
        pairwise_terms(torch.tensor(PHOTO / 1.0, requires_grad=True), SHORT)
