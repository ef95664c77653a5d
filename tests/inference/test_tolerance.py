"""Work left out as far as a tolerance allows (docs/algorithm.md, section 8): the promises, on the twin and natively."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfrnn import (
    CRF,
    Bilateral,
    CRFParameters,
    ExactGaussian,
    Grid,
    GridGaussian,
    Kernel,
    Lattice,
    MeanField,
    PairwiseTerm,
    PermutohedralLattice,
    Spatial,
    mean_field,
    mean_field_with_marginals,
    pairwise_terms,
    reference,
    reference_tolerance,
    refine,
)
from crfrnn.arrays import padded_channels
from crfrnn.inference import meanfield

TOLERANCE = 1e-3
SHAPE = (150, 180)  # four chunks
PHOTO_KERNELS = [Kernel(Spatial(3), weight=3), Kernel(Bilateral(30, 20), weight=5)]
NORMALIZATIONS = ["none", "before", "after", "symmetric"]


def unlikely(rng, unary, count):
    """The same scores with some classes that are likely nowhere."""
    if count:
        unary[-count:] = -8 - 6 * rng.random((count, *unary.shape[1:]))
    return unary


class Scene:
    """A photo of two halves whose scores are settled but for a small region."""

    def __init__(self, rng, classes=5, dtype=np.float32, shape=SHAPE, silent=0):
        half = np.arange(shape[1]) >= shape[1] // 2
        self.image = np.repeat((100 * half + rng.integers(0, 5, shape))[..., None], 3, axis=2).astype(np.uint8)
        self.scores = np.zeros((classes, *shape), dtype)
        self.scores[0][:, ~half], self.scores[1][:, half] = 12, 12
        self.scores[:, 50:70, 50:70] = 0.3 * rng.normal(size=(classes, 20, 20))
        self.scores[2:] = unlikely(rng, self.scores[2:], silent)

    def refined(self, kernels, tolerance, iterations=10, compatibility=None, **options):
        crf = CRF(kernels, compatibility, MeanField(iterations, tolerance=tolerance))
        return refine(self.scores, self.image, crf, return_activity=True, **options)


def twins(rng, classes, weight, normalization, masked, points=96):
    """The same terms for the reference and for the native core, with couplings of a total of about the weight."""
    features = rng.normal(size=(points, 2))
    mask = (rng.random(points) > 0.2) * rng.random(points) if masked else None
    weights = [rng.uniform(0, 1, shape) for shape in ((), (classes,))]
    kernels = reference.DenseGaussian(features), reference.GridGaussian((points,), 2.0)
    totals = []
    for kernel, each in zip(kernels, weights, strict=True):
        term = reference.Term(kernel, 1.0, normalization, mask)
        totals.append(np.abs(each).max() * term.filter(np.ones((1, points))).max())
    weights = [each * weight / sum(totals) for each in weights]
    ours = ExactGaussian(features), GridGaussian((points,), 2.0, dtype=np.float64)
    return (
        [reference.Term(k, w, normalization, mask) for k, w in zip(kernels, weights, strict=True)],
        [PairwiseTerm(k, w, normalization, mask) for k, w in zip(ours, weights, strict=True)],
    )


def just_silent(rng, unary, count, weight, tolerance):
    """The same scores with some classes that are together only just unlikely enough to fall silent."""
    share = 0.95 * reference_tolerance.share_that_may_be_silent(tolerance, weight)
    if count:
        rest = np.log(np.exp(unary[:-count]).sum(axis=0))
        unary[-count:] = rest + np.log(share / count) + 0.02 * rng.normal(size=(count, *unary.shape[1:])) - 0.1
    return unary


cases = st.tuples(
    st.integers(0, 2**32 - 1),
    st.sampled_from([2, 3, 5, 21]),
    st.sampled_from(NORMALIZATIONS),
    st.booleans(),
    st.floats(0.1, 8),
    st.sampled_from([1e-4, 1e-3, 1e-2]),
)


@given(cases)
def test_what_is_sent_is_near_what_would_be(case):
    """(16) to (19) in every iteration of the twin: what neighbours see, and what the silent classes change."""
    seed, classes, normalization, masked, weight, tolerance = case
    rng = np.random.default_rng(seed)
    unary, count = 3 * rng.normal(size=(classes, 96)), rng.integers(0, classes - 1)
    unary = just_silent(rng, unary, count, weight, tolerance) if seed % 2 else unlikely(rng, unary, count)
    terms, _ = twins(rng, classes, weight, normalization, masked)
    _, iterations = reference_tolerance.mean_field(unary, terms, tolerance=tolerance, iterations=8)
    step = tolerance / max(1, weight)
    for t, each in enumerate(iterations):
        sends = ~each.silent
        assert np.abs(each.sent - each.marginals)[sends].max() <= 2 * step * (1 + 1e-9)
        undecided = each.marginals[sends].max(axis=0) < reference_tolerance.decided_marginal(weight) - 2 * step
        assert np.abs(each.sent - each.marginals)[sends][:, undecided].max(initial=0) <= reference_tolerance.ROUNDING
        if t == 0:
            continue
        before = iterations[t - 1]
        everything = np.where(before.silent[:, None], before.marginals, before.sent)
        message = sum(-reference.as_matrix(term.weight, classes) @ term.filter(everything) for term in terms)
        complete = reference.softmax(unary - message)
        assert np.abs(complete - each.marginals).max() <= tolerance * (1 + 1e-9)


@given(cases)
def test_the_end_is_within_what_the_iterations_add_up_to(case):
    """With w ≤ 2, errors do not grow: e_{t+1} ≤ w/2 (e_t + 2 s) + tolerance, so e_T ≤ 2 T tolerance."""
    seed, classes, normalization, masked, weight, tolerance = case
    rng = np.random.default_rng(seed)
    weight = min(weight, 2.0)
    unary = just_silent(rng, 3 * rng.normal(size=(classes, 96)), rng.integers(0, classes - 1), weight, tolerance)
    terms, ours = twins(rng, classes, weight, normalization, masked)
    options = {"iterations": 8, "return_probabilities": True}
    dense = mean_field(unary, ours, tolerance=0, **options)
    twin, _ = reference_tolerance.mean_field(unary, terms, tolerance=tolerance, iterations=8)
    for found in (mean_field(unary, ours, tolerance=tolerance, **options), reference.softmax(twin)):
        assert np.abs(found - dense).max() <= 2 * 8 * tolerance
        assert np.abs(found - dense).max() <= 4 * tolerance


@given(cases)
def test_where_all_is_decided_errors_do_not_add_up(case):
    """(36): e_{t+1} ≤ ½ (e_t + 2 s), and what silent classes change, so e_T ≤ 2 s + 2 tolerance for any T."""
    seed, classes, normalization, masked, weight, tolerance = case
    rng = np.random.default_rng(seed)
    terms, ours = twins(rng, classes, weight, normalization, masked)
    unary = np.zeros((classes, 96))
    unary[0] = rng.uniform(2, 6) + np.log(classes) + rng.uniform(0, 1, 96)
    dense, marginals = reference.mean_field(unary, terms, iterations=30)
    least = np.max(marginals, axis=1).min() if len(marginals) else 1
    if least < reference_tolerance.decided_marginal(weight) + tolerance:
        return
    twin, _ = reference_tolerance.mean_field(unary, terms, tolerance=tolerance, iterations=30)
    step = tolerance / max(1, weight)
    for logits in (twin, mean_field(unary, ours, tolerance=tolerance, iterations=30)):
        assert np.abs(reference.softmax(logits) - reference.softmax(dense)).max() <= 2 * step + 2 * tolerance


@pytest.mark.parametrize("weight", [0.3, 1, 1.5, 2, 8, 60])
def test_decided_points_halve_errors(rng, weight):
    """(36) beside the Jacobian of the softmax, written out: its largest row sum times w is at most ½."""

    def growth(q):
        return weight * np.abs(np.diag(q) - np.outer(q, q)).sum(axis=1).max()

    decided = reference_tolerance.decided_marginal(weight)
    for top in rng.uniform(max(decided, 0.2), 1, 200):
        rest = rng.dirichlet(np.ones(4)) * (1 - top)
        q = np.array([top, *rest]) if rest.max() <= top else np.full(5, 0.2)
        assert growth(q) <= 0.5 + 1e-12
    at_the_border = growth(np.array([decided, 1 - decided]))
    assert at_the_border == pytest.approx(0.5) if weight >= 1 and decided else weight <= 1


@given(cases, st.booleans())
def test_gradients_lack_what_unlikely_classes_would_send(case, mixed):
    """(21), natively: with T = 2 one gradient of few classes is sent. Beside the twin's, and within the bound."""
    seed, classes, normalization, masked, weight, tolerance = case
    rng = np.random.default_rng(seed)
    unary = unlikely(rng, 3 * rng.normal(size=(classes, 96)), rng.integers(0, classes - 1))
    terms, ours = twins(rng, classes, weight, normalization, masked)
    mixing = 0.1 * rng.normal(size=(classes, classes)) if mixed else 0.0
    couplings = [mixing - reference.as_matrix(term.weight, classes) for term in terms]
    cotangent = rng.normal(size=unary.shape)
    _, kept = meanfield.forward(MeanField(2), unary, ours, couplings, "logits", "computed", 1)
    q = kept.transpose(0, 2, 1)[:, :classes]

    def through(g):  # v, from what is sent
        return -sum(E.T @ term.filter(g, transpose=True) for E, term in zip(couplings, terms, strict=True))

    def to_scores(q, v):
        return q * (v - (q * v).sum(axis=0))

    v = through(cotangent)
    g = to_scores(q[1], v)
    complete = to_scores(q[0], through(g))
    row_sums = [term.filter(np.ones((1, 96))).max() for term in terms]
    moves = sum(np.abs(E).sum(axis=1).max() * most for E, most in zip(couplings, row_sums, strict=True))
    sends = reference_tolerance.senders_of_gradients(q[1], max(moves, 2 * max(row_sums)), tolerance)
    if padded_channels(int(sends.sum())) == padded_channels(classes):
        sends[:] = True
    without = to_scores(q[0], through(np.where(sends[:, None], g, 0)))
    assert np.abs(without - complete).max(axis=0).sum() <= tolerance * np.abs(v).max(axis=0).sum() * (1 + 1e-9)
    found, to_couplings, _ = meanfield.vjp(MeanField(2, tolerance=tolerance), cotangent, kept, ours, couplings, 1)
    np.testing.assert_allclose(found, cotangent + g + without, rtol=1e-9, atol=1e-11)
    dense, densely, _ = meanfield.vjp(MeanField(2, tolerance=0), cotangent, kept, ours, couplings, 1)
    np.testing.assert_allclose(dense, cotangent + g + complete, rtol=1e-9, atol=1e-11)
    for few, all_classes in zip(to_couplings, densely, strict=True):
        assert np.abs(few - all_classes).max() <= tolerance * np.abs(v).max(axis=0).sum() * (1 + 1e-9)


