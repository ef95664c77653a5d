"""What people have in their hands: files, pictures, tensors, masks, maps of the foreground, batches and graphs."""

import warnings

import numpy as np
import pytest
from PIL import Image

import crfrnn
from crfrnn import (
    CRF,
    Bilateral,
    CRFParameters,
    Given,
    InputWarning,
    Kernel,
    MeanField,
    pairwise_terms,
    refine,
    refine_tiled,
)
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


def test_classes_of_a_volume_one_pixel_wide_are_no_map(rng):
    """The image fits them as it is, and a map of the foreground only without its first axis."""
    scores, image = rng.normal(size=(3, 1, 3, 1)), rng.integers(0, 256, (1, 3, 1, 3), np.uint8)
    np.testing.assert_allclose(refine(scores, image, SHORT).sum(axis=0), 1, rtol=1e-6)


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
    if kind.startswith("torch"):
        torch = pytest.importorskip("torch", reason="needs the torch extra")
        pytest.importorskip("scipy.sparse")
        dense = torch.tensor(same_segment())
        return {"torch": dense, "torch coo": dense.to_sparse(), "torch csr": dense.to_sparse_csr()}[kind]
    sparse = pytest.importorskip("scipy.sparse")
    return getattr(sparse, kind)(same_segment())


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize(
    "kind", ["array", "csr_matrix", "coo_array", "csc_matrix", "dok_matrix", "torch", "torch coo", "torch csr"]
)
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


