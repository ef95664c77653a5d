"""The mean field of `crfrnn.torch.gpu` against the native core and the oracles.

One suite for plain torch on the CPU, for both kinds of steps on a GPU (`pytest -m gpu`) and, in a process of its own
where TRITON_INTERPRET is set (`triton_suite.py`), for the Triton kernels on the CPU.
"""

import numpy as np
import pytest

from crfrnn import PermutohedralLattice, reference
from crfrnn.inference import batch
from crfrnn.inference.backend import Execution, Inputs
from errors import raises_saying
from kernel_lists import ON_LATTICES, scene, truth
from specified import Specified, specified
from tolerances import Tolerance, assert_close, tolerance

torch = pytest.importorskip("torch", reason="needs the torch extra")
from crfrnn.torch.gpu import meanfield, plain  # noqa: E402
from crfrnn.torch.gpu import terms as pairwise  # noqa: E402
from crfrnn.torch.gpu.grid import build_grid  # noqa: E402
from crfrnn.torch.gpu.lattice import build_lattice  # noqa: E402
from places import DTYPES, INTERPRETED, cases  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("unwritten_memory_is_nan")]


def settings(**changes):
    return specified(**({"iterations": 2 if INTERPRETED else 3} | changes))


def refined_by(steps, logits, image, mask, couplings, numbers, keep=False):
    return meanfield.forward(numbers.crf, Inputs(logits, image, mask), couplings, keep, numbers.execution, steps)


def gradients_by(steps, cotangent, record, couplings, numbers):
    """To logits and couplings, which need no inputs."""
    found = meanfield.vjp(numbers.crf, Inputs(None), cotangent, record, couplings, numbers.execution, False, steps)
    return found.logits, found.couplings


