"""Regions in NumPy, against loops, sums over all labellings and finite differences."""

from math import comb

import numpy as np
import pytest

import crfrnn
from crfrnn import CRF, Kernel, PairwiseTerm, Regions, RegionTerm, Spatial, reference
from crfrnn.inference import batch
from crfrnn.inference.backend import Execution, Inputs
from errors import raises_saying
from region_cases import (
    CLASSES,
    GRID,
    IDS,
    ORDERS,
    RegionOracle,
    crf_of,
    labellings,
    memberships_of,
    page_blocks,
    potts,
    soft,
)
from tolerances import assert_close, tolerance

BOUNDS = tolerance(np.float64)
EVERY_ORDER = pytest.mark.parametrize("order", ORDERS)
POINTS = IDS.size
FULL = ((-1.0, 0.2, 0.0), (0.1, -0.8, 0.4), (0.3, 0.0, -1.2))


def marginals(rng, classes=CLASSES, points=POINTS):
    """Rows (N, C)."""
    return rng.dirichlet(np.ones(classes), size=points)


def conditional(cost, labels, q, i):
    """E[cost | x_i = l] for each l, the other points independent with marginals q."""
    others = np.prod([q[j, labels[:, j]] for j in range(len(q)) if j != i], axis=0)
    return np.array([(others * cost)[labels[:, i] == label].sum() for label in range(q.shape[1])])


def test_messages_are_conditional_expectations_of_the_potential(rng):
    """Of P^n Potts, up to a constant for each pixel: γ_max less the message's reward."""
    ids = np.array([0, 0, 0, 4, 4, -1])
    gamma, gamma_max = np.array([0.1, 0.7, -0.4]), 1.5
    q, labels = marginals(rng, points=6), labellings(CLASSES, 6)
    cost = potts(labels, memberships_of(ids), gamma, gamma_max)
    message = RegionTerm(ids, gamma_max - gamma, None).message(q, -(gamma_max - gamma))
    for i in range(6):
        expected = conditional(cost, labels, q, i)
        assert_close(message[i] - message[i].mean(), expected - expected.mean(), BOUNDS.filter, floor=1)


def test_soft_members_are_members_by_chance(rng):
    """The expectation also over who is a member, each pixel by itself with its share as the probability."""
    share, weight = np.array([0.3, 1.0, 0.8, 0.5]), np.array([0.9, 1.4])
    q, labels = marginals(rng, 2, 4), labellings(2, 4)
    message = RegionTerm(share[None], weight, None).message(q, -weight)
    for i in range(4):
        expected = np.zeros(2)
        for members in labellings(2, 4).astype(bool):
            if members.any():
                chance = np.prod(np.where(members, share, 1 - share))
                expected += chance * conditional(potts(labels, members[None], -weight, 0), labels, q, i)
        assert_close(message[i] - message[i].mean(), expected - expected.mean(), BOUNDS.filter, floor=1)


def test_an_order_is_the_mean_over_groups_of_so_many_pixels(rng):
    """Groups without repetition, by all labellings; what repetition changes falls with the number of pixels."""
    few, errors = marginals(rng, 2, 4), []
    for repeats in (1, 2, 4):
        q = np.tile(few, (repeats, 1))[:-1]
        labels = labellings(2, len(q))
        chance = np.prod([q[j, labels[:, j]] for j in range(len(q))], axis=0)
        agree = [comb(int(count), 2) / comb(len(q), 2) for count in (labels == 0).sum(axis=1)]
        expected = (chance * agree).sum()
        whole = np.concatenate([q, [[0.5, 0.5]]])
        received = -RegionTerm(np.zeros(len(whole), int), 1.0, 3).message(whole, np.asarray(-1.0))[-1, 0]
        errors.append(abs(received - expected))
    assert errors[2] < 0.4 * errors[0]


@EVERY_ORDER
@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("masked", [False, True])
def test_against_loops(rng, order, hard, masked):
    segments = IDS if hard else soft(rng)
    mask = rng.choice([0, 0.4, 1, 2.5], size=GRID) if masked else None
    q = marginals(rng)
    q[0] = [1, 0, 0]
    term = RegionTerm(segments, 1.0, order, mask)
    oracle = RegionOracle(memberships_of(IDS) if hard else segments, 1.0, order, mask)
    assert_close(term.message(q, np.asarray(FULL)), (FULL @ oracle.filter(q.T)).T, BOUNDS.filter)


