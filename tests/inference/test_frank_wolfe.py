"""Regularised Frank-Wolfe against dense matrices, enumeration, and what theory promises."""

import itertools
import warnings
from dataclasses import replace

import numpy as np
import pytest

import crfrnn
from crfrnn import (
    PairwiseTerm,
    Regions,
    RegionTerm,
    frank_wolfe_trace,
    reference,
    reference_frank_wolfe,
    relaxed_energy,
)
from crfrnn.crf import CRF, Bilateral, Exact, FrankWolfe, Given, Grid, Kernel, Lattice, MeanField, Spatial
from crfrnn.inference import batch
from crfrnn.inference.adjoint import ConvergenceWarning
from crfrnn.inference.backend import Execution, Inputs
from crfrnn.inference.regularization import REGULARIZERS
from crfrnn.memory import array_bytes
from errors import raises_saying
from kernel_lists import CRFS, MATRIX, scene
from solver_cases import FRANK_WOLFES, KERNELS, marginals_of, operator_of, softmax, solved_by
from tolerances import assert_close, tolerance

EVERY_SOLVER = pytest.mark.parametrize("solver", FRANK_WOLFES.values(), ids=FRANK_WOLFES)
BOTH = pytest.mark.parametrize("regularization", REGULARIZERS)
BOUNDS = tolerance(np.float64)


@EVERY_SOLVER
@pytest.mark.parametrize("name", KERNELS)
def test_refine(rng, solver, name):
    crf, given = solved_by(solver, name), scene(rng)
    expected = marginals_of(crf, given)
    for index in range(2):
        one = given.item(index)
        options = {"mask": one.mask, "given": one.given}
        refined = crfrnn.refine(one.logits, one.image, crf, **options)
        assert_close(refined, expected[index], BOUNDS.mean_field)
        labels = crfrnn.refine(one.logits, one.image, crf, return_labels=True, **options)
        np.testing.assert_array_equal(labels, refined.argmax(axis=0))


@EVERY_SOLVER
def test_single_precision(rng, solver):
    crf, given = solved_by(solver), scene(rng, np.float32)
    one = given.item(0)
    refined = crfrnn.refine(one.logits, one.image, crf, mask=one.mask)
    assert refined.dtype == np.float32
    assert_close(refined, marginals_of(crf, given._replace(logits=given.logits.astype(float)))[0], 1e-4)


def test_logits_are_those_of_the_marginals(rng):
    """Also where Euclidean marginals are 0."""
    crf, given = solved_by(FrankWolfe(3, "euclidean", 0.5)), scene(rng)
    logits, _ = batch.forward(crf, Inputs(*given), couplings_of(crf), False, Execution(1))
    expected = marginals_of(crf, given)
    assert (expected == 0).mean() > 0.2
    assert_close(softmax(logits), expected, BOUNDS.mean_field)
    assert logits.min() == pytest.approx(np.log(1e-20))


@BOTH
def test_no_iterations_give_the_marginals_of_the_scores(rng, regularization):
    one = scene(rng).item(0)
    refined = crfrnn.refine(one.logits, one.image, solved_by(FrankWolfe(0, regularization)))
    assert_close(refined, reference.softmax(one.logits), BOUNDS.mean_field)


@pytest.mark.parametrize("filter", [Grid(), Exact()])
def test_mean_field_is_a_special_case(rng, filter):
    """Symmetric kernels that only attract: the line search goes all the way."""
    kernels = [Kernel(Spatial(1.57), weight, filter, "symmetric") for weight in (0.7, 1.9)]
    one = scene(rng).item(0)
    for count in (1, 2, 5):
        theirs = crfrnn.refine(one.logits, None, CRF(kernels, solver=MeanField(count, tolerance=0)))
        ours = crfrnn.refine(one.logits, None, CRF(kernels, solver=FrankWolfe(count, tolerance=0)))
        assert_close(ours, theirs, BOUNDS.mean_field)


# What theory promises.


def random_terms(rng, lattice, normalization, mask=None):
    """A bilateral and a spatial kernel on 5×6 pixels, with couplings of any sign that are not symmetric."""
    image = rng.uniform(0, 255, (5, 6, 3))
    kernels = [
        Kernel(Bilateral(2.13, 91.7), rng.normal(size=(3, 3)), Lattice() if lattice else Exact(), normalization),
        Kernel(Spatial(1.57), 2 * rng.normal(), Lattice() if lattice else Exact(), normalization),
    ]
    return crfrnn.pairwise_terms(image, CRF(kernels), mask=mask)