def block_photo(seed: int, height: int = H, width: int = W) -> np.ndarray:
    """A photo of its own: blocks of chance colours."""
    blocks = np.random.default_rng(seed).integers(0, 256, (-(-height // 4), -(-width // 4), 3))
    return np.kron(blocks, np.ones((4, 4, 1)))[:height, :width].astype(np.uint8)


IDS = RANDOM.integers(0, 3, (H, W))
BY_IDS = refine(IDS, PHOTO, SHORT, input="labels")


@pytest.mark.parametrize(
    ("labels", "image", "expected"),
    [
        (IDS[..., None], PHOTO, BY_IDS),
        (IDS[None], PHOTO, BY_IDS[None]),
        (np.stack([IDS, IDS])[:, None], np.stack([PHOTO, PHOTO]), np.stack([BY_IDS, BY_IDS], axis=1)),
        (np.repeat(255 * (IDS[..., None] > 0), 3, axis=2), PHOTO, None),
    ],
)
def test_axes_of_labels(labels, image, expected):
    """An axis of one channel, of a batch of one, and the three alike channels of a grey picture."""
    if expected is None:
        expected = refine((IDS > 0).astype(int), PHOTO, SHORT, input="labels")
    refined = refine(labels, image, SHORT, input="labels")
    assert refined.shape == expected.shape
    if labels.ndim < 4:
        np.testing.assert_array_equal(refined, expected)


def test_labels_in_colours():
    with raises_saying(ValueError, "(12, 15, 3)", "in colours", "one number for each pixel"):
        refine(PHOTO, PHOTO, SHORT, input="labels")
    with raises_saying(ValueError, "the picture holds colours (RGB)"):
        refine(Image.fromarray(PHOTO), PHOTO, SHORT, input="labels")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
def test_masks_and_maps_in_pictures_of_pillow(mode, tmp_path):
    mask = (FOREGROUND > 0).astype(np.uint8)
    picture = Image.fromarray(255 * mask).convert(mode)
    for given in (picture, tmp_path / "mask.png"):
        picture.save(tmp_path / "mask.png")
        np.testing.assert_array_equal(
            refine(given, PHOTO, SHORT, input="labels"), refine(mask, PHOTO, SHORT, input="labels")
        )
        np.testing.assert_array_equal(
            refine(given, PHOTO, SHORT, input="probabilities"),
            refine(mask[None].astype(np.float32), PHOTO, SHORT, input="probabilities")[0],
        )


def test_a_soft_mask_in_a_jpeg(tmp_path):
    soft = np.round(255 / (1 + np.exp(-FOREGROUND))).astype(np.uint8)
    Image.fromarray(soft).save(tmp_path / "soft.jpg", quality=95)
    with raises_saying(ValueError, "soft.jpg", "input='probabilities'"):
        refine(tmp_path / "soft.jpg", PHOTO, SHORT, input="labels")
    with Image.open(tmp_path / "soft.jpg") as stored:
        levels = np.asarray(stored) / np.float32(255)
    expected = refine(levels[None], PHOTO, SHORT, input="probabilities")[0]
    np.testing.assert_array_equal(refine(tmp_path / "soft.jpg", PHOTO, SHORT, input="probabilities"), expected)


def test_void_beside_a_palette_is_no_foreground():
    """In VOC's label images 255 is void; an array has lost its palette and is a mask."""
    picture = Image.fromarray(np.where(FOREGROUND > 0, 255, 0).astype(np.uint8))
    picture.putpalette([0, 0, 0] * 255 + [224, 224, 192])
    with raises_saying(ValueError, "class 0 alone, and 255, which stands for unknown"):
        refine(picture, PHOTO, SHORT, input="labels")
    assert refine(picture, PHOTO, SHORT, input="labels", num_classes=3).shape == (3, H, W)


@pytest.mark.parametrize(
    ("levels", "classes"), [((0, 15), 16), ((0, 100), 101), ((0, 101), 2), ((0, 127), 2), ((20, 200), 2), ((3, 255), 4)]
)
def test_levels_that_are_a_mask(levels, classes):
    """Ids of classes are 100 at most; 255 beside another level than 0 is unknown."""
    labels = np.where(FOREGROUND > 0, levels[1], levels[0])
    assert len(refine(labels, PHOTO, SHORT, input="labels")) == classes


@pytest.mark.torch
def test_a_tensor_without_numbers():
    torch = pytest.importorskip("torch")
    with raises_saying(TypeError, "scores is a tensor on the device meta, which holds no numbers"):
        refine(torch.from_numpy(SCORES).to("meta"), PHOTO)


def test_a_preset_that_was_meant():
    with raises_saying(ValueError, "there is no preset 'deeplabb'", "did you mean 'deeplab'?"):
        refine(SCORES, PHOTO, "deeplabb")


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        ((-1, 0), ("class 0 alone, and -1", "mask == 0 or mask == -1")),
        ((-1, 1), ("class 1 alone, and -1", "mask == 1")),
        ((-128, 127), ("class 127 alone, and -128", "mask == 127")),
        ((-1, 255), ("no known label, only -1, 255", "mask == 255")),
    ],
)
@pytest.mark.parametrize("tiled", [False, True])
def test_a_mask_with_negative_levels(levels, said, tiled):
    """Negative labels are unknown: the result would be the other level everywhere."""
    labels = np.where(FOREGROUND > 0, levels[1], levels[0])
    call = refine_tiled if tiled else refine
    with raises_saying(ValueError, *said, "num_classes="):
        call(labels, PHOTO, SHORT, input="labels")
    assert (refine(labels, PHOTO, SHORT, input="labels", num_classes=300, return_labels=True) == max(levels)).all()


def test_ramps_are_no_class_ids():
    faint = np.round(np.tile(np.linspace(0, 60, 70), (80, 1))).astype(np.uint8)
    with raises_saying(ValueError, "61 levels from 0 to 60", "input='probabilities'", "num_classes=61"):
        refine(faint, block_photo(1, 80, 70), SHORT, input="labels")
    assert len(refine(faint, block_photo(1, 80, 70), SHORT, input="labels", num_classes=61)) == 61


def test_an_image_of_a_batch_of_one():
    for image in (PHOTO[None], [PHOTO], [Image.fromarray(PHOTO)]):
        np.testing.assert_array_equal(refine(SCORES, image, SHORT), EXPECTED)
    grey = refine(SCORES, PHOTO[..., 0], SHORT)
    np.testing.assert_array_equal(refine(SCORES, PHOTO[None, ..., 0], SHORT), grey)
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    np.testing.assert_array_equal(refine(SCORES, torch.tensor(PHOTO).permute(2, 0, 1)[None], SHORT), EXPECTED)


def test_lists_of_what_is_taken_alone(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    expected = np.stack([EXPECTED, EXPECTED])
    for images in ([tmp_path / "photo.png"] * 2, [Image.fromarray(PHOTO)] * 2, [PHOTO] * 2):
        np.testing.assert_array_equal(refine([SCORES, SCORES], images, SHORT), expected)
    with raises_saying(ValueError, "scores are a list", "(3, 11, 15) and (3, 12, 15)", "one at a time"):
        refine([SCORES, SCORES[:, 1:]], [PHOTO, PHOTO], SHORT)
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    tensors = [torch.tensor(PHOTO).permute(2, 0, 1)] * 2
    np.testing.assert_array_equal(refine([torch.tensor(SCORES)] * 2, tensors, SHORT), expected)


@pytest.mark.torch
def test_batches_of_labels_and_maps_in_tensors():
    """As in PyTorch: (B, H, W) beside (B, K, H, W), with as many classes for each image."""
    torch = pytest.importorskip("torch")
    images = torch.tensor(np.stack([PHOTO, PHOTO[::-1]])).permute(0, 3, 1, 2)
    labels = np.stack([np.minimum(IDS, 1), IDS])
    labels[1, 0, 0] = 255
    expected = [refine(labels[0], PHOTO, SHORT, input="labels", num_classes=3)]
    expected.append(refine(labels[1], PHOTO[::-1], SHORT, input="labels"))
    np.testing.assert_array_equal(refine(torch.tensor(labels), images, SHORT, input="labels"), np.stack(expected))
    mask = np.ones((2, H, W))
    mask[:, :4] = 0
    masked = refine(torch.tensor(labels), images, SHORT, input="labels", mask=mask)
    one = refine(labels[1], PHOTO[::-1], SHORT, input="labels", mask=mask[1])
    np.testing.assert_array_equal(masked[1], one)
    maps = np.stack([FOREGROUND, -FOREGROUND])
    expected = [refine(maps[0], PHOTO, SHORT), refine(maps[1], PHOTO[::-1], SHORT)]
    np.testing.assert_array_equal(refine(torch.tensor(maps), images, SHORT), np.stack(expected))
    np.testing.assert_array_equal(refine(torch.tensor(maps)[:, None], images, SHORT)[:, 0], np.stack(expected))


@pytest.mark.parametrize("form", ["labels", "(n, H, W)", "(n, H, W, 1)"])
def test_a_batch_that_is_taken_for_a_volume_is_doubted(form):
    """Photos of different things, but not the slices of a volume or the frames of a clip."""
    photos = np.stack([block_photo(seed, 24, 32) for seed in range(4)])
    slices = np.clip(photos[:1] + RANDOM.normal(0, 9, photos.shape), 0, 255)
    scores = RANDOM.normal(size=(4, 24, 32)) if form != "labels" else RANDOM.integers(0, 3, (4, 24, 32))
    scores = scores[..., None] if "1)" in form else scores
    options = {"input": "labels"} if form == "labels" else {}
    with pytest.warns(InputWarning, match=r"volume of 4 slices.*neighbouring slices are unlike"):
        refine(scores, photos, SHORT, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refine(scores, slices, SHORT, **options)


@pytest.mark.parametrize(
    ("scores", "image", "said"),
    [
        (np.zeros((H, W, 5)), PHOTO, "np.moveaxis(scores, -1, 0)"),
        (np.full((H, W, 5), 0.2), PHOTO, "np.moveaxis(scores, -1, 0)"),
        (np.zeros((W, W, 5)), block_photo(0, W, W), "np.moveaxis(scores, -1, 0)"),
        (RANDOM.normal(size=(H, W, 3)), PHOTO, "np.moveaxis(scores, -1, 0)"),
        (np.zeros((2, H, W, 5)), np.stack([PHOTO, PHOTO]), "np.moveaxis(scores, -1, 1)"),
        (np.zeros((2, 5, H, W)), np.zeros((2, 3, H, W)), "np.moveaxis(image, 1, -1)"),
        (PHOTO, np.zeros((5, H, W)), "refine(scores, image)"),
        (PHOTO, SCORES, "refine(scores, image)"),
    ],
)
@pytest.mark.parametrize("input", ["logits", "probabilities"])
def test_other_orders(scores, image, said, input):
    with raises_saying(ValueError, str(scores.shape), said):
        refine(scores, image, SHORT, input=input)


def test_swapped_scores_and_image():
    with pytest.warns(InputWarning, match=r"are they swapped\? The order is refine\(scores, image\)"):
        refine(np.moveaxis(PHOTO, -1, 0).astype(float), np.moveaxis(SCORES, 0, -1), SHORT)


@pytest.mark.parametrize("side", [5, 6])
def test_a_cube_of_as_many_classes_and_slices(side):
    """Volumes in a batch have three axes, so nothing is left open."""
    scores, levels = RANDOM.normal(size=(2, 2, *(side,) * 3)), RANDOM.integers(0, 256, (2, *(side,) * 3))
    expected = np.stack([refine(*each, SHORT) for each in zip(scores, levels, strict=True)])
    np.testing.assert_array_equal(refine(scores, levels, SHORT), expected)


LOW = RANDOM.normal(0, 2, (3, 4, 5))


def test_scores_of_fewer_pixels():
    """By linear interpolation, as Pillow stretches them, and not without a word."""
    large = np.stack([np.asarray(Image.fromarray(each).resize((W, H), 2)) for each in LOW.astype(np.float32)])
    with pytest.warns(InputWarning, match=r"scores are 4 × 5 pixels and the image 12 × 15.*linear.*'joint-bilateral'"):
        found = refine(LOW.astype(np.float32), PHOTO, SHORT)
    np.testing.assert_allclose(found, refine(large, PHOTO, SHORT), atol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(refine(LOW.astype(np.float32), PHOTO, SHORT, upsampling="bilinear"), found)


@pytest.mark.filterwarnings("ignore::crfrnn.plausibility.InputWarning")
def test_forms_of_scores_of_fewer_pixels():
    expected = refine(LOW, PHOTO, SHORT)
    np.testing.assert_array_equal(refine(LOW[None], PHOTO, SHORT), expected[None])
    np.testing.assert_array_equal(refine(LOW[None], PHOTO[None], SHORT), expected[None])
    both = refine(np.stack([LOW, LOW]), np.stack([PHOTO, PHOTO]), SHORT)
    np.testing.assert_array_equal(both, np.stack([expected] * 2))
    foreground = refine(LOW[:1], PHOTO, SHORT)
    np.testing.assert_array_equal(refine(LOW[0], PHOTO, SHORT), foreground[0])
    np.testing.assert_array_equal(refine(LOW[0][..., None], PHOTO, SHORT), foreground[0][..., None])
    np.testing.assert_array_equal(refine(LOW[0], PHOTO[..., 0], SHORT), refine(LOW[:1], PHOTO[..., 0], SHORT)[0])
    labels = LOW.argmax(axis=0)
    by_labels = refine(crfrnn.unary_from_labels(labels, 3, zero_unsure=False), PHOTO, SHORT)
    np.testing.assert_array_equal(refine(labels, PHOTO, SHORT, input="labels"), by_labels)
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    image = torch.tensor(PHOTO).permute(2, 0, 1)
    np.testing.assert_array_equal(refine(torch.tensor(LOW), image, SHORT), expected)
    np.testing.assert_array_equal(refine(torch.tensor(LOW)[None], image[None], SHORT), expected[None])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.torch
@pytest.mark.parametrize("form", ["float8_e4m3fn", "float8_e5m2", "sparse", "quantized", "conj", "int64"])
def test_tensors_of_any_layout(form):
    torch = pytest.importorskip("torch")
    whole = torch.tensor(SCORES).round()
    given = {
        "sparse": whole.to_sparse,
        "quantized": lambda: torch.quantize_per_tensor(whole, 1.0, 0, torch.qint8),
        "conj": lambda: (1j * whole).conj().imag.neg(),
    }.get(form, lambda: whole.to(getattr(torch, form)))()
    np.testing.assert_allclose(refine(given, PHOTO, SHORT), refine(whole.numpy(), PHOTO, SHORT), atol=1e-6)


def test_numbers_at_odd_addresses(rng):
    """Bytes of a file or a message, read where a number does not begin at a multiple of its size."""

    def moved(array):
        room = bytearray(array.nbytes + 1)
        room[1:] = array.tobytes()
        return np.frombuffer(room, array.dtype, offset=1).reshape(array.shape)

    scores, image = rng.normal(size=(3, 6, 7)).astype(np.float32), rng.integers(0, 9999, (6, 7, 3)).astype(np.uint16)
    assert not moved(scores).flags.aligned
    np.testing.assert_array_equal(refine(moved(scores), moved(image)), refine(scores, image))
    features, batch = rng.normal(size=(20, 3)), np.arange(20, dtype=np.int32) % 2
    np.testing.assert_array_equal(
        crfrnn.PermutohedralLattice(moved(features), batch=moved(batch)).weights,
        crfrnn.PermutohedralLattice(features, batch=batch).weights,
    )


def test_doubles_of_another_order_of_bytes_stay_doubles(rng):
    image = rng.random((5, 6, 3)) * 255
    features = crfrnn.bilateral_features(image.astype(">f8"), 5.0, 9.0)
    np.testing.assert_array_equal(features, crfrnn.bilateral_features(image, 5.0, 9.0))
    assert crfrnn.pairwise_terms(image.astype(">f8"), "photos")[0].dtype == np.float64
