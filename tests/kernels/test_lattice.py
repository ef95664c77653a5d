"""The permutohedral lattice: its geometry, and its filter against the plain NumPy one and the exact Gaussian."""

import numpy as np
import pytest

from crfrnn import PermutohedralLattice, bilateral_features, reference
from tolerances import assert_close, tolerance

DIMENSIONS = range(1, 17)
CHANNELS = [1, 2, 3, 5, 8, 21, 24, 40, 70]
DTYPES = [np.float32, np.float64]


def cloud(rng, n, d, dtype=np.float64, spread=2.0):
    """Points close enough that their simplices share vertices, in any dimension."""
    return (rng.normal(size=(n, d)) * spread / np.sqrt(d)).astype(dtype)


def lattice_steps(d):
    """(d+1, d): the feature-space moves from a vertex to its neighbours, one row per blur direction.

    They are the vertices of a regular simplex around 0: scaled so that [½ 1 ½] along each makes a unit Gaussian.
    """
    elevation = np.zeros((d + 1, d))
    for i in range(d):
        elevation[: i + 1, i] = 1
        elevation[i + 1, i] = -(i + 1)
        elevation[:, i] *= np.sqrt(2 / 3) * (d + 1) / np.sqrt((i + 1) * (i + 2))
    return np.linalg.lstsq(elevation, (d + 1) * np.eye(d + 1) - 1, rcond=None)[0].T


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", DIMENSIONS)
def test_weights_are_barycentric(rng, d, dtype):
    lattice = PermutohedralLattice(cloud(rng, 300, d, dtype))
    assert lattice.weights.shape == (300, d + 1)
    assert lattice.weights.dtype == dtype
    rounding = 16 * np.finfo(dtype).eps
    assert lattice.weights.min() >= 0
    np.testing.assert_allclose(lattice.weights.sum(axis=1), 1, atol=rounding)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_every_vertex_is_touched_and_no_simplex_repeats_one(rng, d):
    lattice = PermutohedralLattice(cloud(rng, 300, d))
    assert set(np.unique(lattice.vertices)) == set(range(lattice.num_vertices))
    assert all(len(set(simplex)) == d + 1 for simplex in lattice.vertices)


@pytest.mark.parametrize("neighbour_rounds", [0, 1])
@pytest.mark.parametrize("d", [1, 2, 3, 5, 8])
def test_neighbours_are_mutual(rng, d, neighbour_rounds):
    lattice = PermutohedralLattice(cloud(rng, 200, d), neighbour_rounds=neighbour_rounds)
    assert lattice.neighbours.shape == (d + 1, lattice.num_vertices, 2)
    everyone = np.arange(lattice.num_vertices)
    for previous, following in lattice.neighbours.transpose(0, 2, 1):
        for there, back in [(previous, following), (following, previous)]:
            exists = there >= 0
            assert (back[there[exists]] == everyone[exists]).all()
            assert (there != everyone).all()


@pytest.mark.parametrize(
    ("d", "neighbour_rounds"), [*((d, 0) for d in DIMENSIONS), *((d, 1) for d in range(1, 9)), (2, 3)]
)
def test_same_graph_as_reference(rng, d, neighbour_rounds):
    assert_same_graph(cloud(rng, 60, d), neighbour_rounds)


def test_same_graph_as_reference_of_many_points(rng):
    """Several chunks, each of more vertices than it has points, and more vertices than are searched together."""
    assert_same_graph(rng.normal(0, 2, (20000, 5)), 0)


def assert_same_graph(features, neighbour_rounds):
    ours = PermutohedralLattice(features, neighbour_rounds=neighbour_rounds)
    truth = reference.Lattice(features, neighbour_rounds=neighbour_rounds)
    assert ours.num_vertices == truth.num_vertices
    np.testing.assert_allclose(ours.weights, truth.weights, atol=1e-12)
    name = np.full(truth.num_vertices, -1)
    name[truth.vertices] = ours.vertices
    np.testing.assert_array_equal(name[truth.vertices], ours.vertices)
    # Vertices that no point touches have no name yet; they get it from a named neighbour.
    for _ in range(neighbour_rounds):
        for theirs, mine in zip(truth.neighbours, ours.neighbours, strict=True):
            for side in (0, 1):
                known = (name >= 0) & (theirs[:, side] >= 0)
                name[theirs[known, side]] = mine[name[known], side]
    assert sorted(name) == list(range(ours.num_vertices))
    renamed = np.where(truth.neighbours >= 0, name[truth.neighbours], -1)
    np.testing.assert_array_equal(ours.neighbours[:, name], renamed)


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", DIMENSIONS)
def test_filter_in_every_dimension(rng, d, dtype, transpose):
    features = cloud(rng, 257, d, dtype)
    values = rng.normal(size=(257, 3)).astype(dtype)
    result = PermutohedralLattice(features).filter(values, transpose=transpose)
    assert result.dtype == dtype
    expected = reference.Lattice(features).filter(values, transpose=transpose)
    assert_close(result, expected, tolerance(dtype).filter)


