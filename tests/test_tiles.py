"""Images refined tile by tile against the same images refined whole."""

import math
from dataclasses import replace

import numpy as np
import pytest

import crfrnn
import crfrnn.tiles
from crfrnn.parameters import CRFParameters
from crfrnn.tiles import Tile, margins_of, refine_tiled, release_pages, tile_grid
from errors import raises_saying
from tile_cases import HEIGHT, SHORT, WIDTH, coarse_logits, patches, tiled_probabilities


@pytest.fixture
def image(rng):
    return patches(rng)


@pytest.fixture
def logits(rng):
    return coarse_logits(rng)


# The result.


def test_one_tile_is_the_whole_image_to_the_bit(logits, image):
    whole = crfrnn.refine(logits, image, SHORT)
    np.testing.assert_array_equal(tiled_probabilities(logits, image, SHORT, tile=1000), whole)
    np.testing.assert_array_equal(tiled_probabilities(logits, image, SHORT), whole)
    labels = refine_tiled(logits, image, SHORT, tile=1000)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, whole.argmax(axis=0))


def test_tiles_that_see_the_same_are_refined_once(logits, image, monkeypatch):
    calls = []
    refine_unary = crfrnn.tiles.refine_unary
    monkeypatch.setattr(
        crfrnn.tiles, "refine_unary", lambda *given, **named: calls.append(1) or refine_unary(*given, **named)
    )
    refined = tiled_probabilities(logits, image, SHORT, tile=20, overlap=1000)
    np.testing.assert_array_equal(refined, crfrnn.refine(logits, image, SHORT))
    assert len(calls) == 1
    tiled_probabilities(logits, image, SHORT, tile=20, overlap=20)
    assert len(calls) == 1 + len(tile_grid((HEIGHT, WIDTH), (20, 20), 20))


@pytest.mark.parametrize("spatial", ["grid", "lattice"])
def test_seams_are_invisible(logits, image, spatial):
    parameters = replace(SHORT, spatial=spatial)
    whole = crfrnn.refine(logits, image, parameters)
    differences = {
        overlap: np.abs(tiled_probabilities(logits, image, parameters, tile=45, overlap=overlap) - whole)
        for overlap in (0, 8, 24)
    }
    assert differences[0].max() > 0.1
    assert differences[24].max() < 0.02
    assert differences[24].mean() < 1e-4
    assert differences[0].mean() > 4 * differences[8].mean() > 4 * differences[24].mean()
    # Cuts lie at row 45 and at columns 43 and 86.
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    far = np.minimum(np.abs(rows - 45), np.minimum(np.abs(columns - 43), np.abs(columns - 86))) > 12
    assert differences[24][:, far].max() < 2e-3
    tiled = tiled_probabilities(logits, image, parameters, tile=45, overlap=24)
    assert np.mean(tiled.argmax(axis=0) != whole.argmax(axis=0)) < 1e-3


def test_tiles_see_the_lattice_of_the_whole_image(logits, image):
    """Further from a cut than messages reach, nothing is different: that takes a lattice at the same place."""
    parameters = replace(SHORT, theta_alpha=3, theta_gamma=1, iterations=1)
    whole = crfrnn.refine(logits, image, parameters)
    tiled = tiled_probabilities(logits, image, parameters, tile=65, overlap=20)
    np.testing.assert_allclose(tiled, whole, atol=1e-6)
    assert np.abs(crfrnn.refine(logits[:, 25:], image[25:], parameters) - whole[:, 25:])[:, 30:].max() > 1e-3
    shifted = crfrnn.refine(logits[:, 25:], image[25:], parameters, origin=(0, 25))
    np.testing.assert_allclose(shifted[:, 30:], whole[:, 55:], atol=1e-6)


def test_an_origin_has_all_axes(logits, image):
    with raises_saying(ValueError, "origin=(3,) has 1 values", "2 spatial axes"):
        crfrnn.refine(logits, image, SHORT, origin=(3,))


def test_default_margins_suffice(logits, image):
    parameters = replace(SHORT, theta_alpha=6, theta_gamma=1)
    tiles = []
    tiled = tiled_probabilities(logits, image, parameters, tile=45, progress=lambda some: tiles.extend(some) or some)
    assert len(tiles) == 6
    np.testing.assert_allclose(tiled, crfrnn.refine(logits, image, parameters), atol=0.02)


@pytest.mark.parametrize("num_classes", [None, 4])
def test_labels(logits, image, num_classes):
    labels = logits.argmax(axis=0)
    labels[:50, :60] = 255
    whole = crfrnn.refine(labels, image, SHORT, input="labels", num_classes=num_classes).argmax(axis=0)
    tiled = refine_tiled(labels, image, SHORT, input="labels", num_classes=num_classes, tile=45, overlap=30)
    assert np.mean(tiled != whole) < 1e-3