@BOTH
@pytest.mark.parametrize("lattice", [False, True], ids=["exact", "lattice"])
@pytest.mark.parametrize("normalization", ["none", "before", "after", "symmetric"])
def test_the_regularised_energy_never_rises(rng, regularization, lattice, normalization):
    """For any kernels and couplings: not even where a lattice or a normalisation is not symmetric."""
    shorter = 0
    for _ in range(4):
        terms = random_terms(rng, lattice, normalization, rng.integers(0, 4, (5, 6)) / 2)
        unary, M = 3 * rng.normal(size=(3, 5, 6)), rng.normal(size=(3, 3))
        solver = FrankWolfe(30, regularization, rng.uniform(0.2, 3), tolerance=0)
        trace = list(crfrnn.frank_wolfe_trace(unary, terms, solver, compatibility=M))
        dense = dense_operator(terms, M, 3)
        energies = [reference_frank_wolfe.objective(q, unary, dense, solver) for q, _ in trace]
        assert_close(np.array([energy for _, energy in trace]), np.array(energies), 1e-11)
        assert np.diff(energies).max() <= 1e-12 * np.abs(energies).max()
        steps = reference_frank_wolfe.frank_wolfe(unary.reshape(3, -1), dense, replace(solver, iterations=3))
        assert_close(trace[3][0].reshape(3, -1), steps[3], 1e-9)
        shorter += np.abs(steps[1] - reference_frank_wolfe.nearest(scores_at(steps[0], unary, dense), solver)).max() > 0
    assert shorter  # steps shorter than 1 occurred


def scores_at(q, unary, dense):
    return unary.reshape(q.shape) - (dense @ q.ravel()).reshape(q.shape)


def test_other_steps_may_rise(rng):
    """With kernels that repel, full steps swing between labellings, and so do those of an open loop at first."""
    terms = [PairwiseTerm(reference.MatrixKernel(np.ones((8, 8)) / 8), 6.0, "none")]
    unary = 0.1 * rng.normal(size=(2, 8))
    rises = {}
    for step in ("line-search", "open-loop"):
        solver = FrankWolfe(10, step=step, strength=0.5, tolerance=0)
        energies = [each for _, each in crfrnn.frank_wolfe_trace(unary, terms, solver, compatibility=1.0)]
        rises[step] = np.diff(energies).max()
    assert rises["line-search"] <= 1e-12
    assert rises["open-loop"] > 1e-3


def test_the_euclidean_line_search_is_exact(rng):
    """No step along the direction ends lower."""
    terms = random_terms(rng, True, "after")
    unary, M = rng.normal(size=(3, 5, 6)), np.eye(3)
    solver = FrankWolfe(6, "euclidean", 1.5, tolerance=0)
    dense = dense_operator(terms, M, 3)
    trace = [q.reshape(3, -1) for q, _ in crfrnn.frank_wolfe_trace(unary, terms, solver, compatibility=M)]
    for before, after in itertools.pairwise(trace):
        p = reference_frank_wolfe.nearest(scores_at(before, unary, dense), solver)
        tried = [
            reference_frank_wolfe.objective(before + size * (p - before), unary.reshape(3, -1), dense, solver)
            for size in np.linspace(0, 1, 101)
        ]
        reached = reference_frank_wolfe.objective(after, unary.reshape(3, -1), dense, solver)
        assert reached <= min(tried) + 1e-12


def dense_operator(terms, compatibility, classes):
    as_reference = []
    for term in terms:
        N = term.filter(np.eye(term.kernel.num_points))
        as_reference.append(reference.Term(reference.MatrixKernel(N), term.weight, "none"))
    points = terms[0].kernel.num_points
    return reference_frank_wolfe.symmetric_operator(as_reference, compatibility, classes, points)


def labellings(classes, points):
    return np.array(list(itertools.product(range(classes), repeat=points)))