@pytest.mark.parametrize("neighbour_rounds", [0, 1])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", CHANNELS)
def test_filter_of_every_channel_count(rng, channels, dtype, transpose, neighbour_rounds):
    features = cloud(rng, 401, 4, dtype)
    values = rng.normal(size=(401, channels)).astype(dtype)
    lattice = PermutohedralLattice(features, neighbour_rounds=neighbour_rounds)
    expected = reference.Lattice(features, neighbour_rounds=neighbour_rounds).filter(values, transpose=transpose)
    assert_close(lattice.filter(values, transpose=transpose), expected, tolerance(dtype).filter)


def test_one_channel_may_be_a_vector(rng):
    lattice = PermutohedralLattice(cloud(rng, 50, 3))
    values = rng.normal(size=50)
    result = lattice.filter(values)
    assert result.shape == (50,)
    np.testing.assert_array_equal(result, lattice.filter(values[:, None])[:, 0])


@pytest.mark.parametrize(("d", "neighbour_rounds"), [*((d, 0) for d in DIMENSIONS), (1, 1), (2, 1), (3, 2), (5, 1)])
def test_transpose_is_adjoint(rng, d, neighbour_rounds):
    lattice = PermutohedralLattice(cloud(rng, 300, d), neighbour_rounds=neighbour_rounds)
    x, y = rng.normal(size=(2, 300, 5))
    forward, backward = np.vdot(lattice.filter(x), y), np.vdot(x, lattice.filter(y, transpose=True))
    size = np.linalg.norm(lattice.filter(x)) * np.linalg.norm(y)
    assert abs(forward - backward) <= 1e-12 * size


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_is_the_filtered_mask(rng, dtype):
    features, mask = cloud(rng, 200, 3, dtype), rng.random(200)
    lattice, truth = PermutohedralLattice(features), reference.Lattice(features)
    for given, expected in [((), truth.filter(np.ones(200))), ((mask,), truth.filter(mask))]:
        norm = lattice.norm(*given)
        assert norm.dtype == dtype
        assert_close(norm, expected, tolerance(dtype).filter)
        assert_close(truth.norm(*given), expected, 1e-15)


def test_transpose_differs_from_forward(rng):
    """So that the test above cannot pass by ignoring `transpose`."""
    lattice = PermutohedralLattice(cloud(rng, 300, 5))
    values = rng.normal(size=(300, 2))
    difference = lattice.filter(values) - lattice.filter(values, transpose=True)
    assert np.linalg.norm(difference) > 1e-3 * np.linalg.norm(lattice.filter(values))


@pytest.mark.parametrize("d", DIMENSIONS)
def test_permuting_points_permutes_rows(rng, d):
    features, values = cloud(rng, 200, d), rng.normal(size=(200, 3))
    order = rng.permutation(200)
    expected = PermutohedralLattice(features).filter(values)[order]
    assert_close(PermutohedralLattice(features[order]).filter(values[order]), expected, 1e-12)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_moving_by_whole_lattice_steps_changes_nothing(rng, d):
    features, values = cloud(rng, 200, d), rng.normal(size=(200, 3))
    still = PermutohedralLattice(features)
    for move in (lattice_steps(d)[0], rng.integers(-9, 10, d + 1) @ lattice_steps(d)):
        moved = PermutohedralLattice(features + move)
        assert moved.num_vertices == still.num_vertices
        assert_close(moved.filter(values), still.filter(values), 1e-9)


@pytest.mark.parametrize("d", [1, 2, 3, 8])
def test_moving_by_part_of_a_step_changes_the_lattice(rng, d):
    """So that the test above cannot pass with a lattice finer than the rules say."""
    features, values = cloud(rng, 200, d), rng.normal(size=(200, 3))
    still = PermutohedralLattice(features).filter(values)
    moved = PermutohedralLattice(features + 0.5 * lattice_steps(d)[0]).filter(values)
    assert np.abs(moved - still).max() > 1e-3 * np.abs(still).max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("neighbour_rounds", [0, 1])
def test_a_batch_is_a_disjoint_union(rng, neighbour_rounds, dtype):
    features = cloud(rng, 300, 3, dtype)
    values = rng.normal(size=(300, 4)).astype(dtype)
    batch = rng.integers(0, 3, 300)
    batch[batch == 1] = 7
    union = PermutohedralLattice(features, batch=batch, neighbour_rounds=neighbour_rounds)
    for transpose in (False, True):
        result = union.filter(values, transpose=transpose)
        for item in (0, 2, 7):
            rows = batch == item
            alone = PermutohedralLattice(features[rows], neighbour_rounds=neighbour_rounds)
            assert_close(result[rows], alone.filter(values[rows], transpose=transpose), tolerance(dtype).filter)
    sizes = [PermutohedralLattice(features[batch == i], neighbour_rounds=neighbour_rounds) for i in (0, 2, 7)]
    assert union.num_vertices == sum(lattice.num_vertices for lattice in sizes)