@EVERY_ORDER
def test_hard_memberships_are_a_map_of_ids(rng, order):
    q, cotangent = marginals(rng), rng.normal(size=(POINTS, CLASSES))
    by_ids, by_shares = (RegionTerm(each, 1.0, order) for each in (IDS, memberships_of(IDS)))
    bools = RegionTerm(memberships_of(IDS).astype(bool), 1.0, order)
    E = np.asarray(FULL)
    for other in (by_shares, bools):
        assert_close(other.message(q, E), by_ids.message(q, E), BOUNDS.filter)
        for ours, theirs in zip(other.vjp(q, cotangent, E), by_ids.vjp(q, cotangent, E), strict=True):
            assert_close(ours, theirs, BOUNDS.gradient)
        assert np.isclose(other.energy(q, -np.ones(3)), by_ids.energy(q, -np.ones(3)), rtol=1e-12)


@EVERY_ORDER
@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("axes", [0, 1, 2])
def test_gradients_of_a_message(rng, order, hard, axes):
    E = [np.asarray(-0.7), np.array([-1.0, -0.4, 0.3]), np.asarray(FULL)][axes]
    term = RegionTerm(IDS if hard else soft(rng), 1.0, order)
    q, cotangent = marginals(rng), rng.normal(size=(POINTS, CLASSES))
    for found, given, call in zip(
        term.vjp(q, cotangent, E),
        (q, E),
        (lambda value: term.message(value, E), lambda value: term.message(q, value)),
        strict=True,
    ):
        expected = np.zeros(given.shape)
        for place in np.ndindex(given.shape):
            step = np.zeros(given.shape)
            step[place] = 1e-6
            expected[place] = ((call(given + step) - call(given - step)) * cotangent).sum() / 2e-6
        assert found.shape == given.shape
        assert_close(found, expected, 1e-7)


def test_gradients_where_a_marginal_is_0(rng):
    term, q = RegionTerm(np.zeros(4, int), 1.0, None), np.array([[1.0, 0.0], [1, 0], [0, 1], [0.5, 0.5]])
    to_q, to_coupling = term.vjp(q, rng.normal(size=(4, 2)), np.asarray(-1.0))
    assert np.isfinite(to_q).all()
    assert np.isfinite(to_coupling)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_thousands_of_pixels(dtype):
    """The product does not vanish where all are sure, and says which pixel alone stands against the others."""
    q = np.full((9000, 2), [1 - 1e-6, 1e-6], dtype)
    q[7] = [0, 1]
    received = -RegionTerm(np.zeros(9000, int), 1.0, None).message(q, np.asarray(-1.0, dtype))
    assert received.dtype == dtype
    assert np.isclose(received[7, 0], np.exp(-8999e-6), rtol=1e-3)
    assert received[8, 0] < 1e-19
    assert (-RegionTerm(np.zeros(9000, int), 1.0, 4).message(q, np.asarray(-1.0, dtype)))[8, 0] > 0.99


@EVERY_ORDER
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_refine(rng, order, dtype):
    crf = crf_of(order)
    unary, mask = rng.normal(size=(CLASSES, *GRID)).astype(dtype), rng.choice([0, 0.5, 1], size=GRID)
    shares = soft(rng)
    y, x = np.indices(GRID)
    rows = np.stack([x.ravel(), y.ravel()], axis=1) / 1.3
    terms = [
        reference.Term(reference.DenseGaussian(rows), 0.6, "after", mask),
        RegionOracle(memberships_of(IDS), crf.regions[0].weight, order, mask),
        RegionOracle(shares, 0.7, order, mask),
    ]
    expected, _ = reference.mean_field(unary.reshape(CLASSES, -1), terms, iterations=3, damping=0.1)
    given = {"ids": IDS, "shares": shares}
    refined = crfrnn.refine(unary, None, crf, mask=mask, given=given)
    assert refined.dtype == dtype
    assert_close(refined, reference.softmax(expected).reshape(unary.shape), tolerance(dtype).mean_field)
    labels, activity = crfrnn.refine(unary, None, crf, mask=mask, given=given, return_labels=True, return_activity=True)
    np.testing.assert_array_equal(labels, refined.argmax(axis=0))
    assert activity.iterations == 3
    without = crfrnn.refine(unary, None, CRF(crf.kernels, solver=crf.solver), mask=mask)
    assert np.abs(without - refined).max() > 1e-2