@pytest.mark.parametrize("offset", cases(1e4, 1e5, 3e5, few=[1e5]))
@pytest.mark.parametrize("d", cases(1, 2, 5, 8, few=[2, 5]))
def test_weights_far_from_the_origin(rng, place, d, offset):
    """As in the native core, differences to lattice points are worked out in float64 there."""
    features = (rng.uniform(-3, 3, (200, d)) + offset).astype(np.float32)
    weights = place.lattice(features).weight.cpu().numpy().T
    _, expected = reference.simplices(features.astype(np.float64))
    np.testing.assert_allclose(np.sort(weights, axis=1), np.sort(expected, axis=1), atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", cases(1, 2, 3, 5, 7, 8, 16, few=[1, 5, 16]))
def test_simplices_and_weights_are_the_native_ones_to_the_bit(rng, place, d, dtype):
    """On a grid of thirds most points lie on the border of simplices, where rounding decides."""
    features = np.round(rng.uniform(-6, 9, size=(150, d))).astype(dtype) / dtype(3)
    lattice, native = place.lattice(features), PermutohedralLattice(features)
    assert int(lattice.num_vertices) == native.num_vertices
    np.testing.assert_array_equal(lattice.weight.cpu().numpy().T, native.weights)
    ours, theirs = lattice.vertex.cpu().numpy().T.ravel(), native.vertices.ravel()
    pairs = np.unique(np.stack([ours, theirs], axis=1), axis=0)
    assert len(pairs) == native.num_vertices
    renamed = np.full(native.num_vertices + 1, -1)
    renamed[pairs[:, 0]] = pairs[:, 1]
    # The native neighbours leave out those of vertices that have no neighbour at all: none differ.
    neighbours = renamed[lattice.neighbours[:, :, : native.num_vertices].cpu().numpy()].transpose(0, 2, 1)
    expected = native.neighbours
    np.testing.assert_array_equal(neighbours[:, np.argsort(renamed[:-1])], expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("d", "channels"), cases((1, 1), (2, 2), (3, 4), (5, 24), (6, 40), few=[(1, 1), (3, 40)]))
def test_the_lattice_filters_like_the_oracle(rng, place, d, channels, dtype):
    features = rng.uniform(0, 3, size=(60, d)).astype(dtype)
    values = rng.normal(size=(60, channels)).astype(dtype)
    before, after = rng.uniform(size=(2, 60)).astype(dtype)
    images = [reference.Lattice(half) for half in (features[:30], features[30:])]
    lattice = place.lattice(features, images=2)
    for transpose in (False, True):
        sent = before[:, None] * values
        halves = [oracle.filter(half, transpose) for oracle, half in zip(images, (sent[:30], sent[30:]), strict=True)]
        filtered = place.filter(lattice, values, transpose, before, after)
        assert_close(filtered, after[:, None] * np.concatenate(halves), tolerance(dtype).filter)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", cases(1, 8, 24, few=[8]))
@pytest.mark.parametrize("wide", cases(1, 8, few=[1, 8]))  # a program's product, or several of them
@pytest.mark.parametrize(
    "shape", cases((40,), (5, 9), (3, 4, 5), (1, 6), (90,), (37, 6, 2), few=[(70,), (3, 4, 5), (37, 6)])
)
def test_the_grid_filters_like_the_oracle(rng, place, shape, wide, channels, dtype):
    sigma = tuple(wide * each for each in (0.6, 1.57, 2.3)[: len(shape)])
    points = int(np.prod(shape))
    values = rng.normal(size=(2 * points, channels)).astype(dtype)
    before, after = rng.uniform(size=(2, 2 * points)).astype(dtype)
    kernel = build_grid(shape, sigma, place.tensor(values).dtype, torch.device(place.device), place.steps)
    oracle = reference.GridGaussian(shape, sigma)
    for first, last in ((before, after), (None, None)):
        sent = values if first is None else first[:, None] * values
        expected = np.concatenate([oracle.filter(half) for half in (sent[:points], sent[points:])])
        given = [None if each is None else place.tensor(each) for each in (first, last)]
        found = kernel.filter(place.tensor(values), *given, False, place.steps).cpu().numpy()
        assert_close(found, expected if last is None else last[:, None] * expected, tolerance(dtype).filter)


@pytest.mark.parametrize("rounds", cases(1, 2, few=[1]))
@pytest.mark.parametrize("d", cases(1, 3, 5, few=[2]))
def test_added_vertices(rng, place, d, rounds):
    features, values = rng.uniform(0, 3, size=(30, d)), rng.normal(size=(30, 4))
    images = [reference.Lattice(half, neighbour_rounds=rounds) for half in (features[:15], features[15:])]
    lattice = place.lattice(features, images=2, neighbour_rounds=rounds)
    native = PermutohedralLattice(features, batch=np.arange(30) // 15, neighbour_rounds=rounds)
    assert int(lattice.num_vertices) == native.num_vertices
    for transpose in (False, True):
        halves = [
            oracle.filter(half, transpose) for oracle, half in zip(images, (values[:15], values[15:]), strict=True)
        ]
        filtered = place.filter(lattice, values, transpose)
        assert_close(filtered, np.concatenate(halves), tolerance(np.float64).filter)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rounds", cases(0, 1, few=[0]))
def test_sums_in_any_order(rng, place, rounds, dtype):
    features = np.concatenate([np.full((300, 2), 0.1), rng.uniform(0, 40, size=(20, 2))]).astype(dtype)
    values, before = rng.normal(size=(320, 5)).astype(dtype), rng.uniform(size=320).astype(dtype)
    lattice = place.lattice(features, neighbour_rounds=rounds, deterministic=False)
    assert lattice.runs is None
    native = PermutohedralLattice(features, neighbour_rounds=rounds)
    for transpose in (False, True):
        expected = native.filter(before[:, None] * values, transpose)
        assert_close(place.filter(lattice, values, transpose, before), expected, tolerance(dtype).filter)


@pytest.mark.parametrize("d", cases(1, 2, 5, few=[1, 2]))
def test_two_blurs_in_a_pass_are_two_passes(rng, place, monkeypatch, d):
    if not hasattr(place.steps, "BLURS"):
        pytest.skip("plain torch blurs one direction after the other")
    lattice, values = place.lattice(rng.uniform(0, 4, size=(80, d))), rng.normal(size=(80, 4))
    expected = [place.filter(lattice, values, transpose) for transpose in (False, True)]
    monkeypatch.setattr(place.steps, "BLURS", 3 - place.steps.BLURS)
    for transpose, single in zip((False, True), expected, strict=True):
        assert_close(place.filter(lattice, values, transpose), single, tolerance(np.float64).filter)


@pytest.mark.parametrize("d", cases(2, 5, few=[3]))
def test_the_transpose_is_the_adjoint(rng, place, d):
    lattice = place.lattice(rng.uniform(0, 4, size=(80, d)))
    x, y = rng.normal(size=(2, 80, 4))
    forward, backward = np.sum(place.filter(lattice, x) * y), np.sum(x * place.filter(lattice, y, transpose=True))
    assert abs(forward - backward) <= tolerance(np.float64).adjoint * np.abs(x).sum()


def test_keys_that_do_not_fit_64_bits(rng, place):
    """16 features of a hundred cells each: 2^106 places, and two images that are the same."""
    features = rng.uniform(0, 100, size=(6, 16)).repeat(4, axis=0) + rng.uniform(0, 0.3, size=(24, 16))
    features, values = np.tile(features, (2, 1)), rng.normal(size=(48, 4))
    native = PermutohedralLattice(features, batch=np.arange(48) // 24)
    lattice = place.lattice(features, images=2)
    assert int(lattice.num_vertices) == native.num_vertices
    for transpose in (False, True):
        expected = native.filter(values, transpose)
        assert_close(place.filter(lattice, values, transpose), expected, tolerance(np.float64).filter)


def test_points_far_from_the_origin(rng, place):
    features = rng.uniform(0, 3, size=(50, 3)) + np.array([-3e4, 2e4, 1e4])
    values = rng.normal(size=(50, 4))
    expected = PermutohedralLattice(features).filter(values)
    assert_close(place.filter(place.lattice(features), values), expected, tolerance(np.float64).filter)


@pytest.mark.parametrize("span", [None, 2, 4, 8])
def test_many_points_at_one_vertex(rng, place, monkeypatch, span):
    """Far more than one program sums by itself, or joins, beside vertices of a single point."""
    if span is not None:
        if not hasattr(place.steps, "SPAN"):
            pytest.skip("plain torch joins nothing")
        monkeypatch.setattr(place.steps, "SPAN", span)
        monkeypatch.setattr(place.steps, "MANY_RUNS", 0)
    features = np.concatenate([np.full((300, 2), 0.1), rng.uniform(0, 40, size=(20, 2))])
    values = rng.normal(size=(320, 4))
    lattice, native = place.lattice(features, count_vertices=True), PermutohedralLattice(features)
    assert lattice.neighbours.shape[2] == native.num_vertices
    assert_close(place.filter(lattice, values), native.filter(values), tolerance(np.float64).filter)


def images(rng, spatial, dtype, channels=3, classes=5, size=2):
    logits = rng.normal(size=(size, classes, *spatial)).astype(dtype)
    return logits, rng.uniform(0, 255, size=(size, channels, *spatial)).astype(dtype)


def assert_like_native(rng, place, logits, image, mask, couplings, numbers, bounds=None):
    """Logits and gradients, by the native core and by the device's steps."""
    bounds = bounds or tolerance(logits.dtype)
    cotangent = rng.normal(size=logits.shape).astype(logits.dtype)
    inputs = Inputs(logits, image, mask)
    expected, records = batch.forward(numbers.crf, inputs, couplings, True, numbers.execution)
    gradients = batch.vjp(numbers.crf, inputs, cotangent, records, couplings, numbers.execution, False)

    tensors = [place.tensor(each) for each in couplings]
    given = place.tensor(logits), place.tensor(image), None if mask is None else place.tensor(mask)
    refined, record = refined_by(place.steps, *given, tensors, numbers, True)
    assert_close(refined.cpu(), expected, bounds.mean_field)
    without, _ = refined_by(place.steps, *given, tensors, numbers)
    assert torch.equal(refined, without) or not numbers.execution.deterministic
    to_logits, to_couplings = gradients_by(place.steps, place.tensor(cotangent), record, tensors, numbers)
    assert_close(to_logits.cpu(), gradients.logits, bounds.gradient)
    for ours, theirs in zip(to_couplings, gradients.couplings, strict=True):
        assert_close(ours.cpu(), theirs, bounds.gradient, floor=1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalization", cases("after", "before", "symmetric", "none", few=["before"]))
@pytest.mark.parametrize("masked", cases(False, True, few=[True]))
def test_mean_field_and_gradients_by_normalisation(rng, place, normalization, masked, dtype):
    logits, image = images(rng, (5, 6), dtype)
    mask = rng.integers(0, 3, size=(2, 5, 6)).astype(dtype) / 2 if masked else None
    couplings = [-0.3 * np.ones((), dtype), -0.5 * np.eye(5, dtype=dtype)]
    numbers = settings(normalization=normalization, damping=0.25)
    assert_like_native(rng, place, logits, image, mask, couplings, numbers)


@pytest.mark.parametrize("classes", cases(1, 2, 7, 21, few=[7, 21]))
@pytest.mark.parametrize("spatial_axes", cases(0, 1, 2, few=[2]))
@pytest.mark.parametrize("bilateral_axes", cases(0, 1, 2, few=[0, 2]))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mean_field_and_gradients_by_coupling(rng, place, classes, spatial_axes, bilateral_axes, dtype):
    logits, image = images(rng, (4, 5), dtype, classes=classes)
    shapes = [(classes,) * axes for axes in (spatial_axes, bilateral_axes)]
    couplings = [np.asarray(rng.normal(size=shape), dtype) for shape in shapes]
    assert_like_native(rng, place, logits, image, None, couplings, settings(iterations=2))


def test_gradients_of_couplings_in_parts(rng, place, monkeypatch):
    monkeypatch.setattr(meanfield, "PART", 7)
    logits, image = images(rng, (4, 5), np.float32)
    couplings = [rng.normal(size=(5, 5)).astype(np.float32) for _ in range(2)]
    assert_like_native(rng, place, logits, image, None, couplings, settings(iterations=1))


@pytest.mark.parametrize("spatial", ["grid", "lattice"])
@pytest.mark.parametrize(("shape", "channels"), cases(((23,), 1), ((5, 7), 3), ((3, 4, 2), 2), few=[((3, 4, 2), 2)]))
def test_mean_field_and_gradients_in_every_dimension(rng, place, shape, channels, spatial):
    logits, image = images(rng, shape, np.float32, channels)
    couplings = [rng.normal(size=(5, 5)).astype(np.float32), rng.normal(size=5).astype(np.float32)]
    numbers = settings(spatial=spatial, theta_alpha=(5.13, 4.2, 3.3)[: len(shape)], damping=0.1)
    assert_like_native(rng, place, logits, image, None, couplings, numbers)


@pytest.mark.parametrize("spatial", cases("grid", "lattice", few=["lattice"]))
def test_mean_field_and_gradients_with_added_vertices(rng, place, spatial):
    logits, image = images(rng, (4, 5), np.float32)
    couplings = [rng.normal(size=(5, 5)).astype(np.float32), rng.normal(size=5).astype(np.float32)]
    numbers = settings(spatial=spatial, neighbour_rounds=1)
    assert_like_native(rng, place, logits, image, None, couplings, numbers)


def test_mean_field_and_gradients_with_sums_in_any_order(rng, place, monkeypatch):
    monkeypatch.setattr(pairwise, "fixed_order", lambda deterministic: deterministic)
    logits, image = images(rng, (4, 5), np.float32)
    couplings = [np.float32(-0.3), rng.normal(size=(5, 5)).astype(np.float32)]
    assert_like_native(rng, place, logits, image, None, couplings, settings(deterministic=False))


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("storage", [torch.bfloat16, torch.float16])
def test_mean_field_and_gradients_stored_in_16_bits(rng, place, monkeypatch, storage, deterministic):
    """Off by some roundings of 2^-9, and not by fewer than one."""
    monkeypatch.setattr(pairwise, "fixed_order", lambda deterministic: deterministic)
    logits, image = images(rng, (4, 5) if INTERPRETED else (9, 12), np.float32, classes=17)
    couplings = [np.float32(-0.3), rng.normal(size=(17, 17)).astype(np.float32) / 2]
    numbers = settings(damping=0.25, storage=storage, deterministic=deterministic)
    bounds = Tolerance(filter=2e-2, mean_field=2e-2, gradient=4e-2, adjoint=0)
    assert_like_native(rng, place, logits, image, None, couplings, numbers, bounds)
    with pytest.raises(AssertionError, match="max"):
        assert_like_native(rng, place, logits, image, None, couplings, numbers)


def test_sums_beyond_float16(rng, place):
    """100 points of weight 10 000 at one place."""
    rows = rng.uniform(size=(100, 4))
    lattice = place.lattice(np.full((100, 2), 0.1, np.float32))
    scale = place.tensor(np.full(100, 1e4, np.float32))
    filtered = lattice.filter(place.tensor(rows.astype(np.float16)), scale, None, False, place.steps)
    expected = PermutohedralLattice(np.full((100, 2), 0.1)).filter(1e4 * rows)
    assert expected.min() > np.finfo(np.float16).max
    assert filtered.dtype == torch.bfloat16
    assert_close(filtered.float().cpu(), expected, 2e-2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("damping", cases(0.0, 0.25, few=[0.25]))
@pytest.mark.parametrize("iterations", cases(1, 2, 4, few=[3]))
def test_unlikely_classes_are_left_out(rng, place, iterations, damping, dtype):
    """In each image others, at the start and later ones, as the native core does it; one matrix, one number."""
    logits, image = images(rng, (4, 5), dtype)
    logits += 3 * np.array([[2, 0, 1, 0.3, 0], [0, 2, 1.5, 0, 1.8]])[:, :, None, None].astype(dtype)
    couplings = [np.asarray(-0.3, dtype), (rng.normal(size=(5, 5)) / 4 - np.eye(5)).astype(dtype)]

    def native(threshold, count):
        numbers = settings(class_threshold=threshold, iterations=count, damping=damping)
        return batch.forward(numbers.crf, Inputs(logits, image), couplings, False, numbers.execution)[0]

    numbers = settings(class_threshold=0.6, iterations=iterations, damping=damping)
    expected = native(0.6, iterations)
    assert np.abs(expected - native(0, iterations)).max() > 0.01
    given = [place.tensor(each) for each in (logits, image)]
    refined, _ = refined_by(place.steps, *given, None, [place.tensor(each) for each in couplings], numbers)
    assert_close(refined.cpu(), expected, tolerance(dtype).mean_field)


@pytest.mark.parametrize("iterations", cases(0, 1, few=[1]))
def test_few_iterations(rng, place, iterations):
    logits, image = images(rng, (4, 5), np.float64)
    couplings = [np.ones(()), np.ones(5)]
    assert_like_native(rng, place, logits, image, None, couplings, settings(iterations=iterations))


@pytest.mark.parametrize("dtype", cases(np.uint8, np.int64, np.float64, few=[np.uint8]))
def test_images_of_any_type(rng, place, dtype):
    logits, image = images(rng, (4, 5), np.float32)
    image = image.astype(dtype)
    couplings = [np.ones((), np.float32), np.ones(5, np.float32)]
    assert_like_native(rng, place, logits, image, None, couplings, settings(theta_beta=[7.0]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", cases(*ON_LATTICES, few=["spatial", "bilateral", "three", "empty"]))
def test_any_list_of_kernels(rng, place, name, dtype):
    """Against the oracles, for couplings that are matrices."""
    crf, given = ON_LATTICES[name], scene(rng, dtype, (3, 4) if INTERPRETED else (5, 6))
    cotangent = rng.normal(size=given.logits.shape).astype(dtype)
    features = {key: np.asarray(each, np.float64) for key, each in given.given.items()}
    expected = truth(crf, given._replace(given=features), cotangent)
    M = reference.as_matrix(-1.0 if crf.compatibility is None else crf.compatibility, 4)
    couplings = [place.tensor((M @ reference.as_matrix(each.weight, 4)).astype(dtype)) for each in crf.kernels]
    there = Inputs(*map(place.tensor, given[:3]), {key: place.tensor(each) for key, each in given.given.items()})
    refined, record = meanfield.forward(crf, there, couplings, True, Execution(), place.steps)
    assert_close(refined.cpu(), expected.logits, tolerance(dtype).mean_field)
    to_logits, to_couplings = gradients_by(
        place.steps, place.tensor(cotangent), record, couplings, Specified(crf, Execution())
    )
    assert_close(to_logits.cpu(), expected.to_unary, tolerance(dtype).gradient)
    for ours, theirs in zip(to_couplings, expected.to_couplings, strict=True):
        assert_close(ours.cpu(), theirs, tolerance(dtype).gradient, floor=1.0)


@pytest.mark.skipif(not INTERPRETED, reason="plain torch has no programs")
def test_several_programs_share_the_work(rng, place, monkeypatch):
    """Tiles of 2 and 4 rows, in programs that take several each."""
    for name, size in (
        ("TILE", 32),
        ("RUN_TILE", 16),
        ("JOINT_TILE", 16),
        ("POINTS", 16),
        ("RUN", 4),
        ("SIDE", 2),
        ("UNROLL", 2),
        ("SPAN", 2),
        ("MANY_RUNS", 0),
    ):
        monkeypatch.setattr(place.steps, name, size)
    logits, image = images(rng, (3, 4), np.float64, size=1)
    couplings = [np.asarray(rng.normal(size=(5, 5))), np.asarray(rng.normal(size=(5, 5)))]
    assert_like_native(rng, place, logits, image, None, couplings, settings(iterations=1))


@pytest.mark.skipif(not INTERPRETED, reason="plain torch has no programs")
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_programs_slice_blocks_of_pixels(rng, place, monkeypatch, threshold):
    """Of 2×2 pixels, two columns beside each other; at the border of images they are cut off or belong to both."""
    for name, size in (("POINTS", 4), ("LINES", 2), ("WIDE", 1)):
        monkeypatch.setattr(place.steps, name, size)
    logits, image = images(rng, (3, 5), np.float32)
    couplings = [np.float32(-0.3), rng.normal(size=(5, 5)).astype(np.float32)]
    if threshold:
        numbers = settings(class_threshold=threshold)
        expected, _ = batch.forward(numbers.crf, Inputs(logits, image), couplings, False, numbers.execution)
        given = [place.tensor(each) for each in (logits, image)]
        refined, _ = refined_by(place.steps, *given, None, [place.tensor(each) for each in couplings], numbers)
        assert_close(refined.cpu(), expected, tolerance(np.float32).mean_field)
    else:
        assert_like_native(rng, place, logits, image, None, couplings, settings())


@pytest.mark.parametrize("layout", [(0, 2, 3, 1), (0, 1, 3, 2), (2, 3, 0, 1)])
def test_memory_layout_is_kept(rng, place, layout):
    """Channels last; columns of pixels, which are no view of lines; and images last."""
    logits, image = (place.tensor(each) for each in images(rng, (4, 5), np.float32))
    given = logits.permute(layout).contiguous().permute(*np.argsort(layout).tolist())
    couplings = [logits.new_ones(()), logits.new_ones(5)]
    expected, _ = refined_by(place.steps, logits, image, None, couplings, settings())
    refined, record = refined_by(place.steps, given, image, None, couplings, settings(), True)
    assert torch.equal(refined, expected)
    assert refined.stride() == given.stride() != expected.stride()
    gradient, _ = gradients_by(place.steps, given, record, couplings, settings())
    same, _ = gradients_by(place.steps, logits, record, couplings, settings())
    assert torch.equal(gradient, same)
    assert gradient.stride() == given.stride()


def test_results_do_not_differ_from_run_to_run(rng, place):
    logits, image = (place.tensor(each) for each in images(rng, (4, 5) if INTERPRETED else (24, 20), np.float32))
    couplings = [logits.new_ones(()), logits.new_ones(5, 5)]
    results = []
    for _ in range(2 if INTERPRETED else 3):
        refined, record = refined_by(place.steps, logits, image, None, couplings, settings(), True)
        gradients = gradients_by(place.steps, refined, record, couplings, settings())
        results.append([refined, gradients[0], *gradients[1]])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # by the interpreter
@pytest.mark.parametrize("value", cases(np.nan, np.inf, 1e30, few=[np.nan]))
def test_values_that_the_cpu_refuses_give_nan(rng, place, value):
    """To look for them would mean to wait for the device."""
    logits, image = images(rng, (4, 5), np.float32)
    mask = np.ones((2, 4, 5), np.float32)
    couplings = [place.tensor(np.ones(shape, np.float32)) for shape in ((), (5,))]

    def refined(logits, image, mask):
        given = [place.tensor(each) for each in (logits, image, mask)]
        return refined_by(place.steps, *given, couplings, settings())[0].cpu().numpy()

    assert np.isfinite(refined(logits, image, mask)).all()
    if value != 1e30:
        spoilt = logits.copy()
        spoilt[1, 2, 3, 4] = value
        result = refined(spoilt, image, mask)
        assert np.isnan(result[1]).any()
        assert np.isfinite(result[0]).all()
    spoilt = image.copy()
    spoilt[1, 2, 3, 4] = value
    result = refined(logits, spoilt, mask)
    assert np.isnan(result[1, :, 3, 4]).all()
    assert np.isfinite(result[0]).all()
    mask[1, 3, 4] = -1
    assert np.isnan(refined(logits, image, mask)[1]).any()


def test_settings_that_do_not_fit_are_named(place):
    logits, image = place.tensor(np.zeros((1, 2, 3, 4), np.float32)), place.tensor(np.zeros((1, 3, 3, 4), np.float32))
    couplings = [logits.new_ones(()), logits.new_ones(())]
    with raises_saying(ValueError, "neighbour_rounds=4", "at most 3"):
        meanfield.lattices(image, None, "after", 4, True, place.steps)
    with raises_saying(ValueError, "17 features", "at most 16"):
        meanfield.lattices(place.tensor(np.zeros((1, 17, 3, 4), np.float32)), None, "after", 0, True, place.steps)
    with raises_saying(ValueError, "theta_beta=(1.0, 2.0) has 2 values", "3 image channels"):
        refined_by(place.steps, logits, image, None, couplings, settings(theta_beta=[1.0, 2.0]))


def test_too_many_points_are_named():
    features = torch.empty(5, 1, device="meta").expand(5, 2**29)
    with raises_saying(ValueError, "536870912 points of 5 features", "fewer images"):
        build_lattice(features, 1, 2**29, plain)