@BOTH
def test_bounds_by_enumeration(rng, regularization):
    """Where energies of marginals are concave none lies below the best labelling; where convex, gaps certify."""
    features = rng.normal(size=(8, 2))
    K = reference.DenseGaussian(features).matrix
    unary = rng.normal(size=(2, 8))
    every = labellings(2, 8)
    for coupling in (-0.8, 0.8):
        terms = [PairwiseTerm(reference.MatrixKernel(K), coupling, "none")]
        solver = FrankWolfe(200, regularization, 0.3, tolerance=1e-9)
        q = list(crfrnn.frank_wolfe_trace(unary, terms, solver, compatibility=1.0))[-1][0]
        vertices = [np.eye(2)[x].T for x in every]
        relaxed = [crfrnn.relaxed_energy(x, unary, terms, compatibility=1.0) for x in vertices]
        exact = [crfrnn.energy(x, unary, terms, compatibility=1.0) for x in every]
        np.testing.assert_allclose(np.diff(relaxed), np.diff(exact), atol=1e-12)  # Potts: 1 and 28 differ by a number
        if coupling < 0:
            assert crfrnn.relaxed_energy(q, unary, terms, compatibility=1.0) >= min(relaxed) - 1e-12
            continue
        dense = dense_operator(terms, 1.0, 2)
        scores = scores_at(q, unary, dense)
        p = reference_frank_wolfe.nearest(scores, solver)
        gap = (scores * (p - q)).sum() - sum(
            sign * reference_frank_wolfe.regularizer(each, solver) for sign, each in ((1, p), (-1, q))
        )
        assert gap < 1e-6
        found = reference_frank_wolfe.objective(q, unary, dense, solver)
        best = min(reference_frank_wolfe.objective(x, unary, dense, solver) for x in vertices)
        assert found <= best + gap
    assert crfrnn.energy(q, unary, terms, compatibility=1.0) >= min(exact) - 1e-12


@BOTH
@pytest.mark.parametrize("normalization", ["none", "after"])
def test_the_best_labelling_where_couplings_are_weak(rng, regularization, normalization):
    """Where no neighbours outvote a pixel's own scores, rounding finds the labelling that enumeration finds."""
    kernel = reference.DenseGaussian(rng.normal(size=(6, 2)))
    for _ in range(5):
        unary = 2 * rng.permuted(np.tile([[0.0], [1.0], [2.0]], 6), axis=0) + 0.1 * rng.normal(size=(3, 6))
        terms = [PairwiseTerm(kernel, 0.25, normalization)]
        (q, _) = list(crfrnn.frank_wolfe_trace(unary, terms, FrankWolfe(20, regularization, 0.2)))[-1]
        every = labellings(3, 6)
        best = every[np.argmin([crfrnn.energy(x, unary, terms) for x in every])]
        np.testing.assert_array_equal(q.argmax(axis=0), best)
        assert crfrnn.energy(q, unary, terms) == crfrnn.energy(best, unary, terms)


# Gradients.


def couplings_of(crf, classes=4):
    M = reference.as_matrix(-1.0 if crf.compatibility is None else crf.compatibility, classes)
    return [M @ reference.as_matrix(kernel.weight, classes) for kernel in crf.kernels]


def gradients(crf, given, cotangent, record, couplings):
    """To logits and couplings."""
    return batch.vjp(crf, Inputs(*given), cotangent, record, couplings, Execution(1), False)[:2]


def assert_directional(crf, given, couplings, rng, cotangent=None, bound=1e-6):
    """Gradients along random directions, by central differences."""
    cotangent = rng.normal(size=given.logits.shape) if cotangent is None else cotangent

    def loss(logits, couplings):
        return np.sum(cotangent * batch.forward(crf, Inputs(logits, *given[1:]), couplings, False, Execution(1))[0])

    _, record = batch.forward(crf, Inputs(*given), couplings, True, Execution(1))
    to_logits, to_couplings = gradients(crf, given, cotangent, record, couplings)
    along = rng.normal(size=given.logits.shape), [rng.normal(size=each.shape) for each in couplings]
    step = 1e-6
    ahead, behind = (
        loss(given.logits + s * along[0], [each + s * way for each, way in zip(couplings, along[1], strict=True)])
        for s in (step, -step)
    )
    expected = (ahead - behind) / (2 * step)
    found = np.sum(to_logits * along[0])
    found += sum(np.sum(each * way) for each, way in zip(to_couplings, along[1], strict=True))
    scale = np.abs(to_logits * along[0]).sum()
    assert abs(found - expected) <= bound * scale
    return record