@EVERY_ORDER
def test_gradients_of_the_mean_field(rng, order):
    """Of weights and compatibility too, by finite differences."""
    kernel = crfrnn.GridGaussian(GRID, 1.2, dtype=np.float64)
    M = np.asarray(FULL)

    def terms(weights):
        return [
            PairwiseTerm(kernel, weights[0]),
            RegionTerm(IDS, weights[1], order),
            RegionTerm(shares, weights[2], order),
        ]

    def loss(unary, M, *weights):
        return float((crfrnn.mean_field(unary, terms(weights), iterations=3, compatibility=M, damping=0.2) * g).sum())

    shares, unary, g = soft(rng), rng.normal(size=(CLASSES, *GRID)), rng.normal(size=(CLASSES, *GRID))
    weights = [np.asarray(0.6), rng.uniform(size=3), rng.uniform(size=(3, 3))]
    options = {"compatibility": M, "damping": 0.2}
    _, kept = crfrnn.mean_field_with_marginals(unary, terms(weights), iterations=3, **options)
    found = crfrnn.mean_field_vjp(g, kept, terms(weights), **options)
    arguments = [unary, M, *weights]
    for place, gradient in enumerate([found.unary, found.compatibility, *found.weights]):
        direction = rng.normal(size=gradient.shape)
        ends = [
            loss(*(each + sign * 1e-5 * direction if index == place else each for index, each in enumerate(arguments)))
            for sign in (1, -1)
        ]
        assert np.isclose((ends[0] - ends[1]) / 2e-5, (gradient * direction).sum(), rtol=1e-6, atol=1e-7)


def test_gradients_to_kernels_beside_regions(rng):
    """Those of a kernel's deviations, by finite differences; regions have None."""
    unary, g, sigma = rng.normal(size=(CLASSES, *GRID)), rng.normal(size=(CLASSES, *GRID)), np.asarray([1.2, 0.9])

    def terms(sigma):
        return [RegionTerm(IDS, 0.7), PairwiseTerm(crfrnn.GridGaussian(GRID, sigma, dtype=np.float64), 0.6)]

    def loss(sigma):
        return float((crfrnn.mean_field(unary, terms(sigma), iterations=3) * g).sum())

    _, kept = crfrnn.mean_field_with_marginals(unary, terms(sigma), iterations=3)
    found = crfrnn.mean_field_vjp(g, kept, terms(sigma), guide=True)
    assert found.kernels[0] is None
    assert found.masks[0] is None
    assert found.masks[1] is None  # as the term has none
    for axis, step in enumerate(1e-6 * np.eye(2)):
        assert np.isclose((loss(sigma + step) - loss(sigma - step)) / 2e-6, found.kernels[1][axis], rtol=1e-5)


@EVERY_ORDER
def test_the_batch(rng, order):
    """Two images with other segments, on any number of threads, and its gradients."""
    crf, shape = crf_of(order), (2, CLASSES, *GRID)
    logits, cotangent = rng.normal(size=shape), rng.normal(size=shape)
    given = {"ids": np.stack([IDS, IDS[::-1, ::-1]]), "shares": np.stack([soft(rng), soft(rng)])}
    couplings = [np.asarray(-0.6), -rng.uniform(size=(3, 3)), np.asarray(-0.7)]
    runs = []
    for threads in (1, 2):
        inputs = Inputs(logits, given=given)
        refined, records = batch.forward(crf, inputs, couplings, True, Execution(threads))
        runs.append([refined, *batch.vjp(crf, inputs, cotangent, records, couplings, Execution(threads), False)[:2]])
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    refined, to_logits, to_couplings = runs[0]
    turns = rng.normal(size=shape), rng.normal(size=(3, 3))
    ends = []
    for step in (1e-5, -1e-5):
        inputs = Inputs(logits + step * turns[0], given=given)
        moved = [couplings[0], couplings[1] + step * turns[1], couplings[2]]
        ends.append((batch.forward(crf, inputs, moved, False, Execution())[0] * cotangent).sum())
    slope = (to_logits * turns[0]).sum() + (to_couplings[1] * turns[1]).sum()
    assert np.isclose((ends[0] - ends[1]) / 2e-5, slope, rtol=1e-6)
    one = crfrnn.refine(
        logits[1], None, crf_of(order, -couplings[1]), given={key: each[1] for key, each in given.items()}
    )
    assert_close(one, reference.softmax(refined[1]), BOUNDS.mean_field)


# Energies.