def test_binary_scores(logits, image):
    whole = crfrnn.refine(logits[:1], image, SHORT)
    assert whole.shape == (1, HEIGHT, WIDTH)
    tiled = refine_tiled(logits[:1], image, SHORT, tile=45, overlap=30)
    assert np.mean(tiled != (whole[0] > 0.5)) < 1e-3
    assert 0 < tiled.mean() < 1
    np.testing.assert_allclose(tiled_probabilities(logits[:1], image, SHORT, tile=45, overlap=30), whole, atol=0.02)


def test_a_single_class_of_labels_is_no_foreground(image):
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    assert not refine_tiled(labels, image, SHORT, input="labels", tile=60).any()


def test_volumes_with_spacing(rng):
    shape = (12, 60, 56)
    image, logits = rng.normal(100, 30, shape), rng.normal(size=(2, *shape))
    parameters = replace(SHORT, theta_alpha=(3, 3, 6), theta_gamma=2)
    whole = crfrnn.refine(logits, image, parameters, spacing=(1, 1, 3))
    output = np.empty((2, *shape))
    tiles = []
    refine_tiled(
        logits,
        image,
        parameters,
        output=output,
        tile=32,
        spacing=(1, 1, 3),
        progress=lambda some: tiles.extend(some) or some,
    )
    assert len(tiles) == 4
    assert np.abs(output - whole).max() < 0.02


def test_anything_that_takes_slices(logits, image):
    class Stored:
        """Neither an array nor a memory map."""

        def __init__(self, array):
            self.array, self.shape, self.dtype = array, array.shape, array.dtype

        def __getitem__(self, index):
            return self.array[index].tolist()

        def __setitem__(self, index, values):
            self.array[index] = values

    labels = np.zeros((HEIGHT, WIDTH), np.int16)
    refine_tiled(Stored(logits), Stored(image), SHORT, output=Stored(labels), tile=45)
    np.testing.assert_array_equal(labels, refine_tiled(logits, image, SHORT, tile=45))


# The plan.