@pytest.mark.parametrize("damping", [0, 0.3])
def test_gradients_of_few_classes(rng, damping):
    """On a photo with many unlikely classes: close to all of them, the same bits for any number of threads."""
    scene = Scene(rng, 21, silent=17)
    scene.scores[2:4] -= 2
    terms = pairwise_terms(scene.image, CRFParameters(theta_alpha=30, theta_beta=20, theta_gamma=3), dtype=np.float32)
    unary, cotangent = scene.scores.reshape(21, -1), rng.normal(size=(21, np.prod(SHAPE))).astype(np.float32)
    couplings = [-np.eye(21, dtype=np.float32) for _ in terms]
    options = {"iterations": 5, "damping": damping}
    _, kept = meanfield.forward(MeanField(**options), unary, terms, couplings, "logits", "computed", 2)
    answers = [
        meanfield.vjp(MeanField(**options, tolerance=tolerance), cotangent, kept, terms, couplings, threads)
        for tolerance, threads in ((TOLERANCE, 1), (TOLERANCE, 3), (0, 2))
    ]
    few, threaded, dense = [np.concatenate([unary.ravel(), *map(np.ravel, others)]) for unary, others, _ in answers]
    np.testing.assert_array_equal(few, threaded)
    assert np.array_equal(few, dense) == (damping > 0)
    np.testing.assert_allclose(answers[0][0], answers[2][0], atol=1e-4 * np.abs(answers[2][0]).max())
    for mine, theirs in zip(answers[0][1], answers[2][1], strict=True):
        np.testing.assert_allclose(mine, theirs, atol=TOLERANCE * np.abs(theirs).max())