def test_energy_is_the_potential(rng):
    """Of all labellings, less what is the same for all: γ_max once for each segment."""
    ids, gamma, gamma_max = np.array([[0, 0, 0], [4, 4, -1]]), np.array([0.1, -0.4]), 0.9
    unary = rng.normal(size=(2, 2, 3))
    term = RegionTerm(ids, gamma_max - gamma, None)
    for labels in labellings(2, 6):
        expected = potts(labels[None], memberships_of(ids), gamma, gamma_max)[0] - 2 * gamma_max
        expected -= unary.reshape(2, -1)[labels, np.arange(6)].sum()
        assert np.isclose(crfrnn.energy(labels.reshape(2, 3), unary, [term]), expected, atol=1e-12)


def test_energy_of_an_order(rng):
    """-W n/k times the share to the power of k; for pairs, that of a kernel within segments that averages them."""
    labels = np.array([0, 0, 0, 1, 1, 0])
    term = RegionTerm(np.array([0, 0, 0, 0, 3, 3]), [2.0, 1.0], 3)
    expected = -(4 / 3) * (2 * 0.75**3 + 0.25**3) - (2 / 3) * (2 * 0.5**3 + 0.5**3)
    assert np.isclose(crfrnn.energy(labels, np.zeros((2, 6)), [term]), expected)
    q = marginals(rng, 2, 6)
    linear = RegionTerm(np.array([0, 0, 0, 0, 3, 3]), 1.0, 2).energy(q, np.asarray(-1.0))
    same = np.array([[1] * 4 + [0] * 2] * 4 + [[0] * 4 + [1] * 2] * 2)
    assert np.isclose(linear, -0.5 * (q * (same / same.sum(axis=1) @ q)).sum())


@pytest.mark.parametrize("order", ORDERS)
def test_messages_are_the_gradient_of_the_energy(rng, order):
    """Which makes the iterations those of a mean field."""
    term, q, E = RegionTerm(soft(rng), 1.0, order), marginals(rng), np.array([-0.7, 0.4, -1.1])
    message = term.message(q, E)
    for place in np.ndindex(q.shape):
        step = np.zeros(q.shape)
        step[place] = 1e-6
        assert np.isclose((term.energy(q + step, E) - term.energy(q - step, E)) / 2e-6, message[place], atol=1e-8)


def test_weak_regions_approach_the_true_marginals(rng):
    """What mean field leaves out is of second order in the weight: an eighth of it leaves a 64th of the error."""
    ids, labels = np.array([0, 0, 0, 1, 1, 1]), labellings(3, 6)
    unary = rng.normal(size=(3, 6))
    errors = []
    for weight in (0.4, 0.05):
        score = unary[labels, np.arange(6)].sum(axis=1) - potts(labels, memberships_of(ids), np.full(3, -weight), 0)
        chance = reference.softmax(score)
        truth = np.stack([(chance[:, None] * (labels == label)).sum(axis=0) for label in range(3)])
        q = crfrnn.mean_field(unary, [RegionTerm(ids, weight, None)], iterations=50, return_probabilities=True)
        errors.append(np.abs(q - truth).max())
        assert errors[-1] < 0.5 * np.abs(reference.softmax(unary) - truth).max()
    assert 40 < errors[0] / errors[1] < 100


def test_full_matrices_have_no_energy():
    term = RegionTerm(np.zeros(4, int), np.ones((2, 2)))
    with raises_saying(ValueError, "number or a diagonal", "full matrix"):
        crfrnn.energy([0, 1, 0, 1], np.zeros((2, 4)), [term])


def test_the_divergence_falls(rng):
    """With order 2, a symmetric linear term, as with kernels."""
    unary = rng.normal(size=(3, 3, 4))
    trace = [value for _, value in crfrnn.mean_field_trace(unary, [RegionTerm(IDS, 0.5, 2)], iterations=5)]
    assert trace[-1] < trace[0]


# Without regions nothing changes, and what does not fit is named.


def test_text_names_and_active():
    crf = crf_of(4, [1, 2, 3], compatibility=-2)
    assert CRF.from_text(crf.text) == crf
    assert hash(CRF.from_text(crf.text)) == hash(crf)
    assert crf.names == ("spatial", "ids", "shares")
    assert crf.given_names == crf.region_names == ("ids", "shares")
    nothing = CRF([Kernel(Spatial(1), 0), Kernel(Spatial(2))], regions=[Regions("a", 0), Regions("b")])
    assert nothing.active == CRF([Kernel(Spatial(2))], regions=[Regions("b")])
    assert CRF([], regions=[Regions("a.b"), Regions("a/b")]).names == ("a_b", "a_b_2")


def test_parameter_files(tmp_path, rng):
    crfrnn.save_parameters(tmp_path / "regions.json", crf_of(None))
    assert crfrnn.load_parameters(tmp_path / "regions.json") == crf_of(None)