@pytest.mark.parametrize("shape", [(100,), (100, 37), (1000, 513), (7, 90, 33)])
@pytest.mark.parametrize("tile", [1, 10, 33, 5000])
def test_cores_share_the_grid_out_evenly(shape, tile):
    if tile == 1 and math.prod(shape) > 5000:
        pytest.skip("as many tiles as pixels")
    margins = tuple(range(3, 3 + len(shape)))
    counts = np.zeros(shape, int)
    tiles = tile_grid(shape, margins, tile)
    for each in tiles:
        counts[each.core] += 1
        inside = counts[each.context][each.inner]
        assert inside.shape == counts[each.core].shape
        for core, context, margin, length in zip(each.core, each.context, margins, shape, strict=True):
            assert context == slice(max(0, core.start - margin), min(length, core.stop + margin))
    assert (counts == 1).all()
    sides = {tuple(part.stop - part.start for part in each.core) for each in tiles}
    for lengths in zip(*sides, strict=True):
        assert max(lengths) - min(lengths) <= 1
        assert max(lengths) <= tile
    assert len(tiles) == math.prod(-(-length // tile) for length in shape)


@pytest.mark.parametrize(("shape", "memory"), [((2000, 3000), 10**6), ((500, 50000), 10**6), ((300, 300, 300), 10**6)])
def test_contexts_stay_within_memory(shape, memory):
    tiles = tile_grid(shape, (40,) * len(shape) if len(shape) == 2 else (10,) * 3, memory=memory, bytes_per_point=7)
    assert max(tile.num_points for tile in tiles) * 7 <= memory
    assert sum(tile.num_points for tile in tiles) < (3 if len(shape) == 2 else 5) * math.prod(shape)


def test_a_tile_knows_where_it_is():
    tile = Tile((slice(10, 20), slice(30, 50)), (slice(5, 25), slice(24, 56)))
    assert tile.origin == (24, 5)
    assert tile.inner == (slice(5, 15), slice(6, 26))
    assert tile.num_points == 20 * 32


def test_margins():
    parameters = CRFParameters(theta_alpha=(10, 20), theta_gamma=2)
    assert margins_of(parameters, 2) == (60, 30)
    assert margins_of(parameters, 2, spacing=(0.5, 2)) == (30, 60)
    assert margins_of(replace(parameters, bilateral_weight=0), 2) == (16, 16)
    assert margins_of(replace(parameters, spatial_weight=0), 2) == (60, 30)
    assert margins_of(replace(parameters, bilateral_weight=0, spatial_weight=0), 2) == (1, 1)


# Memory maps.


def test_pages_of_memory_maps(tmp_path):
    content = np.arange(10000, dtype=np.int32).reshape(100, 100)
    np.save(tmp_path / "a.npy", content)
    for mode in ("r", "r+", "c"):
        mapped = np.load(tmp_path / "a.npy", mmap_mode=mode)
        if mode != "r":
            mapped[3] = 7
        expected = mapped.copy()
        release_pages(mapped)
        release_pages(np.moveaxis(mapped, 0, -1)[:, 3:])
        np.testing.assert_array_equal(mapped, expected)
    release_pages(content)
    release_pages(None)


# Bad input.


@pytest.mark.parametrize(
    ("options", "error", "facts"),
    [
        ({"tile": 0}, ValueError, ["tile=0", "at least 1"]),
        ({"tile": 1.5}, TypeError, ["tile=1.5", "integer"]),
        ({"overlap": -1}, ValueError, ["overlap=-1"]),
        ({"memory": 0}, ValueError, ["memory=0", "positive"]),
        ({"memory": 10**6}, MemoryError, ["a margin of 24 × 24", "0.001 GB", "give more memory or a smaller overlap"]),
        ({"tile": 60, "memory": 10**6}, MemoryError, ["a tile of 45 × 44 pixels", "0.001 GB"]),
        ({"output": np.empty((HEIGHT, WIDTH))}, ValueError, ["output is float64", "uint8 (90, 130)", "(3, 90, 130)"]),
        ({"output": np.empty((2, HEIGHT, WIDTH))}, ValueError, ["output is float64 of shape (2, 90, 130)"]),
        ({"input": "scores"}, ValueError, ["input='scores'"]),
    ],
)
def test_bad_arguments(logits, image, options, error, facts):
    with raises_saying(error, *facts):
        refine_tiled(logits, image, SHORT, **options)


def test_shapes_that_do_not_match(logits, image):
    with raises_saying(ValueError, "image has shape (90, 129, 3)", "(90, 130) or (90, 130, channels)"):
        refine_tiled(logits, image[:, 1:], SHORT)
    with raises_saying(ValueError, "scores have shape (3, 0, 130)"):
        refine_tiled(logits[:, :0], image[:0], SHORT)


def test_values_are_checked_tile_by_tile(logits, image):
    logits[1, 80, 120] = np.nan
    written = np.full((HEIGHT, WIDTH), 9, np.uint8)
    with raises_saying(ValueError, "in the part [21:90, 62:130] of the image", "1 NaN among", "[1, 59, 58]"):
        refine_tiled(logits, image, SHORT, output=written, tile=45, overlap=24)
    assert (written[:45, :86] != 9).all()


@pytest.mark.parametrize(
    ("scores", "image", "said"),
    [
        ((3, 16, 24), (64, 96, 3), "Bring them to it before, as crfrnn.upsample(scores, image) does"),
        ((64, 96), (64, 96, 3), "give scores[np.newaxis]"),
        ((64, 96, 1), (64, 96, 3), "give scores[..., 0][np.newaxis]"),
        ((64, 96, 3), (64, 96, 3), "np.moveaxis(scores, -1, 0)"),
        ((64, 96, 21), (64, 96, 3), "np.moveaxis(scores, -1, 0)"),
        ((3, 64, 96), (3, 64, 96), "np.moveaxis(image, 0, -1)"),
        ((3, 63, 96), (64, 96, 3), "expected (63, 96) or (63, 96, channels) for scores of shape (3, 63, 96)"),
    ],
)
def test_shapes_that_do_not_go_together(scores, image, said):
    with raises_saying(ValueError, f"image has shape {image}", said):
        refine_tiled(np.zeros(scores, np.float32), np.zeros(image, np.uint8), SHORT, tile=40)


@pytest.mark.parametrize("options", [{"upsampling": "bilinear"}, {"mask": 1}, {"return_labels": True}])
def test_what_only_whole_images_have(logits, image, options):
    with raises_saying(TypeError, f"refine_tiled takes no {next(iter(options))}="):
        refine_tiled(logits, image, SHORT, **options)


def test_a_path(image):
    with raises_saying(TypeError, "np.load('scores.npy', mmap_mode='r')"):
        refine_tiled("scores.npy", image, SHORT)


def test_labels_of_which_none_is_known(image):
    with raises_saying(ValueError, "labels hold no known label"):
        refine_tiled(np.full((HEIGHT, WIDTH), -1), image, SHORT, input="labels", tile=45)


@pytest.mark.parametrize("white", [255, 65535])
def test_a_mask_of_two_levels(image, white):
    """Also where a tile holds one of them alone."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint16)
    mask[:, WIDTH // 2 :] = white
    expected = refine_tiled((mask > 0).astype(np.uint8), image, SHORT, input="labels", tile=45)
    np.testing.assert_array_equal(refine_tiled(mask, image, SHORT, input="labels", tile=45), expected)
    assert set(np.unique(expected)) == {0, 1}


def test_signals_have_tiles(rng):
    """One axis, along which θ is one number."""
    scores, signal = rng.normal(size=(3, 40)), rng.integers(0, 256, (40, 2), np.uint8)
    expected = crfrnn.refine(scores, signal, SHORT, return_labels=True)
    np.testing.assert_array_equal(refine_tiled(scores, signal, SHORT, tile=9, overlap=40), expected)
    assert refine_tiled(scores, signal, SHORT, tile=9).shape == (40,)