def test_a_run_settles_by_its_least_settled_point(rng):
    """Equation (18): within δ no marginal moves by more than the step, and not much less would do."""
    scores = rng.normal(size=(4, 16)) * np.linspace(1, 9, 16)
    q, step = reference.softmax(scores), 1e-3
    (delta,) = reference_tolerance.move_that_settles(q, step)
    moves = [np.abs(reference.softmax(scores + delta * s) - q).max() for s in rng.choice([-1, 1], (300, 4, 16))]
    assert step / 8 < max(moves) <= step


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [2, 3, 5, 21])
@pytest.mark.parametrize(
    "kernels",
    [
        PHOTO_KERNELS,
        [Kernel(Spatial(3), weight=8)],
        [Kernel(Spatial(2), weight=2, normalization="symmetric"), Kernel(Spatial(4), weight=6, filter=Lattice())],
        [Kernel(Spatial(3), weight=5, normalization="before"), Kernel(Bilateral(30, 20), 2, normalization="before")],
    ],
    ids=["photo", "grid", "symmetric", "before"],
)
def test_few_active_runs(rng, kernels, classes, dtype):
    """Most runs are not worked out again; what comes out is that of working everything out, but for the tolerance."""
    scene = Scene(rng, classes, dtype, silent=max(0, classes - 3))
    found, activity = scene.refined(kernels, TOLERANCE)
    dense, complete = scene.refined(kernels, 0)
    assert complete.evaluated.all()
    assert activity.evaluated[: 1 + (classes > 2)].all()
    followed = activity.evaluated[2 + (classes > 2) :].reshape(-1, found[0].size).mean(axis=1)
    assert 0 < followed.max() < 0.12
    assert (activity.classes[-1] < classes) == (classes > 3)
    assert np.abs(found - dense).max() <= 2 * TOLERANCE
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=4e-6)
    # What is not worked out again is as it was: a change of one region is not seen far away.
    assert np.abs(dense - reference.softmax(scene.scores.astype(np.float64)))[:, 50:70, 50:70].max() > 0.3