@EVERY_SOLVER
@pytest.mark.parametrize("axes", ["numbers", "diagonals", "matrices"])
@pytest.mark.parametrize("sign", [-1, 1], ids=["attract", "repel"])
def test_unrolled_gradients(rng, solver, axes, sign):
    kernels = [Kernel(Spatial(1.57), filter=Lattice()), Kernel(Bilateral(5.13, 61.7), normalization="symmetric")]
    crf, given = CRF(kernels, solver=solver), scene(rng, spatial=(3, 4))
    shape = {"numbers": (), "diagonals": (4,), "matrices": (4, 4)}[axes]
    couplings = [sign * (1 + 0.3 * rng.normal(size=shape)) for _ in kernels]
    couplings = [np.diag(np.diag(each)) + 0.1 * each if each.ndim == 2 else each for each in couplings]
    logits, _ = batch.forward(crf, Inputs(*given), couplings, False, Execution(1))
    cotangent = rng.normal(size=logits.shape) * np.exp(logits)  # so that 1 / q is not steep
    record = assert_directional(crf, given, couplings, rng, cotangent, 1e-5)
    sizes = [step.size for each in record for step in each.kept.steps]
    assert solver.step == "open-loop" or (min(sizes) < 1) == (sign == 1)


@BOTH
@pytest.mark.parametrize("sign", [-1, 1], ids=["attract", "repel"])
def test_implicit_gradients(rng, regularization, sign):
    """By a direct solver with dense matrices, and by central differences, which the iterations have to follow."""
    strength = {"entropic": 1.3, "euclidean": 6.0}[regularization]
    solver = FrankWolfe(3000, regularization, strength, tolerance=1e-13, gradient="implicit")
    weights = [sign * np.array(MATRIX), sign * 0.5]
    kernels = [Kernel(Bilateral(5.13, 61.7), weights[0]), Kernel(Spatial(1.57), weights[1])]
    crf, given = CRF(kernels, -1, solver), scene(rng, spatial=(3, 4))
    couplings = couplings_of(crf)
    refined, record = batch.forward(crf, Inputs(*given), couplings, True, Execution(1))
    cotangent = rng.normal(size=refined.shape) * np.exp(refined)
    to_logits, _ = gradients(crf, given, cotangent, record, couplings)
    for index in range(2):
        one, q = given.item(index), np.exp(refined[index]) * (refined[index] > -46)
        expected = reference_frank_wolfe.gradient_at_fixed_point(
            np.where(q > 0, cotangent[index] / np.maximum(q, 1e-20), 0).reshape(4, -1),
            q.reshape(4, -1),
            operator_of(crf, one),
            solver,
        )
        assert_close(to_logits[index].reshape(4, -1), expected, 1e-8)
    assert_directional(crf, given, couplings, rng, cotangent, 1e-5)


@pytest.mark.filterwarnings("ignore::crfrnn.ConvergenceWarning")
@BOTH
def test_memory_of_implicit_gradients(rng, regularization):
    """What is kept does not grow with the iterations."""
    given, kept = scene(rng), {}
    for gradient in ("unrolled", "implicit"):
        for count in (2, 20):
            crf = solved_by(FrankWolfe(count, regularization, 3.0, tolerance=0, gradient=gradient))
            _, record = batch.forward(crf, Inputs(*given), couplings_of(crf), True, Execution(1))
            kept[gradient, count] = array_bytes(record[0].kept)
    assert kept["implicit", 2] == kept["implicit", 20] == 2 * given.logits[0].nbytes
    assert kept["unrolled", 20] > 5 * kept["unrolled", 2]


