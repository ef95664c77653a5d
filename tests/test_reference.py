"""The oracles themselves, against other tools' outputs and sums written out by hand: none of our fast code is used."""

import numpy as np
import pytest

from crfrnn import reference
from tolerances import GOLDEN, assert_close


def image_rows(image, alpha, beta):
    height, width, _ = image.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    columns = [x.ravel() / np.float32(alpha), y.ravel() / np.float32(alpha)]
    columns += [channel.ravel().astype(np.float32) / np.float32(beta) for channel in np.moveaxis(image, -1, 0)]
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("normalization", ["none", "before", "after", "symmetric"])
def test_pydensecrf(pydensecrf, normalization):
    image = pydensecrf["image"]
    terms = [
        reference.Term(reference.Lattice(image_rows(image[..., :0], 3, 1)), 0.8, normalization),
        reference.Term(reference.Lattice(image_rows(image, 80, 13)), 1.5, normalization),
    ]
    logits, _ = reference.mean_field(-pydensecrf["unary"], terms)
    assert np.abs(reference.softmax(logits) - pydensecrf[f"q_{normalization}_potts_T5"]).max() < 1e-5


def test_pydensecrf_in_six_dimensions(pydensecrf):
    terms = [reference.Term(reference.Lattice(pydensecrf["features_6d"].T), 2.0, "symmetric")]
    logits, _ = reference.mean_field(-pydensecrf["unary"], terms)
    assert np.abs(reference.softmax(logits) - pydensecrf["q_features_6d_T5"]).max() < 1e-5


def test_original_layer_and_its_gradients(crfrnn_layer):
    image = crfrnn_layer["image_bgr_mean_subtracted"].transpose(1, 2, 0)
    terms = [
        reference.Term(reference.Lattice(image_rows(image[..., :0], 3, 1)), crfrnn_layer["spatial_ker_weights"]),
        reference.Term(reference.Lattice(image_rows(image, 160, 3)), crfrnn_layer["bilateral_ker_weights"]),
    ]
    compatibility = -crfrnn_layer["compatibility_matrix"]
    logits, marginals = reference.mean_field(crfrnn_layer["logits"].reshape(21, -1), terms, compatibility=compatibility)
    assert np.abs(logits - crfrnn_layer["output"].reshape(21, -1)).max() < GOLDEN
    gradients = reference.mean_field_vjp(
        crfrnn_layer["cotangent"].reshape(21, -1), marginals, terms, compatibility=compatibility
    )
    for name, gradient in [
        ("logits", gradients.unary),
        ("spatial_ker_weights", gradients.weights[0]),
        ("bilateral_ker_weights", gradients.weights[1]),
        ("compatibility_matrix", -gradients.compatibility),
    ]:
        assert np.abs(gradient - crfrnn_layer[f"grad_{name}"].reshape(gradient.shape)).max() < GOLDEN, name


def test_dense_gaussian_by_hand():
    kernel = reference.DenseGaussian([[0.0, 0.0], [1.0, 2.0]])
    np.testing.assert_allclose(kernel.matrix, [[1, np.exp(-2.5)], [np.exp(-2.5), 1]])


def test_lattice_of_one_feature_by_hand():
    """d = 1: steps of 1/(√(1/2)·2·√(2/3)) features, a hat function, [½ 1 ½] twice (both directions lie on one line)."""
    step = 1 / (np.sqrt(2 / 3) * 2 / np.sqrt(2))
    points = np.arange(-8, 9)[:, None] * step
    values = np.zeros((17, 1))
    values[8] = 1
    filtered = reference.Lattice(points).filter(values)[:, 0]
    expected = np.zeros(17)
    expected[6:11] = np.array([0.25, 1.0, 1.5, 1.0, 0.25]) / 1.5
    np.testing.assert_allclose(filtered, expected, atol=1e-12)


@pytest.mark.parametrize("neighbour_rounds", [0, 1])
def test_lattice_transpose_is_the_matrix_transpose(rng, neighbour_rounds):
    lattice = reference.Lattice(rng.normal(size=(40, 3)), rng.integers(0, 2, 40), neighbour_rounds)
    matrix = lattice.filter(np.eye(40))
    np.testing.assert_allclose(lattice.filter(np.eye(40), transpose=True), matrix.T, atol=1e-14)
    assert np.abs(matrix - matrix.T).max() > 1e-4


def test_gradients_are_those_of_finite_differences(rng):
    kernels = [reference.Lattice(rng.normal(size=(12, 3))), reference.GridGaussian((3, 4), (1.0, 2.0))]
    unary, cotangent, mask = rng.normal(size=(3, 12)), rng.normal(size=(3, 12)), rng.random(12)
    start = [unary, rng.normal(size=(3, 3)), rng.normal(size=3), rng.normal(size=(3, 3))]

    def run(parameters):
        terms = [
            reference.Term(kernel, weight, "symmetric", mask)
            for kernel, weight in zip(kernels, parameters[1:3], strict=True)
        ]
        options = {"compatibility": parameters[3], "damping": 0.3}
        return terms, options, *reference.mean_field(parameters[0], terms, iterations=3, **options)

    terms, options, _, marginals = run(start)
    found = reference.mean_field_vjp(cotangent, marginals, terms, **options)
    for index, gradient in enumerate([found.unary, *found.weights, found.compatibility]):
        direction = rng.normal(size=start[index].shape)
        ends = []
        for side in (-1e-5, 1e-5):
            moved = list(start)
            moved[index] = start[index] + side * direction
            ends.append(np.vdot(cotangent, run(moved)[2]))
        assert (ends[1] - ends[0]) / 2e-5 == pytest.approx(np.vdot(gradient, direction), rel=1e-6)


def test_grid_gaussian_is_the_product_of_its_axes(rng):
    values = rng.normal(size=(6 * 5, 2))
    rows, columns = reference.GridGaussian((6,), 1.3), reference.GridGaussian((5,), 2.0)
    matrix = np.kron(rows.filter(np.eye(6)), columns.filter(np.eye(5)))
    assert_close(reference.GridGaussian((6, 5), (1.3, 2.0)).filter(values), matrix @ values, 1e-14)