HOLE_KERNELS = {
    "grid": [Kernel(Spatial(3), weight=5)],
    "lattice": [Kernel(Spatial(3), weight=5, filter=Lattice())],
    "symmetric": [Kernel(Spatial(3), weight=8, normalization="symmetric")],
    "both": [Kernel(Spatial(3), weight=3), Kernel(Spatial(5), weight=3, filter=Lattice())],
}


def near_tie(classes, tied, amplitude, dtype=np.float64, points=20000):
    """Sure scores but for a hole in which some classes are almost tied: iterations amplify what is between them."""
    x = np.arange(points)
    inside = np.abs(x - points // 2) < points // 25
    scores = np.full((classes, points), -12.0)
    scores[0] = 12
    for c in range(tied):
        scores[c, inside] = amplitude * np.sin(x / 30 + c)[inside]
    return scores.astype(dtype)


@pytest.mark.parametrize("amplitude", [1e-8, 1e-5, 1e-4])
@pytest.mark.parametrize(("classes", "tied"), [(2, 2), (3, 3), (21, 2)])
@pytest.mark.parametrize("kernels", HOLE_KERNELS.values(), ids=HOLE_KERNELS)
def test_near_ties_are_resolved_as_densely(kernels, classes, tied, amplitude):
    """What undecided points lack would grow, so they lack nothing: marginals and labels are the dense ones."""
    scores = near_tie(classes, tied, amplitude)
    found, dense = (
        refine(scores, None, CRF(kernels, solver=MeanField(12, tolerance=t)), threads=threads, return_activity=True)
        for t, threads in ((TOLERANCE, 1), (0, 2))
    )
    assert found[1].evaluated[-1].mean() < 0.12
    assert np.abs(found[0] - dense[0]).max() <= TOLERANCE / 10
    np.testing.assert_array_equal(found[0].argmax(axis=0), dense[0].argmax(axis=0))
    for threads in (2, 3):
        crf = CRF(kernels, solver=MeanField(12, tolerance=TOLERANCE))
        np.testing.assert_array_equal(refine(scores, None, crf, threads=threads), found[0])


@pytest.mark.parametrize("amplitude", [1e-5, 1e-4])
def test_the_twin_resolves_near_ties_as_densely(amplitude):
    scores = near_tie(3, 2, amplitude, points=400)
    terms = [reference.Term(reference.GridGaussian((400,), 1.0), 5.0, "after")]
    twin, iterations = reference_tolerance.mean_field(scores, terms, tolerance=TOLERANCE, iterations=12)
    dense, _ = reference.mean_field(scores, terms, iterations=12)
    assert not iterations[-1].evaluated.all()
    assert np.abs(reference.softmax(twin) - reference.softmax(dense)).max() <= TOLERANCE / 10
    np.testing.assert_array_equal(twin.argmax(axis=0), dense.argmax(axis=0))


@pytest.mark.parametrize("classes", [3, 21, 150])
@pytest.mark.parametrize("tied", ["all", "likely", "unlikely"])
def test_the_first_of_equally_likely_classes_is_the_label(classes, tied):
    """As where everything is worked out; silent classes lose what messages would give them, so the last fall silent."""
    scores = np.zeros((classes, 40, 60), np.float32)
    if tied == "likely":
        scores[:] = -9
        scores[[1, classes - 1]] = 0
    elif tied == "unlikely":
        scores[2:] = -4
    for weight in (0.1, 1, 8):
        crf = CRF([Kernel(Spatial(3), weight=weight)], solver=MeanField(tolerance=TOLERANCE))
        assert (refine(scores, None, crf, return_labels=True) == (tied == "likely")).all()
        terms = [reference.Term(reference.GridGaussian((8, 10), 3.0), weight, "after")]
        unary = scores[:, :8, :10].reshape(classes, -1)
        _, (first,) = reference_tolerance.mean_field(unary, terms, tolerance=TOLERANCE, iterations=1)
        if tied != "likely":
            assert np.flatnonzero(~first.silent).tolist() == list(range(np.count_nonzero(~first.silent)))


@pytest.mark.parametrize("shape", [(27000,), (12, 40, 50)])
def test_other_grids(rng, shape):
    scores = np.zeros((2, *shape))
    scores[0] = 12
    scores[:, : 400 if len(shape) == 1 else 2] = 0.3 * rng.normal(size=scores[:, : 400 if len(shape) == 1 else 2].shape)
    found = [
        refine(scores, None, CRF([Kernel(Spatial(2.5), 4.0)], solver=MeanField(10, tolerance=t)), return_activity=True)
        for t in (TOLERANCE, 0)
    ]
    assert np.abs(found[0][0] - found[1][0]).max() <= 2 * TOLERANCE
    assert len(shape) > 1 or not found[0][1].evaluated.all()


@given(cases, st.sampled_from([(5, 7), (1, 1), (90, 97)]), st.sampled_from(["lattice", "grid", "both"]))
def test_numbers_of_threads(case, shape, kinds):
    seed, classes, normalization, masked, weight, tolerance = case
    rng = np.random.default_rng(seed)
    points = shape[0] * shape[1]
    unary = unlikely(rng, 8 * rng.normal(size=(classes, *shape)), rng.integers(0, classes - 1)).astype(np.float32)
    weight = weight * (0.02 if normalization == "none" else 1)
    mask = rng.random(shape) > 0.2 if masked else None
    features = np.indices(shape).reshape(2, points).T.astype(np.float32) / 3
    kernels = {
        "lattice": [PermutohedralLattice(features)],
        "grid": [GridGaussian(shape, 2.0)],
        "both": [PermutohedralLattice(features), GridGaussian(shape, 2.0)],
    }[kinds]
    terms = [PairwiseTerm(kernel, weight / len(kernels), normalization, mask) for kernel in kernels]
    results = [mean_field(unary, terms, tolerance=tolerance, iterations=6, threads=n) for n in (1, 2, 3)]
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


@pytest.mark.parametrize("classes", [2, 5])
def test_threads_while_runs_are_followed(rng, classes):
    scene = Scene(rng, classes, silent=max(0, classes - 3))
    (first, activity), *others = (scene.refined(PHOTO_KERNELS, TOLERANCE, threads=threads) for threads in (1, 2, 3))
    assert not activity.evaluated.all()
    for found, seen in others:
        np.testing.assert_array_equal(found, first)
        np.testing.assert_array_equal(seen.evaluated, activity.evaluated)


@pytest.mark.parametrize("shape", [(9, 13), (90, 97)])
def test_a_tolerance_of_0_works_everything_out(rng, shape):
    unary = unlikely(rng, 6 * rng.normal(size=(5, *shape)), 2)
    terms = [PairwiseTerm(GridGaussian(shape, 2.0, dtype=np.float64), 4.0)]
    kept, _ = mean_field_with_marginals(unary, terms, iterations=6)
    np.testing.assert_array_equal(mean_field(unary, terms, iterations=6, tolerance=0), kept)


@pytest.mark.parametrize("options", [{"damping": 0.3}, {"compatibility": -np.eye(5) + 0.1}], ids=["damping", "matrix"])
def test_no_silence_with_damping_or_matrices(rng, options):
    shape = (40, 50)
    unary = unlikely(rng, 0.3 * rng.normal(size=(5, *shape)), 2)  # of two values everywhere, so no run is settled
    terms = [PairwiseTerm(GridGaussian(shape, 2.0, dtype=np.float64), 0.5)]
    found = mean_field(unary, terms, iterations=6, tolerance=TOLERANCE, **options)
    np.testing.assert_array_equal(found, mean_field(unary, terms, iterations=6, tolerance=0, **options))


@pytest.mark.parametrize("weight", [59, 61, 1e6])
def test_large_weights(rng, weight):
    """Scores that move far: up to a weight of 60 classes may be silent, beyond it they are not."""
    unary = unlikely(rng, 0.3 * rng.normal(size=(5, 40, 50)), 2).astype(np.float32)
    found, dense = [
        refine(unary, None, CRF([Kernel(Spatial(2), weight)], solver=MeanField(6, tolerance=t)), return_activity=True)
        for t in (TOLERANCE, 0)
    ]
    assert (min(found[1].classes) < 5) == (weight < 60)
    assert np.abs(found[0] - dense[0]).max() <= TOLERANCE


def test_matrices_are_followed(rng):
    scene = Scene(rng, 4)
    compatibility = 0.05 * rng.normal(size=(4, 4)) - np.eye(4)
    found, activity = scene.refined(PHOTO_KERNELS, TOLERANCE, compatibility=compatibility)
    dense, _ = scene.refined(PHOTO_KERNELS, 0, compatibility=compatibility)
    assert not activity.evaluated.all()
    assert set(activity.classes) == {4}
    assert np.abs(found - dense).max() <= 2 * TOLERANCE


@pytest.mark.parametrize("return_probabilities", [True, False])
@pytest.mark.parametrize("iterations", [1, 2, 3, 6])
def test_classes_that_do_not_stay_silent(rng, iterations, return_probabilities):
    """Classes repel themselves: the likely one loses its points to those that would be silent, so it starts over."""
    shape = (30, 40)
    unary = np.zeros((3, *shape))
    unary[1], unary[2] = -5, -4.6
    terms = [PairwiseTerm(GridGaussian(shape, 3.0, dtype=np.float64), 8.0)]
    options = {"compatibility": 1.0, "iterations": iterations, "return_probabilities": return_probabilities}
    found = mean_field(unary, terms, tolerance=TOLERANCE, **options)
    np.testing.assert_array_equal(found, mean_field(unary, terms, tolerance=0, **options))


def test_silent_classes_keep_their_share(rng):
    """They have U, and what they have of the probability is theirs as without silence, but for the tolerance."""
    scene = Scene(rng, 5, np.float64, silent=2)
    unary = scene.scores
    terms = [PairwiseTerm(GridGaussian(SHAPE, 3.0, dtype=np.float64), 8.0)]
    logits = mean_field(unary, terms, tolerance=TOLERANCE)
    np.testing.assert_array_equal(logits[-2:], unary[-2:])
    assert np.abs(logits[:2] - unary[:2]).max() > 1


def test_iterations_end_where_nothing_is_sent(rng):
    scores = np.zeros((3, *SHAPE), np.float32)
    scores[0] = 3
    scores += 0.01 * rng.normal(size=scores.shape).astype(np.float32)
    image = np.full((*SHAPE, 3), 128, np.uint8)
    crf = CRF(PHOTO_KERNELS, solver=MeanField(200, tolerance=TOLERANCE))
    found, activity = refine(scores, image, crf, return_activity=True)
    assert activity.iterations == len(activity.classes) == len(activity.evaluated) < 20
    dense = refine(scores, image, replace(crf, solver=MeanField(200, tolerance=0)))
    assert np.abs(found - dense).max() <= TOLERANCE


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [2, 5])
def test_long_runs_end_where_following_did_not_pay_at_first(rng, classes, dtype):
    """Scores that are undecided everywhere: at first everything moves, later nothing does."""
    scores = 2 * rng.normal(size=(classes, 60, 70)).astype(dtype)
    crf = CRF([Kernel(Spatial(2), weight=2)], solver=MeanField(400, tolerance=TOLERANCE))
    found, activity = refine(scores, None, crf, return_activity=True)
    assert activity.evaluated[:16].all()
    assert activity.iterations == len(activity.classes) == len(activity.evaluated) < 200
    longer, _ = refine(scores, None, replace(crf, solver=MeanField(500)), return_activity=True)
    np.testing.assert_array_equal(longer, found)
    dense = refine(scores, None, replace(crf, solver=MeanField(400, tolerance=0)))
    assert np.abs(found - dense).max() <= TOLERANCE
    threaded, seen = refine(scores, None, crf, return_activity=True, threads=3)
    np.testing.assert_array_equal(threaded, found)
    np.testing.assert_array_equal(seen.evaluated, activity.evaluated)