def test_ids_beyond_int64(rng):
    """As hashes give: none of them is negative."""
    ids = rng.integers(0, 3, size=(4, 5))
    term, far = (RegionTerm(each) for each in (ids, ids.astype(np.uint64) + np.uint64(2**64 - 3)))
    q = rng.dirichlet(np.ones(3), size=20)
    np.testing.assert_array_equal(far.message(q, np.array(1.0)), term.message(q, np.array(1.0)))


def test_all_in_no_segment(rng):
    unary = rng.normal(size=(CLASSES, *GRID))
    crf = CRF([], regions=[Regions("ids")])
    for segments in (np.full(GRID, -1), np.zeros((2, *GRID))):
        assert_close(crfrnn.refine(unary, None, crf, given={"ids": segments}), reference.softmax(unary), 1e-12)


def test_python_of_the_page():
    names = {}
    exec(compile(page_blocks()[0], "docs/regions.md", "exec"), names)
    without = crfrnn.refine(names["scores"], names["photo"], CRF(names["crf"].kernels))
    assert np.abs(names["probabilities"] - without).max() > 0.1


def refined(**given):
    return crfrnn.refine(np.zeros((2, 3, 4)), None, CRF([], regions=[Regions("a")]), given=given)


@pytest.mark.parametrize(
    ("call", "error", "facts"),
    [
        (lambda: Regions(""), TypeError, ["name=''", "segments"]),
        (lambda: Regions("a", order=1), ValueError, ["order=1", "at least 2"]),
        (lambda: Regions("a", order=2.5), TypeError, ["order=2.5", "integer"]),
        (lambda: Regions("a", [[1, 2]]), ValueError, ["weight", "(1, 2)"]),
        (lambda: CRF([], regions=Regions("a")), TypeError, ["regions is a Regions", "list of Regions"]),
        (lambda: CRF([], regions=[Kernel(Spatial(1))]), TypeError, ["regions[0] is a Kernel", "Regions(…)"]),
        (
            lambda: CRF([Kernel(crfrnn.Given("a"))], regions=[Regions("a")]),
            ValueError,
            ["'a'", "kernel", "another name"],
        ),
        (lambda: refined(), ValueError, ["regions need given={'a': …}", "ids"]),
        (lambda: refined(b=1), ValueError, ["given={'a': …}", "there is 'b'"]),
        (lambda: refined(a=np.zeros((4, 3), int)), ValueError, ["(4, 3)", "(3, 4)", "height and width"]),
        (lambda: refined(a=np.zeros((3, 4))), TypeError, ["float64", "integer ids"]),
        (lambda: refined(a=np.zeros((3, 4), bool)), TypeError, ["bool", "integer ids"]),
        (lambda: refined(a=np.zeros((0, 3, 4))), ValueError, ["(0, 3, 4)", "at least one pixel"]),
        (lambda: refined(a=np.full((2, 3, 4), np.nan)), ValueError, ["24 NaN"]),
        (lambda: refined(a=np.full((2, 3, 4), 1.5)), ValueError, ["1.5", "from 0"]),
        (lambda: refined(a=np.full((2, 3, 4), -0.5)), ValueError, ["-0.5", "from 0"]),
        (lambda: refined(a="ids"), TypeError, ["real numbers"]),
        (lambda: RegionTerm(np.zeros((0, 4), int)), ValueError, ["(0, 4)", "at least one pixel"]),
        (lambda: RegionTerm(np.zeros(4)), ValueError, ["(4,)"]),
        (lambda: RegionTerm(IDS, order=0), ValueError, ["order=0"]),
        (lambda: RegionTerm(IDS, mask=np.ones(3)), ValueError, ["mask has shape (3,)"]),
        (lambda: crfrnn.mean_field(np.zeros((2, 5)), [RegionTerm(IDS)]), ValueError, ["5 points", "have 12"]),
        (lambda: crfrnn.mean_field(np.zeros((2, 12)), [RegionTerm(IDS, [1, 2, 3])]), ValueError, ["2 classes"]),
        (lambda: crfrnn.mean_field(np.zeros((2, 12)), [IDS]), TypeError, ["pairwise[0] is a ndarray", "RegionTerm"]),
        (
            lambda: crfrnn.refine_tiled(np.zeros((2, 3, 4)), None, CRF([], regions=[Regions("a")])),
            ValueError,
            ["segments", "as a whole"],
        ),
    ],
)
def test_what_does_not_fit_is_named(call, error, facts):
    with raises_saying(error, *facts):
        call()