@pytest.mark.parametrize(
    ("d", "neighbour_rounds", "bound"),
    [(1, 0, 0.065), (2, 0, 0.125), (3, 0, 0.25), (3, 1, 0.14), (5, 1, 0.17)],
)
def test_close_to_the_exact_gaussian(rng, d, neighbour_rounds, bound):
    """Relative error of the whole normalised kernel on a dense cloud; the bounds are what the method can do."""
    features = rng.normal(size=(500, d)) * 1.5
    ours = PermutohedralLattice(features, neighbour_rounds=neighbour_rounds)
    exact = reference.DenseGaussian(features)
    kernel, truth = (k.filter(np.eye(500)) / k.filter(np.ones((500, 1))) for k in (ours, exact))
    assert np.linalg.norm(kernel - truth) < bound * np.linalg.norm(truth)


def test_added_neighbours_bring_an_image_closer_to_the_exact_gaussian(rng, pydensecrf):
    image = pydensecrf["image"][:40, :48]
    features = bilateral_features(image, 160.0, 3.0)
    values = rng.normal(size=(len(features), 4))
    ones = np.ones((len(features), 1))
    exact = reference.DenseGaussian(features)
    truth = exact.filter(values) / exact.filter(ones)
    truth -= truth.mean(axis=0)
    error = []
    for neighbour_rounds in (0, 1):
        lattice = PermutohedralLattice(features, neighbour_rounds=neighbour_rounds)
        message = lattice.filter(values) / lattice.filter(ones)
        error.append(np.linalg.norm(message - message.mean(axis=0) - truth) / np.linalg.norm(truth))
    assert error[0] < 0.26
    assert error[1] < 0.8 * error[0]


@pytest.mark.parametrize("neighbour_rounds", [0, 1])
def test_tiny_bandwidth_on_a_0_to_255_image(rng, neighbour_rounds):
    """Coordinates of ±60 000 steps: 16-bit keys overflow there."""
    image = rng.integers(0, 256, (9, 11, 3)).astype(np.float32)
    image[0, 0], image[-1, -1] = 0, 255
    lattice = PermutohedralLattice(bilateral_features(image, 160.0, 0.01), neighbour_rounds=neighbour_rounds)
    values = rng.normal(size=(99, 2)).astype(np.float32)
    # No two pixels are near each other in colour, so the normalised filter is the identity.
    normalised = lattice.filter(values) / lattice.filter(np.ones((99, 1), np.float32))
    np.testing.assert_allclose(normalised, values, atol=0.05)
    assert lattice.num_vertices >= 99 * 6


@pytest.mark.parametrize("d", [1, 5, 16])
def test_features_far_from_the_origin(rng, d):
    """Coordinates too wide for packed keys in few bits; float64 still tells the points apart."""
    features, values = cloud(rng, 100, d), rng.normal(size=(100, 2))
    far = features + 1e6
    expected = reference.Lattice(far).filter(values)
    assert_close(PermutohedralLattice(far).filter(values), expected, 1e-8)


def test_coincident_points_share_one_simplex():
    lattice = PermutohedralLattice(np.full((40, 3), 0.37))
    assert lattice.num_vertices == 4
    filtered = lattice.filter(np.arange(40.0))
    np.testing.assert_allclose(filtered, filtered[0])


def test_properties_describe_the_points(rng):
    lattice = PermutohedralLattice(cloud(rng, 123, 4))
    assert (lattice.num_points, lattice.num_features) == (123, 4)
    assert lattice.vertices.shape == lattice.weights.shape == (123, 5)


def test_the_callers_arrays_are_left_alone(rng):
    features, values = cloud(rng, 80, 3), rng.normal(size=(80, 2))
    before = features.copy(), values.copy()
    features.flags.writeable = values.flags.writeable = False
    PermutohedralLattice(features, batch=np.zeros(80, np.int64)).filter(values)
    np.testing.assert_array_equal(features, before[0])
    np.testing.assert_array_equal(values, before[1])


def test_a_lattice_keeps_its_own_copy_of_what_it_needs(rng):
    features, values = cloud(rng, 80, 3), rng.normal(size=(80, 2))
    lattice = PermutohedralLattice(features)
    expected = lattice.filter(values)
    features[:] = 0
    np.testing.assert_array_equal(lattice.filter(values), expected)