def test_ties_everywhere_end_too():
    scores = np.zeros((2, 60, 70), np.float32)
    crf = CRF([Kernel(Spatial(2), weight=4)], solver=MeanField(400, tolerance=TOLERANCE))
    found, activity = refine(scores, None, crf, return_activity=True)
    assert activity.iterations < 50
    assert (found == 0.5).all()


@pytest.mark.parametrize("tolerance", [0, TOLERANCE])
@pytest.mark.parametrize("classes", [2, 3, 5, 21])
@pytest.mark.parametrize("value", [np.finfo(np.float32).min, -1e30, 0, 1e30])
@pytest.mark.parametrize("among", ["alone", "likely", "extremes"])
def test_extreme_scores(value, classes, tolerance, among):
    scores = np.full((classes, 20, 30), value, np.float32)
    if among == "likely":
        scores[0, :10] = value + 5
    elif among == "extremes":
        scores[0], scores[-1] = np.finfo(np.float32).max, np.finfo(np.float32).min
    crf = CRF(
        [Kernel(Spatial(3), 3.0, Grid()), Kernel(Spatial(2), 1.0, Lattice())], solver=MeanField(tolerance=tolerance)
    )
    q = refine(scores, None, crf)
    assert np.isfinite(q).all()
    np.testing.assert_allclose(q.sum(axis=0), 1, atol=1e-5)