def test_gradients_where_it_has_not_converged(rng):
    given, crf = scene(rng), solved_by(FrankWolfe(1, gradient="implicit"), "three")
    with pytest.warns(ConvergenceWarning, match=r"FrankWolfe had not converged: after 1 iterations"):
        _, record = batch.forward(crf, Inputs(*given), couplings_of(crf), True, Execution(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the system may be without a solution, too
        to_logits, _ = gradients(crf, given, given.logits, record, couplings_of(crf))
    assert np.isfinite(to_logits).all()


def test_gradients_where_the_marginals_are_no_minimum(rng):
    """Three points that attract each other, at the saddle between their labellings: it says so and ends."""
    crf = CRF([Kernel(Given("same"))], solver=FrankWolfe(5, gradient="implicit"))
    same = reference.MatrixKernel(np.ones((3, 3)))
    logits = np.zeros((1, 2, 3))
    inputs = Inputs(logits, given={"same": same})
    refined, record = batch.forward(crf, inputs, [np.array(-4.0)], True, Execution(1))
    np.testing.assert_allclose(refined, np.log(0.5))
    with pytest.warns(ConvergenceWarning, match="was not solved"):
        to_logits, _ = gradients(crf, inputs, rng.normal(size=logits.shape), record, [np.array(-4.0)])
    assert np.isfinite(to_logits).all()


def test_tiny_gradients_in_single_precision(rng):
    """Their squares are 0 in float32."""
    given, crf = scene(rng, np.float32), solved_by(FrankWolfe(100, tolerance=1e-6, gradient="implicit"))
    couplings = couplings_of(crf)
    _, record = batch.forward(crf, Inputs(*given), couplings, True, Execution(1))
    cotangent = rng.normal(size=given.logits.shape).astype(np.float32)
    large, small = (gradients(crf, given, s * cotangent, record, couplings)[0] for s in (1, np.float32(1e-25)))
    assert_close(small.astype(float) * 1e25, large, 1e-3)


# The tolerance, and input that is wrong.


def test_it_ends_at_its_tolerance(rng):
    one = scene(rng).item(0)
    ran = {}
    for bound in (0.0, 1e-8, 1e-3, 0.1):
        crf = solved_by(FrankWolfe(60, tolerance=bound))
        refined, activity = crfrnn.refine(one.logits, one.image, crf, mask=one.mask, return_activity=True)
        ran[bound] = activity.iterations
        assert activity.evaluated.shape == (activity.iterations, 5, 6)
        assert activity.evaluated.all()
        np.testing.assert_array_equal(refined, crfrnn.refine(one.logits, one.image, crf, mask=one.mask))
    assert ran[0.0] == 60 > ran[1e-8] > ran[1e-3] > ran[0.1] >= 1


def test_energy_rounds(rng):
    unary, terms = rng.normal(size=(3, 5, 6)), random_terms(rng, True, "after")
    marginals = rng.dirichlet(np.ones(3), (5, 6)).transpose(2, 0, 1)
    expected = crfrnn.energy(marginals.argmax(axis=0), unary, terms)
    assert crfrnn.energy(marginals, unary, terms) == crfrnn.energy(np.log(marginals), unary, terms) == expected


def test_wrong_input(rng):
    unary, terms = rng.normal(size=(3, 5, 6)), random_terms(rng, False, "none")
    with raises_saying(TypeError, "solver is a MeanField", "FrankWolfe(…)"):
        crfrnn.frank_wolfe_trace(unary, terms, MeanField())
    with raises_saying(ValueError, "marginals have shape (3, 6, 5)", "(3, 5, 6)"):
        crfrnn.relaxed_energy(np.ones((3, 6, 5)), unary, terms)
    with raises_saying(ValueError, "labels have shape (4, 5, 6)", "(5, 6)"):
        crfrnn.energy(np.ones((4, 5, 6), int), unary, terms)
    with raises_saying(ValueError, "the bilateral kernel needs an image"):
        crfrnn.refine(unary, None, CRF((*CRFS["spatial"].kernels, Kernel(Bilateral())), solver=FrankWolfe()))


def test_regions_are_refused():
    terms, scores = [RegionTerm(np.zeros((2, 2), int))], np.zeros((2, 2, 2))
    with raises_saying(ValueError, "FrankWolfe takes no regions", "MeanField"):
        CRF([], solver=FrankWolfe(), regions=[Regions("ids")])
    with raises_saying(TypeError, "pairwise[0] is a RegionTerm", "relaxed_energy"):
        relaxed_energy(scores, scores, terms)
    with raises_saying(TypeError, "pairwise[0] is a RegionTerm", "frank_wolfe_trace"):
        frank_wolfe_trace(scores, terms, FrankWolfe())
