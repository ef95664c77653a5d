"""Feature rows: their order, their scale and their precision."""

import numpy as np
import pytest

from crfrnn import bilateral_features, spatial_features


def expected_rows(image, alphas, betas):
    """Pixel by pixel: coordinates with the last axis first, then channels."""
    rows = []
    for position in np.ndindex(image.shape[:-1]):
        coordinates = [x / theta for x, theta in zip(reversed(position), alphas, strict=True)]
        rows.append(coordinates + [float(c) / theta for c, theta in zip(image[position], betas, strict=True)])
    return np.array(rows)


@pytest.mark.parametrize("shape", [(7,), (4, 5), (3, 4, 5)])
def test_spatial(shape):
    thetas = (2.0, 3.0, 5.0)[: len(shape)]
    features = spatial_features(shape, thetas)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected_rows(np.zeros((*shape, 0)), thetas, ()), rtol=1e-6)
    np.testing.assert_array_equal(spatial_features(shape, 3.0), spatial_features(shape, (3.0,) * len(shape)))


@pytest.mark.parametrize("shape", [(4, 5, 3), (4, 5, 1), (2, 3, 4, 2), (3, 2, 7)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float16, np.float32, np.float64, bool])
def test_bilateral(rng, shape, dtype):
    image = (rng.random(shape) * 255).astype(dtype)
    alphas = (80.0, 40.0, 20.0)[: len(shape) - 1]
    betas = tuple(range(3, 3 + shape[-1]))
    features = bilateral_features(image, alphas, betas)
    assert features.dtype == (np.float64 if dtype == np.float64 else np.float32)
    np.testing.assert_allclose(features, expected_rows(image, alphas, betas), rtol=1e-6)


def test_single_precision_divides(rng):
    """Quotients to the bit, as other tools compute them; a product with 1/θ rounds twice and differs."""
    image = rng.integers(0, 256, (40, 70, 3), dtype=np.uint8)
    features = bilateral_features(image, 160.0, 13.0)
    x, y = np.meshgrid(np.arange(70, dtype=np.float32), np.arange(40, dtype=np.float32))
    columns = [x / np.float32(160), y / np.float32(160), *np.moveaxis(image.astype(np.float32) / np.float32(13), -1, 0)]
    np.testing.assert_array_equal(features, np.stack(columns, axis=-1).reshape(-1, 5))
    np.testing.assert_array_equal(spatial_features((40, 70), 160.0), features[:, :2])
    assert (features[:, 2:] != image.reshape(-1, 3) * (np.float32(1) / np.float32(13))).any()


def test_grey_pictures_need_no_channel_axis(rng):
    grey = rng.integers(0, 256, (6, 9), dtype=np.uint8)
    np.testing.assert_array_equal(bilateral_features(grey, 8.0, 3.0), bilateral_features(grey[..., None], 8.0, 3.0))


def test_one_dimensional_signals(rng):
    signal = rng.normal(size=(11, 4))
    features = bilateral_features(signal, 5.0, (1.0, 2.0, 3.0, 4.0), shape=(11,))
    np.testing.assert_allclose(features, expected_rows(signal, (5.0,), (1.0, 2.0, 3.0, 4.0)))


def test_grey_volumes(rng):
    volume = rng.normal(size=(2, 3, 4)).astype(np.float32)
    features = bilateral_features(volume, (1.0, 2.0, 3.0), 0.5, shape=(2, 3, 4))
    np.testing.assert_allclose(features, expected_rows(volume[..., None], (1.0, 2.0, 3.0), (0.5,)), rtol=1e-6)


def test_views_give_the_rows_of_their_copies(rng):
    image = rng.integers(0, 256, (3, 8, 10), dtype=np.uint8)
    for view in (image.transpose(1, 2, 0), image.transpose(2, 1, 0)[::-1, ::2]):
        view.flags.writeable = False
        np.testing.assert_array_equal(bilateral_features(view, 8.0, 3.0), bilateral_features(view.copy(), 8.0, 3.0))