def two_class_couplings(rng, kind):
    """A weight for each of two kernels, and a compatibility."""
    if kind == "matrix":
        return rng.normal(size=(2, 2, 2)), None
    if kind == "compatibility":
        return rng.uniform(0, 1, (2, 2)), rng.normal(size=(2, 2))
    return rng.uniform(0, 2, (2,) if kind == "scalar" else (2, 2)), None


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["scalar", "per class", "matrix", "compatibility"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_two_classes_as_one_channel(rng, normalization, kind, masked):
    """Equation (20) is (4). The tolerance is so small that nothing is left out."""
    shape, points = (12, 15), 180
    mask = (rng.random(points) > 0.2) * rng.uniform(0.1, 1, points) if masked else None
    features = rng.normal(size=(points, 2))
    weights, compatibility = two_class_couplings(rng, kind)
    kernels = ExactGaussian(features), GridGaussian(shape, 2.0, dtype=np.float64)
    twins_of = reference.DenseGaussian(features), reference.GridGaussian(shape, 2.0)
    if normalization == "none":
        weights = weights / 20
    terms = [PairwiseTerm(k, w, normalization, mask) for k, w in zip(kernels, weights, strict=True)]
    expected, _ = reference.mean_field(
        unary := 2 * rng.normal(size=(2, points)),
        [reference.Term(k, w, normalization, mask) for k, w in zip(twins_of, weights, strict=True)],
        iterations=6,
        compatibility=compatibility,
    )
    options = {"iterations": 6, "compatibility": compatibility, "tolerance": 1e-13}
    point_major = np.moveaxis(np.ascontiguousarray(np.moveaxis(unary.reshape(2, *shape), 0, -1)), -1, 0)
    for given_unary in (unary.reshape(2, *shape), point_major):
        logits = mean_field(given_unary, terms, **options)
        np.testing.assert_allclose(logits.reshape(2, -1), expected, atol=1e-8)
        q = mean_field(given_unary, terms, **options, return_probabilities=True)
        np.testing.assert_allclose(q.reshape(2, -1), reference.softmax(expected), atol=1e-9)
        for threads in (2, 3):
            np.testing.assert_array_equal(mean_field(given_unary, terms, **options, threads=threads), logits)


def test_two_classes_in_all_forms(rng):
    scene = Scene(rng, 2)
    labels, activity = scene.refined(PHOTO_KERNELS, TOLERANCE, return_labels=True)
    q, _ = scene.refined(PHOTO_KERNELS, TOLERANCE)
    dense, _ = scene.refined(PHOTO_KERNELS, 0)
    assert set(activity.classes) == {2}
    np.testing.assert_array_equal(labels, (q[1] > q[0]).astype(labels.dtype))
    assert not np.array_equal(q, dense)
    assert np.abs(q - dense).max() <= 2 * TOLERANCE


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("value", [0, 7.3, -1e30])
def test_equally_likely_classes_stay_so(rng, normalization, value):
    """Two classes that nothing tells apart, at weights that would make any rounding error grow: the first wins."""
    image = rng.integers(0, 255, (60, 70, 3)).astype(np.uint8)
    kernels = [replace(kernel, normalization=normalization) for kernel in PHOTO_KERNELS]
    crf = CRF(kernels, solver=MeanField(10, tolerance=TOLERANCE))
    scores = np.full((2, 60, 70), value, np.float32)
    assert (refine(scores, image, crf) == 0.5).all()
    assert (refine(scores, image, crf, return_labels=True) == 0).all()


@pytest.mark.parametrize("return_labels", [False, True])
def test_two_classes_with_a_class_threshold(rng, return_labels):
    """(13) decides, so nothing else is left out; the unlikely class has U less the messages of the other."""
    scores = rng.normal(size=(2, 40, 50)).astype(np.float32) + np.float32(8) * np.eye(2, 1, dtype=np.float32)[..., None]
    image = rng.integers(0, 255, (40, 50, 3)).astype(np.uint8)
    for threshold in (1e-4, 0.3):
        found = [
            refine(
                scores,
                image,
                CRF(PHOTO_KERNELS, None, MeanField(3, class_threshold=threshold, tolerance=tolerance)),
                return_labels=return_labels,
            )
            for tolerance in (0, TOLERANCE)
        ]
        np.testing.assert_array_equal(*found)
